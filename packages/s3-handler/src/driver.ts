import { Readable } from 'node:stream'
import { HandlerError, withDeadline } from '@common-handlers/core'
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CopyObjectCommand,
  type CopyObjectCommandInput,
  type CopyObjectCommandOutput,
  CreateBucketCommand,
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  DeleteObjectsCommand,
  DeleteObjectTaggingCommand,
  type DeleteObjectTaggingCommandInput,
  type DeleteObjectTaggingCommandOutput,
  GetBucketVersioningCommand,
  type GetBucketVersioningCommandInput,
  type GetBucketVersioningCommandOutput,
  GetObjectCommand,
  GetObjectTaggingCommand,
  type GetObjectTaggingCommandInput,
  type GetObjectTaggingCommandOutput,
  HeadBucketCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  ListObjectVersionsCommand,
  type ListObjectVersionsCommandInput,
  type ListObjectVersionsCommandOutput,
  PutBucketVersioningCommand,
  type PutBucketVersioningCommandInput,
  type PutBucketVersioningCommandOutput,
  PutObjectCommand,
  PutObjectTaggingCommand,
  type PutObjectTaggingCommandInput,
  type PutObjectTaggingCommandOutput,
  S3Client,
  type S3ClientConfig,
  UploadPartCommand,
  UploadPartCopyCommand,
  type UploadPartCopyCommandInput,
  type UploadPartCopyCommandOutput,
} from '@aws-sdk/client-s3'
import type { S3Config } from './config.ts'
import type { CredentialCache, SigningCredentials } from './credentials.ts'
import { type S3Request, toS3Error } from './errors.ts'
import { customerKeyHeaders, type ObjectHeaders, objectHeaders } from './object-headers.ts'

/** Requests that no transfer needs, under the names that S3 has for them: what goes in and what comes out. */
interface RareRequests {
  CopyObject: [CopyObjectCommandInput, CopyObjectCommandOutput]
  DeleteObjectTagging: [DeleteObjectTaggingCommandInput, DeleteObjectTaggingCommandOutput]
  GetBucketVersioning: [GetBucketVersioningCommandInput, GetBucketVersioningCommandOutput]
  GetObjectTagging: [GetObjectTaggingCommandInput, GetObjectTaggingCommandOutput]
  ListObjectVersions: [ListObjectVersionsCommandInput, ListObjectVersionsCommandOutput]
  PutBucketVersioning: [PutBucketVersioningCommandInput, PutBucketVersioningCommandOutput]
  PutObjectTagging: [PutObjectTaggingCommandInput, PutObjectTaggingCommandOutput]
  UploadPartCopy: [UploadPartCopyCommandInput, UploadPartCopyCommandOutput]
}

const rareCommands = {
  CopyObject: CopyObjectCommand,
  DeleteObjectTagging: DeleteObjectTaggingCommand,
  GetBucketVersioning: GetBucketVersioningCommand,
  GetObjectTagging: GetObjectTaggingCommand,
  ListObjectVersions: ListObjectVersionsCommand,
  PutBucketVersioning: PutBucketVersioningCommand,
  PutObjectTagging: PutObjectTaggingCommand,
  UploadPartCopy: UploadPartCopyCommand,
}

/** Which object is read: that version of it, under that customer's key. */
export interface ReadFrom {
  readonly versionId?: string | undefined
  /** 32 bytes, for an object that was stored under them. */
  readonly customerKey?: Uint8Array | undefined
}

export interface OpenedBody {
  readonly body: Readable
  readonly etag: string
  readonly lastModified: Date
  /** Bytes of this body. */
  readonly length: number
  /** Place of the first byte in the object. */
  readonly offset: number
  readonly contentEncoding: string | undefined
  readonly metadata: Readonly<Record<string, string>>
}

export interface StoredObject {
  readonly key: string
  readonly size: number
  readonly etag: string
  readonly lastModified: Date
}

/** All that the server says of an object. */
export interface ObjectDetails extends StoredObject {
  readonly contentType: string | undefined
  readonly contentEncoding: string | undefined
  readonly contentDisposition: string | undefined
  readonly cacheControl: string | undefined
  /** Names in lower case. */
  readonly metadata: Readonly<Record<string, string>>
  /** Undefined for the standard one. */
  readonly storageClass: string | undefined
  /** Undefined in a bucket that keeps no versions. */
  readonly versionId: string | undefined
  /** `AES256`, `aws:kms`; undefined where the server does not say. A customer's key is not told. */
  readonly encryption: string | undefined
  readonly kmsKeyId: string | undefined
  /** How many tags it has; undefined where the server does not say. */
  readonly tagCount: number | undefined
}

