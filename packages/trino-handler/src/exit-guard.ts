import type { TrinoTransport } from './transport.ts'

/** Where each statement that runs can be cancelled, by the way to its server. */
const running = new Map<TrinoTransport, Set<() => string | undefined>>()

function cancelAll(): void {
  for (const [transport, addresses] of running) {
    const uris = [...addresses].map((address) => address()).filter((uri) => uri !== undefined)
    if (uris.length > 0) transport.cancelAtExit?.(uris)
  }
}

/**
 * Has a statement cancelled when the process exits in the middle of it, by `process.exit()`, an error that nobody caught
 * or simply the end. Not when a signal kills it: then the server ends the statement after `query.client.timeout`.
 * The process is listened to only while statements run. Returns what ends it.
 */
export function cancelledAtExit(transport: TrinoTransport, address: () => string | undefined): () => void {
  if (running.size === 0) process.on('exit', cancelAll)
  const addresses = running.get(transport) ?? new Set()
  running.set(transport, addresses.add(address))
  return () => {
    addresses.delete(address)
    if (addresses.size === 0) running.delete(transport)
    if (running.size === 0) process.off('exit', cancelAll)
  }
}
