import { ServerUnavailable } from '../errors.ts'
import { natsBinary } from '../provision/artifacts.ts'
import { onFreePorts } from './ports.ts'
import { inTemporaryFolder, launch, type ServerControl } from './server-process.ts'

/** Where clients connect. */
export type NatsServer = ServerControl & { readonly url: string }

/**
 * Starts NATS with JetStream on loopback.
 * @throws ServerUnavailable if it cannot be fetched, ServerStartError if it does not start
 */
export async function startNats(): Promise<NatsServer> {
  const command = await natsBinary().catch((error: Error) => {
    throw new ServerUnavailable('nats', error.message, { cause: error })
  })
  return await inTemporaryFolder('nats', (folder) =>
    onFreePorts(2, async ([port = 0, monitor = 0]) => {
      const control = await launch({
        name: 'nats',
        folder,
        command,
        args: ['-a', '127.0.0.1', '-p', String(port), '-js', '-sd', folder, '-m', String(monitor)],
        stopSignal: 'SIGTERM',
        startTimeoutMs: 20_000,
        ready: async (signal) => {
          const answer = await fetch(`http://127.0.0.1:${monitor}/healthz`, { signal })
          if (!answer.ok) throw new Error(`/healthz answered ${answer.status}`)
        },
      })
      return { ...control, url: `nats://127.0.0.1:${port}` }
    }),
  )
}
