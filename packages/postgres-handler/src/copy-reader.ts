import type { Duplex } from 'node:stream'
import { DataError } from '@common-handlers/core'
import type { Submittable, Wire } from './driver.ts'

/** Some whole rows of a COPY. */
export interface CopyBlock {
  /** The rows as the server sent them, one after the other, line ends included. */
  readonly bytes: Buffer
  /** Where each row ends in `bytes`: row `i` is `bytes.subarray(i === 0 ? 0 : rowEnds[i - 1], rowEnds[i])`. */
  readonly rowEnds: Uint32Array
  /** How many rows these are. A header line, where COPY was asked for one, counts as a row here. */
  readonly rows: number
  /**
   * Gives the memory back, to be filled again; the bytes must not be looked at afterwards. A block that is not released
   * is left to the garbage collector, which costs about as much as the rest of COPY in the client.
   */
  release(): void
}

/** Bytes of a block unless told otherwise. */
export const DEFAULT_BLOCK_BYTES: number = 1024 * 1024

export interface CopyReaderOptions {
  /** Bytes of a block; a longer row makes a longer block. Default 1 MiB. */
  readonly blockBytes?: number | undefined
}

/** Blocks that wait for their reader before the socket is paused. */
const MAX_WAITING_BLOCKS = 2

/** Released blocks that are kept. */
const MAX_FREE_BLOCKS = 8

/**
 * Reads COPY … TO STDOUT. One CopyData message is one row (PostgreSQL, "Message Formats"); its body is copied once, from
 * where the socket read it into the block.
 */
export class CopyReader implements Submittable {
  readonly #sql: string
  readonly #blockBytes: number
  #wire: Wire | undefined
  #stream: Duplex | undefined

  #block: Buffer = Buffer.alloc(0)
  #fill = 0
  #rowEnds = new Uint32Array(1024)
  #rows = 0
  /** Bytes of the current row that are still to come. */
  #rowLeft = 0

  readonly #blocks: CopyBlock[] = []
  #wake: (() => void) | undefined
  #paused = false
  #discarding = false
  #finished = false
  #error: unknown
  #messages = 0
  #copies = 0
  #binary = false
  #reportedRows: number | undefined

  /** The memory of blocks that were released. */
  readonly #free: Buffer[] = []

  constructor(sql: string, { blockBytes = DEFAULT_BLOCK_BYTES }: CopyReaderOptions = {}) {
    this.#sql = sql
    this.#blockBytes = blockBytes
  }

  /** True when the server waits for the next statement, or the connection has ended. */
  get finished(): boolean {
    return this.#finished
  }

