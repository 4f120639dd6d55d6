import { connect, isIP, type Socket } from 'node:net'
import { Readable } from 'node:stream'

// HTTP/1.1 for the requests that transfers are made of. Node's own client allocates 64 kB for each read and leaves it to
// the collector, which cost 1.5 CPU seconds and 200 MB for a download of 1 GiB; here a socket reads into the memory where
// its bytes are to be, which cost 0.4 CPU seconds and 95 MB.

export interface WireRequest {
  readonly method: string
  /** Path and query, encoded. */
  readonly target: string
  /** `host` and `content-length` among them. */
  readonly headers: Readonly<Record<string, string>>
  readonly body?: Uint8Array | undefined
}

export interface WireHead {
  readonly status: number
  /** Names in lower case; a name that comes twice is joined by a comma. */
  readonly headers: Readonly<Record<string, string>>
}

export interface WireOptions {
  readonly signal: AbortSignal
  /** The longest time in which nothing moves on the socket, either way; 0: no limit. */
  readonly stallTimeoutMs: number
}

export interface WireSettings {
  readonly host: string
  readonly port: number
  readonly tls: boolean
  readonly connectTimeoutMs: number
}

/** Memory that a body is read into. */
export interface BodyMemory {
  /** Where the next bytes go; empty where there is no room. */
  space(): Uint8Array
  /** So many bytes lie there now. Gives false to hear no more until it is resumed: below {@link LATE_BYTES} of room. */
  filled(count: number): boolean
}

/** Takes the bytes of one body. */
interface BodySink {
  /** Memory that the next bytes go to directly, where the sink has some. */
  readonly space?: (() => Uint8Array | undefined) | undefined
  /** The bytes are there during the call only, unless they lie in `space`. Gives false to hear no more until `resume`. */
  write(bytes: Uint8Array): boolean
  end(): void
  fail(error: Error): void
}

interface Exchange {
  readonly request: WireRequest
  readonly onHead: (head: WireHead, connection: Connection) => BodySink
  readonly onError: (error: Error) => void
}

/** Below the five seconds after which common servers close an idle connection. */
const IDLE_MS = 4_000
const MAX_IDLE = 64
const MAX_HEAD_BYTES = 256 * 1024
const MAX_COLLECTED_BYTES = 64 * 1024 * 1024
/** The most that is read at a time without memory of its own. */
const READ_BYTES = 64 * 1024
/** The most that may still come after a sink has said that it wants no more: one read, and with TLS what it decrypts to. */
export const LATE_BYTES: number = READ_BYTES + 32 * 1024
/** Bodies up to this size travel in one write with their head. */
const JOINED_BYTES = 16 * 1024

/** What the connection did wrong, told in the words of Node's own errors, which errors.ts knows. */
function socketError(message: string, code: string, more: { readonly name?: string; readonly syscall?: string } = {}): Error {
  return Object.assign(new Error(message), { code, ...more })
}

/** The connections to one server. As many as there are requests at a time; idle ones are used again and closed soon. */
export class Wire {
  readonly #settings: WireSettings
  readonly #idle: Connection[] = []
  readonly #all = new Set<Connection>()

  constructor(settings: WireSettings) {
    this.#settings = settings
  }

  get connections(): number {
    return this.#all.size
  }

  /** The whole answer in memory. */
  async collect(request: WireRequest, options: WireOptions): Promise<WireHead & { readonly body: Buffer }> {
    return new Promise((resolve, reject) => {
      this.#start(request, options, reject, (head) => collecting(reject, (body) => resolve({ ...head, body })))
    })
  }

