import { createHash, randomBytes } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createConnections } from '@common-handlers/connections'
import { S3Handler } from '@common-handlers/s3-handler'
import { sftp } from '@common-handlers/sftp'
import { createBucket, describeWith, startFaultProxy, startSftp } from '@common-handlers/testkit'
import { afterAll, expect, it } from 'vitest'

const MIB = 1024 * 1024

describeWith(['s3'], 'sftp to a bucket', async ({ s3 }) => {
  const server = await startSftp()
  const connections = createConnections({ connectors: [sftp], variables: {} })
  const { endpoint, region, accessKeyId, secretAccessKey } = s3
  const bucket = 'sftp-files'
  await createBucket(s3, bucket)
  const store = new S3Handler({ endpoint, region, accessKeyId, secretAccessKey, bucket, prefix: 'raw' })
  afterAll(async () => {
    await connections.closeAllConnections()
    await Promise.all([store.close(), server.stop()])
  })
  const config = { host: server.host, username: server.user, privateKey: server.privateKey, hostKeys: [server.hostKey] }

  it('writes each file whole, in parts and resumed, and once', async () => {
    await using proxy = await startFaultProxy(server)
    const bytes = randomBytes(48 * MIB)
    await mkdir(join(server.folder, 'out/ä b'), { recursive: true })
    await writeFile(join(server.folder, 'out/ä b', 'large.bin'), bytes)
    await writeFile(join(server.folder, 'out', 'small.csv'), 'a,b\n')
    await using connector = await connections.createConnector({ protocol: 'sftp', ...config, port: proxy.port })
    proxy.limitBytes(20 * MIB, { once: true })
    const query = { path: 'out', target: store, prefix: 'sftp' }
    const { items } = await connector.fetchData(query)
    expect(items.map(({ location }) => String(location)).toSorted()).toEqual([
      `s3://${bucket}/raw/sftp/small.csv`,
      `s3://${bucket}/raw/sftp/ä b/large.bin`,
    ])
    const kept = await store.getBytes('sftp/ä b/large.bin')
    expect(kept.bytes.equals(bytes)).toBe(true)
    const checksum = `sha256:${createHash('sha256').update(bytes).digest('hex')}`
    expect(items.find(({ bytes: size }) => size === 48 * MIB)?.checksum).toBe(checksum)
    expect((await connector.fetchData(query)).items).toEqual([])
    // The store is the caller's: it is still open.
    expect(await store.head('sftp/small.csv')).toMatchObject({ size: 4 })
  })

  it('leaves nothing of a file that could not be read to its end', async () => {
    await using proxy = await startFaultProxy(server)
    await writeFile(join(server.folder, 'half.bin'), randomBytes(24 * MIB))
    const once = { ...config, port: proxy.port, attempts: 1 }
    await using connector = await connections.createConnector({ protocol: 'sftp', ...once })
    proxy.limitBytes(16 * MIB)
    const fetching = connector.fetchData({ path: 'half.bin', target: store })
    await expect(fetching).rejects.toMatchObject({ code: 'SFTP_CONNECTION_LOST' })
    await expect(store.head('half.bin')).rejects.toMatchObject({ outcome: 'not-found' })
  })
})
