import { once } from 'node:events'
import { connect } from 'node:net'
import { connect as connectTls } from 'node:tls'

/** Resolves when the server on that port speaks first, by TLS or without, and says what it should. */
export async function greeting(port: number, starts: string, signal: AbortSignal, tls: boolean = false): Promise<void> {
  const at = { host: '127.0.0.1', port }
  const socket = tls ? connectTls({ ...at, rejectUnauthorized: false }) : connect(at)
  try {
    const [first] = (await once(socket, 'data', { signal })) as [Buffer]
    if (!first.toString('latin1').startsWith(starts)) throw new Error(`it greets with ${first.toString('latin1')}`)
  } finally {
    socket.destroy()
  }
}
