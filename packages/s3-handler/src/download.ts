import { randomUUID } from 'node:crypto'
import { open, rename, rm, type FileHandle } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { type CallOptions, HandlerError, retry, type RetryOptions } from '@common-handlers/core'
import { type Checksum, checksumOf, RunningChecksum } from './checksum.ts'
import type { OpenedHead, ReadFrom, S3Driver } from './driver.ts'
import { bodyCorrupt, bodyCut, objectChanged, type S3Request } from './errors.ts'

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
  /** Bytes of one range, and how many are read at a time. */
  readonly rangeSize: number
  readonly ranges: number
  readonly retry: RetryOptions
  readonly signal: AbortSignal
}

const SMALLEST_RANGE = 64 * 1024

/** Cuts a limit of memory into ranges that are read side by side. */
export function rangesOf(
  partSize: number,
  concurrency: number,
  memoryBytes: number = partSize * concurrency,
): { readonly rangeSize: number; readonly ranges: number } {
  const rangeSize = Math.min(memoryBytes, partSize, Math.max(SMALLEST_RANGE, Math.floor(memoryBytes / concurrency)))
  return { rangeSize, ranges: Math.max(1, Math.min(concurrency, Math.floor(memoryBytes / rangeSize))) }
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

/** Writes each range to its place as it arrives. The file is cut to the object's size. */
export async function downloadToHandle(context: DownloadContext, handle: FileHandle): Promise<void> {
  const { size, rangeSize, ranges } = context
  const stop = new AbortController()
  const signal = AbortSignal.any([context.signal, stop.signal])
  const verify = verifier(context)
  let next = 0
  const work = async (): Promise<void> => {
    const buffer = Buffer.allocUnsafeSlow(Math.min(rangeSize, size))
    while (next < size) {
      const start = next
      next += rangeSize
      const bytes = buffer.subarray(0, Math.min(rangeSize, size - start))
      await readRange(context, start, bytes, signal)
      await Promise.all([writeAll(handle, bytes, start), verify.take(start / rangeSize, bytes, signal)])
    }
  }
  const workers = Array.from({ length: Math.min(ranges, Math.ceil(size / rangeSize)) }, () =>
    work().catch((error: unknown) => {
      stop.abort(error)
      throw error
    }),
  )
  await Promise.allSettled(workers)
  signal.throwIfAborted()
  verify.end()
  await handle.truncate(size)
}

/** The bytes in order, a range a chunk, read side by side and ahead of the reader. */
export function downloadStream(context: DownloadContext): Readable {
  const { size, rangeSize, ranges } = context
  const stop = new AbortController()
  const signal = AbortSignal.any([context.signal, stop.signal])
  const verify = verifier(context)
  async function* chunks(): AsyncGenerator<Buffer, void, undefined> {
    const underWay: Promise<Buffer>[] = []
    let next = 0
    let given = 0
    const begin = async (start: number): Promise<Buffer> => {
      const bytes = Buffer.allocUnsafeSlow(Math.min(rangeSize, size - start))
      await readRange(context, start, bytes, signal)
      return bytes
    }
    try {
      for (;;) {
        // The chunk that was given last has been taken when this goes on: it counts no more.
        for (; underWay.length < ranges && next < size; next += rangeSize) {
          const reading = begin(next)
          reading.catch(() => undefined)
          underWay.push(reading)
        }
        const chunk = await underWay.shift()
        if (chunk === undefined) break
        await verify.take(given++, chunk, signal)
        if (next >= size && underWay.length === 0) verify.end()
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
      context.signal.removeEventListener('abort', abort)
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
  if (context.signal.aborted) abort()
  else context.signal.addEventListener('abort', abort, { once: true })
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

/** Fills the memory with the object's bytes from `start` on. */
async function readRange(context: DownloadContext, start: number, bytes: Buffer, signal: AbortSignal): Promise<void> {
  await readBytes({ ...context, signal }, { start, end: start + bytes.byteLength - 1 }, { etag: context.etag, start, bytes })
}

/** What is needed to read bytes of one object. */
export type ReadContext = Pick<DownloadContext, 'driver' | 'request' | 'key' | 'from' | 'retry' | 'signal'>

interface Reading {
  readonly etag: string
  /** Place of the first byte in the object. */
  readonly start: number
  readonly bytes: Buffer
  readonly checksum?: Checksum | undefined
}

/**
 * Reads the object, or a range of it, into memory; without `into` the first answer says how much it takes. A body that is
 * cut or falls silent goes on at its next byte, of the same object; each byte that comes renews the budget of tries.
 */
export async function readBytes(
  context: ReadContext,
  range: { readonly start?: number | undefined; readonly end?: number | undefined },
  into?: Reading,
): Promise<Reading> {
  const { driver, key, from, request, signal } = context
  const options = { ...context.retry, signal }
  let reading = into
  let filled = 0
  const read = async (): Promise<void> => {
    const before = filled
    const known = reading
    const wanted =
      known === undefined
        ? range
        : { start: known.start + before, end: known.start + known.bytes.byteLength - 1, ifMatch: known.etag }
    const place = (head: OpenedHead): Uint8Array => {
      if (known === undefined) {
        const { etag, offset, length, checksum } = head
        const bytes = Buffer.allocUnsafe(length)
        reading = { etag, start: offset, bytes, checksum }
        return bytes
      }
      // A server that knows no If-Match or no Range answers with something else, and says so in its headers.
      const left = known.bytes.byteLength - before
      if (head.etag !== known.etag || head.offset !== known.start + before || head.length !== left)
        throw objectChanged(request, known.start + before)
      return known.bytes.subarray(before)
    }
    const onBytes = (count: number): void => {
      filled = before + count
    }
    try {
      await driver.fillObject(key, { ...from, ...wanted, signal, place, onBytes })
      if (reading !== undefined && filled < reading.bytes.byteLength) throw bodyCut(request, filled, reading.bytes.byteLength)
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
    if (reading !== undefined && filled === reading.bytes.byteLength) return reading
  }
}

/** The whole object in memory, compared with the checksum that the server has of it, if it gave one. */
export async function readWhole(context: ReadContext): Promise<Reading> {
  const reading = await readBytes(context, {})
  const { checksum, bytes } = reading
  const found = checksum === undefined ? undefined : checksumOf(checksum.algorithm, bytes)
  if (checksum !== undefined && found?.value !== checksum.value) throw bodyCorrupt(context.request, checksum, found)
  return reading
}

async function writeAll(handle: FileHandle, bytes: Buffer, position: number): Promise<void> {
  for (let written = 0; written < bytes.byteLength;) {
    written += (await handle.write(bytes, written, bytes.byteLength - written, position + written)).bytesWritten
  }
}

/** Takes the ranges in order, whatever order they come in, and compares at the end. */
function verifier({ checksum, request }: DownloadContext): {
  take(index: number, bytes: Uint8Array, signal: AbortSignal): Promise<void>
  end(): void
} {
  if (checksum === undefined) return { take: async () => undefined, end: () => undefined }
  const running = new RunningChecksum(checksum.algorithm)
  const waiting = new Map<number, () => void>()
  let turn = 0
  return {
    async take(index, bytes, signal) {
      if (index !== turn) {
        await new Promise<void>((resolve, reject) => {
          waiting.set(index, resolve)
          signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true })
        })
      }
      running.update(bytes)
      turn += 1
      waiting.get(turn)?.()
      waiting.delete(turn)
    },
    end() {
      const found = running.value()
      if (found.value !== checksum.value) throw bodyCorrupt(request, checksum, found)
    },
  }
}
