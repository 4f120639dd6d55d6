import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import { CapacityError, HandlerError, retry, type RetryOptions } from '@common-handlers/core'
import type { S3Driver } from './driver.ts'
import type { ObjectHeaders } from './object-headers.ts'

/** S3's limit on the parts of one upload. */
const MAX_PARTS = 10_000
/** How long an upload that failed tries to take away what it has sent. */
const CLEAN_UP_BUDGET_MS = 10_000

export interface UploadContext {
  readonly driver: S3Driver
  readonly partSize: number
  readonly concurrency: number
  readonly retry: RetryOptions
  readonly signal: AbortSignal
  /** Called when an upload could not be taken away; it stays on the server until somebody aborts it. */
  readonly onLeftover: (leftover: { readonly key: string; readonly uploadId: string; readonly error: unknown }) => void
}

export interface Uploaded {
  readonly etag: string
  readonly size: number
}

/** Writes bytes that are in memory: one request up to `partSize`, parts of the same memory above. */
export async function uploadBytes(
  context: UploadContext,
  key: string,
  body: Uint8Array,
  headers: ObjectHeaders,
): Promise<Uploaded> {
  if (body.byteLength <= context.partSize) return putWhole(context, key, body, headers)
  const upload = await MultipartUpload.begin(context, key, headers)
  return upload.run(async () => {
    for (let start = 0; start < body.byteLength; start += context.partSize) {
      await upload.slot()
      upload.send(body.subarray(start, start + context.partSize))
    }
  })
}

/**
 * Writes a stream of any length. The bytes are gathered in buffers of `partSize`, `concurrency` of them at most, which are
 * used again and again: the memory of an upload is their product whatever its length.
 */
export async function uploadStream(
  context: UploadContext,
  key: string,
  body: AsyncIterable<Uint8Array>,
  headers: ObjectHeaders,
): Promise<Uploaded> {
  const source = new PartSource(body, context.partSize)
  try {
    const first = source.buffer()
    const filled = await source.fill(first, context.signal)
    if (source.ended) return await putWhole(context, key, first.subarray(0, filled), headers)
    const upload = await MultipartUpload.begin(context, key, headers)
    return await upload.run(async () => {
      upload.send(first, () => source.giveBack(first))
      while (!source.ended) {
        await upload.slot()
        const buffer = source.buffer()
        const length = await source.fill(buffer, upload.signal)
        if (length > 0) upload.send(buffer.subarray(0, length), () => source.giveBack(buffer))
      }
    })
  } finally {
    source.close()
  }
}

async function putWhole(context: UploadContext, key: string, body: Uint8Array, headers: ObjectHeaders): Promise<Uploaded> {
  const { driver, signal } = context
  const etag = await retry(() => driver.putObject(key, body, { ...headers, signal }), context.retry)
  return { etag, size: body.byteLength }
}

/** Cuts a stream into parts of exactly one size (some servers want all parts alike), the last one shorter. */
class PartSource {
  readonly #body: AsyncIterable<Uint8Array>
  readonly #iterator: AsyncIterator<Uint8Array>
  readonly #partSize: number
  readonly #free: Buffer[] = []
  #rest: Uint8Array = new Uint8Array()
  ended = false

  constructor(body: AsyncIterable<Uint8Array>, partSize: number) {
    this.#body = body
    this.#iterator = body[Symbol.asyncIterator]()
    this.#partSize = partSize
  }

  buffer(): Buffer {
    return this.#free.pop() ?? Buffer.allocUnsafeSlow(this.#partSize)
  }

  giveBack(buffer: Buffer): void {
    this.#free.push(buffer)
  }

  /** Gives the bytes filled. After it, `ended` says whether more may come: a full buffer looks one chunk ahead. */
  async fill(buffer: Buffer, signal: AbortSignal): Promise<number> {
    let filled = 0
    for (;;) {
      const taken = Math.min(this.#rest.byteLength, buffer.byteLength - filled)
      buffer.set(this.#rest.subarray(0, taken), filled)
      filled += taken
      this.#rest = this.#rest.subarray(taken)
      if (this.#rest.byteLength > 0) return filled
      const next = await untilAborted(this.#iterator.next(), signal)
      if (next.done === true) {
        this.ended = true
        return filled
      }
      this.#rest = next.value
    }
  }

  /** Lets go of a source that was not read to its end. */
  close(): void {
    if (this.ended) return
    // An iterator that waits for its next chunk does not hear `return`; a stream must be told itself.
    if (this.#body instanceof Readable) this.#body.destroy()
    else void Promise.resolve(this.#iterator.return?.()).catch(() => undefined)
  }
}

function untilAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(signal.reason as Error)
    if (signal.aborted) abort()
    signal.addEventListener('abort', abort, { once: true })
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort))
  })
}

/** One multipart upload: its parts in flight, what they were stored as, and its end either way. */
class MultipartUpload {
  readonly #context: UploadContext
  readonly #key: string
  readonly #uploadId: string
  readonly #etags: string[] = []
  readonly #running = new Set<Promise<void>>()
  readonly #stop = new AbortController()
  /** Ends with the caller's signal, and as soon as one part has failed for good. */
  readonly signal: AbortSignal
  #size = 0

