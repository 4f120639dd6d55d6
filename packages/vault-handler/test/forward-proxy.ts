import { once } from 'node:events'
import { createServer, request } from 'node:http'
import { type AddressInfo, connect, type Socket } from 'node:net'

/** A proxy as companies have them: whole addresses for HTTP, CONNECT for HTTPS. It wants a user and a password. */
export interface ForwardProxy extends AsyncDisposable {
  /** With user and password. */
  readonly address: string
  /** `CONNECT localhost:8200`, `GET http://127.0.0.1:8200/v1/sys/health`. */
  readonly seen: string[]
}

export async function forwardProxy(): Promise<ForwardProxy> {
  const seen: string[] = []
  const sockets = new Set<Socket>()
  const isKnown = (header: string | undefined): boolean =>
    header === `Basic ${Buffer.from('joe:joes-password').toString('base64')}`
  const server = createServer((incoming, response) => {
    seen.push(`${incoming.method} ${incoming.url}`)
    const { 'proxy-authorization': credentials, 'proxy-connection': _connection, ...headers } = incoming.headers
    if (!isKnown(credentials)) {
      response.writeHead(407).end()
      return
    }
    const outgoing = request(incoming.url ?? '', { method: incoming.method ?? 'GET', headers }, (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers)
      answer.pipe(response)
    })
    incoming.pipe(outgoing)
  })
  server.on('connection', (socket) => sockets.add(socket))
  server.on('connect', (incoming, client: Socket) => {
    seen.push(`CONNECT ${incoming.url}`)
    if (!isKnown(incoming.headers['proxy-authorization'])) {
      client.end('HTTP/1.1 407 Proxy Authentication Required\r\n\r\n')
      return
    }
    const { hostname, port } = new URL(`http://${incoming.url}`)
    const target = connect(Number(port), hostname, () => {
      client.write('HTTP/1.1 200 Connection established\r\n\r\n')
      target.pipe(client).pipe(target)
    })
    sockets.add(target)
    for (const socket of [target, client]) socket.on('error', () => socket.destroy())
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    address: `http://joe:joes-password@127.0.0.1:${(server.address() as AddressInfo).port}`,
    seen,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