  /** The next block; undefined after the last. @throws what the server or the socket had to say, and DataError */
  async next(): Promise<CopyBlock | undefined> {
    for (;;) {
      if (this.#error !== undefined) throw this.#error
      const block = this.#blocks.shift()
      if (block !== undefined) {
        if (this.#paused && this.#blocks.length < MAX_WAITING_BLOCKS) this.#resume()
        return block
      }
      if (this.#finished) {
        this.#checkRowCount()
        return undefined
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
  }

  /** From here on rows are thrown away, so that the server can come to its end. The next `next()` throws the reason. */
  discard(reason: unknown): void {
    this.#error ??= reason
    this.#discarding = true
    this.#blocks.length = 0
    this.#block = Buffer.alloc(0)
    this.#resume()
    this.#notify()
  }

  submit(wire: Wire): null {
    const { stream } = wire
    this.#wire = wire
    this.#stream = stream
    stream.once('close', this.#onClose)
    wire.on('copyOutResponse', this.#onCopy)
    // After an error pg tells its connection only.
    wire.on('readyForQuery', this.#onReady)
    wire.query(this.#sql)
    return null
  }

  readonly #onCopy = ({ binary }: { readonly binary: boolean }): void => {
    this.#binary = binary
    if (++this.#copies > 1) this.discard(notOneCopy('there is more than one COPY'))
  }

  readonly #onReady = (): void => {
    if (!this.#discarding) this.#emitBlock()
    if (this.#copies === 0) this.#error ??= notOneCopy('it is none')
    this.#resume()
    this.#finish()
  }

  beginCopyRow(length: number): void {
    this.#messages++
    this.#rowLeft = length
    if (this.#discarding) return
    if (this.#fill + length > this.#block.length) {
      this.#emitBlock()
      this.#block =
        (length <= this.#blockBytes ? this.#free.pop() : undefined) ?? Buffer.allocUnsafeSlow(Math.max(this.#blockBytes, length))
    }
    // A row of no bytes has come whole already.
    if (length === 0) this.#endRow()
  }

  takeCopyRow(bytes: Buffer, at: number, end: number): void {
    // After a discard the block is gone, also in the middle of a row.
    if (this.#discarding) return
    bytes.copy(this.#block, this.#fill, at, end)
    this.#fill += end - at
    this.#rowLeft -= end - at
    if (this.#rowLeft === 0) this.#endRow()
  }

  #endRow(): void {
    if (this.#rows === this.#rowEnds.length) {
      const larger = new Uint32Array(this.#rows * 2)
      larger.set(this.#rowEnds)
      this.#rowEnds = larger
    }
    this.#rowEnds[this.#rows++] = this.#fill
  }

  #emitBlock(): void {
    if (this.#rows === 0) return
    let memory: Buffer | undefined = this.#block
    this.#blocks.push({
      bytes: memory.subarray(0, this.#fill),
      rowEnds: this.#rowEnds.slice(0, this.#rows),
      rows: this.#rows,
      release: () => {
        // Once; and a block that one long row has made larger is of no use to others.
        if (memory?.length === this.#blockBytes && this.#free.length < MAX_FREE_BLOCKS) this.#free.push(memory)
        memory = undefined
      },
    })
    this.#block = Buffer.alloc(0)
    this.#fill = 0
    this.#rows = 0
    if (this.#blocks.length >= MAX_WAITING_BLOCKS && !this.#paused) {
      this.#paused = true
      this.#stream?.pause()
    }
    this.#notify()
  }

  readonly #onClose = (): void => {
    // pg reports what happened to the socket in the tick after; only if it has nothing to say does this stand.
    setImmediate(() => {
      this.#error ??= new Error('Connection terminated unexpectedly')
      this.#finish()
    })
  }

  #finish(): void {
    this.#stream?.off('close', this.#onClose)
    this.#wire?.off('copyOutResponse', this.#onCopy)
    this.#wire?.off('readyForQuery', this.#onReady)
    this.#finished = true
    this.#notify()
  }

  #notify(): void {
    const wake = this.#wake
    this.#wake = undefined
    wake?.()
  }

  #resume(): void {
    this.#paused = false
    this.#stream?.resume()
  }

  /** Lines that the server sends and does not count: a header line, or the trailer of the binary format. */
  #checkRowCount(): void {
    const uncounted = this.#binary || asksForHeader(this.#sql) ? 1 : 0
    if (this.#reportedRows === this.#messages - uncounted) return
    throw new DataError(`the server says that it copied ${this.#reportedRows} rows, but ${this.#messages - uncounted} came`, {
      code: 'POSTGRES_COPY_ROW_COUNT',
      context: { reported: this.#reportedRows, received: this.#messages - uncounted },
    })
  }

  handleError(error: Error): void {
    this.#error ??= error
    // Where pg refuses before it has sent anything there is no ReadyForQuery to wait for.
    if (this.#wire === undefined) this.#finish()
    this.#notify()
  }

  handleCommandComplete(message: { readonly text: string }): void {
    const [, rows] = /^COPY (\d+)$/.exec(message.text) ?? []
    if (rows !== undefined) this.#reportedRows = Number(rows)
  }

  handleRowDescription(): void {
    this.discard(notOneCopy('it returns rows in another way'))
  }

  handleCopyInResponse(wire: Wire): void {
    this.discard(notOneCopy('it wants rows instead'))
    wire.sendCopyFail('COPY … TO STDOUT was expected')
  }

  handleReadyForQuery(): void {}
  takeRow(): void {}
  handleEmptyQuery(): void {}
  handlePortalSuspended(): void {}
}

const notOneCopy = (why: string): DataError =>
  new DataError(`the statement is not one COPY … TO STDOUT: ${why}`, { code: 'POSTGRES_NOT_COPY_OUT' })

/** Whether the options behind TO STDOUT ask for a line of column names. */
export function asksForHeader(sql: string): boolean {
  const tail = /.*\bto\s+stdout\b(.*)$/is.exec(sql.replace(/'(?:[^']|'')*'/g, "''"))?.[1] ?? ''
  return /\bheader\b(?!\s*(?:false|off|0)\b)/i.test(tail)
}
