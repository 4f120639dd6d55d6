import { hash } from 'node:crypto'
import { open, type FileHandle } from 'node:fs/promises'
import { Readable } from 'node:stream'
import {
  CapacityError,
  ConfigError,
  ConflictError,
  HandlerError,
  retry,
  type RetryOptions,
  sleep,
  untilAborted,
} from '@common-handlers/core'
import { type Checksum, type ChecksumAlgorithm, checksumOf, joinCrc32 } from './checksum.ts'
import { completeUpload } from './complete.ts'
import type { S3Driver } from './driver.ts'
import { customerKeyHeaders, customerKeyOf, type ObjectHeaders } from './object-headers.ts'

const MIB = 1024 * 1024
/** S3's limit on the parts of one upload. */
const MAX_PARTS = 10_000
/** How long an upload that failed tries to take away what it has sent. */
const CLEAN_UP_BUDGET_MS = 10_000
/** A part that was on its way when its upload was aborted may arrive after it; S3 says to abort until none is left. */
const CLEAN_UP_ROUNDS = 5
const CLEAN_UP_PAUSE_MS = 100
/** A stream whose length nobody knows doubles its parts so often, up to so many bytes: 5 TiB in 10 000 parts. */
const GROW_EVERY_PARTS = 700
const LARGEST_GROWN_PART = 1024 * MIB

export interface UploadContext {
  readonly driver: S3Driver
  readonly partSize: number
  readonly concurrency: number
  /** Sent with the bytes, for the server to verify and to keep. */
  readonly checksum: ChecksumAlgorithm | undefined
  readonly retry: RetryOptions
  readonly signal: AbortSignal
  /** Called when an upload could not be taken away; it stays on the server until somebody aborts it. */
  readonly onLeftover: (leftover: { readonly key: string; readonly uploadId: string; readonly error: unknown }) => void
}

export interface Uploaded {
  readonly etag: string
  readonly size: number
}

/** A file to upload: its parts are read when they are sent. */
export type S3File = { readonly path: string } | FileHandle

/** How to go on with an upload of a file after its process has ended. */
export interface ResumeOptions {
  /**
   * The token of an earlier upload of this file to this key. Parts that the server has, with the bytes that the file has
   * there now, are not sent again. A token whose upload is no longer there begins anew.
   */
  readonly resume?: string | undefined
  /** Gets the token before the first part is sent; keep it. With this or `resume`, an upload that fails is left for later. */
  readonly onToken?: ((token: string) => void | Promise<void>) | undefined
  /** Called after each part. */
  readonly onProgress?: ((progress: { readonly sent: number; readonly size: number | undefined }) => void) | undefined
}

type PutHeaders = ObjectHeaders & ResumeOptions

export function isFile(body: unknown): body is S3File {
  if (typeof body !== 'object' || body === null || Symbol.asyncIterator in body) return false
  return 'path' in body ? typeof body.path === 'string' : 'fd' in body && 'read' in body && 'stat' in body
}

/** Bytes of part `number`, from 1, of a stream of unknown length. */
export function grownPartSize(partSize: number, number: number): number {
  return Math.max(partSize, Math.min(LARGEST_GROWN_PART, partSize * 2 ** Math.floor((number - 1) / GROW_EVERY_PARTS)))
}

/** Bytes of the parts of a body of known length: all alike, as some servers want it. */
function evenPartSize(partSize: number, size: number): number {
  return Math.max(partSize, Math.ceil(size / MAX_PARTS / MIB) * MIB)
}

/** Writes bytes that are in memory: one request up to `partSize`, parts of the same memory above. */
export async function uploadBytes(context: UploadContext, key: string, body: Uint8Array, headers: PutHeaders): Promise<Uploaded> {
  if (body.byteLength <= context.partSize) return putWhole(context, key, body, headers)
  const partSize = evenPartSize(context.partSize, body.byteLength)
  const upload = await MultipartUpload.begin(context, key, headers, body.byteLength)
  return upload.run(async () => {
    for (let start = 0; start < body.byteLength; start += partSize) {
      await upload.slot(partSize)
      upload.send(body.subarray(start, start + partSize))
    }
  })
}

/**
 * Writes a stream of any length. The bytes are gathered in buffers of one part, which are used again and again: the memory
 * of an upload is `partSize × concurrency`. From part 701 on the parts grow, and fewer go at a time, so that this still
 * holds until one part is larger than it; at the limit of 5 TiB one part has 1 GiB.
 */
