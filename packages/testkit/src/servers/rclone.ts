import { randomUUID } from 'node:crypto'
import { mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { ServerUnavailable } from '../errors.ts'
import { rcloneBinary } from '../provision/artifacts.ts'
import { sshKeygenBinary } from '../provision/debian-servers.ts'
import { runClient } from '../provision/package-clients.ts'
import { greeting } from './greeting.ts'
import { freePorts, onFreePorts } from './ports.ts'
import { inTemporaryFolder, launch, type ServerControl } from './server-process.ts'

/** What rclone is asked to serve a folder by. */
export type RcloneProtocol = 'ftp' | 'http' | 'sftp' | 'webdav'

/** Where clients connect: an account with a password. */
export type RcloneServer = ServerControl & {
  readonly protocol: RcloneProtocol
  readonly host: string
  readonly port: number
  readonly user: string
  readonly password: string
  /** `sftp://127.0.0.1:port`, without the account; `http://…` for WebDAV. */
  readonly url: string
  /** What it serves. */
  readonly folder: string
  /** Of SFTP, what known_hosts says of it; else undefined. */
  readonly hostKey: string | undefined
}

/**
 * Starts rclone on loopback as a file server: a second implementation of each protocol, and SFTP with a password.
 * @throws ServerUnavailable if it cannot be fetched, ServerStartError if it does not start
 */
export async function startRclone(protocol: RcloneProtocol): Promise<RcloneServer> {
  const [command, keygen] = await Promise.all([rcloneBinary(), sshKeygenBinary()]).catch((error: Error) => {
    throw new ServerUnavailable('rclone', error.message, { cause: error })
  })
  return await inTemporaryFolder('rclone', async (folder) => {
    const data = join(folder, 'data')
    await mkdir(data)
    const key = join(folder, 'host-key')
    if (protocol === 'sftp') await runClient(keygen, ['-q', '-t', 'ed25519', '-N', '', '-C', 'test', '-f', key])
    const [user, password] = ['test', randomUUID()]
    const more: Record<RcloneProtocol, () => Promise<string[]>> = {
      ftp: async () => ['--passive-port', await passivePorts()],
      http: async () => [],
      sftp: async () => ['--key', key],
      webdav: async () => [],
    }
    return await onFreePorts(1, async ([port = 0]) => {
      const http = protocol === 'http' || protocol === 'webdav'
      const control = await launch({
        name: 'rclone',
        folder,
        command,
        args: [
          'serve',
          protocol,
          data,
          '--addr',
          `127.0.0.1:${port}`,
          '--vfs-cache-mode',
          'writes',
          '--vfs-write-back',
          '0s',
          ...(await more[protocol]()),
        ],
        env: { HOME: folder, XDG_CACHE_HOME: folder, RCLONE_CONFIG: '', RCLONE_USER: user, RCLONE_PASS: password },
        stopSignal: 'SIGTERM',
        startTimeoutMs: 20_000,
        async ready(signal) {
          if (!http) return await greeting(port, protocol === 'ftp' ? '220' : 'SSH-2.0', signal)
          await (await fetch(`http://127.0.0.1:${port}`, { signal })).arrayBuffer()
        },
      })
      return {
        protocol,
        host: '127.0.0.1',
        port,
        user,
        password,
        url: `${http ? 'http' : protocol}://127.0.0.1:${port}`,
        folder: data,
        hostKey: protocol === 'sftp' ? (await readFile(`${key}.pub`, 'utf8')).split(' ').slice(0, 2).join(' ') : undefined,
        ...control,
      }
    })
  })
}

/** A range of ports for the data connections of FTP, as the servers take it: `20001-20020`. */
export async function passivePorts(): Promise<string> {
  const [first = 0] = await freePorts(1)
  return `${first}-${first + 19}`
}