  private constructor(context: UploadContext, key: string, uploadId: string) {
    this.#context = context
    this.#key = key
    this.#uploadId = uploadId
    this.signal = AbortSignal.any([context.signal, this.#stop.signal])
  }

  static async begin(context: UploadContext, key: string, headers: ObjectHeaders): Promise<MultipartUpload> {
    context.signal.throwIfAborted()
    // Not given the caller's signal: an answer that nobody waits for would leave an upload whose id nobody knows.
    const signal = new AbortController().signal
    const uploadId = await retry(() => context.driver.createMultipartUpload(key, { ...headers, signal }), context.retry)
    return new MultipartUpload(context, key, uploadId)
  }

  /** Waits until another part may be sent. */
  async slot(): Promise<void> {
    while (this.#running.size >= this.#context.concurrency) await Promise.race(this.#running)
    this.signal.throwIfAborted()
  }

  /** Sends one part; when it fails it is tried again alone, the others go on. */
  send(bytes: Uint8Array, sent: () => void = () => undefined): void {
    const index = this.#etags.length
    this.#etags.push('')
    if (index >= MAX_PARTS) {
      this.#stop.abort(tooManyParts(this.#key, this.#context.partSize))
      return
    }
    this.#size += bytes.byteLength
    const { driver, retry: retryOptions } = this.#context
    const upload = async (): Promise<void> => {
      try {
        this.#etags[index] = await retry(
          () => driver.uploadPart(this.#key, this.#uploadId, index + 1, bytes, { signal: this.signal }),
          { ...retryOptions, signal: this.signal },
        )
        sent()
      } catch (error) {
        this.#stop.abort(error)
      }
    }
    const running = upload().finally(() => this.#running.delete(running))
    this.#running.add(running)
  }

  /** Runs what feeds the upload, then completes it; on any failure nothing of it stays. */
  async run(feed: () => Promise<void>): Promise<Uploaded> {
    try {
      await feed()
      await Promise.all(this.#running)
      this.signal.throwIfAborted()
      return { etag: await this.#complete(), size: this.#size }
    } catch (error) {
      this.#stop.abort(error)
      await Promise.all(this.#running)
      await this.#takeAway()
      this.#context.signal.throwIfAborted()
      throw error
    }
  }

  async #complete(): Promise<string> {
    const { driver, signal, retry: retryOptions } = this.#context
    let unanswered = false
    return retry(async () => {
      try {
        return await driver.completeMultipartUpload(this.#key, this.#uploadId, this.#etags, { signal })
      } catch (error) {
        if (!HandlerError.is(error)) throw error
        // The try before may have completed it, and only its answer was lost.
        if (unanswered && error.code === 'S3_UPLOAD_NOT_FOUND') {
          const etag = await this.#completedBefore()
          if (etag !== undefined) return etag
        }
        if (error.retry === 'if-idempotent') unanswered = true
        throw error
      }
    }, retryOptions)
  }

  async #completedBefore(): Promise<string | undefined> {
    const { driver, signal } = this.#context
    const found = await driver.headObject(this.#key, { signal }).catch((error: unknown) => {
      if (HandlerError.is(error) && error.outcome === 'not-found') return undefined
      throw error
    })
    const ours =
      found?.size === this.#size && (found.etag === joinedEtag(this.#etags) || found.etag.endsWith(`-${this.#etags.length}"`))
    return ours ? found.etag : undefined
  }

  async #takeAway(): Promise<void> {
    const signal = new AbortController().signal
    const { driver, retry: retryOptions, onLeftover } = this.#context
    const policy = { ...retryOptions.policy, budgetMs: CLEAN_UP_BUDGET_MS }
    try {
      await retry(() => driver.abortMultipartUpload(this.#key, this.#uploadId, { signal }), { policy, idempotent: true })
    } catch (error) {
      const gone = HandlerError.is(error) && error.code === 'S3_UPLOAD_NOT_FOUND'
      if (!gone) onLeftover({ key: this.#key, uploadId: this.#uploadId, error })
    }
  }
}

/** The etag that S3 gives an object of parts: the MD5 of the parts' MD5s, and their number. */
function joinedEtag(etags: readonly string[]): string {
  const hash = createHash('md5')
  for (const etag of etags) hash.update(Buffer.from(etag.replaceAll('"', ''), 'hex'))
  return `"${hash.digest('hex')}-${etags.length}"`
}

function tooManyParts(key: string, partSize: number): CapacityError {
  return new CapacityError(`the body of "${key}" is larger than ${MAX_PARTS} parts of ${partSize} bytes; raise partSize`, {
    code: 'S3_TOO_MANY_PARTS',
    context: { key, partSize },
  })
}
