import { createHash, randomBytes } from 'node:crypto'
import { mkdtemp, open, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createConnections } from '@common-handlers/connections'
import { LocalFolderStore, type ObjectBody, type PutOptions, type WrittenObject } from '@common-handlers/storage'
import { describeWith, startFaultProxy, startRclone, startWebdav, liveMemory } from '@common-handlers/testkit'
import { afterAll, expect, it } from 'vitest'

const MIB = 1024 * 1024
/** Outside of the heap. */
const heldBytes = async (): Promise<number> => (await liveMemory()).arrayBuffers

describeWith([], 'a download of 100 MB', async () => {
  const scratch = await mkdtemp(join(tmpdir(), 'download-'))
  const [rclone, nginx] = await Promise.all([startRclone('http'), startWebdav()])
  const connections = createConnections({ variables: {} })
  afterAll(async () => {
    await connections.closeAllConnections()
    await Promise.all([rclone.stop(), nginx.stop()])
    await rm(scratch, { recursive: true })
  })
  const block = randomBytes(MIB)
  const hash = createHash('sha256')
  const files = await Promise.all([rclone, nginx].map(({ folder }) => open(join(folder, 'large.bin'), 'w')))
  for (let index = 0; index < 100; index++) {
    block.writeUInt32BE(index)
    hash.update(block)
    for (const file of files) await file.write(block)
  }
  await Promise.all(files.map((file) => file.close()))
  const expected = { bytes: 100 * MIB, checksum: `sha256:${hash.digest('hex')}` }

  it.each([
    ['rclone', rclone],
    ['nginx', nginx],
  ])('from %s goes on where it was cut, in bounded memory', async (name, server) => {
    const { port } = new URL(server.url)
    await using proxy = await startFaultProxy({ host: '127.0.0.1', port: Number(port) })
    await using connector = await connections.createConnector({
      protocol: 'http',
      baseUrl: `http://127.0.0.1:${proxy.port}`,
      username: server.user,
      password: server.password,
    })
    // More than the rest, and less than the whole once more.
    proxy.limitBytes(60 * MIB, { once: true })
    const before = await heldBytes()
    let [had, most] = [0, 0]
    async function* watched(body: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
      for await (const chunk of body) {
        had += chunk.byteLength
        if (had > 20 * MIB) {
          had = 0
          most = Math.max(most, await heldBytes())
        }
        yield chunk
      }
    }
    class WatchedStore extends LocalFolderStore {
      override put(key: string, body: ObjectBody, options?: PutOptions): Promise<WrittenObject> {
        return super.put(key, typeof body === 'object' && Symbol.asyncIterator in body ? watched(body) : body, options)
      }
    }
    const query = { download: '/large.bin', target: new WatchedStore({ folder: join(scratch, name) }) }
    const { items } = await connector.fetchData(query)
    expect(items).toMatchObject([expected])
    const kept = createHash('sha256').update(await readFile(join(scratch, name, 'large.bin')))
    expect(`sha256:${kept.digest('hex')}`).toBe(expected.checksum)
    expect(most - before).toBeLessThan(32 * MIB)
    expect((await connector.fetchData(query)).items).toEqual([])
  })
})
