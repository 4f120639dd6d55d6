import type { Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { TLSSocket } from 'node:tls'

const HEADER_BYTES = 8
const PRELOGIN = 0x12
/** Of TLS: what comes once the handshake is done. */
const APPLICATION_DATA = 0x17

/** The server's side of TLS as TDS 7 has it: the handshake travels in PRELOGIN packets, and what comes after it on the bare socket. */
export function tlsInPrelogin(socket: Socket, tls: { readonly key: string; readonly cert: string }): TLSSocket {
  let isHandshake = true
  let buffered = Buffer.alloc(0)
  const inner = new Duplex({
    read: () => undefined,
    write: (chunk: Buffer, _encoding, done) => {
      const header = Buffer.from([PRELOGIN, 1, 0, 0, 0, 0, 1, 0])
      header.writeUInt16BE(chunk.length + HEADER_BYTES, 2)
      socket.write(isHandshake ? Buffer.concat([header, chunk]) : chunk, done)
    },
  })
  socket.on('data', (chunk) => {
    buffered = Buffer.concat([buffered, chunk])
    isHandshake &&= buffered[0] !== APPLICATION_DATA
    while (isHandshake && buffered.length >= HEADER_BYTES && buffered.length >= buffered.readUInt16BE(2)) {
      const size = buffered.readUInt16BE(2)
      inner.push(buffered.subarray(HEADER_BYTES, size))
      buffered = buffered.subarray(size)
      isHandshake = buffered[0] !== APPLICATION_DATA
    }
    if (isHandshake) return
    inner.push(buffered)
    buffered = Buffer.alloc(0)
  })
  socket.on('close', () => inner.destroy())
  const secure = new TLSSocket(inner, { isServer: true, ...tls, maxVersion: 'TLSv1.2' })
  secure.on('error', () => socket.destroy())
  return secure
}
