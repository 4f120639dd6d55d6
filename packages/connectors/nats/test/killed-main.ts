// Consumes into a folder until its second batch is written, and is killed before that is acknowledged.
import { setImmediate } from 'node:timers/promises'
import { Lake } from '@common-handlers/lake'
import { LocalFolderStore } from '@common-handlers/storage'
import { getNatsClient } from '../src/index.ts'

const [server = '', folder = ''] = process.argv.slice(2)
const lake = new Lake({ store: new LocalFolderStore({ folder }), columns: { id: 'int64' } })
const client = await getNatsClient({ servers: [server] })
let batches = 0
await client.consume(
  { stream: 'KILL', consumer: 'lake' },
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
