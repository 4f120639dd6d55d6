import { randomUUID } from 'node:crypto'
import { open, rename, rm, type FileHandle } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { type CallOptions, ConfigError, HandlerError, retry, type RetryOptions, onAbort } from '@common-handlers/core'
import { type Checksum, checksumOf, joinCrc32, RunningChecksum } from './checksum.ts'
import type { OpenedHead, ReadFrom, S3Driver } from './driver.ts'
import { bodyCorrupt, bodyCut, objectChanged, type S3Request } from './errors.ts'
import { FileRing, type RangeMemory, RING_BYTES, WritePace } from './file-ring.ts'
import type { BodyMemory } from './wire.ts'

export interface S3DownloadOptions extends CallOptions, ReadFrom {
  /** The bytes of the object that are in memory at a time never exceed this. Default `partSize × concurrency`. */
  readonly memoryBytes?: number | undefined
}

export interface DownloadContext {
  readonly driver: S3Driver
  readonly request: S3Request
  readonly key: string
  readonly from: ReadFrom
  readonly size: number
  readonly etag: string
  /** Of the whole object, where the server has one and was asked. */
  readonly checksum: Checksum | undefined
  readonly partSize: number
  readonly concurrency: number
  readonly memoryBytes: number
  readonly retry: RetryOptions
  readonly signal: AbortSignal
}

const MIB = 1024 * 1024
const SMALLEST_RANGE = 128 * 1024
/** A request costs the server more than the bytes do: a file is read in few long ranges. */
const LONGEST_FILE_RANGE = 64 * MIB
const RANGES_OF_A_READER = 4
/** How many ranges are read side by side, and the memory of each: at most `largest`. @throws ConfigError `S3_OPTIONS_INVALID` */
function share(
  { concurrency, memoryBytes }: DownloadContext,
  largest: number,
): { readonly each: number; readonly readers: number } {
  if (memoryBytes < SMALLEST_RANGE)
    throw new ConfigError(`a download needs ${SMALLEST_RANGE} bytes of memory, not ${memoryBytes}`, {
      code: 'S3_OPTIONS_INVALID',
    })
  const each = Math.min(largest, Math.max(SMALLEST_RANGE, Math.floor(memoryBytes / concurrency)))
  return { each, readers: Math.min(concurrency, Math.floor(memoryBytes / each)) }
}

/** Writes the object to a file: beside its place first, then renamed, so that the path never shows half an object. */
export async function downloadToPath(context: DownloadContext, path: string): Promise<void> {
  const beside = `${path}.${randomUUID()}.part`
  const handle = await open(beside, 'wx')
  try {
    try {
      await downloadToHandle(context, handle)
    } finally {
      await handle.close()
    }
    await rename(beside, path)
  } catch (error) {
    await rm(beside, { force: true })
    throw error
  }
}

/** Writes the bytes of each range as they arrive. The file is cut to the object's size. */
export async function downloadToHandle(context: DownloadContext, handle: FileHandle): Promise<void> {
  const { size, etag, checksum, partSize } = context
  const { each, readers } = share(context, RING_BYTES)
  // A CRC32 is joined of those of the ranges; a SHA-256 is of one reader, who has the bytes in order.
  const side = checksum?.algorithm === 'sha256' ? 1 : readers
  const wanted = Math.max(partSize, Math.min(LONGEST_FILE_RANGE, Math.ceil(size / side / RANGES_OF_A_READER)))
  const rangeSize = side === 1 ? size : wanted
  const stop = new AbortController()
  const signal = AbortSignal.any([context.signal, stop.signal])
  const sums: Checksum[] = []
  const pace = new WritePace()
  let next = 0
  const work = async (): Promise<void> => {
    const buffer = Buffer.allocUnsafeSlow(Math.min(each, size))
    while (next < size) {
      const start = next
      next += rangeSize
      const length = Math.min(rangeSize, size - start)
      const running = checksum === undefined ? undefined : new RunningChecksum(checksum.algorithm)
      const ring = new FileRing(handle, buffer, pace, { start, length, running, onError: (error) => stop.abort(error) })
      try {
        await readBytes({ ...context, signal }, {}, { etag, start, length, memory: ring })
      } finally {
        await ring.end()
      }
      if (running !== undefined) sums[start / rangeSize] = running.value()
    }
  }
  const workers = Array.from({ length: Math.min(side, Math.ceil(size / rangeSize)) }, () =>
    work().catch((error: unknown) => stop.abort(error)),
  )
  await Promise.all(workers)
  signal.throwIfAborted()
  if (checksum !== undefined) {
    const lengthOf = (index: number): number => Math.min(rangeSize, size - index * rangeSize)
    const [first = checksumOf(checksum.algorithm, new Uint8Array()), ...others] = sums
    const found = others.reduce((whole, sum, index) => joinCrc32(whole, sum, lengthOf(index + 1)), first)
    if (found.value !== checksum.value) throw bodyCorrupt(context.request, checksum, found)
  }
  await handle.truncate(size)
}

