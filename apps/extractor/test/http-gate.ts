import { createServer, request } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'

/** A proxy in front of an HTTP server that keeps some requests from it for ever, as if the process had stopped there. */
export interface HttpGate extends AsyncDisposable {
  readonly endpoint: string
  /** Resolves when the first such request has come. */
  readonly held: Promise<void>
}

/** Requests for which `hold` is true, by `METHOD /path?query`, are never passed on nor answered. */
export async function startHttpGate(endpoint: string, hold: (request: string) => boolean): Promise<HttpGate> {
  const { hostname, port } = new URL(endpoint)
  const held = Promise.withResolvers<void>()
  const sockets = new Set<Socket>()
  const server = createServer((incoming, outgoing) => {
    const { method = '', url = '', headers } = incoming
    if (hold(`${method} ${url}`)) {
      incoming.resume()
      held.resolve()
      return
    }
    const passed = request({ hostname, port, method, path: url, headers }, (answer) => {
      outgoing.writeHead(answer.statusCode ?? 502, answer.headers)
      answer.pipe(outgoing)
    })
    passed.on('error', () => outgoing.destroy())
    incoming.pipe(passed)
  })
  server.on('connection', (socket) => {
    sockets.add(socket)
    socket.on('error', () => undefined)
    socket.once('close', () => sockets.delete(socket))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    held: held.promise,
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
