import { utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createConnections, ingestionResultSchema } from '@common-handlers/connections'
import { ftp, type FtpConfigInput } from '@common-handlers/ftp'
import {
  connectorConformance,
  describeWith,
  type FtpServer,
  type RcloneServer,
  startProftpd,
  startRclone,
  startVsftpd,
} from '@common-handlers/testkit'
import { afterAll } from 'vitest'

const files = 12

describeWith([], 'ftp', async () => {
  const servers = await Promise.all([startProftpd({ tls: 'required' }), startVsftpd({ tls: 'offered' }), startRclone('ftp')])
  const [proftpd, vsftpd, rclone] = servers
  const connections = createConnections({ connectors: [ftp], variables: {} })
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

  const at = (server: FtpServer | RcloneServer, more: Partial<FtpConfigInput>): FtpConfigInput => {
    const { host, port, user: username, password } = server
    return { host, port, username, ...(password === '' ? {} : { password }), ...more }
  }
  const suite = {
    protocol: 'ftp',
    connections,
    schema: ingestionResultSchema,
    count: files,
    query: { pattern: '*.csv' },
    after: (watermark: string) => ({ pattern: '*.csv', watermark }),
  }

  const explicit = at(proftpd, { ca: proftpd.caCert })
  connectorConformance('ftp with TLS on ProFTPD', {
    ...suite,
    config: explicit,
    another: { ...explicit, timeoutMs: 20_000 },
    at: (port) => ({ ...explicit, port }),
    refused: { ...explicit, password: 'a wrong password' },
    secret: proftpd.password,
  })

  connectorConformance('ftp with TLS sessions resumed on vsftpd', { ...suite, config: at(vsftpd, { ca: vsftpd.caCert }) })

  const plain = at(rclone, { tls: 'none' })
  connectorConformance('ftp without TLS on rclone', {
    ...suite,
    config: plain,
    refused: { ...plain, password: 'a wrong password' },
    secret: rclone.password,
  })
})
