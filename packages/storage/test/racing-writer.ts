// One of several processes that write to one folder; started by the tests.
import { setTimeout as wait } from 'node:timers/promises'
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { LocalFolderStore } from '@common-handlers/storage'
import { withLock } from '../src/process-lock.ts'

const [folder = '', work, id = ''] = process.argv.slice(2)
const store = new LocalFolderStore({ folder, fsync: false })

if (work === 'race') {
  const won: string[] = []
  for (let key = 0; key < 20; key++) {
    const name = `key-${String(key).padStart(2, '0')}`
    if ((await store.putIfAbsent(name, id)).written) won.push(name)
  }
  for (let added = 0; added < 25;) {
    const { bytes, etag } = await store.getBytes('counter')
    if ((await store.putIfMatch('counter', String(Number(bytes.toString()) + 1), etag)).written) added++
  }
  process.stdout.write(JSON.stringify(won))
} else {
  void store.put(
    'half',
    (async function* () {
      yield Buffer.from('half')
      await wait(600_000)
      yield Buffer.from('whole')
    })(),
  )
  await wait(300)
  const lock = join(folder, '.storage', 'locks', createHash('sha256').update('held').digest('hex').slice(0, 32))
  await withLock(lock, { waitMs: 0 }, async () => {
    process.stdout.write('hanging')
    await wait(600_000)
  })
}