export interface Page<T> {
  readonly items: readonly T[]
  readonly next: string | undefined
}

export interface UploadMarker {
  readonly key: string
  readonly uploadId: string
}

export interface FailedDelete {
  readonly key: string
  readonly code: string
  readonly message: string
}

/** What the server says of credentials that have ended. */
const noLongerValid = new Set(['S3_TOKEN_EXPIRED', 'S3_TOKEN_INVALID', 'S3_ACCESS_KEY_UNKNOWN'])

/** What is true of one try of one request. */
export interface Try {
  readonly signal: AbortSignal
  /** Default: the handler's `timeoutMs`. */
  readonly timeoutMs?: number | undefined
}

/** Completing an upload joins all parts on the server; some take minutes before the first byte of the answer. */
const COMPLETE_TIMEOUT_FACTOR = 10
/** Uploads are watched for stalls; this only ends a try whose bytes trickle, at 8 kB a second. */
const TRICKLE_BYTES_PER_MS = 8

/**
 * The requests that are made of S3, each tried once. Everything from the SDK stays in this file: its answers leave as
 * plain values, its errors as core's.
 */
export class S3Driver {
  readonly #config: S3Config
  readonly #credentials: CredentialCache | undefined
  #clients: { readonly requests: S3Client; readonly uploads: S3Client } | undefined

  /** Without credentials of a provider, those of the configuration or of the AWS chain. */
  constructor(config: S3Config, credentials?: CredentialCache) {
    this.#config = config
    this.#credentials = credentials
  }