export async function uploadStream(
  context: UploadContext,
  key: string,
  body: AsyncIterable<Uint8Array>,
  headers: PutHeaders,
): Promise<Uploaded> {
  const source = new PartSource(body)
  const buffers = new Buffers()
  try {
    const first = buffers.take(context.partSize)
    const filled = await source.fill(first, context.signal)
    if (source.ended) return await putWhole(context, key, first.subarray(0, filled), headers)
    const upload = await MultipartUpload.begin(context, key, headers, undefined)
    return await upload.run(async () => {
      upload.send(first, () => buffers.giveBack(first))
      while (!source.ended) {
        const size = grownPartSize(context.partSize, upload.parts + 1)
        await upload.slot(size)
        const buffer = buffers.take(size)
        const length = await source.fill(buffer, upload.signal)
        if (length > 0) upload.send(buffer.subarray(0, length), () => buffers.giveBack(buffer))
      }
    })
  } finally {
    source.close()
  }
}

/** Writes a file, reading each part at its place; goes on with an upload that was begun before where it gets a token. */
export async function uploadFile(context: UploadContext, key: string, file: S3File, headers: PutHeaders): Promise<Uploaded> {
  const handle = 'path' in file ? await open(file.path) : file
  try {
    const { size, mtimeMs } = await handle.stat()
    const read = async (buffer: Buffer, start: number): Promise<void> => {
      for (let filled = 0; filled < buffer.byteLength;) {
        const { bytesRead } = await handle.read(buffer, filled, buffer.byteLength - filled, start + filled)
        if (bytesRead === 0) throw fileChanged(key)
        filled += bytesRead
      }
    }
    const unchanged = async (): Promise<void> => {
      const now = await handle.stat()
      if (now.size !== size || now.mtimeMs !== mtimeMs) throw fileChanged(key)
    }
    if (size <= context.partSize) {
      const bytes = Buffer.allocUnsafeSlow(size)
      await read(bytes, 0)
      await unchanged()
      return await putWhole(context, key, bytes, headers)
    }
    const begun = headers.resume === undefined ? undefined : readToken(headers.resume, key)
    const partSize = begun?.partSize ?? evenPartSize(context.partSize, size)
    const stored = await storedParts(context, key, begun)
    const upload =
      begun === undefined || stored === undefined
        ? await MultipartUpload.begin(context, key, headers, size)
        : MultipartUpload.resume(context, key, headers, size, begun.uploadId)
    await headers.onToken?.(makeToken({ key, uploadId: upload.uploadId, partSize }))
    const buffers = new Buffers()
    return await upload.run(async () => {
      for (let start = 0; start < size; start += partSize) {
        const length = Math.min(partSize, size - start)
        await upload.slot(partSize)
        const buffer = buffers.take(partSize)
        const bytes = buffer.subarray(0, length)
        await read(bytes, start)
        const there = stored?.get(upload.parts + 1)
        // An etag that is no MD5 (encryption with KMS) proves nothing: the part is sent again.
        if (there?.size === length && there.etag === `"${hash('md5', bytes)}"`) {
          upload.keep(bytes, there.etag)
          buffers.giveBack(buffer)
        } else upload.send(bytes, () => buffers.giveBack(buffer))
      }
    }, unchanged)
  } finally {
    if (handle !== file) await handle.close()
  }
}

interface Begun {
  readonly key: string
  readonly uploadId: string
  readonly partSize: number
}

function makeToken(begun: Begun): string {
  return Buffer.from(JSON.stringify([begun.uploadId, begun.partSize, hash('sha256', begun.key)])).toString('base64url')
}

function readToken(token: string, key: string): Begun {
  try {
    const [uploadId, partSize, keyHash] = JSON.parse(Buffer.from(token, 'base64url').toString()) as unknown[]
    if (typeof uploadId === 'string' && typeof partSize === 'number' && partSize > 0 && keyHash === hash('sha256', key))
      return { key, uploadId, partSize }
  } catch {
    // Said below.
  }
  throw new ConfigError(`the token is not one of an upload of "${key}"`, { code: 'S3_OPTIONS_INVALID', context: { key } })
}

