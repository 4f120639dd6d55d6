import type { FileHandle } from 'node:fs/promises'
import type { Readable } from 'node:stream'
import {
  type CallOptions,
  type CheckAttempt,
  type CheckResult,
  type CloseOptions,
  ConfigError,
  ConflictError,
  HandlerError,
  isStandardSchema,
  Lifecycle,
  type Logger,
  retry,
  type RetryOptions,
  runCheck,
  silentLogger,
  type StandardSchema,
  withDeadline,
} from '@common-handlers/core'
import { conditionalPut, type Condition } from './conditional.ts'
import { givenOnly, parseConfig, type S3Config, s3ConfigFromEnvironment, type S3ConfigInput, type Variables } from './config.ts'
import { CredentialCache, type S3CredentialProvider } from './credentials.ts'
import { copyObject, moveObject, type S3CopyOptions, type S3CopySource } from './copy.ts'
import { probeDialect, type S3Dialect } from './dialect.ts'
import { type FailedDelete, type ObjectDetails, type ReadFrom, S3Driver, type S3Stats } from './driver.ts'
import {
  type DownloadContext,
  downloadStream,
  downloadToHandle,
  downloadToPath,
  type ReadContext,
  readWhole,
  type S3DownloadOptions,
} from './download.ts'
import { assertKey, type S3Request } from './errors.ts'
import { customerKeyOf, type ObjectHeaders } from './object-headers.ts'
import type { S3Parts } from './parts.ts'
import {
  presignGet,
  presignPost,
  presignPut,
  type S3Presigned,
  type S3PresignedPost,
  type S3PresignGetOptions,
  type S3PresignPostOptions,
  type S3PresignPutOptions,
} from './presign.ts'
import {
  asJson,
  assertDelimiter,
  asText,
  compressionOf,
  decompressed,
  readCsvRows,
  readLines,
  type S3CsvOptions,
  type S3CsvRow,
  type S3LinesOptions,
  type S3TextOptions,
  validated,
} from './reading.ts'
import { resumingBody } from './resuming-body.ts'
import { type S3SyncOptions, type S3SyncResult, syncFolder } from './sync.ts'
import { readTags, writeTags } from './tagging.ts'
import { isFile, type ResumeOptions, type S3File, uploadBytes, type UploadContext, uploadFile, uploadStream } from './upload.ts'
import { getVersioning, listVersions, type S3ObjectVersion, type S3Versioning, setVersioning } from './versions.ts'

/** Everything that {@link S3Handler} takes. Only `bucket` is needed where the AWS chain finds credentials. */
export interface S3HandlerOptions extends S3ConfigInput {
  /** Told of every retry and of uploads that could not be taken away. Silent by default. */
  logger?: Logger | undefined
  /**
   * Where credentials come from, in place of `accessKeyId` and the AWS chain: asked at the first call, again before what
   * it gave ends, and when the server no longer takes it; once for all calls that wait.
   */
  credentials?: S3CredentialProvider | undefined
}

/** What S3 knows of an object without reading it. The key is relative to the handler's prefix. */
export interface S3ObjectInfo {
  readonly key: string
  /** Bytes as stored. */
  readonly size: number
  /** With its quotes, in one form whichever call gives it. */
  readonly etag: string
  readonly lastModified: Date
}

/** All that S3 says of an object: how it is stored and what it was stored with. */
export type S3ObjectDetails = ObjectDetails

export interface S3WrittenObject {
  readonly etag: string
  readonly size: number
}

/** `written: false`: the condition did not hold and nothing was changed. */
export type S3ConditionalWrite = ({ readonly written: true } & S3WrittenObject) | { readonly written: false }

export interface S3PutOptions extends CallOptions, ObjectHeaders {}

/** What a common prefix of many keys stands for them in a list with a delimiter. */
export interface S3CommonPrefix {
  /** With the delimiter at its end. */
  readonly prefix: string
}

export interface S3ListOptions extends CallOptions {
  /** `/` shows one level, as a folder does. */
  readonly delimiter?: string | undefined
  /** Begins behind this key. */
  readonly startAfter?: string | undefined
}

export interface S3GetOptions extends CallOptions, ReadFrom {
  /** The first byte wanted, counted from 0. */
  readonly start?: number
  /** The last byte wanted. */
  readonly end?: number
  /** `auto` as in {@link S3TextOptions}, for whole objects only. Default `false`: the bytes as they are stored. */
  readonly decompress?: 'auto' | false | undefined
}

/** Bytes, a text, a stream of any length, or a file: `{ path }` or an open FileHandle. */
export type S3Body = Uint8Array | string | AsyncIterable<Uint8Array> | S3File

/** A multipart upload that was neither completed nor aborted. Its parts are paid for and seen by no list. */
export interface S3UnfinishedUpload {
  readonly key: string
  readonly uploadId: string
  readonly initiated: Date
}

