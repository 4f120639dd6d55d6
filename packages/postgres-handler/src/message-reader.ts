import { EventEmitter } from 'node:events'
import type { Duplex } from 'node:stream'

/** Takes the rows of an answer. The bytes are on loan: they are good until the call returns. */
export interface RowSink {
  /** A row of a query: the body of its DataRow lies between `at` and `end`. */
  takeRow(bytes: Buffer, at: number, end: number): void
  /** A row of COPY TO STDOUT begins: its CopyData has so many bytes. */
  beginCopyRow(length: number): void
  /** Some of them. */
  takeCopyRow(bytes: Buffer, at: number, end: number): void
}

const HEADER_BYTES = 5
const DATA_ROW = 0x44 // D
const COPY_DATA = 0x64 // d

/** Memory for messages that come in pieces; a longer one has memory of its own, which is not kept. */
const PIECES_BYTES = 64 * 1024

/**
 * Stands between the socket and pg's parser. Rows go straight from the bytes that the socket read to whoever asked for them
 * (PostgreSQL, "Message Formats"), which costs half of what pg's parser does and, for a COPY, no memory; every other message
 * goes on to pg, whole, as an event `data`. Nothing here keeps bytes that came from the socket, nor does pg.
 */
export class MessageReader extends EventEmitter {
  readonly #stream: Duplex
  readonly #sink: () => RowSink | undefined
  /** Bytes of a CopyData that are still to come. */
  #copyLeft = 0
  readonly #pieces: Buffer = Buffer.allocUnsafeSlow(PIECES_BYTES)
  /** A message that has not come whole yet: `#pieces`, or memory of its own. */
  #message: Buffer = this.#pieces
  #fill = 0

  /** `sink`: where the rows go that come now; where there is none they go to pg. */
  constructor(stream: Duplex, sink: () => RowSink | undefined) {
    super()
    this.#stream = stream
    this.#sink = sink
    stream.on('data', (bytes: Buffer) => this.#read(bytes))
    stream.on('end', () => this.emit('end'))
  }

  #read(bytes: Buffer): void {
    const end = bytes.length
    let at = 0
    if (this.#copyLeft > 0) at = this.#takeCopy(bytes, at)
    else if (this.#fill > 0) at = this.#goOn(bytes)
    // Messages for pg that lie side by side are given to it together.
    let others = at
    while (end - at >= HEADER_BYTES) {
      const type = bytes[at]
      const length = this.#lengthOf(bytes, at)
      if (length === undefined) return
      const next = at + length
      const isRow = type === DATA_ROW || type === COPY_DATA
      if (isRow && others < at) {
        this.emit('data', bytes.subarray(others, at))
        others = at
      }
      // Asked for when pg knows what came before: another exchange may be under way since then.
      const sink = isRow ? this.#sink() : undefined
      if (sink !== undefined && type === COPY_DATA) {
        this.#beginCopy(sink, length - HEADER_BYTES)
        others = at = this.#takeCopy(bytes, at + HEADER_BYTES)
        continue
      }
      if (next > end) break
      if (sink !== undefined) {
        sink.takeRow(bytes, at + HEADER_BYTES, next)
        others = next
      } else if (type === COPY_DATA) others = this.#giveOwn(bytes, at, next)
      at = next
    }
    if (others < at) this.emit('data', bytes.subarray(others, at))
    if (at < end) this.#keep(bytes, at, end)
  }

  /** The message whose beginning came before. Gives where the next one begins. */
  #goOn(bytes: Buffer): number {
    const missing = Math.max(0, HEADER_BYTES - this.#fill)
    const at = this.#keep(bytes, 0, missing)
    if (this.#fill < HEADER_BYTES) return at
    const type = this.#message[0]
    const length = this.#lengthOf(this.#message, 0)
    if (length === undefined) return bytes.length
    const sink = type === DATA_ROW || type === COPY_DATA ? this.#sink() : undefined
    if (sink !== undefined && type === COPY_DATA) {
      this.#fill = 0
      this.#beginCopy(sink, length - HEADER_BYTES)
      return this.#takeCopy(bytes, at)
    }
    const next = this.#keep(bytes, at, at + length - this.#fill)
    if (this.#fill < length) return next
    const message = this.#message.subarray(0, length)
    this.#message = this.#pieces
    this.#fill = 0
    if (sink !== undefined) sink.takeRow(message, HEADER_BYTES, length)
    else if (type === COPY_DATA) this.#giveOwn(message, 0, length)
    else this.emit('data', message)
    return next
  }

  /** Whoever reads a COPY by pg itself may keep its rows, which pg cuts out of the bytes that it gets. */
  #giveOwn(bytes: Buffer, at: number, end: number): number {
    this.emit('data', Buffer.from(bytes.subarray(at, end)))
    return end
  }

  /** Keeps what there is of some bytes, and gives where it ends. */
  #keep(bytes: Buffer, at: number, to: number): number {
    const end = Math.min(to, bytes.length)
    const fill = this.#fill + end - at
    if (fill > this.#message.length) {
      // Not of the length that its header says: a server that is not PostgreSQL may say anything.
      const longer = Buffer.allocUnsafeSlow(Math.max(fill, 2 * this.#message.length))
      this.#message.copy(longer, 0, 0, this.#fill)
      this.#message = longer
    }
    bytes.copy(this.#message, this.#fill, at, end)
    this.#fill = fill
    return end
  }

  /** Of a whole message; undefined where it says nonsense, which ends the connection. */
  #lengthOf(bytes: Buffer, at: number): number | undefined {
    const length = 1 + bytes.readUInt32BE(at + 1)
    if (length >= HEADER_BYTES) return length
    this.#stream.destroy(new Error('the server sent a message without a length'))
    return undefined
  }

  #beginCopy(sink: RowSink, length: number): void {
    sink.beginCopyRow(length)
    this.#copyLeft = length
  }

  #takeCopy(bytes: Buffer, at: number): number {
    const end = Math.min(at + this.#copyLeft, bytes.length)
    this.#copyLeft -= end - at
    if (end > at) this.#sink()?.takeCopyRow(bytes, at, end)
    return end
  }
}
