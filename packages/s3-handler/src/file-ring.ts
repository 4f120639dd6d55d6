import { writeSync } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import type { RunningChecksum } from './checksum.ts'
import { type BodyMemory, LATE_BYTES } from './wire.ts'

/** Where a range goes. It has room for all of it, sooner or later. */
export interface RangeMemory extends BodyMemory {
  /** Of the connection that fills it now. */
  resume: () => void
}

/** What stands between a connection and the file. */
export const RING_BYTES: number = 1024 * 1024
/**
 * Linux takes one run of pages for each write, and a virtual machine fetches long runs (128 KiB and more) from its host
 * first: 1 GiB written by 128 KiB cost 4 CPU seconds, by 64 KiB 0.5.
 */
const WRITE_BYTES = 64 * 1024
/**
 * So much of a body is taken before others have their turn: a connection whose bytes are written at once always has more,
 * and a timer waited for 30 ms.
 */
const TURN_BYTES = 256 * 1024
/** So long takes no write that ends in memory. */
const SLOW_MS = 10
const FIRST_BYTES_BY_POOL = 64 * 1024 * 1024

/**
 * Which thread writes. A file is written to memory that the kernel brings to the disk later: that takes 30 µs for 64 KiB,
 * and it takes as much again to have another thread do it, so it is done at once. When that memory is full, a write waits
 * for the disk: after one that did, the thread pool writes, twice as many bytes each time. So a slow disk holds up the
 * event loop a few times in a download, each time for one write.
 */
export class WritePace {
  #bytesByPool = 0
  #nextBytesByPool = FIRST_BYTES_BY_POOL

  get isAtOnce(): boolean {
    return this.#bytesByPool <= 0
  }

  wroteAtOnce(ms: number): void {
    if (ms < SLOW_MS) return
    this.#bytesByPool = this.#nextBytesByPool
    this.#nextBytesByPool *= 2
  }

  wroteByPool(bytes: number): void {
    this.#bytesByPool -= bytes
  }

  /** The pool says what is wrong. */
  failed(): void {
    this.#bytesByPool = Infinity
  }
}

interface FileRange {
  readonly start: number
  readonly length: number
  readonly running: RunningChecksum | undefined
  readonly onError: (error: unknown) => void
}

/** A little memory between a connection, which fills it, and the place in a file that it is written to. */
export class FileRing implements RangeMemory {
  readonly #handle: FileHandle
  readonly #buffer: Buffer
  readonly #pace: WritePace
  readonly #range: FileRange
  #filled = 0
  #written = 0
  #writing: Promise<void> | undefined
  #paused = false
  /** Since others had a turn. */
  #ofTurn = 0
  resume: () => void = () => undefined

  constructor(handle: FileHandle, buffer: Buffer, pace: WritePace, range: FileRange) {
    this.#handle = handle
    this.#buffer = buffer
    this.#pace = pace
    this.#range = range
  }

  get #room(): number {
    return this.#buffer.byteLength - (this.#filled - this.#written)
  }

  /** Whether the most that may come before the connection can be told to wait has its place. */
  get #hasRoom(): boolean {
    return this.#room >= Math.min(LATE_BYTES, this.#range.length - this.#filled)
  }

  /** Whether there is enough for a write, or no more to wait for. */
  get #isDue(): boolean {
    const left = this.#filled - this.#written
    return left >= WRITE_BYTES || (left > 0 && (this.#filled === this.#range.length || !this.#hasRoom))
  }

  space(): Uint8Array {
    const from = this.#filled % this.#buffer.byteLength
    const length = Math.min(this.#room, this.#range.length - this.#filled, this.#buffer.byteLength - from)
    return this.#buffer.subarray(from, from + length)
  }

  filled(count: number): boolean {
    this.#range.running?.update(this.space().subarray(0, count))
    this.#filled += count
    if (this.#writing === undefined) {
      this.#writeAtOnce()
      if (this.#isDue) this.#writing = this.#writeByPool()
    }
    this.#paused = !this.#hasRoom
    if (this.#paused) return false
    this.#ofTurn += count
    if (this.#ofTurn < TURN_BYTES || this.#filled === this.#range.length) return true
    this.#ofTurn = 0
    setImmediate(() => {
      if (!this.#paused) this.resume()
    })
    return false
  }

  /** Resolves when all that came is written. */
  async end(): Promise<void> {
    await this.#writing
  }

  #writeAtOnce(): void {
    while (this.#isDue && this.#pace.isAtOnce) {
      const { from, length, position } = this.#next()
      const begun = performance.now()
      try {
        this.#written += writeSync(this.#handle.fd, this.#buffer, from, length, position)
      } catch {
        this.#pace.failed()
      }
      this.#pace.wroteAtOnce(performance.now() - begun)
    }
  }

  async #writeByPool(): Promise<void> {
    try {
      while (this.#isDue) {
        const { from, length, position } = this.#next()
        const { bytesWritten } = await this.#handle.write(this.#buffer, from, length, position)
        this.#written += bytesWritten
        this.#pace.wroteByPool(bytesWritten)
        this.#writeAtOnce()
        if (!this.#paused || !this.#hasRoom) continue
        this.#paused = false
        this.resume()
      }
    } catch (error) {
      this.#range.onError(error)
    } finally {
      this.#writing = undefined
    }
  }

  #next(): { readonly from: number; readonly length: number; readonly position: number } {
    const from = this.#written % this.#buffer.byteLength
    const length = Math.min(WRITE_BYTES, this.#filled - this.#written, this.#buffer.byteLength - from)
    return { from, length, position: this.#range.start + this.#written }
  }
}