  /** The whole key is needed: the driver knows no prefix. */
  async getObject(
    key: string,
    options: Try & {
      readonly start?: number | undefined
      readonly end?: number | undefined
      readonly ifMatch?: string | undefined
    } & ReadFrom,
  ): Promise<OpenedBody> {
    const { start, end, ifMatch, versionId, customerKey } = options
    const range = start === undefined && end === undefined ? undefined : `bytes=${start ?? 0}-${end ?? ''}`
    const { bucket } = this.#config
    const command = new GetObjectCommand({ Bucket: bucket, Key: key, Range: range, IfMatch: ifMatch, VersionId: versionId })
    withHeaders(command, customerKeyHeaders(customerKey))
    // The time-out ends with the headers; the caller's signal stays with the stream.
    const answer = await this.#once('GetObject', key, options, (abortSignal) =>
      this.#open().requests.send(command, { abortSignal }),
    )
    if (!(answer.Body instanceof Readable)) throw new TypeError('the SDK gave no stream')
    const offset = Number(/^bytes (\d+)-/.exec(answer.ContentRange ?? '')?.[1] ?? 0)
    return {
      body: answer.Body,
      etag: quoted(answer.ETag),
      lastModified: answer.LastModified ?? new Date(0),
      length: answer.ContentLength ?? 0,
      offset,
      contentEncoding: answer.ContentEncoding,
      metadata: answer.Metadata ?? {},
    }
  }

  async headObject(key: string, options: Try & ReadFrom): Promise<ObjectDetails> {
    const command = new HeadObjectCommand({ Bucket: this.#config.bucket, Key: key, VersionId: options.versionId })
    withHeaders(command, customerKeyHeaders(options.customerKey))
    const answer = await this.#once('HeadObject', key, options, (abortSignal) =>
      this.#open().requests.send(command, { abortSignal }),
    )
    return {
      key,
      size: answer.ContentLength ?? 0,
      etag: quoted(answer.ETag),
      lastModified: answer.LastModified ?? new Date(0),
      contentType: answer.ContentType,
      contentEncoding: answer.ContentEncoding,
      contentDisposition: answer.ContentDisposition,
      cacheControl: answer.CacheControl,
      metadata: answer.Metadata ?? {},
      storageClass: answer.StorageClass === 'STANDARD' ? undefined : answer.StorageClass,
      versionId: answer.VersionId,
      encryption: answer.ServerSideEncryption,
      kmsKeyId: answer.SSEKMSKeyId,
      tagCount: answer.TagCount,
    }
  }

  async listObjects(
    prefix: string,
    options: Try & {
      readonly next?: string | undefined
      readonly limit?: number | undefined
      readonly delimiter?: string | undefined
      readonly startAfter?: string | undefined
    },
  ): Promise<Page<StoredObject> & { readonly prefixes: readonly string[] }> {
    const command = new ListObjectsV2Command({
      Bucket: this.#config.bucket,
      Prefix: prefix,
      MaxKeys: options.limit,
      ContinuationToken: options.next,
      Delimiter: options.delimiter,
      StartAfter: options.startAfter,
      // XML cannot carry every character that a key may hold.
      EncodingType: 'url',
    })
    const answer = await this.#once('ListObjectsV2', undefined, options, (abortSignal) =>
      this.#open().requests.send(command, { abortSignal }),
    )
    const items = (answer.Contents ?? []).map((object) => ({
      key: decodeKey(object.Key ?? '', answer.EncodingType),
      size: object.Size ?? 0,
      etag: quoted(object.ETag),
      lastModified: object.LastModified ?? new Date(0),
    }))
    const prefixes = (answer.CommonPrefixes ?? []).map((common) => decodeKey(common.Prefix ?? '', answer.EncodingType))
    return { items, prefixes, next: answer.IsTruncated === true ? answer.NextContinuationToken : undefined }
  }

  /** Gives the etag. */
  async putObject(
    key: string,
    body: Uint8Array,
    options: Try & ObjectHeaders & { readonly ifNoneMatch?: '*' | undefined; readonly ifMatch?: string | undefined },
  ): Promise<string> {
    const command = new PutObjectCommand({
      Bucket: this.#config.bucket,
      Key: key,
      Body: body,
      ContentLength: body.byteLength,
      IfNoneMatch: options.ifNoneMatch,
      IfMatch: options.ifMatch,
    })
    withHeaders(command, objectHeaders(options))
    const answer = await this.#once('PutObject', key, this.#uploadTry(options, body), (abortSignal) =>
      this.#open().uploads.send(command, { abortSignal }),
    )
    return quoted(answer.ETag)
  }

  /** Gives the upload's id. */
  async createMultipartUpload(key: string, options: Try & ObjectHeaders): Promise<string> {
    const command = new CreateMultipartUploadCommand({ Bucket: this.#config.bucket, Key: key })
    withHeaders(command, objectHeaders(options))
    const answer = await this.#once('CreateMultipartUpload', key, options, (abortSignal) =>
      this.#open().requests.send(command, { abortSignal }),
    )
    return answer.UploadId ?? ''
  }

  /** Gives the part's etag. Parts count from 1. */
  async uploadPart(key: string, uploadId: string, partNumber: number, body: Uint8Array, options: Try): Promise<string> {
    const command = new UploadPartCommand({
      Bucket: this.#config.bucket,
      Key: key,
      UploadId: uploadId,
      PartNumber: partNumber,
      Body: body,
      ContentLength: body.byteLength,
    })
    const answer = await this.#once('UploadPart', key, this.#uploadTry(options, body), (abortSignal) =>
      this.#open().uploads.send(command, { abortSignal }),
    )
    return quoted(answer.ETag)
  }

  /** Gives the object's etag. */
  async completeMultipartUpload(key: string, uploadId: string, etags: readonly string[], options: Try): Promise<string> {
    const command = new CompleteMultipartUploadCommand({
      Bucket: this.#config.bucket,
      Key: key,
      UploadId: uploadId,
      MultipartUpload: { Parts: etags.map((etag, index) => ({ ETag: etag, PartNumber: index + 1 })) },
    })
    const timeoutMs = (options.timeoutMs ?? this.#config.timeoutMs) * COMPLETE_TIMEOUT_FACTOR
    const answer = await this.#once('CompleteMultipartUpload', key, { ...options, timeoutMs }, (abortSignal) =>
      this.#open().requests.send(command, { abortSignal }),
    )
    return quoted(answer.ETag)
  }

  async abortMultipartUpload(key: string, uploadId: string, options: Try): Promise<void> {
    const command = new AbortMultipartUploadCommand({ Bucket: this.#config.bucket, Key: key, UploadId: uploadId })
    await this.#once('AbortMultipartUpload', key, options, (abortSignal) => this.#open().requests.send(command, { abortSignal }))
  }

  async listMultipartUploads(
    prefix: string,
    options: Try & { readonly after?: UploadMarker | undefined },
  ): Promise<{
    readonly items: readonly (UploadMarker & { readonly initiated: Date })[]
    readonly next: UploadMarker | undefined
  }> {
    const command = new ListMultipartUploadsCommand({
      Bucket: this.#config.bucket,
      Prefix: prefix,
      KeyMarker: options.after?.key,
      UploadIdMarker: options.after?.uploadId,
      // No encoding asked for: SeaweedFS says that it encodes these keys, and does not.
    })
    const answer = await this.#once('ListMultipartUploads', undefined, options, (abortSignal) =>
      this.#open().requests.send(command, { abortSignal }),
    )
    const items = (answer.Uploads ?? []).map((upload) => ({
      key: upload.Key ?? '',
      uploadId: upload.UploadId ?? '',
      initiated: upload.Initiated ?? new Date(0),
    }))
    const more = answer.IsTruncated === true
    return {
      items,
      next:
        more && answer.NextKeyMarker !== undefined
          ? { key: answer.NextKeyMarker, uploadId: answer.NextUploadIdMarker ?? '' }
          : undefined,
    }
  }

  async deleteObject(
    key: string,
    options: Try & { readonly versionId?: string | undefined; readonly ifMatch?: string | undefined },
  ): Promise<void> {
    const { versionId, ifMatch } = options
    const command = new DeleteObjectCommand({ Bucket: this.#config.bucket, Key: key, VersionId: versionId, IfMatch: ifMatch })
    await this.#once('DeleteObject', key, options, (abortSignal) => this.#open().requests.send(command, { abortSignal }))
  }

  /** At most 1 000 keys. Gives those that could not be deleted. */
  async deleteObjects(keys: readonly string[], options: Try): Promise<FailedDelete[]> {
    const command = new DeleteObjectsCommand({
      Bucket: this.#config.bucket,
      Delete: { Objects: keys.map((key) => ({ Key: key })), Quiet: true },
    })
    const answer = await this.#once('DeleteObjects', undefined, options, (abortSignal) =>
      this.#open().requests.send(command, { abortSignal }),
    )
    return (answer.Errors ?? []).map(({ Key, Code, Message }) => ({
      key: Key ?? '',
      code: Code ?? 'Unknown',
      message: Message ?? '',
    }))
  }

  async headBucket(options: Try): Promise<void> {
    const command = new HeadBucketCommand({ Bucket: this.#config.bucket })
    await this.#once('HeadBucket', undefined, options, (abortSignal) => this.#open().requests.send(command, { abortSignal }))
  }

  async createBucket(options: Try): Promise<void> {
    const { bucket, region, endpoint } = this.#config
    // AWS wants the region said twice, but not for its first one; other servers have no constraint to satisfy.
    const elsewhere = endpoint === undefined && region !== 'us-east-1'
    const command = new CreateBucketCommand({
      Bucket: bucket,
      ...(elsewhere ? { CreateBucketConfiguration: { LocationConstraint: region as never } } : {}),
    })
    await this.#once('CreateBucket', undefined, options, (abortSignal) => this.#open().requests.send(command, { abortSignal }))
  }

  /** A request that has no method of its own, with these headers besides those that its input makes. */
  async send<Name extends keyof RareRequests>(
    action: Name,
    input: Omit<RareRequests[Name][0], 'Bucket'>,
    options: Try & { readonly headers?: Readonly<Record<string, string>> | undefined },
  ): Promise<RareRequests[Name][1]> {
    const Command = rareCommands[action] as unknown as new (input: unknown) => CopyObjectCommand
    const command = withHeaders(new Command({ ...input, Bucket: this.#config.bucket }), options.headers ?? {})
    const { Key } = input as { readonly Key?: string }
    const answer = await this.#once(action, Key, options, (abortSignal) => this.#open().requests.send(command, { abortSignal }))
    return answer as RareRequests[Name][1]
  }

  /** Closes every connection. */
  destroy(): void {
    this.#clients?.requests.destroy()
    this.#clients?.uploads.destroy()
    this.#clients = undefined
  }

  #uploadTry<T extends Try>(options: T, body: Uint8Array): T {
    const timeoutMs = (options.timeoutMs ?? this.#config.timeoutMs) + body.byteLength / TRICKLE_BYTES_PER_MS
    return { ...options, timeoutMs: Math.ceil(timeoutMs) }
  }

  async #once<T>(action: string, key: string | undefined, options: Try, send: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const { bucket, endpoint, timeoutMs } = this.#config
    const request: S3Request = { action, bucket, key, endpoint }
    const call = { signal: options.signal, timeoutMs: options.timeoutMs ?? timeoutMs }
    return withDeadline(call, { prefix: 'S3', action: `${action} on s3://${bucket}/${key ?? ''}` }, async ({ signal }) => {
      const credentials = await this.#credentials?.get()
      for (let renewed = false; ; renewed = true) {
        try {
          return await send(signal)
        } catch (thrown) {
          if (signal.aborted && !HandlerError.is(thrown)) throw signal.reason
          const error = toS3Error(thrown, request)
          // A lease that was revoked before its time: newer credentials may do.
          const stale = credentials !== undefined && !renewed && noLongerValid.has(error.code)
          if (!stale) throw error
          this.#credentials?.refuse(credentials.accessKeyId)
        }
      }
    })
  }

  /**
   * Two clients, since the SDK has one time-out of silence for a client: an upload must not fall silent, but a download
   * does whenever its reader takes a rest.
   */
  #open(): { readonly requests: S3Client; readonly uploads: S3Client } {
    if (this.#clients !== undefined) return this.#clients
    const requests = new S3Client(this.#clientConfig(0))
    const uploads = new S3Client({ ...this.#clientConfig(this.#config.stallTimeoutMs), credentials: requests.config.credentials })
    for (const client of [requests, uploads]) this.#chooseSigning(client)
    this.#clients = { requests, uploads }
    return this.#clients
  }

  #clientConfig(socketTimeout: number): S3ClientConfig {
    const { endpoint, region, accessKeyId, secretAccessKey, sessionToken, forcePathStyle, checksums, connectTimeoutMs } =
      this.#config
    const checksum = checksums === 'when-required' ? 'WHEN_REQUIRED' : 'WHEN_SUPPORTED'
    // No limit to the sockets: a body that nobody reads holds one, and must not keep the next request waiting.
    const agent = { keepAlive: true, maxSockets: Infinity, maxFreeSockets: 64 }
    return {
      region,
      ...(endpoint === undefined ? {} : { endpoint }),
      forcePathStyle: forcePathStyle ?? endpoint !== undefined,
      ...(this.#credentials === undefined ? {} : { credentials: identity(this.#credentials) }),
      ...(accessKeyId === undefined || secretAccessKey === undefined
        ? {}
        : {
            credentials: {
              accessKeyId,
              secretAccessKey: secretAccessKey.expose(),
              ...(sessionToken === undefined ? {} : { sessionToken: sessionToken.expose() }),
            },
          }),
      requestChecksumCalculation: checksum,
      responseChecksumValidation: checksum,
      maxAttempts: 1,
      requestHandler: { connectionTimeout: connectTimeoutMs, socketTimeout, httpAgent: agent, httpsAgent: agent },
    }
  }

  #chooseSigning(client: S3Client): void {
    const { signPayload, endpoint } = this.#config
    const plain = endpoint?.startsWith('http:') === true
    if (signPayload === 'always' || (signPayload === 'http' && plain)) return
    client.middlewareStack.add(
      (next) => async (args) => {
        const request = args.request as { headers?: Record<string, string>; body?: unknown }
        if (request.headers !== undefined && request.body instanceof Uint8Array) {
          request.headers['x-amz-content-sha256'] = 'UNSIGNED-PAYLOAD'
        }
        return next(args)
      },
      { step: 'build', name: 'unsignedPayload', priority: 'low' },
    )
  }
}

/** With an end that has passed, so that the SDK does not keep them in a cache of its own and asks ours each time. */
function identity(cache: CredentialCache): () => Promise<SigningCredentials> {
  return async () => ({ ...(await cache.get()), expiration: new Date(0) })
}

/** The part of every command that takes what happens to its request. */
interface WithMiddleware {
  readonly middlewareStack: { add(middleware: unknown, options: { readonly step: 'build'; readonly name: string }): void }
}

/** Adds headers to a request before it is signed. */
function withHeaders<T extends WithMiddleware>(command: T, headers: Readonly<Record<string, string>>): T {
  type Handle = (args: { readonly request: { readonly headers: Record<string, string> } }) => unknown
  const add =
    (next: Handle): Handle =>
    (args) => {
      Object.assign(args.request.headers, headers)
      return next(args)
    }
  command.middlewareStack.add(add, { step: 'build', name: 'objectHeaders' })
  return command
}

/** Etags in one form: with quotes, as the HTTP header has them. */
function quoted(etag: string | undefined): string {
  const text = etag ?? ''
  return text === '' || text.endsWith('"') ? text : `"${text}"`
}

function decodeKey(text: string, encoding: string | undefined): string {
  return encoding === 'url' ? decodeURIComponent(text.replaceAll('+', ' ')) : text
}