  /** Resolves with the head; the body is a stream, which the signal no longer ends. An answer above 299 is collected. */
  async open(request: WireRequest, options: WireOptions): Promise<WireHead & { readonly body: Readable | Buffer }> {
    return new Promise((resolve, reject) => {
      this.#start(request, options, reject, (head, connection) => {
        if (head.status > 299) return collecting(reject, (body) => resolve({ ...head, body }))
        const { sink, body } = streaming(connection)
        connection.detach()
        resolve({ ...head, body })
        return sink
      })
    })
  }

  /**
   * Reads the body of an answer below 300 straight into the memory that `place` gives for its head; resolves at the end of
   * the body. An answer above 299 is collected.
   */
  async readInto(
    request: WireRequest,
    options: WireOptions,
    place: (head: WireHead, resume: () => void) => BodyMemory,
  ): Promise<WireHead & { readonly body: Buffer }> {
    return new Promise((resolve, reject) => {
      this.#start(request, options, reject, (head, connection) => {
        if (head.status > 299) return collecting(reject, (body) => resolve({ ...head, body }))
        const memory = place(head, () => connection.resume())
        return {
          space: () => {
            const space = memory.space()
            return space.byteLength > 0 ? space : undefined
          },
          write: (bytes) => {
            let more = true
            for (let rest = bytes; rest.byteLength > 0;) {
              const space = memory.space()
              if (space.byteLength === 0) throw new RangeError('the body is longer than was asked for')
              const part = rest.subarray(0, space.byteLength)
              // They are there already, unless the place was chosen before the memory moved on.
              if (part.buffer !== space.buffer || part.byteOffset !== space.byteOffset) space.set(part)
              more = memory.filled(part.byteLength)
              rest = rest.subarray(part.byteLength)
            }
            return more
          },
          end: () => resolve({ ...head, body: Buffer.alloc(0) }),
          fail: reject,
        }
      })
    })
  }

  /** Breaks every connection. */
  destroy(): void {
    for (const connection of this.#all) connection.destroy()
  }

  #start(request: WireRequest, options: WireOptions, onError: Exchange['onError'], onHead: Exchange['onHead']): void {
    if (options.signal.aborted) {
      onError(options.signal.reason as Error)
      return
    }
    const idle = this.#idle.pop()
    // The server may have closed it a moment ago, before it saw the request: that is no failure, a new one takes it.
    const onStale = idle !== undefined && isRepeatable(request) ? () => this.#connect().run(exchange, options) : undefined
    const exchange: Exchange = { request, onHead, onError }
    const connection = idle ?? this.#connect()
    connection.run(exchange, options, onStale)
  }

  #connect(): Connection {
    const made: Connection = new Connection(this.#settings, {
      idle: () => {
        if (this.#idle.length < MAX_IDLE) this.#idle.push(made)
        else made.destroy()
      },
      closed: () => {
        this.#all.delete(made)
        const index = this.#idle.indexOf(made)
        if (index !== -1) this.#idle.splice(index, 1)
      },
    })
    this.#all.add(made)
    return made
  }
}

/** What may be done twice without anybody asking. A write with a condition may not: the second finds what the first wrote. */
function isRepeatable({ method, headers }: WireRequest): boolean {
  if (method === 'GET' || method === 'HEAD') return true
  return method !== 'POST' && headers['if-match'] === undefined && headers['if-none-match'] === undefined
}

function collecting(reject: (error: Error) => void, done: (body: Buffer) => void): BodySink {
  const chunks: Buffer[] = []
  let size = 0
  return {
    write: (bytes) => {
      size += bytes.byteLength
      if (size > MAX_COLLECTED_BYTES) throw new RangeError('the answer is too long')
      chunks.push(Buffer.from(bytes))
      return true
    },
    end: () => done(chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks)),
    fail: reject,
  }
}

function streaming(connection: Connection): { readonly sink: BodySink; readonly body: Readable } {
  let over = false
  const body = new Readable({
    highWaterMark: READ_BYTES * 4,
    read: () => {
      if (!over) connection.resume()
    },
    destroy: (error, done) => {
      if (!over) connection.destroy()
      over = true
      done(error)
    },
  })
  const sink: BodySink = {
    write: (bytes) => body.push(Buffer.from(bytes)),
    end: () => {
      over = true
      body.push(null)
    },
    fail: (error) => {
      over = true
      body.destroy(error)
    },
  }
  return { sink, body }
}

