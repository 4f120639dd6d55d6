import { createServer, type IncomingMessage, request, type Server } from 'node:http'
import { connect, type Socket } from 'node:net'

/** A proxy that asks for a login: it forwards plain requests and tunnels CONNECT. `seen` holds what it was asked. */
export function createProxy(user: string, password: string): { readonly server: Server; readonly seen: string[] } {
  const seen: string[] = []
  const login = `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`
  const server = createServer((asked, response) => {
    seen.push(`${asked.method} ${asked.url}`)
    const { 'proxy-authorization': given, ...headers } = asked.headers
    if (given !== login) {
      response.writeHead(407).end()
      return
    }
    const forwarded = request(asked.url ?? '', { method: asked.method, headers }, (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers)
      answer.pipe(response)
    })
    asked.pipe(forwarded)
  })
  server.on('connect', (asked: IncomingMessage, socket: Socket) => {
    seen.push(`CONNECT ${asked.url}`)
    if (asked.headers['proxy-authorization'] !== login) {
      socket.end('HTTP/1.1 407 No\r\n\r\n')
      return
    }
    const [host = '', port] = (asked.url ?? '').split(':')
    const upstream = connect(Number(port), host, () => {
      socket.write('HTTP/1.1 200 OK\r\n\r\n')
      upstream.pipe(socket).pipe(upstream)
    })
    upstream.on('error', () => socket.destroy())
    socket.on('error', () => upstream.destroy())
  })
  return { server, seen }
}
