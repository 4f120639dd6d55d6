import { utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createConnections, ingestionResultSchema } from '@common-handlers/connections'
import { sftp } from '@common-handlers/sftp'
import { connectorConformance, describeWith, startRclone, startSftp } from '@common-handlers/testkit'
import ssh2 from 'ssh2'
import { afterAll } from 'vitest'

const files = 12

async function fill(folder: string): Promise<void> {
  for (let index = 0; index < files; index++) {
    const path = join(folder, `${index}.csv`)
    await writeFile(path, `content ${index}`)
    // Some at the same second.
    await utimes(path, 1_750_000_000, 1_750_000_000 - Math.floor(index / 4))
  }
}

describeWith([], 'sftp', async () => {
  const [openssh, rclone] = [await startSftp(), await startRclone('sftp')]
  const connections = createConnections({ connectors: [sftp], variables: {} })
  afterAll(async () => {
    await connections.closeAllConnections()
    await Promise.all([openssh.stop(), rclone.stop()])
  })
  const suite = { protocol: 'sftp', connections, schema: ingestionResultSchema, count: files }

  await fill(openssh.folder)
  const byKey = {
    host: openssh.host,
    port: openssh.port,
    username: openssh.user,
    privateKey: openssh.encryptedPrivateKey,
    passphrase: openssh.passphrase,
    hostKeys: [openssh.hostKey],
  }
  connectorConformance('sftp by key on OpenSSH', {
    ...suite,
    config: byKey,
    another: { ...byKey, timeoutMs: 20_000 },
    query: { pattern: '*.csv' },
    after: (watermark) => ({ pattern: '*.csv', watermark }),
    at: (port) => ({ ...byKey, port }),
    refused: { ...byKey, privateKey: ssh2.utils.generateKeyPairSync('ed25519').private, passphrase: undefined },
    secret: openssh.passphrase,
  })

  await fill(rclone.folder)
  const { host, port, user: username, password, hostKey = '' } = rclone
  const byPassword = { host, port, username, password, hostKeys: [hostKey] }
  connectorConformance('sftp by password on rclone', {
    ...suite,
    config: byPassword,
    query: '/',
    after: (watermark) => ({ path: '/', watermark }),
    refused: { ...byPassword, password: 'a wrong password' },
    secret: password,
  })
})
