import { randomUUID } from 'node:crypto'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { ServerUnavailable } from '../errors.ts'
import { sshdBinary, sshKeygenBinary } from '../provision/debian-servers.ts'
import { runClient } from '../provision/package-clients.ts'
import { greeting } from './greeting.ts'
import { onFreePorts } from './ports.ts'
import { inTemporaryFolder, launch, type ServerControl } from './server-process.ts'

/** Where clients connect. */
export type SftpServer = ServerControl & {
  readonly host: string
  readonly port: number
  /** The account that the tests run as: OpenSSH knows those of the system alone, and it logs in by key. */
  readonly user: string
  /** OpenSSH's own format, without a passphrase; `encryptedPrivateKey` is the same key with `passphrase`. */
  readonly privateKey: string
  readonly encryptedPrivateKey: string
  readonly passphrase: string
  /** What known_hosts says of it: the type of the key and the key, in base64. */
  readonly hostKey: string
  /** Where a session starts. It is not locked in. */
  readonly folder: string
}

/**
 * Starts OpenSSH on loopback, for SFTP alone. For a login by password take startRclone('sftp').
 * @throws ServerUnavailable if it is not there and cannot be installed, ServerStartError if it does not start
 */
export async function startSftp(): Promise<SftpServer> {
  const [command, keygen] = await Promise.all([sshdBinary(), sshKeygenBinary()]).catch((error: Error) => {
    throw new ServerUnavailable('sftp', error.message, { cause: error })
  })
  return await inTemporaryFolder('sftp', async (folder) => {
    const at = (name: string): string => join(folder, name)
    const read = (name: string): Promise<string> => readFile(at(name), 'utf8')
    const makeKey = (name: string): Promise<string> =>
      runClient(keygen, ['-q', '-t', 'ed25519', '-N', '', '-C', 'test', '-f', at(name)])
    await makeKey('host-key')
    await makeKey('user-key')
    const privateKey = await read('user-key')
    const passphrase = randomUUID()
    await runClient(keygen, ['-q', '-p', '-P', '', '-N', passphrase, '-f', at('user-key')])
    const data = at('data')
    await mkdir(data)
    // Where it locks in the part of it that has no rights yet; its package leaves it to the start of the system.
    if (process.getuid?.() === 0) await mkdir('/run/sshd', { recursive: true, mode: 0o755 })
    return await onFreePorts(1, async ([port = 0]) => {
      const settings = {
        ListenAddress: `127.0.0.1:${port}`,
        HostKey: at('host-key'),
        AuthorizedKeysFile: at('user-key.pub'),
        PidFile: 'none',
        // The folder is below one that everybody may write to.
        StrictModes: 'no',
        UsePAM: 'no',
        PasswordAuthentication: 'no',
        KbdInteractiveAuthentication: 'no',
        PermitRootLogin: 'prohibit-password',
        AllowTcpForwarding: 'no',
        Subsystem: 'sftp internal-sftp',
        ForceCommand: `internal-sftp -d ${data}`,
      }
      const lines = Object.entries(settings).map(([name, value]) => `${name} ${value}\n`)
      await writeFile(at('sshd_config'), lines.join(''))
      const control = await launch({
        name: 'sftp',
        folder,
        command,
        args: ['-D', '-e', '-f', at('sshd_config')],
        stopSignal: 'SIGTERM',
        startTimeoutMs: 20_000,
        ready: (signal) => greeting(port, 'SSH-2.0', signal),
      })
      return {
        host: '127.0.0.1',
        port,
        user: userInfo().username,
        privateKey,
        encryptedPrivateKey: await read('user-key'),
        passphrase,
        hostKey: (await read('host-key.pub')).split(' ').slice(0, 2).join(' '),
        folder: data,
        ...control,
      }
    })
  })
}