/** The bytes in order, a range a chunk, read side by side and ahead of the reader. */
export function downloadStream(context: DownloadContext): Readable {
  const { size, checksum, partSize, request } = context
  const { each: rangeSize, readers } = share(context, partSize)
  const running = checksum === undefined ? undefined : new RunningChecksum(checksum.algorithm)
  const stop = new AbortController()
  const signal = AbortSignal.any([context.signal, stop.signal])
  async function* chunks(): AsyncGenerator<Buffer, void, undefined> {
    const underWay: Promise<Buffer>[] = []
    let next = 0
    const begin = async (start: number): Promise<Buffer> => {
      const bytes = Buffer.allocUnsafeSlow(Math.min(rangeSize, size - start))
      const { etag } = context
      await readBytes({ ...context, signal }, {}, { etag, start, length: bytes.byteLength, memory: new Memory(bytes) })
      return bytes
    }
    try {
      for (;;) {
        // The chunk that was given last has been taken when this goes on: it counts no more.
        for (; underWay.length < readers && next < size; next += rangeSize) {
          const reading = begin(next)
          reading.catch(() => undefined)
          underWay.push(reading)
        }
        const chunk = await underWay.shift()
        if (chunk === undefined) break
        running?.update(chunk)
        const found = next >= size && underWay.length === 0 ? running?.value() : undefined
        if (checksum !== undefined && found !== undefined && found.value !== checksum.value)
          throw bodyCorrupt(request, checksum, found)
        yield chunk
      }
    } finally {
      stop.abort(new Error('the download has ended'))
      await Promise.allSettled(underWay)
    }
  }
  const iterator = chunks()
  const body = new Readable({
    highWaterMark: 1,
    read: () => {
      iterator.next().then(
        ({ value }) => body.push(value ?? null),
        (error: unknown) => body.destroy(error as Error),
      )
    },
    destroy: (error, done) => {
      release()
      stop.abort(error ?? new Error('the download has ended'))
      // Its memory is free when what was under way has ended.
      void ended(iterator, error, done)
    },
  })
  const abort = (): void => {
    // Whoever asked for the abort knows; a stream that nobody listens to must not end the process for it.
    body.on('error', () => undefined)
    body.destroy(context.signal.reason as Error)
  }
  const release = onAbort(context.signal, abort)
  if (context.signal.aborted) abort()
  return body
}

async function ended(
  iterator: AsyncGenerator<unknown, void, undefined>,
  error: Error | null,
  done: (error: Error | null) => void,
): Promise<void> {
  await iterator.return().catch(() => undefined)
  done(error)
}

/** What is needed to read bytes of one object. */
export type ReadContext = Pick<DownloadContext, 'driver' | 'request' | 'key' | 'from' | 'retry' | 'signal'>

/** Room for all of a range. */
class Memory implements RangeMemory {
  readonly bytes: Buffer
  #filled = 0
  resume: () => void = () => undefined

  constructor(bytes: Buffer) {
    this.bytes = bytes
  }

  space(): Uint8Array {
    return this.bytes.subarray(this.#filled)
  }

  filled(count: number): boolean {
    this.#filled += count
    return true
  }
}

interface Reading<M extends RangeMemory> {
  readonly etag: string
  /** Place of the first byte in the object. */
  readonly start: number
  readonly length: number
  readonly memory: M
  readonly checksum?: Checksum | undefined
}

/**
 * Reads the object, or a range of it, into memory; without `into` the first answer says how much it takes. A body that is
 * cut or falls silent goes on at its next byte, of the same object; each byte that comes renews the budget of tries.
 */
async function readBytes<M extends RangeMemory = Memory>(
  context: ReadContext,
  range: { readonly start?: number | undefined; readonly end?: number | undefined },
  into?: Reading<M>,
): Promise<Reading<M | Memory>> {
  const { driver, key, from, request, signal } = context
  const options = { ...context.retry, signal }
  let reading: Reading<M | Memory> | undefined = into
  let filled = 0
  const read = async (): Promise<void> => {
    const before = filled
    const known = reading
    const wanted =
      known === undefined ? range : { start: known.start + before, end: known.start + known.length - 1, ifMatch: known.etag }
    const place = (head: OpenedHead, resume: () => void): BodyMemory => {
      const { etag, offset, length, checksum } = head
      const now = known ?? { etag, start: offset, length, checksum, memory: new Memory(Buffer.allocUnsafe(length)) }
      // A server that knows no If-Match or no Range answers with something else, and says so in its headers.
      if (etag !== now.etag || offset !== now.start + before || length !== now.length - before)
        throw objectChanged(request, now.start + before)
      reading = now
      const { memory } = now
      memory.resume = resume
      return {
        space: () => memory.space(),
        filled: (count) => {
          filled += count
          return memory.filled(count)
        },
      }
    }
    try {
      await driver.fillObject(key, { ...from, ...wanted, signal, place })
      if (reading !== undefined && filled < reading.length) throw bodyCut(request, filled, reading.length)
    } catch (error) {
      signal.throwIfAborted()
      if (!HandlerError.is(error)) throw error
      if (known !== undefined && ['S3_PRECONDITION_FAILED', 'S3_OBJECT_NOT_FOUND'].includes(error.code))
        throw objectChanged(request, known.start + before, error)
      if (filled === before || error.retry === 'never') throw error
      // Bytes came: the next try begins with a fresh budget.
      options.onRetry?.(error, { attempt: 1, delayMs: 0 })
    }
  }
  for (;;) {
    await retry(read, options)
    if (reading !== undefined && filled === reading.length) return reading
  }
}

/**
 * The object, or a range of it, in memory. All of it is compared with the checksum that the server has of it, if it gave
 * one.
 */
export async function readWhole(
  context: ReadContext,
  range: { readonly start?: number | undefined; readonly end?: number | undefined },
): Promise<{ readonly bytes: Buffer; readonly etag: string }> {
  const { checksum, memory, etag } = await readBytes(context, range)
  const { bytes } = memory
  const whole = range.start === undefined && range.end === undefined
  const found = checksum === undefined || !whole ? undefined : checksumOf(checksum.algorithm, bytes)
  if (checksum !== undefined && found !== undefined && found.value !== checksum.value)
    throw bodyCorrupt(context.request, checksum, found)
  return { bytes, etag }
}
