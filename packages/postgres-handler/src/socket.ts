import { Socket } from 'node:net'

const READ_BYTES = 256 * 1024

/**
 * A socket that reads into one buffer again and again: the bytes of its event `data` are on loan, good until the listener
 * returns. It spares a COPY half of its garbage.
 */
export function lendingSocket(): Socket {
  const socket: Socket = new Socket({
    onread: {
      buffer: Buffer.allocUnsafeSlow(READ_BYTES),
      callback: (length, buffer) => {
        socket.emit('data', Buffer.from(buffer.buffer, buffer.byteOffset, length))
        return true
      },
    },
  })
  return socket
}
