import { once } from 'node:events'
import { connect } from 'node:net'
import { ServerUnavailable } from '../errors.ts'
import { javaProgram, mongoJavaServer, quickStart } from '../provision/java-servers.ts'
import { onFreePorts } from './ports.ts'
import { inTemporaryFolder, launch, type ServerControl } from './server-process.ts'

/** Where clients connect. */
export type MongoDbServer = ServerControl & { readonly url: string }

/**
 * Starts mongo-java-server on loopback, in memory. It speaks MongoDB's protocol and is not MongoDB: it has documents,
 * cursors and aggregation; it has no sessions, no change streams, no login.
 * @throws ServerUnavailable if it cannot be fetched, ServerStartError if it does not start
 */
export async function startMongoJavaServer(): Promise<MongoDbServer> {
  const { java, classPath } = await javaProgram(mongoJavaServer, 17).catch((error: Error) => {
    throw new ServerUnavailable('mongo-java-server', error.message, { cause: error })
  })
  return await inTemporaryFolder('mongo-java-server', (folder) =>
    onFreePorts(1, async ([port = 0]) => {
      const control = await launch({
        name: 'mongo-java-server',
        folder,
        command: java.command,
        args: ['-Xmx128m', ...quickStart, '-cp', classPath, 'Main', String(port)],
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
      return { url: `mongodb://127.0.0.1:${port}`, ...control }
    }),
  )
}
