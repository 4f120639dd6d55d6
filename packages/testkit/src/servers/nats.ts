import { randomUUID } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { ServerUnavailable } from '../errors.ts'
import { natsBinary } from '../provision/artifacts.ts'
import { serverCertificate } from './certificates.ts'
import { onFreePorts } from './ports.ts'
import { inTemporaryFolder, launch, type ServerControl } from './server-process.ts'

export interface NatsOptions {
  /** TLS, and a login: clients that have neither are refused. */
  readonly secure?: boolean
}

/** Where clients connect. */
export type NatsServer = ServerControl & {
  readonly url: string
  readonly port: number
  /** Undefined unless `secure` was asked for; `caCert` is the PEM of the authority behind its certificate. */
  readonly security: { readonly user: string; readonly password: string; readonly caCert: string } | undefined
}

/**
 * Starts NATS with JetStream on loopback.
 * @throws ServerUnavailable if it cannot be fetched, ServerStartError if it does not start
 */
export async function startNats(options: NatsOptions = {}): Promise<NatsServer> {
  const command = await natsBinary().catch((error: Error) => {
    throw new ServerUnavailable('nats', error.message, { cause: error })
  })
  return await inTemporaryFolder('nats', async (folder) => {
    const certificate = options.secure === true ? await serverCertificate(folder) : undefined
    const [user, password] = ['test', randomUUID()]
    const settings =
      certificate === undefined
        ? ''
        : `tls { cert_file: "${certificate.certificateFile}", key_file: "${certificate.keyFile}" }
authorization { user: "${user}", password: "${password}" }
`
    await writeFile(join(folder, 'nats.conf'), settings, { mode: 0o600 })
    return await onFreePorts(2, async ([port = 0, monitor = 0]) => {
      const control = await launch({
        name: 'nats',
        folder,
        command,
        args: [
          '-c',
          join(folder, 'nats.conf'),
          '-a',
          '127.0.0.1',
          '-p',
          String(port),
          '-js',
          '-sd',
          folder,
          '-m',
          String(monitor),
        ],
        stopSignal: 'SIGTERM',
        startTimeoutMs: 20_000,
        ready: async (signal) => {
          const answer = await fetch(`http://127.0.0.1:${monitor}/healthz`, { signal })
          if (!answer.ok) throw new Error(`/healthz answered ${answer.status}`)
        },
      })
      const security = certificate && { user, password, caCert: certificate.caCert }
      return { ...control, url: `nats://127.0.0.1:${port}`, port, security }
    })
  })
}