/** What became of many deletes. A key that was not there counts as deleted. */
export interface S3DeleteResult {
  readonly deleted: number
  readonly failed: readonly FailedDelete[]
}

export interface S3CheckOptions extends CallOptions {
  /** Also writes a small object, twice and only if absent, to prove that the server honours conditional writes; then deletes it. */
  readonly write?: boolean | undefined
}

const DELETE_BATCH = 1000
/** Characters that XML 1.0 cannot carry or that its readers change. */
// oxlint-disable-next-line no-control-regex
const UNFIT_FOR_XML = /[\u0000-\u001f\ufffe\uffff]/
const PROBE_KEY = '_check/probe'

/**
 * One bucket, or the part of it under a prefix, on Amazon S3 or a server that speaks its API. Fits the `ObjectStore`
 * contract of `@common-handlers/storage`. Making one does no work; the first call opens connections.
 *
 * @example
 * ```ts
 * await using s3 = new S3Handler({ bucket: 'lake', prefix: 'exports' })
 * await s3.put('2026/report.csv', createReadStream('report.csv'))
 * const report = await s3.getText('2026/report.csv')
 * ```
 */
export class S3Handler implements AsyncDisposable {
  #config: S3Config
  readonly #driver: S3Driver
  readonly #logger: Logger
  readonly #lifecycle: Lifecycle
  readonly #parts: S3Parts
  readonly #credentials: CredentialCache | undefined
  #bucketSeen = false
  readonly #classesSeen = new Set<string>()
  #deletesMany = true

  /** Where the objects are: `s3://bucket/prefix`, no slash at the end. */
  readonly url: string

  /** @throws ConfigError `S3_CONFIG_INVALID` */
  constructor(options: S3HandlerOptions) {
    const { logger = silentLogger, credentials, ...config } = options
    this.#config = parseConfig(config)
    if (credentials !== undefined && this.#config.accessKeyId !== undefined)
      throw new ConfigError('credentials and accessKeyId exclude each other: give one of them', { code: 'S3_CONFIG_INVALID' })
    const warn = (error: unknown): void =>
      logger.warn({ error }, 'the credential provider failed; the credentials before still hold')
    this.#credentials = credentials === undefined ? undefined : new CredentialCache(credentials, warn)
    this.#driver = new S3Driver(this.#config, this.#credentials)
    this.#logger = logger
    this.#lifecycle = new Lifecycle('S3Handler', 'S3', async () => this.#driver.destroy())
    this.url = `s3://${this.#config.bucket}${this.#config.prefix === '' ? '' : `/${this.#config.prefix}`}`
    this.#parts = {
      config: () => this.#config,
      driver: this.#driver,
      run: (callOptions, action, work) => this.#run(callOptions, action, work),
      try: (signal, work) => this.#try(signal, work),
      fullKey: (key) => this.#fullKey(key),
      fullPrefix: (prefix) => this.#fullPrefix(prefix),
      ownKey: (fullKey) => this.#ownKey(fullKey),
      where: (key) => this.#where(key),
    }
  }

  /**
   * With the endpoint, region and keys that {@link s3ConfigFromEnvironment} finds, where the options have none of their own.
   * @throws ConfigError `S3_CONFIG_INVALID`
   */
  static fromEnvironment(options: S3HandlerOptions, variables?: Variables): S3Handler {
    const { endpoint, region, ...keys } = s3ConfigFromEnvironment(variables)
    const own = givenOnly(options)
    const hasKeys = own.credentials !== undefined || own.accessKeyId !== undefined
    return new S3Handler({ ...givenOnly({ endpoint, region }), ...(hasKeys ? {} : keys), ...own })
  }

  /**
   * The bytes as a stream, from `start` up to and with `end` where given. A connection that breaks or falls silent in the
   * middle is made good from the next byte on. Read it to the end or destroy it. `signal` destroys it at any time,
   * `timeoutMs` is for its beginning.
   * @throws NotFoundError `S3_OBJECT_NOT_FOUND`, `S3_BUCKET_NOT_FOUND`; the stream: ConflictError `S3_OBJECT_CHANGED`
   */
  async get(key: string, options: S3GetOptions = {}): Promise<Readable> {
    return (await this.#getBody(key, options)).body
  }

  /**
   * Reads an object to a file, several ranges side by side, each of which goes on at its next byte when its connection
   * breaks. A path gets the object whole or not at all; of a FileHandle the contents are replaced.
   * @throws as {@link get}; DataError `S3_BODY_CORRUPT`
   */
  async download(key: string, to: string | FileHandle, options: S3DownloadOptions = {}): Promise<S3WrittenObject> {
    return this.#run(options, `downloading ${this.#where(key)}`, async (signal) => {
      const context = await this.#downloadContext(key, options, signal)
      await (typeof to === 'string' ? downloadToPath(context, to) : downloadToHandle(context, to))
      return { etag: context.etag, size: context.size }
    })
  }

