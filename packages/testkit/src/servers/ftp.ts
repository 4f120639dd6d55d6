import { randomUUID } from 'node:crypto'
import { chown, cp, mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { ServerUnavailable } from '../errors.ts'
import { proftpdBinary, vsftpdFolder } from '../provision/debian-servers.ts'
import { runClient } from '../provision/package-clients.ts'
import type { ServerCertificate } from './certificates.ts'
import { greeting } from './greeting.ts'
import { onFreePorts } from './ports.ts'
import { inOwnedFolder } from './owned-folder.ts'
import { passivePorts } from './rclone.ts'
import { launch, type ServerControl } from './server-process.ts'

export interface FtpOptions {
  /** `offered`: by AUTH TLS, whoever wants it. `required`: nobody logs in without. `implicit`: TLS from the first byte. */
  readonly tls?: 'offered' | 'required' | 'implicit'
}

/** Where clients connect. */
export type FtpServer = ServerControl & {
  readonly host: string
  readonly port: number
  readonly user: string
  readonly password: string
  /** Where a session starts. It is not locked in. */
  readonly folder: string
  /** PEM of the authority behind its certificate; undefined without TLS. */
  readonly caCert: string | undefined
}

/**
 * Starts ProFTPD on loopback with one account. Its data connections may come with a new TLS session or the old one.
 * @throws ServerUnavailable if it is not there and cannot be installed, ServerStartError if it does not start
 */
export async function startProftpd(options: FtpOptions = {}): Promise<FtpServer> {
  const command = await proftpdBinary().catch((error: Error) => {
    throw new ServerUnavailable('proftpd', error.message, { cause: error })
  })
  return await inOwnedFolder('proftpd', options, async ({ folder, data, account, certificate }) => {
    const [user, password] = ['test', randomUUID()]
    const { uid, gid } = account ?? { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 }
    const [name, group] = [await runClient('id', ['-nu', String(uid)]), await runClient('id', ['-ng', String(uid)])]
    const hash = (await runClient('openssl', ['passwd', '-6', password])).trim()
    const own = async (base: string, text: string): Promise<string> => {
      const file = join(folder, base)
      await writeFile(file, text, { mode: 0o600 })
      if (account !== undefined) await chown(file, uid, gid)
      return file
    }
    const users = await own('users', `${user}:${hash}:${uid}:${gid}::${data}:/bin/sh\n`)
    return await onFreePorts(1, async ([port = 0]) => {
      const file = await own(
        'proftpd.conf',
        `ServerName test
ServerType standalone
User ${name.trim()}
Group ${group.trim()}
ControlsEngine off
DefaultAddress 127.0.0.1
Port ${port}
SocketBindTight on
UseIPv6 off
PidFile ${folder}/pid
ScoreboardFile ${folder}/scoreboard
DelayEngine off
WtmpLog off
TransferLog none
SystemLog none
AuthUserFile ${users}
AuthOrder mod_auth_file.c
RequireValidShell off
AllowOverwrite on
AllowStoreRestart on
AllowRetrieveRestart on
PassivePorts ${(await passivePorts()).replace('-', ' ')}
${certificate === undefined ? '' : proftpdTls(certificate, options.tls ?? 'offered')}`,
      )
      const control = await launch({
        name: 'proftpd',
        folder,
        command,
        args: ['--nodaemon', '--config', file],
        ...(account === undefined ? {} : { account }),
        stopSignal: 'SIGTERM',
        startTimeoutMs: 20_000,
        ready: (signal) => greeting(port, '220', signal, options.tls === 'implicit'),
      })
      return { host: '127.0.0.1', port, user, password, folder: data, caCert: certificate?.caCert, ...control }
    })
  })
}

function proftpdTls(certificate: ServerCertificate, tls: 'offered' | 'required' | 'implicit'): string {
  return `ModulePath /usr/lib/proftpd
LoadModule mod_tls.c
TLSEngine on
TLSRequired ${tls === 'required' ? 'on' : 'off'}
TLSRSACertificateFile ${certificate.certificateFile}
TLSRSACertificateKeyFile ${certificate.keyFile}
TLSOptions NoSessionReuseRequired${tls === 'implicit' ? ' UseImplicitSSL' : ''}
`
}

/**
 * Starts vsftpd on loopback for an anonymous user who may write. With TLS it insists on data connections that go on with the
 * session of the control connection, as many servers do.
 * @throws ServerUnavailable if it cannot be fetched, ServerStartError if it does not start
 */
export async function startVsftpd(options: { readonly tls?: 'offered' | 'required' } = {}): Promise<FtpServer> {
  const program = await vsftpdFolder().catch((error: Error) => {
    throw new ServerUnavailable('vsftpd', error.message, { cause: error })
  })
  return await inOwnedFolder('vsftpd', options, async ({ folder, data, account, certificate }) => {
    // To where another account sees it.
    const native = join(folder, 'native')
    await cp(program, native, { recursive: true, verbatimSymlinks: true })
    return await onFreePorts(1, async ([port = 0]) => {
      const [minimum = '', maximum = ''] = (await passivePorts()).split('-')
      const yesNo = (yes: boolean): string => (yes ? 'YES' : 'NO')
      const settings = {
        listen: 'YES',
        listen_address: '127.0.0.1',
        listen_port: String(port),
        background: 'NO',
        run_as_launching_user: 'YES',
        one_process_model: 'YES',
        seccomp_sandbox: 'NO',
        secure_chroot_dir: join(folder, 'empty'),
        xferlog_enable: 'NO',
        anonymous_enable: 'YES',
        local_enable: 'NO',
        write_enable: 'YES',
        anon_root: data,
        anon_upload_enable: 'YES',
        anon_mkdir_write_enable: 'YES',
        anon_other_write_enable: 'YES',
        anon_world_readable_only: 'NO',
        pasv_address: '127.0.0.1',
        pasv_min_port: minimum,
        pasv_max_port: maximum,
        ...(certificate === undefined
          ? {}
          : {
              ssl_enable: 'YES',
              allow_anon_ssl: 'YES',
              force_anon_logins_ssl: yesNo(options.tls === 'required'),
              force_anon_data_ssl: yesNo(options.tls === 'required'),
              rsa_cert_file: certificate.certificateFile,
              rsa_private_key_file: certificate.keyFile,
              require_ssl_reuse: 'YES',
            }),
      }
      await mkdir(join(folder, 'empty'), { recursive: true })
      const file = join(folder, 'vsftpd.conf')
      const lines = Object.entries(settings).map(([name, value]) => `${name}=${value}\n`)
      await writeFile(file, lines.join(''), { mode: 0o600 })
      if (account !== undefined) await chown(file, account.uid, account.gid)
      const control = await launch({
        name: 'vsftpd',
        folder,
        command: join(native, 'vsftpd'),
        args: [file],
        env: { LD_LIBRARY_PATH: join(native, 'lib') },
        ...(account === undefined ? {} : { account }),
        stopSignal: 'SIGTERM',
        startTimeoutMs: 20_000,
        ready: (signal) => greeting(port, '220', signal),
      })
      const caCert = certificate?.caCert
      return { host: '127.0.0.1', port, user: 'anonymous', password: '', folder: data, caCert, ...control }
    })
  })
}
