import { once } from 'node:events'
import type { Socket } from 'node:net'
import { tlsNotOffered } from './errors.ts'

/** What is said in clear before the handshake (PostgreSQL, "SSLRequest"); the server answers with one letter. */
export async function startTls(socket: Socket, signal: AbortSignal): Promise<void> {
  const request = Buffer.alloc(8)
  request.writeInt32BE(8, 0)
  request.writeInt32BE(80_877_103, 4)
  socket.write(request)
  const [answer] = (await once(socket, 'data', { signal })) as [Buffer]
  socket.pause()
  if (answer.toString('latin1', 0, 1) !== 'S') throw tlsNotOffered(`${socket.remoteAddress}:${socket.remotePort}`)
}
