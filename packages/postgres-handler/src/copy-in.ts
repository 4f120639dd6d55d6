import { Readable } from 'node:stream'
import { DataError } from '@common-handlers/core'
import type { Connection } from './connection.ts'
import type { Wire } from './driver.ts'
import { Exchange, readCommandTag } from './exchange.ts'

/** Where the bytes of a COPY come from: a stream, an async iterable or an iterable. Texts are sent as UTF-8. */
export type CopySource = AsyncIterable<Uint8Array | string> | Iterable<Uint8Array | string>

/** What a COPY did. */
export interface CopyResult {
  /** Rows, as the server counted them. */
  readonly rows: number
  /** Bytes that were sent or received, without the protocol's own. */
  readonly bytes: number
}

/** Small pieces are sent together once they have so many bytes. */
const MESSAGE_BYTES = 64 * 1024

/** A longer piece is cut, so that no message is beyond what the server takes at once (1 GiB). */
const MAX_MESSAGE_BYTES = 16 * 1024 * 1024

const COPY_DATA = 0x64 // d

/**
 * COPY … FROM STDIN: what the source gives goes out as CopyData, and the next piece is asked for once the socket has
 * taken the last. What goes wrong on this side ends it with CopyFail, so that the server keeps nothing.
 */
class CopyIn extends Exchange<CopyResult> {
  readonly statement: string
  /** What the source threw; undefined as long as it has not. */
  sourceError: unknown
  readonly #source: CopySource
  #wire: Wire | undefined
  #copies = 0
  #bytes = 0
  #rows = 0
  /** Why no more is sent. */
  #stopped: { readonly reason: unknown } | undefined
  #wake: (() => void) | undefined
  #sending: Promise<void> = Promise.resolve()

  constructor(statement: string, source: CopySource) {
    super()
    this.statement = statement
    this.#source = source
  }

  /** The file behind a stream of `fs.createReadStream`. */
  override get file(): string | undefined {
    const { path } = this.#source as { readonly path?: unknown }
    return typeof path === 'string' ? path : undefined
  }

  override get holds(): string {
    return 'the source of a COPY is read'
  }

  submit(wire: Wire): null {
    this.#wire = wire
    wire.query(this.statement)
    return null
  }