  /** As {@link download}, as a stream in order: for one reader that is faster than one connection. As {@link get} otherwise. */
  async downloadStream(key: string, options: S3DownloadOptions = {}): Promise<Readable> {
    return this.#lifecycle.run(options.signal, async (signal) => {
      const context = await withDeadline(
        { signal, timeoutMs: options.timeoutMs },
        { prefix: 'S3', action: `opening ${this.#where(key)}` },
        (deadline) => this.#downloadContext(key, options, deadline.signal),
      )
      const release = this.#lifecycle.hold()
      const body = downloadStream({ ...context, signal, retry: this.#retry(signal) })
      body.once('close', release)
      return body
    })
  }

  /** What is going on between this handler and its server. */
  stats(): S3Stats {
    return this.#driver.stats
  }

  /** The bytes whole, with the etag they had. @throws as {@link get} */
  async getBytes(key: string, options: S3GetOptions = {}): Promise<{ readonly bytes: Buffer; readonly etag: string }> {
    const { start, end, versionId, customerKey, decompress = false } = options
    return this.#run(options, `reading ${this.#where(key)}`, async (signal) => {
      if (decompress === false) {
        const context = this.#readContext(key, { versionId, customerKey }, signal)
        return readWhole(context, { start, end })
      }
      const { body, etag } = await this.#getBody(key, { ...options, signal, timeoutMs: undefined })
      const chunks: Buffer[] = []
      for await (const chunk of body) chunks.push(chunk as Buffer)
      return { bytes: Buffer.concat(chunks), etag }
    })
  }

  /** The object as UTF-8 text. @throws as {@link get}; DataError `S3_NOT_UTF8`, `S3_COMPRESSION_BROKEN` */
  async getText(key: string, options: S3TextOptions = {}): Promise<string> {
    const { bytes } = await this.getBytes(key, { decompress: 'auto', ...options })
    return asText(bytes, this.#where(key))
  }

  /** The object as JSON; what it holds is for the caller to check. @throws as {@link getText}; DataError `S3_NOT_JSON` */
  getJson(key: string, options?: S3TextOptions): Promise<unknown>
  /** The object as JSON, as a schema of zod, valibot or another Standard Schema library wants it. @throws DataError `S3_JSON_INVALID` */
  getJson<T>(key: string, schema: StandardSchema<T>, options?: S3TextOptions): Promise<T>
  async getJson(key: string, second: StandardSchema | S3TextOptions = {}, third: S3TextOptions = {}): Promise<unknown> {
    const [schema, options] = isStandardSchema(second) ? [second, third] : [undefined, second]
    const value = asJson(await this.getText(key, options), this.#where(key))
    return schema === undefined ? value : validated(value, schema, this.#where(key))
  }

  /**
   * The lines of a text, without their LF or CRLF, as they arrive. `timeoutMs` is for the beginning, as with {@link get}.
   * @throws as {@link get}; DataError `S3_NOT_UTF8`, `S3_LINE_TOO_LONG`, `S3_COMPRESSION_BROKEN`, with key and line
   */
  async *lines(key: string, options: S3LinesOptions = {}): AsyncGenerator<string, void, undefined> {
    const body = await this.get(key, { decompress: 'auto', ...options })
    yield* readLines(body as AsyncIterable<Uint8Array>, this.#where(key), options.maxLineBytes)
  }

  /**
   * The rows of a CSV as RFC 4180 has it, as they arrive: objects by the names in its first row, or arrays.
   * @throws as {@link lines}; DataError `S3_CSV_BROKEN`, with key and line
   */
  async *csvRows<const Header extends boolean | readonly string[] = true>(
    key: string,
    options: S3CsvOptions<Header> = {},
  ): AsyncGenerator<S3CsvRow<Header>, void, undefined> {
    assertDelimiter(options.delimiter)
    const body = await this.get(key, { decompress: 'auto', ...options })
    yield* readCsvRows(body as AsyncIterable<Uint8Array>, this.#where(key), options)
  }

  /** All that the server says of an object. @throws NotFoundError `S3_OBJECT_NOT_FOUND`, `S3_BUCKET_NOT_FOUND` */
  async head(key: string, options: CallOptions & ReadFrom = {}): Promise<S3ObjectDetails> {
    const { versionId, customerKey } = options
    return this.#run(options, `looking at ${this.#where(key)}`, async (signal) => {
      try {
        const found = await this.#try(signal, () =>
          this.#driver.headObject(this.#fullKey(key), { versionId, customerKey, signal }),
        )
        return { ...found, key }
      } catch (error) {
        return this.#explainHead(error, key, { versionId, customerKey, signal })
      }
    })
  }

  /** False where there is no such object; a missing bucket is an error. */
  async exists(key: string, options: CallOptions = {}): Promise<boolean> {
    try {
      await this.head(key, options)
      return true
    } catch (error) {
      if (HandlerError.is(error) && error.code === 'S3_OBJECT_NOT_FOUND') return false
      throw error
    }
  }

  /**
   * Objects whose key begins with the prefix, asked for page by page as they are read, in the order of the server (on S3:
   * the bytes of the keys). With a delimiter, what has one behind the prefix comes as the common prefix that it begins
   * with, once for all. `timeoutMs` is for each page.
   */
  list(
    prefix: string,
    options?: S3ListOptions & { readonly delimiter?: undefined },
  ): AsyncGenerator<S3ObjectInfo, void, undefined>
  list(prefix: string, options: S3ListOptions): AsyncGenerator<S3ObjectInfo | S3CommonPrefix, void, undefined>
  async *list(prefix: string, options: S3ListOptions = {}): AsyncGenerator<S3ObjectInfo | S3CommonPrefix, void, undefined> {
    const { delimiter } = options
    const startAfter = options.startAfter === undefined ? undefined : this.#fullPrefix(options.startAfter)
    let next: string | undefined
    do {
      const after = next
      const page = await this.#run(options, `listing ${this.#where(prefix)}`, (signal) =>
        this.#try(signal, () =>
          this.#driver.listObjects(this.#fullPrefix(prefix), { signal, next: after, delimiter, startAfter }),
        ),
      )
      for (const common of page.prefixes) yield { prefix: this.#ownKey(common) }
      for (const { key, size, etag, lastModified } of page.items) yield { key: this.#ownKey(key), size, etag, lastModified }
      next = page.next
    } while (next !== undefined)
  }

  /**
   * Writes an object whole, replacing what was there. Up to `partSize` it is one request; a larger body goes in parts, of
   * which a failed one is sent again alone. A write that fails or is aborted leaves nothing.
   * @throws CapacityError `S3_TOO_MANY_PARTS` above 10 000 parts
   */
  async put(key: string, body: S3Body, options: S3PutOptions & ResumeOptions = {}): Promise<S3WrittenObject> {
    return this.#run(options, `writing ${this.#where(key)}`, async (signal) => {
      const written = await this.#upload(this.#fullKey(key), body, options, signal)
      await this.#reportClass(key, options, signal)
      return written
    })
  }

  /**
   * Writes only when nothing is there (`If-None-Match: *`): of many callers at once, one writes. An answer that was lost
   * is made good by asking whose object is there, so that a winner does not take itself for a loser.
   */
  async putIfAbsent(key: string, body: Uint8Array | string, options: S3PutOptions = {}): Promise<S3ConditionalWrite> {
    return this.#putIf(key, body, { ifNoneMatch: '*' }, options)
  }

  /** Writes only when the object still has this etag (`If-Match`). A missing object is `written: false`. */
  async putIfMatch(
    key: string,
    body: Uint8Array | string,
    etag: string,
    options: S3PutOptions = {},
  ): Promise<S3ConditionalWrite> {
    return this.#putIf(key, body, { ifMatch: etag }, options)
  }

  /** Deleting what is not there is no error. With `versionId`, that version is gone for good. */
  async delete(key: string, options: CallOptions & { readonly versionId?: string | undefined } = {}): Promise<void> {
    const { versionId } = options
    await this.#run(options, `deleting ${this.#where(key)}`, async (signal) => {
      try {
        await this.#try(signal, () => this.#driver.deleteObject(this.#fullKey(key), { signal, versionId }))
      } catch (error) {
        if (!HandlerError.is(error) || error.code !== 'S3_OBJECT_NOT_FOUND') throw error
      }
    })
  }

  /** Deletes 1 000 keys a request. Keys that the server refuses are in the result; an error is for the request itself. */
  async deleteMany(keys: Iterable<string> | AsyncIterable<string>, options: CallOptions = {}): Promise<S3DeleteResult> {
    return this.#run(options, `deleting from ${this.url}`, async (signal) => {
      const failed: FailedDelete[] = []
      let asked = 0
      const send = async (batch: readonly string[]): Promise<void> => {
        if (batch.length === 0) return
        const errors = await this.#try(signal, () => this.#driver.deleteObjects(batch, { signal }))
        failed.push(...errors.map(({ key, code, message }) => ({ key: this.#ownKey(key), code, message })))
        asked += batch.length
      }
      let batch: string[] = []
      for await (const key of keys) {
        if (!this.#deletesMany || UNFIT_FOR_XML.test(key)) {
          await this.delete(key, { signal })
          asked += 1
          continue
        }
        batch.push(this.#fullKey(key))
        if (batch.length < DELETE_BATCH) continue
        await send(batch)
        batch = []
      }
      await send(batch)
      return { deleted: asked - failed.length, failed }
    })
  }

  /** Multipart uploads under the prefix that were begun and not ended: by a process that was killed, or one still at work. */
  async *listUnfinishedUploads(prefix: string, options: CallOptions = {}): AsyncGenerator<S3UnfinishedUpload, void, undefined> {
    let next: { readonly key: string; readonly uploadId: string } | undefined
    do {
      const after = next
      const page = await this.#run(options, `listing the unfinished uploads of ${this.#where(prefix)}`, (signal) =>
        this.#try(signal, () => this.#driver.listMultipartUploads(this.#fullPrefix(prefix), { signal, after })),
      )
      for (const upload of page.items) yield { ...upload, key: this.#ownKey(upload.key) }
      next = page.next
    } while (next !== undefined)
  }

  /** Throws away an unfinished upload and its parts. One that is gone already is no error. */
  async abortUpload(upload: { readonly key: string; readonly uploadId: string }, options: CallOptions = {}): Promise<void> {
    await this.#run(options, `aborting an upload of ${this.#where(upload.key)}`, async (signal) => {
      try {
        await this.#try(signal, () => this.#driver.abortMultipartUpload(this.#fullKey(upload.key), upload.uploadId, { signal }))
      } catch (error) {
        if (!HandlerError.is(error) || error.code !== 'S3_UPLOAD_NOT_FOUND') throw error
      }
    })
  }

  /**
   * Throws away the unfinished uploads under a prefix that were begun so long ago. Give more time than your longest
   * upload takes: one that is still at work fails. Gives what was thrown away.
   */
  async abortUnfinishedUploads(
    options: CallOptions & { readonly prefix?: string | undefined; readonly olderThanMs: number },
  ): Promise<S3UnfinishedUpload[]> {
    const before = Date.now() - options.olderThanMs
    const aborted: S3UnfinishedUpload[] = []
    return this.#run(options, `aborting the unfinished uploads of ${this.url}`, async (signal) => {
      for await (const upload of this.listUnfinishedUploads(options.prefix ?? '', { signal })) {
        if (upload.initiated.getTime() > before) continue
        await this.abortUpload(upload, { signal })
        aborted.push(upload)
      }
      return aborted
    })
  }

  /**
   * Copies on the server: no byte passes here, whatever the size. The source is a key of this handler, a version of one,
   * or an object of another bucket. A copy onto itself changes metadata, class or encryption. A source that is replaced
   * meanwhile is an error.
   * @throws NotFoundError `S3_OBJECT_NOT_FOUND`; ConflictError `S3_PRECONDITION_FAILED`, `S3_OBJECT_CHANGED`
   */
  async copy(from: string | S3CopySource, to: string, options: S3CopyOptions = {}): Promise<S3WrittenObject> {
    const source = typeof from === 'string' ? { key: from } : from
    return this.#run(options, `copying to ${this.#where(to)}`, async (signal) => {
      const { etag, size } = await copyObject(this.#parts, source, to, options, signal)
      await this.#reportClass(to, options, signal)
      return { etag, size }
    })
  }

  /**
   * Copies, looks at the copy, and only then deletes the source, if it is still the one that was copied. A failure leaves
   * both. @throws as {@link copy}
   */
  async move(from: string, to: string, options: S3CopyOptions = {}): Promise<S3WrittenObject> {
    return this.#run(options, `moving ${this.#where(from)} to ${this.#where(to)}`, (signal) =>
      moveObject(this.#parts, from, to, options, signal),
    )
  }

  /**
   * Makes a prefix like a folder of this machine, or the folder like the prefix: transfers what is missing, has another
   * size or is newer at the source. No half file or object is ever seen, links are not followed, and no key leads out of
   * the folder. A failure ends it; run it again for the rest.
   * @throws ConfigError `S3_FOLDER_INVALID`
   */
  async sync(options: S3SyncOptions): Promise<S3SyncResult> {
    return this.#run(options, `syncing ${options.folder} with ${this.#where(options.prefix)}`, (signal) =>
      syncFolder(this, this.#config.partSize, options, signal),
    )
  }

  /** @throws RemoteError `S3_NOT_SUPPORTED` where the server has no tags */
  async getTags(
    key: string,
    options: CallOptions & { readonly versionId?: string | undefined } = {},
  ): Promise<Record<string, string>> {
    const { versionId } = options
    return this.#run(options, `reading the tags of ${this.#where(key)}`, (signal) =>
      readTags(this.#parts, this.#fullKey(key), { versionId, signal }),
    )
  }

  /** Puts these tags in place of all that the object has. */
  async setTags(
    key: string,
    tags: Readonly<Record<string, string>>,
    options: CallOptions & { readonly versionId?: string | undefined } = {},
  ): Promise<void> {
    const { versionId } = options
    await this.#run(options, `tagging ${this.#where(key)}`, (signal) =>
      writeTags(this.#parts, this.#fullKey(key), tags, { versionId, signal }),
    )
  }

  /**
   * An address by which anybody may read the object, until it expires. Nothing is asked of the server: it says at the
   * reading whether there is such an object and whether these credentials may read it.
   */
  async presignGet(key: string, options: S3PresignGetOptions = {}): Promise<S3Presigned> {
    return this.#run(options, `presigning ${this.#where(key)}`, () => presignGet(this.#parts, key, options))
  }

  /** An address by which anybody may write the object in one request of up to 5 GiB, with the headers given back. */
  async presignPut(key: string, options: S3PresignPutOptions = {}): Promise<S3Presigned> {
    return this.#run(options, `presigning ${this.#where(key)}`, () => presignPut(this.#parts, key, options))
  }

  /**
   * A form by which a browser may write the object, within what the options say of its size and headers. A key that ends
   * with a slash leaves the name behind it to the sender.
   */
  async presignPost(key: string, options: S3PresignPostOptions = {}): Promise<S3PresignedPost> {
    return this.#run(options, `presigning ${this.#where(key)}`, () => presignPost(this.#parts, key, options))
  }

  /** All versions and delete markers below the prefix, the newest of a key first. `timeoutMs` is for each page. */
  listVersions(prefix: string, options: CallOptions = {}): AsyncGenerator<S3ObjectVersion, void, undefined> {
    return listVersions(this.#parts, prefix, options)
  }

  /** Makes a version the latest again, by copying it: those between stay. */
  async restoreVersion(key: string, versionId: string, options: S3CopyOptions = {}): Promise<S3WrittenObject> {
    return this.copy({ key, versionId }, key, options)
  }

  /** Whether the bucket keeps versions. @throws RemoteError `S3_NOT_SUPPORTED` where the server cannot */
  async versioning(options: CallOptions = {}): Promise<S3Versioning> {
    return this.#run(options, `looking at the versioning of ${this.url}`, (signal) => getVersioning(this.#parts, signal))
  }

  /** For set-up and tests. What was kept stays when it is suspended. */
  async setVersioning(versioning: 'enabled' | 'suspended', options: CallOptions = {}): Promise<void> {
    await this.#run(options, `setting the versioning of ${this.url}`, (signal) => setVersioning(this.#parts, versioning, signal))
  }

  /** @throws PermissionError where the server does not even say whether there is one */
  async bucketExists(options: CallOptions = {}): Promise<boolean> {
    return this.#run(options, `looking for bucket ${this.#config.bucket}`, async (signal) => {
      try {
        await this.#headBucket(signal, this.#retry(signal))
        return true
      } catch (error) {
        if (HandlerError.is(error) && error.code === 'S3_BUCKET_NOT_FOUND') return false
        throw error
      }
    })
  }

  /** For set-up and tests. Gives true when the bucket was made by this call. */
  async createBucketIfAbsent(options: CallOptions = {}): Promise<boolean> {
    if (await this.bucketExists(options)) return false
    return this.#run(options, `making bucket ${this.#config.bucket}`, async (signal) => {
      try {
        await this.#try(signal, () => this.#driver.createBucket({ signal }))
        return true
      } catch (error) {
        if (HandlerError.is(error) && error.code === 'S3_BUCKET_EXISTS') return false
        throw error
      }
    })
  }

  /**
   * Reaches the bucket and lists one key, each tried once. With `write`, also proves that of two writes of one key the
   * second is refused: without that, ledgers and manifests on this server are not safe.
   */
  async check(options: S3CheckOptions = {}): Promise<CheckResult> {
    return this.#run(options, `checking ${this.url}`, async (signal) => {
      const once: RetryOptions = { policy: { attempts: 1 }, signal }
      const attempts: CheckAttempt[] = [
        { name: `reach bucket ${this.#config.bucket}`, run: () => this.#headBucket(signal, once).then(() => undefined) },
        {
          name: `list ${this.url}`,
          run: async () => {
            const page = await this.#driver.listObjects(this.#fullPrefix(''), { signal, limit: 1 })
            return page.items.length === 0 ? 'empty' : 'has objects'
          },
        },
      ]
      if (options.write === true)
        attempts.push({ name: 'conditional write', run: () => this.#probeConditionalWrite(signal, once) })
      const { endpoint, region } = this.#config
      return runCheck(`${this.url} at ${endpoint ?? `AWS ${region}`}`, attempts, signal)
    })
  }

  /**
   * Finds what the server can do, by trying it on small objects under `_dialect/`, which it takes away again. The handler
   * then does without what the server lacks: see `changed` and `deleteObjects`.
   */
  async dialect(options: CallOptions = {}): Promise<S3Dialect> {
    return this.#run(options, `probing ${this.url}`, async (signal) => {
      const found = await probeDialect(
        this.#parts,
        (changed) => new S3Driver({ ...this.#config, ...changed }, this.#credentials),
        signal,
      )
      this.#config = { ...this.#config, ...found.changed }
      this.#driver.configure(this.#config)
      this.#deletesMany = found.deleteObjects
      return found
    })
  }

  /** Lets no new call in, waits for those under way (aborting them after the grace), closes connections. Twice is once. */
  close(options: CloseOptions = {}): Promise<void> {
    return this.#lifecycle.close(options)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #getBody(key: string, options: S3GetOptions): Promise<{ readonly body: Readable; readonly etag: string }> {
    const { start, end, versionId, customerKey, decompress = false } = options
    if (decompress !== false && (start !== undefined || end !== undefined))
      throw new ConfigError('a range is of the bytes as they are stored: decompress takes whole objects only', {
        code: 'S3_OPTIONS_INVALID',
      })
    const from = { versionId, customerKey }
    const fullKey = this.#fullKey(key)
    return this.#lifecycle.run(options.signal, async (signal) => {
      const first = await withDeadline(
        { signal, timeoutMs: options.timeoutMs },
        { prefix: 'S3', action: `opening ${this.#where(key)}` },
        (deadline) =>
          this.#try(deadline.signal, () => this.#driver.getObject(fullKey, { ...from, signal: deadline.signal, start, end })),
      )
      const release = this.#lifecycle.hold()
      const request: S3Request = {
        action: 'GetObject',
        bucket: this.#config.bucket,
        key: fullKey,
        endpoint: this.#config.endpoint,
      }
      const body = resumingBody({
        request,
        first,
        reopen: (begin, last, ifMatch) => this.#driver.getObject(fullKey, { ...from, signal, start: begin, end: last, ifMatch }),
        retry: this.#retry(signal),
        stallTimeoutMs: this.#config.stallTimeoutMs,
        signal,
        verify: start === undefined && end === undefined,
      })
      body.once('close', release)
      if (decompress === false) return { body, etag: first.etag }
      try {
        return { body: decompressed(body, compressionOf(key, first.contentEncoding), this.#where(key)), etag: first.etag }
      } catch (error) {
        body.destroy()
        throw error
      }
    })
  }

  async #upload(
    fullKey: string,
    body: S3Body,
    options: S3PutOptions & ResumeOptions,
    signal: AbortSignal,
  ): Promise<S3WrittenObject> {
    const context = this.#uploadContext(signal)
    if (isFile(body)) return uploadFile(context, fullKey, body, options)
    if (options.resume !== undefined || options.onToken !== undefined)
      throw new ConfigError('only the upload of a file can be resumed', { code: 'S3_OPTIONS_INVALID' })
    if (typeof body === 'string') return uploadBytes(context, fullKey, Buffer.from(body), options)
    if (body instanceof Uint8Array) return uploadBytes(context, fullKey, body, options)
    return uploadStream(context, fullKey, body, options)
  }

  /** No answer to a write tells the class: the first object of each is looked at, and a server that ignores it is told of. */
  async #reportClass(key: string, { storageClass, encryption }: ObjectHeaders, signal: AbortSignal): Promise<void> {
    if (storageClass === undefined || storageClass === 'STANDARD' || this.#classesSeen.has(storageClass)) return
    this.#classesSeen.add(storageClass)
    const customerKey = customerKeyOf(encryption)
    // Who may write need not be allowed to look.
    const found = await this.#driver.headObject(this.#fullKey(key), { customerKey, signal }).catch(() => undefined)
    if (found === undefined || found.storageClass === storageClass) return
    const stored = found.storageClass ?? 'STANDARD'
    this.#logger.warn({ key: this.#where(key), storageClass, stored }, 'the server ignores the storage class')
  }

  async #putIf(key: string, body: Uint8Array | string, condition: Condition, options: S3PutOptions): Promise<S3ConditionalWrite> {
    const bytes = typeof body === 'string' ? Buffer.from(body) : body
    return this.#run(options, `writing ${this.#where(key)}`, async (signal) => {
      const context = { driver: this.#driver, retry: this.#retry(signal), signal }
      const etag = await conditionalPut(context, this.#fullKey(key), bytes, condition, options)
      if (etag !== undefined) await this.#reportClass(key, options, signal)
      return etag === undefined ? { written: false } : { written: true, etag, size: bytes.byteLength }
    })
  }

  async #probeConditionalWrite(signal: AbortSignal, once: RetryOptions): Promise<string> {
    const key = this.#fullKey(`${PROBE_KEY}-${crypto.randomUUID()}`)
    const context = { driver: this.#driver, retry: once, signal }
    try {
      const first = await conditionalPut(context, key, Buffer.from('1'), { ifNoneMatch: '*' }, {})
      const second = await conditionalPut(context, key, Buffer.from('2'), { ifNoneMatch: '*' }, {})
      if (first !== undefined && second === undefined) return 'the second of two was refused'
    } finally {
      await this.#driver.deleteObject(key, { signal }).catch(() => undefined)
    }
    throw new ConflictError(`${this.#config.endpoint ?? 'the server'} ignores If-None-Match: two writers would both win`, {
      code: 'S3_CONDITIONAL_WRITES_IGNORED',
      context: { bucket: this.#config.bucket, key },
    })
  }

  async #headBucket(signal: AbortSignal, options: RetryOptions): Promise<void> {
    try {
      await retry(() => this.#driver.headBucket({ signal }), options)
      this.#bucketSeen = true
    } catch (error) {
      if (!HandlerError.is(error) || error.outcome !== 'permission') throw error
      // The answer to HEAD has no body: a list says whether it is the credentials or the rights.
      await retry(() => this.#driver.listObjects(this.#fullPrefix(''), { signal, limit: 1 }), options)
    }
  }

  /** The answer to HEAD has no body, so 404 and 403 do not say what is wrong. The same question as a GET does. */
  async #explainHead(error: unknown, key: string, from: ReadFrom & { readonly signal: AbortSignal }): Promise<never> {
    if (!HandlerError.is(error)) throw error
    if (error.outcome !== 'permission' && (error.outcome !== 'not-found' || this.#bucketSeen)) throw error
    try {
      const { body } = await this.#driver.getObject(this.#fullKey(key), { ...from, start: 0, end: 0 })
      body.on('error', () => undefined).destroy()
    } catch (explained) {
      from.signal.throwIfAborted()
      if (!HandlerError.is(explained)) throw error
      if (explained.code === 'S3_OBJECT_NOT_FOUND') this.#bucketSeen = true
      if (['not-found', 'auth', 'permission'].includes(explained.outcome)) throw explained
    }
    throw error
  }

  #readContext(key: string, from: ReadFrom, signal: AbortSignal): ReadContext {
    const { bucket, endpoint } = this.#config
    const fullKey = this.#fullKey(key)
    const request = { action: 'GetObject', bucket, key: fullKey, endpoint }
    return { driver: this.#driver, request, key: fullKey, from, retry: this.#retry(signal), signal }
  }

  async #downloadContext(key: string, options: S3DownloadOptions, signal: AbortSignal): Promise<DownloadContext> {
    const { partSize, concurrency } = this.#config
    const { versionId, customerKey, memoryBytes = partSize * concurrency } = options
    const from = { versionId, customerKey }
    const context = this.#readContext(key, from, signal)
    const { size, etag, checksum } = await this.#try(signal, () =>
      this.#driver.headObject(context.key, { ...from, signal }),
    ).catch((error: unknown) => this.#explainHead(error, key, { ...from, signal }))
    return { ...context, size, etag, checksum, partSize, concurrency, memoryBytes }
  }

  #uploadContext(signal: AbortSignal): UploadContext {
    const { partSize, concurrency, checksums, checksumAlgorithm } = this.#config
    return {
      driver: this.#driver,
      partSize,
      concurrency,
      checksum: checksums === 'when-required' ? undefined : checksumAlgorithm,
      retry: this.#retry(signal),
      signal,
      onLeftover: ({ key, uploadId, error }) =>
        this.#logger.warn({ bucket: this.#config.bucket, key, uploadId, error }, 'an unfinished upload could not be aborted'),
    }
  }

  /** Each request may be made twice: a write replaces the object whole, and what must not be repeated has its own way. */
  #retry(signal: AbortSignal): RetryOptions {
    return {
      policy: this.#config.retry,
      signal,
      idempotent: true,
      onRetry: (error, next) =>
        this.#logger.warn({ code: error.code, ...error.context, ...next }, `trying again: ${error.message}`),
    }
  }

  #try<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    return retry(work, this.#retry(signal))
  }

  #run<T>(options: CallOptions, action: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    return this.#lifecycle.run(options.signal, (signal) =>
      withDeadline({ signal, timeoutMs: options.timeoutMs }, { prefix: 'S3', action }, (deadline) => work(deadline.signal)),
    )
  }

  #where(key: string): string {
    return `${this.url}/${key}`
  }

  #fullKey(key: string): string {
    const full = this.#fullPrefix(key)
    if (key === '') assertKey(key)
    assertKey(full)
    return full
  }

  #fullPrefix(prefix: string): string {
    return this.#config.prefix === '' ? prefix : `${this.#config.prefix}/${prefix}`
  }

  #ownKey(fullKey: string): string {
    return this.#config.prefix === '' ? fullKey : fullKey.slice(this.#config.prefix.length + 1)
  }
}
