import { once } from 'node:events'
import { createServer as createHttpServer, type IncomingMessage, request, type Server, type ServerResponse } from 'node:http'
import { createServer as createHttpsServer, type ServerOptions } from 'node:https'
import type { AddressInfo } from 'node:net'

/** A proxy before a real server that writes down what passes. */
export interface RecordingProxy extends AsyncDisposable {
  readonly address: string
  /** `GET /v1/secret/data/app 200`, in the order of the answers. */
  readonly seen: string[]
  /** How many of them begin with a text. */
  count(prefix: string): number
}

/** Before an HTTP server: in the open, by TLS, or on a Unix socket. */
export async function recordingProxy(
  target: string,
  options: {
    readonly tls?: ServerOptions
    readonly socket?: string
    /** The status to answer with in place of the server, by `PUT /v1/sys/leases/renew`. */
    readonly fault?: (request: string) => number | undefined
  } = {},
): Promise<RecordingProxy> {
  const seen: string[] = []
  const pass = (incoming: IncomingMessage, response: ServerResponse): void => {
    const fault = options.fault?.(`${incoming.method} ${incoming.url}`)
    if (fault !== undefined) {
      seen.push(`${incoming.method} ${incoming.url} ${fault}`)
      incoming.resume().on('end', () => response.writeHead(fault).end('{"errors":["planted"]}'))
      return
    }
    const outgoing = request(
      `${target}${incoming.url}`,
      { method: incoming.method ?? 'GET', headers: incoming.headers },
      (answer) => {
        seen.push(`${incoming.method} ${incoming.url} ${answer.statusCode}`)
        response.writeHead(answer.statusCode ?? 500, answer.headers)
        answer.pipe(response)
      },
    )
    outgoing.on('error', () => response.destroy())
    incoming.pipe(outgoing)
  }
  const server: Server = options.tls === undefined ? createHttpServer(pass) : createHttpsServer(options.tls, pass)
  if (options.socket === undefined) server.listen(0, '127.0.0.1')
  else server.listen(options.socket)
  await once(server, 'listening')
  const scheme = options.tls === undefined ? 'http' : 'https'
  return {
    address:
      options.socket === undefined
        ? `${scheme}://127.0.0.1:${(server.address() as AddressInfo).port}`
        : `unix://${options.socket}`,
    seen,
    count: (prefix) => seen.filter((line) => line.startsWith(prefix)).length,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