/** What the server has of an upload; undefined where there is none to go on with. */
async function storedParts(
  { driver, signal, retry: options }: UploadContext,
  key: string,
  begun: Begun | undefined,
): Promise<ReadonlyMap<number, { readonly size: number; readonly etag: string }> | undefined> {
  if (begun === undefined) return undefined
  try {
    const parts = await retry(() => driver.listParts(key, begun.uploadId, { signal }), options)
    return new Map(parts.map((part) => [part.partNumber, part]))
  } catch (error) {
    if (HandlerError.is(error) && error.code === 'S3_UPLOAD_NOT_FOUND') return undefined
    throw error
  }
}

async function putWhole(context: UploadContext, key: string, body: Uint8Array, headers: PutHeaders): Promise<Uploaded> {
  const { driver, signal } = context
  const checksum = context.checksum === undefined ? undefined : checksumOf(context.checksum, body)
  const etag = await retry(() => driver.putObject(key, body, { ...headers, checksum, signal }), context.retry)
  headers.onProgress?.({ sent: body.byteLength, size: body.byteLength })
  return { etag, size: body.byteLength }
}

/** Memory of parts, used again for parts of the same size. */
class Buffers {
  readonly #free: Buffer[] = []

  take(size: number): Buffer {
    const free = this.#free.pop()
    return free?.byteLength === size ? free : Buffer.allocUnsafeSlow(size)
  }

  giveBack(buffer: Buffer): void {
    this.#free.push(buffer)
  }
}

/** Cuts a stream into parts. */
class PartSource {
  readonly #body: AsyncIterable<Uint8Array>
  readonly #iterator: AsyncIterator<Uint8Array>
  #rest: Uint8Array = new Uint8Array()
  ended = false

