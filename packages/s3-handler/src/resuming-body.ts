import { Readable } from 'node:stream'
import { HandlerError, retry, type RetryOptions, onAbort } from '@common-handlers/core'
import { RunningChecksum } from './checksum.ts'
import type { OpenedBody } from './driver.ts'
import { bodyCorrupt, bodyCut, bodyStalled, objectChanged, type S3Request, toS3Error } from './errors.ts'

export interface ResumingBodyOptions {
  readonly request: S3Request
  /** The body as it was opened first. */
  readonly first: OpenedBody
  /** Opens the rest from this byte of the object on, up to and with `end`, if the object still has this etag. */
  readonly reopen: (start: number, end: number, etag: string) => Promise<OpenedBody>
  readonly retry: RetryOptions
  readonly stallTimeoutMs: number
  /** Destroys the stream when it is aborted. */
  readonly signal: AbortSignal
  /** The body is the whole object: it is compared with the checksum that the server has of it, if it gave one. */
  readonly verify: boolean
}

/**
 * The bytes of an object as one stream that survives its connections: a body that is cut or falls silent is opened
 * again at the next byte. Each byte that comes renews the budget of tries.
 */
export function resumingBody(options: ResumingBodyOptions): Readable {
  const { request, first, reopen, stallTimeoutMs, signal } = options
  const begin = first.offset
  const end = first.offset + first.length
  let offset = begin
  const expected = options.verify ? first.checksum : undefined
  const running = expected === undefined ? undefined : new RunningChecksum(expected.algorithm)
  let source: Readable | undefined = first.body
  let opened: OpenedBody | undefined = first
  let wanted = Promise.withResolvers<void>()

  const out = new Readable({
    highWaterMark: 256 * 1024,
    read: () => {
      wanted.resolve()
      source?.resume()
    },
    destroy: (error, done) => {
      release()
      wanted.resolve()
      source?.destroy()
      done(error)
    },
  })
  const abort = (): void => {
    // Whoever asked for the abort knows; a stream that nobody listens to must not end the process for it.
    out.on('error', () => undefined)
    out.destroy(signal.reason as Error)
  }
  const release = onAbort(signal, abort)
  if (signal.aborted) abort()

  /** Passes one body on; rejects when it ends too early. */
  const drain = (body: Readable): Promise<void> =>
    new Promise((resolve, reject) => {
      let timer: NodeJS.Timeout | undefined
      // Silence counts only while the reader waits: a reader that takes its time is no fault of the server.
      const watch = (): void => {
        clearTimeout(timer)
        timer = setTimeout(() => finish(bodyStalled(request, stallTimeoutMs)), stallTimeoutMs)
      }
      const finish = (error?: Error): void => {
        clearTimeout(timer)
        body.off('resume', watch)
        if (source === body) source = undefined
        body.on('error', () => undefined)
        body.destroy()
        if (error === undefined) resolve()
        else reject(error)
      }
      source = body
      body.on('data', (chunk: Buffer) => {
        offset += chunk.length
        running?.update(chunk)
        if (out.push(chunk)) {
          watch()
        } else {
          clearTimeout(timer)
          wanted = Promise.withResolvers()
          body.pause()
        }
      })
      body.on('resume', watch)
      body.once('end', () => finish(offset === end ? undefined : bodyCut(request, offset - begin, end - begin)))
      body.once('error', (error) => finish(toS3Error(error, request)))
      body.once('close', () => finish(bodyCut(request, offset - begin, end - begin)))
      watch()
    })

  const pump = async (): Promise<void> => {
    for (;;) {
      // A reader that rests for an hour needs no connection that the server cuts again and again.
      if (opened === undefined) await wanted.promise
      if (out.destroyed) return
      await retry(async () => {
        const body = opened ?? (await reopenAt(offset))
        opened = undefined
        const before = offset
        try {
          await drain(body.body)
        } catch (error) {
          if (out.destroyed) return
          if (offset === before) throw error
          // Bytes came: the next try begins with a fresh budget.
          options.retry.onRetry?.(error as HandlerError, { attempt: 1, delayMs: 0 })
        }
      }, options.retry)
      if (out.destroyed) return
      if (offset === end) break
    }
    const found = running?.value()
    if (expected !== undefined && found !== undefined && found.value !== expected.value)
      throw bodyCorrupt(request, expected, found)
    out.push(null)
  }

  const reopenAt = async (start: number): Promise<OpenedBody> => {
    let body: OpenedBody
    try {
      body = await reopen(start, end - 1, first.etag)
    } catch (error) {
      const changed = HandlerError.is(error) && ['S3_PRECONDITION_FAILED', 'S3_OBJECT_NOT_FOUND'].includes(error.code)
      throw changed ? objectChanged(request, start - begin, error) : error
    }
    // A server that knows no If-Match or no Range answers with something else, and says so in its headers.
    if (body.etag === first.etag && body.offset === start && body.length === end - start) return body
    body.body.on('error', () => undefined).destroy()
    throw objectChanged(request, start - begin)
  }

  pump().catch((error: unknown) => out.destroy(error as Error))
  return out
}
