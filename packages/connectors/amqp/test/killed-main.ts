// Consumes into a folder until its second batch is written, and is killed before that is acknowledged.
import { setImmediate } from 'node:timers/promises'
import { Lake } from '@common-handlers/lake'
import { LocalFolderStore } from '@common-handlers/storage'
import { getAmqpClient } from '../src/index.ts'

const [url = '', queue = '', folder = ''] = process.argv.slice(2)
const lake = new Lake({ store: new LocalFolderStore({ folder }), columns: { id: 'int64' } })
const client = await getAmqpClient(url)
let batches = 0
await client.consume(
  { queue },
  {
    write: async (items) => {
      await lake.write(items)
      batches += 1
      if (batches === 2) {
        process.stdout.write(`${items.length} written`, () => process.kill(process.pid, 'SIGKILL'))
        for (;;) await setImmediate()
      }
    },
  },
  { rows: 3000 },
)
