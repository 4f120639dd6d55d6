import { createServer, request } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'

/** A request as it came, its body included. */
export interface GateRequest {
  /** `PUT /lake/key?x-id=PutObject` */
  readonly line: string
  readonly body: string
}

/** A proxy in front of an HTTP server that keeps some requests from it, as if the process had stopped there. */
export interface HttpGate extends AsyncDisposable {
  readonly endpoint: string
  /** Resolves when the first such request has come. */
  readonly held: Promise<void>
  /** Passes on what was held, and holds nothing any more. */
  release(): void
}

/** Requests for which `hold` is true are neither passed on nor answered before `release()`. It is asked for each, in their order. */
export async function startHttpGate(endpoint: string, hold: (request: GateRequest) => boolean): Promise<HttpGate> {
  const { hostname, port } = new URL(endpoint)
  const held = Promise.withResolvers<void>()
  const sockets = new Set<Socket>()
  const waiting: (() => void)[] = []
  let open = false
  const server = createServer((incoming, outgoing) => {
    const chunks: Buffer[] = []
    incoming.on('data', (chunk: Buffer) => chunks.push(chunk))
    incoming.once('end', () => {
      const body = Buffer.concat(chunks)
      const { method = '', url = '', headers } = incoming
      const pass = (): void => {
        const passed = request({ hostname, port, method, path: url, headers }, (answer) => {
          outgoing.writeHead(answer.statusCode ?? 502, answer.headers)
          answer.pipe(outgoing)
        })
        passed.on('error', () => outgoing.destroy())
        passed.end(body)
      }
      if (open || !hold({ line: `${method} ${url}`, body: body.toString() })) return pass()
      waiting.push(pass)
      held.resolve()
    })
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
    release: () => {
      open = true
      for (const pass of waiting) pass()
    },
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