type Framing = 'none' | 'length' | 'chunked' | 'until-close'

/** One connection: one exchange after the other. */
class Connection {
  readonly #socket: Socket
  readonly #scratch: Buffer = Buffer.allocUnsafeSlow(READ_BYTES)
  readonly #hooks: { readonly idle: () => void; readonly closed: () => void }
  readonly #host: string
  #connecting: NodeJS.Timeout | undefined
  #exchange: Exchange | undefined
  #sink: BodySink | undefined
  #letGo: (() => void) | undefined
  /** Makes the request elsewhere, while nothing of an answer has come. */
  #onStale: (() => void) | undefined
  #head = ''
  #framing: Framing = 'none'
  /** Bytes of the body, or of its chunk, that are to come. */
  #left = 0
  /** What came of the line with a chunk's size, or of the trailer; undefined inside a chunk. */
  #line: string | undefined
  #lastChunk = false
  #keep = false
  #closed = false

  constructor(settings: WireSettings, hooks: { readonly idle: () => void; readonly closed: () => void }) {
    const { host, port, tls, connectTimeoutMs } = settings
    this.#hooks = hooks
    this.#host = host
    const onread = {
      // Where the next bytes go: into the body's own memory while there is one.
      buffer: () => (this.#framing === 'length' ? this.#sink?.space?.() : undefined) ?? this.#scratch,
      callback: (count: number, bytes: Uint8Array) => this.#read(bytes.subarray(0, count)),
    }
    const options = { host, port, onread, noDelay: true, keepAlive: true }
    const servername = isIP(host) === 0 ? host : ''
    this.#socket = tls ? tlsModule().connect({ ...options, servername, ALPNProtocols: ['http/1.1'] }) : connect(options)
    this.#connecting = setTimeout(() => {
      const message = `did not establish a connection in ${connectTimeoutMs} ms`
      this.#fail(socketError(message, 'ETIMEDOUT', { name: 'TimeoutError', syscall: 'connect' }))
    }, connectTimeoutMs)
    this.#socket.once(tls ? 'secureConnect' : 'connect', () => clearTimeout(this.#connecting))
    this.#socket.on('timeout', () => {
      if (this.#exchange === undefined && this.#sink === undefined) this.destroy()
      else this.#fail(socketError('nothing moved on the connection for too long', 'ESOCKETTIMEDOUT', { name: 'TimeoutError' }))
    })
    this.#socket.on('error', (error) => this.#lost(error))
    this.#socket.on('end', () => this.#ended())
    this.#socket.on('close', () => this.#lost(socketError('the connection was closed', 'ECONNRESET')))
  }

  /** `onStale`: what to do instead of failing when the server has closed the connection before it answers a byte. */
  run(exchange: Exchange, options: WireOptions, onStale?: () => void): void {
    this.#exchange = exchange
    this.#onStale = onStale
    this.#head = ''
    const { signal, stallTimeoutMs } = options
    const abort = (): void => this.#fail(signal.reason as Error)
    signal.addEventListener('abort', abort)
    this.#letGo = () => signal.removeEventListener('abort', abort)
    this.#socket.ref()
    this.#socket.setTimeout(stallTimeoutMs)
    this.#send(exchange.request)
  }

  /** The exchange no longer ends with its signal nor by silence: its body has a reader of its own. */
  detach(): void {
    this.#letGo?.()
    this.#letGo = undefined
    this.#socket.setTimeout(0)
  }

  resume(): void {
    this.#socket.resume()
  }

  destroy(): void {
    this.#fail(socketError(`the connection to ${this.#host} was closed here`, 'ECONNRESET'))
  }

  #send({ method, target, headers, body }: WireRequest): void {
    let head = `${method} ${target} HTTP/1.1\r\n`
    for (const name in headers) head += `${name}: ${headers[name]}\r\n`
    head += '\r\n'
    if (body === undefined || body.byteLength === 0) {
      this.#socket.write(head, 'latin1')
    } else if (body.byteLength <= JOINED_BYTES) {
      const bytes = Buffer.allocUnsafe(head.length + body.byteLength)
      bytes.write(head, 'latin1')
      bytes.set(body, head.length)
      this.#socket.write(bytes)
    } else {
      this.#socket.cork()
      this.#socket.write(head, 'latin1')
      this.#socket.write(body)
      this.#socket.uncork()
    }
  }

  /** What came from the socket. Gives false to hear no more until `resume`. */
  #read(bytes: Uint8Array): boolean {
    this.#onStale = undefined
    try {
      let rest = bytes
      let more = true
      while (rest.byteLength > 0) {
        if (this.#sink !== undefined) {
          const before = rest
          const taken = this.#framing === 'chunked' ? this.#readChunked(rest) : this.#readPlain(rest)
          more = taken.more
          rest = taken.rest
          if (rest === before) break
        } else if (this.#exchange === undefined) {
          throw socketError('the server sent what nobody asked for', 'ECONNRESET')
        } else rest = this.#readHead(rest)
      }
      return more || this.#sink === undefined
    } catch (error) {
      this.#fail(error as Error)
      return false
    }
  }

  #readHead(bytes: Uint8Array): Uint8Array {
    const exchange = this.#exchange
    const before = this.#head.length
    this.#head += latin1(bytes)
    const end = this.#head.indexOf('\r\n\r\n', Math.max(0, before - 3))
    if (end === -1) {
      if (this.#head.length > MAX_HEAD_BYTES) throw new RangeError('the head of the answer is too long')
      return bytes.subarray(bytes.byteLength)
    }
    const rest = bytes.subarray(end + 4 - before)
    const { version, status, headers } = parseHead(this.#head.slice(0, end))
    this.#head = ''
    if (status < 200 || exchange === undefined) return rest
    const { framing, length } = framingOf(exchange.request.method, status, headers)
    this.#keep = version === '1.1' && framing !== 'until-close' && !/\bclose\b/i.test(headers['connection'] ?? '')
    this.#framing = framing
    this.#left = length
    this.#line = framing === 'chunked' ? '' : undefined
    this.#lastChunk = false
    const sink = exchange.onHead({ status, headers }, this)
    if (this.#closed) return rest.subarray(rest.byteLength)
    this.#sink = sink
    if (framing === 'none' || (framing === 'length' && length === 0)) this.#finish()
    return rest
  }

  #readPlain(bytes: Uint8Array): { readonly rest: Uint8Array; readonly more: boolean } {
    const part = this.#framing === 'length' && bytes.byteLength > this.#left ? bytes.subarray(0, this.#left) : bytes
    const more = this.#sink?.write(part) ?? true
    if (this.#framing === 'length') {
      this.#left -= part.byteLength
      if (this.#left === 0) this.#finish()
    }
    return { rest: bytes.subarray(part.byteLength), more }
  }

  #readChunked(bytes: Uint8Array): { readonly rest: Uint8Array; readonly more: boolean } {
    if (this.#line === undefined) {
      const part = bytes.subarray(0, this.#left)
      const more = this.#sink?.write(part) ?? true
      this.#left -= part.byteLength
      if (this.#left === 0) this.#line = '-'
      return { rest: bytes.subarray(part.byteLength), more }
    }
    const newline = bytes.indexOf(10)
    const taken = newline === -1 ? bytes.byteLength : newline + 1
    this.#line += latin1(bytes.subarray(0, taken))
    const rest = bytes.subarray(taken)
    if (this.#line.length > MAX_HEAD_BYTES) throw new RangeError('the line before a chunk is too long')
    if (newline === -1) return { rest, more: true }
    const line = this.#line.trimEnd()
    this.#line = ''
    if (this.#lastChunk) {
      if (line === '') this.#finish()
    } else if (line !== '-') {
      // "-" stands for the chunk before, whose line break this is.
      const size = /^([0-9a-f]+)\s*(?:;|$)/i.exec(line)?.[1]
      if (size === undefined) throw socketError('the server sent a chunk without a size', 'ECONNRESET')
      this.#left = Number.parseInt(size, 16)
      if (this.#left === 0) this.#lastChunk = true
      else this.#line = undefined
    }
    return { rest, more: true }
  }

  #ended(): void {
    if (this.#sink !== undefined && this.#framing === 'until-close') {
      this.#keep = false
      this.#finish()
    } else this.#lost(socketError('the server closed the connection', 'ECONNRESET'))
  }

  /** The other side has ended the connection. */
  #lost(error: Error): void {
    const onStale = this.#onStale
    if (onStale === undefined || this.#closed) {
      this.#fail(error)
      return
    }
    this.#exchange = undefined
    this.#shut()
    onStale()
  }

  #finish(): void {
    const sink = this.#sink
    this.#sink = undefined
    this.#exchange = undefined
    this.#letGo?.()
    this.#letGo = undefined
    // A server that answers before it has read the whole body does not read the rest as a new request.
    if (this.#keep && this.#socket.writableLength === 0) {
      this.#socket.setTimeout(IDLE_MS)
      this.#socket.unref()
      this.resume()
      this.#hooks.idle()
    } else this.#shut()
    sink?.end()
  }

  #fail(error: Error): void {
    if (this.#closed) return
    const { onError } = this.#exchange ?? {}
    const sink = this.#sink
    this.#sink = undefined
    this.#exchange = undefined
    this.#shut()
    if (sink !== undefined) sink.fail(error)
    else onError?.(error)
  }

  #shut(): void {
    if (this.#closed) return
    this.#closed = true
    clearTimeout(this.#connecting)
    this.#letGo?.()
    this.#letGo = undefined
    this.#socket.destroy()
    this.#hooks.closed()
  }
}

/** Loaded with the first connection that needs it: it costs 17 ms of CPU and 5 MB. */
function tlsModule(): typeof import('node:tls') {
  return process.getBuiltinModule('node:tls')
}

function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1')
}

function parseHead(text: string): { version: string; status: number; headers: Record<string, string> } {
  const lines = text.split('\r\n')
  const first = /^HTTP\/(1\.[01]) (\d{3})/.exec(lines[0] ?? '')
  if (first === null) throw new TypeError('the server does not answer in HTTP/1')
  const headers: Record<string, string> = {}
  for (let index = 1; index < lines.length; index++) {
    const line = lines[index] ?? ''
    const colon = line.indexOf(':')
    if (colon < 1) continue
    const name = line.slice(0, colon).toLowerCase()
    const value = line.slice(colon + 1).trim()
    const before = headers[name]
    headers[name] = before === undefined ? value : `${before}, ${value}`
  }
  return { version: first[1] ?? '', status: Number(first[2]), headers }
}

/** RFC 9112, section 6.3. */
function framingOf(
  method: string,
  status: number,
  headers: Readonly<Record<string, string>>,
): { readonly framing: Framing; readonly length: number } {
  if (method === 'HEAD' || status === 204 || status === 304) return { framing: 'none', length: 0 }
  if (/\bchunked\s*$/i.test(headers['transfer-encoding'] ?? '')) return { framing: 'chunked', length: 0 }
  const length = headers['content-length']
  if (length === undefined) return { framing: 'until-close', length: 0 }
  if (!/^\d+$/.test(length)) throw socketError('the length of the answer is no number', 'ECONNRESET')
  return { framing: 'length', length: Number(length) }
}