  override handleCopyInResponse(wire: Wire): void {
    if (++this.#copies > 1) this.interrupt(notCopyIn('there is more than one'))
    if (this.#stopped === undefined) this.#sending = this.#send(wire)
    else wire.sendCopyFail('given up by the client')
  }

  override handleCommandComplete({ text }: { readonly text: string }): void {
    this.#rows = readCommandTag(text).rowCount
  }

  /** Of a COPY TO STDOUT, which is told at its end. */
  override beginCopyRow(): void {}

  /** The server's word ends the sending; what ended it on this side goes before what the server made of that. */
  override handleError(error: Error): void {
    const stopped = this.#stopped
    this.#stop(error)
    this.#settle(() => this.fail(stopped === undefined ? error : stopped.reason))
  }

  handleReadyForQuery(): void {
    const stopped = this.#stopped
    if (this.#copies === 0) this.#stop(notCopyIn('it is none'))
    this.#settle(() => {
      if (stopped !== undefined) this.fail(stopped.reason)
      else if (this.#copies === 0) this.fail(notCopyIn('it is none'))
      else this.succeed({ rows: this.#rows, bytes: this.#bytes })
    })
  }

  /** Ends the COPY from this side. */
  override interrupt(reason: unknown): void {
    if (this.#stopped !== undefined) return
    this.#stop(reason)
    if (this.#copies > 0) this.#wire?.sendCopyFail('given up by the client')
  }

  #stop(reason: unknown): void {
    this.#stopped ??= { reason }
    this.#wake?.()
  }

  /** After the source has been let go of. */
  #settle(settle: () => void): void {
    void this.#sending.then(settle, settle)
  }

  async #send(wire: Wire): Promise<void> {
    const source = this.#source
    const iterator = Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]()
    const waiting: Buffer[] = []
    let waitingBytes = 0
    try {
      while (this.#stopped === undefined) {
        const next = await this.#orStop(iterator.next())
        if (next === undefined) break
        if (next.done !== true) {
          const piece = asBytes(next.value)
          waitingBytes += piece.length
          // What is kept past the next turn of the source must not be its memory.
          waiting.push(waitingBytes < MESSAGE_BYTES && typeof next.value !== 'string' ? Buffer.from(piece) : piece)
        }
        if (waitingBytes >= MESSAGE_BYTES || next.done === true) {
          for (const piece of waiting) this.#bytes += piece.length
          await this.#orStop(write(wire, waiting.splice(0), waitingBytes))
          waitingBytes = 0
        }
        if (next.done === true) {
          if (this.#stopped === undefined) wire.endCopyFrom()
          return
        }
      }
    } catch (error) {
      this.sourceError = error
      this.interrupt(error)
    }
    // A stream that stands still would answer return() only after its next piece; a generator that waits does.
    if (source instanceof Readable) source.destroy()
    void Promise.resolve(iterator.return?.()).catch(() => undefined)
  }

  /** What a promise resolves to; undefined when the sending is stopped first. */
  #orStop<T>(work: Promise<T> | T): Promise<T | undefined> {
    return new Promise((resolve, reject) => {
      this.#wake = () => resolve(undefined)
      Promise.resolve(work).then(resolve, reject)
      if (this.#stopped !== undefined) resolve(undefined)
    })
  }
}

/** @throws what the source throws, as it is; else the server's error */
export async function copyFrom(
  connection: Connection,
  statement: string,
  source: CopySource,
  signal: AbortSignal,
): Promise<CopyResult> {
  const copy = new CopyIn(statement, source)
  try {
    return await connection.exchange(copy, signal)
  } catch (error) {
    signal.throwIfAborted()
    throw copy.sourceError ?? error
  }
}

/** Resolves when the socket has taken it all; pieces that are handed in may then be used again. */
function write(wire: Wire, pieces: readonly Buffer[], bytes: number): Promise<void> {
  const { stream } = wire
  if (bytes === 0) return Promise.resolve()
  return new Promise((resolve) => {
    stream.cork()
    if (bytes <= MAX_MESSAGE_BYTES) {
      stream.write(header(bytes))
      for (const [index, piece] of pieces.entries())
        stream.write(piece, index === pieces.length - 1 ? () => resolve() : undefined)
    } else {
      const whole = Buffer.concat(pieces)
      for (let at = 0; at < bytes; at += MAX_MESSAGE_BYTES) {
        const part = whole.subarray(at, at + MAX_MESSAGE_BYTES)
        stream.write(header(part.length))
        stream.write(part, at + MAX_MESSAGE_BYTES >= bytes ? () => resolve() : undefined)
      }
    }
    stream.uncork()
  })
}

function header(length: number): Buffer {
  const bytes = Buffer.alloc(5)
  bytes[0] = COPY_DATA
  bytes.writeInt32BE(length + 4, 1)
  return bytes
}

function asBytes(piece: unknown): Buffer {
  if (piece instanceof Uint8Array) return Buffer.from(piece.buffer, piece.byteOffset, piece.byteLength)
  if (typeof piece !== 'string') {
    throw new DataError('the source of a COPY gives text or bytes', { code: 'POSTGRES_VALUE_INVALID' })
  }
  if (!piece.isWellFormed()) {
    throw new DataError('the source of a COPY gave half of a surrogate pair, which is no character', {
      code: 'POSTGRES_VALUE_INVALID',
    })
  }
  return Buffer.from(piece)
}

const notCopyIn = (why: string): DataError =>
  new DataError(`the statement is not one COPY … FROM STDIN: ${why}`, { code: 'POSTGRES_NOT_COPY_IN' })
