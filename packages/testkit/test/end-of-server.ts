import type { ServerControl } from '@common-handlers/testkit'
import { anyRunning } from '../src/servers/process-tree.ts'
import { listenersOf } from './process-check.ts'

/** What {@link endOf} sees of a server that behaves. */
export const cleanEnd = { listensOn: ['loopback'], running: false }

/** Stops a server: where it had listened, and whether a process of it goes on. */
export async function endOf(server: ServerControl, options: { readonly graceful?: boolean } = {}): Promise<typeof cleanEnd> {
  const pids = await server.pids()
  const hosts = (await listenersOf(pids)).map(({ host }) => host)
  await server.down(options)
  await server.stop()
  return { listensOn: [...new Set(hosts)], running: await anyRunning(pids) }
}
