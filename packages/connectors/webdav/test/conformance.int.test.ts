import { utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createConnections, ingestionResultSchema } from '@common-handlers/connections'
import { connectorConformance, describeWith, startRclone, startWebdav } from '@common-handlers/testkit'
import { webdav } from '@common-handlers/webdav'
import { afterAll } from 'vitest'

const files = 12

describeWith([], 'webdav', async () => {
  const servers = await Promise.all([startWebdav({ tls: true }), startRclone('webdav')])
  const [nginx, rclone] = servers
  const connections = createConnections({ connectors: [webdav], variables: {} })
  afterAll(async () => {
    await connections.closeAllConnections()
    await Promise.all(servers.map((server) => server.stop()))
  })
  for (const { folder } of servers) {
    for (let index = 0; index < files; index++) {
      const path = join(folder, `${index}.csv`)
      await writeFile(path, `content ${index}`)
      // Some at the same second.
      await utimes(path, 1_750_000_000, 1_750_000_000 - Math.floor(index / 4))
    }
  }
  const suite = {
    protocol: 'webdav',
    connections,
    schema: ingestionResultSchema,
    count: files,
    query: { pattern: '*.csv' },
    after: (watermark: string) => ({ pattern: '*.csv', watermark }),
  }

  const secure = { baseUrl: nginx.url, username: nginx.user, password: nginx.password, ca: nginx.caCert }
  connectorConformance('webdav by HTTPS on nginx', {
    ...suite,
    config: secure,
    another: { ...secure, timeoutMs: 20_000 },
    at: (port) => ({ ...secure, baseUrl: `https://127.0.0.1:${port}/`, attempts: 1 }),
    refused: { ...secure, password: 'a wrong password' },
    secret: nginx.password,
  })

  const plain = { baseUrl: rclone.url, username: rclone.user, password: rclone.password }
  connectorConformance('webdav on rclone', {
    ...suite,
    config: plain,
    refused: { ...plain, password: 'a wrong password' },
    secret: rclone.password,
  })
})
