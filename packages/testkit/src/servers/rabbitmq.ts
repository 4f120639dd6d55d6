import { randomUUID } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { ServerUnavailable } from '../errors.ts'
import { rabbitmqScript } from '../provision/debian-servers.ts'
import { serverCertificate } from './certificates.ts'
import { onFreePorts } from './ports.ts'
import { inTemporaryFolder, launch, type ServerControl } from './server-process.ts'

export interface RabbitMqOptions {
  /** TLS too, on a port of its own. */
  readonly tls?: boolean
}

/** Where clients connect. The virtual host is `/`. */
export type RabbitMqServer = ServerControl & {
  readonly host: string
  readonly port: number
  readonly user: string
  readonly password: string
  /** `amqp://` with user and password. */
  readonly url: string
  /** Its HTTP API, to arrange and to look at things; basic authentication with the same user. */
  readonly managementUrl: string
  /** Undefined unless asked for. `url` is `amqps://`, `caCert` the PEM of the authority behind its certificate. */
  readonly tls: { readonly url: string; readonly caCert: string } | undefined
}

/**
 * Starts RabbitMQ (AMQP 0-9-1) on loopback, with its management API. `down` and `stop` take Erlang's epmd with it, which
 * otherwise stays behind.
 * @throws ServerUnavailable if it is not there and cannot be installed, ServerStartError if it does not start
 */
export async function startRabbitMq(options: RabbitMqOptions = {}): Promise<RabbitMqServer> {
  const script = await rabbitmqScript().catch((error: Error) => {
    throw new ServerUnavailable('rabbitmq', error.message, { cause: error })
  })
  return await inTemporaryFolder('rabbitmq', async (folder) => {
    const certificate = options.tls === true ? await serverCertificate(folder) : undefined
    const [user, password] = ['test', randomUUID()]
    for (const name of ['data', 'log']) await mkdir(join(folder, name))
    return await onFreePorts(5, async ([port = 0, tlsPort = 0, managementPort = 0, nodePort = 0, epmdPort = 0]) => {
      const settings = {
        'listeners.tcp.1': `127.0.0.1:${port}`,
        default_user: user,
        default_pass: password,
        'management.tcp.ip': '127.0.0.1',
        'management.tcp.port': String(managementPort),
        'log.console': 'true',
        'log.file': 'false',
        ...(certificate === undefined
          ? {}
          : {
              'listeners.ssl.1': `127.0.0.1:${tlsPort}`,
              'ssl_options.cacertfile': certificate.caFile,
              'ssl_options.certfile': certificate.certificateFile,
              'ssl_options.keyfile': certificate.keyFile,
            }),
      }
      const lines = Object.entries(settings).map(([name, value]) => `${name} = ${value}\n`)
      await writeFile(join(folder, 'rabbitmq.conf'), lines.join(''), { mode: 0o600 })
      await writeFile(join(folder, 'enabled_plugins'), '[rabbitmq_management].')
      const managementUrl = `http://127.0.0.1:${managementPort}`
      const control = await launch({
        name: 'rabbitmq',
        folder,
        command: 'sh',
        args: ['-c', withEpmd],
        env: {
          // Erlang's programs, and its cookie.
          PATH: `/usr/sbin:/usr/bin:/bin:${dirname(script)}`,
          HOME: folder,
          SCRIPT: script,
          RABBITMQ_CONF_ENV_FILE: '/dev/null',
          RABBITMQ_CONFIG_FILE: join(folder, 'rabbitmq'),
          RABBITMQ_ENABLED_PLUGINS_FILE: join(folder, 'enabled_plugins'),
          RABBITMQ_MNESIA_BASE: join(folder, 'data'),
          RABBITMQ_LOG_BASE: join(folder, 'log'),
          RABBITMQ_NODENAME: 'test@localhost',
          RABBITMQ_DIST_PORT: String(nodePort),
          RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: '-kernel inet_dist_use_interface {127,0,0,1}',
          ERL_EPMD_ADDRESS: '127.0.0.1',
          ERL_EPMD_PORT: String(epmdPort),
        },
        stopSignal: 'SIGTERM',
        startTimeoutMs: 120_000,
        async ready(signal) {
          const headers = { authorization: `Basic ${btoa(`${user}:${password}`)}` }
          const listens = await fetch(`${managementUrl}/api/health/checks/port-listener/${port}`, { headers, signal })
          await listens.arrayBuffer()
          if (!listens.ok) throw new Error(`the check of its listener answered ${listens.status}`)
        },
      })
      return {
        host: '127.0.0.1',
        port,
        user,
        password,
        url: `amqp://${user}:${password}@127.0.0.1:${port}`,
        managementUrl,
        tls:
          certificate === undefined
            ? undefined
            : { url: `amqps://${user}:${password}@127.0.0.1:${tlsPort}`, caCert: certificate.caCert },
        ...control,
      }
    })
  })
}

/** RabbitMQ would start an epmd that is nobody's child and outlives it; this one ends with it. */
const withEpmd = `epmd & epmd=$!
until epmd -names >/dev/null 2>&1; do kill -0 $epmd || exit 1; sleep 0.05; done
RUNNING_UNDER_SYSTEMD=1 "$SCRIPT" & server=$!
trap 'kill -TERM $server' TERM
wait $server
wait $server
kill $epmd
`
