import { once } from 'node:events'
import { connect } from 'node:net'
import { ServerUnavailable } from '../errors.ts'
import { javaProgram, mongoJavaServer, quickStart } from '../provision/java-servers.ts'
import { serverCertificate } from './certificates.ts'
import { onFreePorts } from './ports.ts'
import { inTemporaryFolder, launch, type ServerControl } from './server-process.ts'

/** Where clients connect. */
export type MongoDbServer = ServerControl & {
  readonly url: string
  /** The authority of its certificate, with `tls`. */
  readonly caCert?: string
}

export interface MongoDbOptions {
  /** True for a server that speaks TLS and nothing else. */
  readonly tls?: boolean
}

/**
 * Starts mongo-java-server on loopback, in memory. It speaks MongoDB's protocol and is not MongoDB: it has documents,
 * cursors, aggregation and change streams; it has no sessions and no login.
 * @throws ServerUnavailable if it cannot be fetched, ServerStartError if it does not start
 */
export async function startMongoJavaServer(options: MongoDbOptions = {}): Promise<MongoDbServer> {
  const { java, classPath } = await javaProgram(mongoJavaServer, 17).catch((error: Error) => {
    throw new ServerUnavailable('mongo-java-server', error.message, { cause: error })
  })
  return await inTemporaryFolder('mongo-java-server', (folder) =>
    onFreePorts(1, async ([port = 0]) => {
      const certificate = options.tls === true ? await serverCertificate(folder) : undefined
      const control = await launch({
        name: 'mongo-java-server',
        folder,
        command: java.command,
        args: [
          '-Xmx128m',
          ...quickStart,
          '-cp',
          classPath,
          'Main',
          String(port),
          ...(certificate === undefined ? [] : [certificate.keyFile, certificate.certificateFile]),
        ],
        stopSignal: 'SIGTERM',
        startTimeoutMs: 60_000,
        ready: async (signal) => {
          const socket = connect({ host: '127.0.0.1', port })
          try {
            await once(socket, 'connect', { signal })
          } finally {
            socket.destroy()
          }
        },
      })
      return {
        url: `mongodb://127.0.0.1:${port}`,
        ...(certificate === undefined ? {} : { caCert: certificate.caCert }),
        ...control,
      }
    }),
  )
}