  constructor(body: AsyncIterable<Uint8Array>) {
    this.#body = body
    this.#iterator = body[Symbol.asyncIterator]()
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

/** One multipart upload: its parts in flight, what they were stored as, and its end either way. */
class MultipartUpload {
  readonly #context: UploadContext
  readonly #key: string
  readonly #headers: PutHeaders
  readonly #size: number | undefined
  readonly #etags: string[] = []
  readonly #checksums: (Checksum | undefined)[] = []
  readonly #lengths: number[] = []
  readonly #running = new Set<Promise<void>>()
  readonly #stop = new AbortController()
  /** Ends with the caller's signal, and as soon as one part has failed for good. */
  readonly signal: AbortSignal
  readonly uploadId: string
  /** As far as the server has said; where it has not, each part must. */
  readonly #encrypted: boolean
  #sent = 0
  #begun = 0

  private constructor(
    context: UploadContext,
    key: string,
    headers: PutHeaders,
    size: number | undefined,
    { uploadId, encrypted }: { readonly uploadId: string; readonly encrypted: boolean },
  ) {
    this.#context = context
    this.#key = key
    this.#headers = headers
    this.#size = size
    this.uploadId = uploadId
    this.#encrypted = encrypted
    this.signal = AbortSignal.any([context.signal, this.#stop.signal])
  }

  /** `size` of the whole body, where it is known. */
  static async begin(
    context: UploadContext,
    key: string,
    headers: PutHeaders,
    size: number | undefined,
  ): Promise<MultipartUpload> {
    context.signal.throwIfAborted()
    // Not given the caller's signal: an answer that nobody waits for would leave an upload whose id nobody knows.
    const signal = new AbortController().signal
    const options = { ...headers, checksumAlgorithm: context.checksum, signal }
    const begun = await retry(() => context.driver.createMultipartUpload(key, options), context.retry)
    return new MultipartUpload(context, key, headers, size, begun)
  }

  static resume(context: UploadContext, key: string, headers: PutHeaders, size: number, uploadId: string): MultipartUpload {
    return new MultipartUpload(context, key, headers, size, { uploadId, encrypted: false })
  }

  get parts(): number {
    return this.#etags.length
  }

  /** Waits until a part of that size may be sent. */
  async slot(size: number): Promise<void> {
    const { partSize, concurrency } = this.#context
    const room = Math.max(1, Math.floor((partSize * concurrency) / size))
    while (this.#running.size >= room) await Promise.race(this.#running)
    this.signal.throwIfAborted()
  }

  /** Takes a part that the server has already. */
  keep(bytes: Uint8Array, etag: string): void {
    this.#add(bytes)
    this.#etags[this.parts - 1] = etag
    this.#progress(bytes.byteLength)
  }

  /** Sends one part; when it fails it is tried again alone, the others go on. */
  send(bytes: Uint8Array, sent: () => void = () => undefined): void {
    if (this.parts >= MAX_PARTS) {
      this.#stop.abort(tooManyParts(this.#key, this.#context.partSize))
      return
    }
    const checksum = this.#add(bytes)
    const number = this.parts
    const { driver, retry: retryOptions } = this.#context
    const { encryption } = this.#headers
    const headers = customerKeyHeaders(customerKeyOf(encryption))
    const options = { signal: this.signal, checksum, headers, encryption: this.#encrypted ? undefined : encryption }
    const upload = async (): Promise<void> => {
      try {
        this.#etags[number - 1] = await retry(() => driver.uploadPart(this.#key, this.uploadId, number, bytes, options), {
          ...retryOptions,
          signal: this.signal,
        })
        sent()
        this.#progress(bytes.byteLength)
      } catch (error) {
        this.#stop.abort(error)
      }
    }
    const running = upload().finally(() => this.#running.delete(running))
    this.#running.add(running)
  }

  /** Runs what feeds the upload, then completes it; on any failure nothing of it stays, unless it is to be resumed. */
  async run(feed: () => Promise<void>, before: () => Promise<void> = async () => undefined): Promise<Uploaded> {
    try {
      await feed()
      await Promise.all(this.#running)
      this.signal.throwIfAborted()
      await before()
      return { etag: await this.#complete(), size: this.#begun }
    } catch (error) {
      this.#stop.abort(error)
      await Promise.all(this.#running)
      const resumable = this.#headers.onToken !== undefined || this.#headers.resume !== undefined
      if (!resumable) await this.#takeAway()
      this.#context.signal.throwIfAborted()
      throw error
    }
  }

  #add(bytes: Uint8Array): Checksum | undefined {
    const { checksum: algorithm } = this.#context
    const checksum = algorithm === undefined ? undefined : checksumOf(algorithm, bytes)
    this.#etags.push('')
    this.#checksums.push(checksum)
    this.#lengths.push(bytes.byteLength)
    this.#begun += bytes.byteLength
    return checksum
  }

  #progress(bytes: number): void {
    this.#sent += bytes
    this.#headers.onProgress?.({ sent: this.#sent, size: this.#size })
  }

  #complete(): Promise<string> {
    const { driver, signal, retry: retryOptions } = this.#context
    const upload = {
      key: this.#key,
      uploadId: this.uploadId,
      etags: this.#etags,
      size: this.#begun,
      customerKey: customerKeyOf(this.#headers.encryption),
      checksums: this.#checksums,
      checksum: this.#wholeChecksum(),
    }
    return completeUpload(driver, upload, signal, (work) => retry(work, retryOptions))
  }

  /** The CRC32 of the whole from those of its parts; there is no such thing for SHA-256. */
  #wholeChecksum(): Checksum | undefined {
    if (this.#context.checksum !== 'crc32') return undefined
    return this.#checksums.reduce((whole, part, index) =>
      whole === undefined || part === undefined ? undefined : joinCrc32(whole, part, this.#lengths[index] ?? 0),
    )
  }

  async #takeAway(): Promise<void> {
    const signal = new AbortController().signal
    const { driver, retry: retryOptions, onLeftover } = this.#context
    const options = { policy: { ...retryOptions.policy, budgetMs: CLEAN_UP_BUDGET_MS }, idempotent: true }
    try {
      for (let round = 1; round <= CLEAN_UP_ROUNDS; round++) {
        await retry(() => driver.abortMultipartUpload(this.#key, this.uploadId, { signal }), options)
        await retry(() => driver.listParts(this.#key, this.uploadId, { signal }), options)
        await sleep(CLEAN_UP_PAUSE_MS)
      }
      throw new Error('parts keep coming')
    } catch (error) {
      const gone = HandlerError.is(error) && error.code === 'S3_UPLOAD_NOT_FOUND'
      if (!gone) onLeftover({ key: this.#key, uploadId: this.uploadId, error })
    }
  }
}

function tooManyParts(key: string, partSize: number): CapacityError {
  return new CapacityError(`the body of "${key}" is larger than ${MAX_PARTS} parts of ${partSize} bytes; raise partSize`, {
    code: 'S3_TOO_MANY_PARTS',
    context: { key, partSize },
  })
}

function fileChanged(key: string): ConflictError {
  return new ConflictError(`the file was changed while it was written to "${key}"`, { code: 'S3_FILE_CHANGED', context: { key } })
}
