import type { Readable } from 'node:stream'
import { HandlerError, type Secret } from '@common-handlers/core'
import type {
  CopyObjectCommand,
  CopyObjectCommandInput,
  CopyObjectCommandOutput,
  CreateBucketCommandInput,
  CreateBucketCommandOutput,
  DeleteObjectsCommandInput,
  DeleteObjectsCommandOutput,
  DeleteObjectTaggingCommandInput,
  DeleteObjectTaggingCommandOutput,
  GetBucketVersioningCommandInput,
  GetBucketVersioningCommandOutput,
  GetObjectTaggingCommandInput,
  GetObjectTaggingCommandOutput,
  ListMultipartUploadsCommandInput,
  ListMultipartUploadsCommandOutput,
  ListObjectVersionsCommandInput,
  ListObjectVersionsCommandOutput,
  PutBucketVersioningCommandInput,
  PutBucketVersioningCommandOutput,
  PutObjectTaggingCommandInput,
  PutObjectTaggingCommandOutput,
  S3Client,
  S3ClientConfig,
  UploadPartCopyCommandInput,
  UploadPartCopyCommandOutput,
} from '@aws-sdk/client-s3'
import { Stop } from './abort.ts'
import { type Checksum, type ChecksumAlgorithm, wholeChecksum, wholeOrParts } from './checksum.ts'
import type { S3Config } from './config.ts'
import type { CredentialCache, SigningCredentials } from './credentials.ts'
import { bodyStalled, encryptionIgnored, lengthMissing, type S3Request, tookTooLong, toS3Error } from './errors.ts'
import {
  type ConfirmedEncryption,
  customerKeyHeaders,
  isEncrypted,
  type ObjectHeaders,
  objectHeaders,
  type S3Encryption,
} from './object-headers.ts'
import { RequestLimit } from './request-limit.ts'
import { answerError, endpointOf, type HotRequest, Transport } from './transport.ts'
import type { BodyMemory, WireHead } from './wire.ts'
import { elements, escapeXml, textOf } from './xml.ts'

/** Requests that no transfer needs, under the names that S3 has for them: what goes in and what comes out. */
interface RareRequests {
  CopyObject: [CopyObjectCommandInput, CopyObjectCommandOutput]
  CreateBucket: [CreateBucketCommandInput, CreateBucketCommandOutput]
  DeleteObjects: [DeleteObjectsCommandInput, DeleteObjectsCommandOutput]
  DeleteObjectTagging: [DeleteObjectTaggingCommandInput, DeleteObjectTaggingCommandOutput]
  GetBucketVersioning: [GetBucketVersioningCommandInput, GetBucketVersioningCommandOutput]
  GetObjectTagging: [GetObjectTaggingCommandInput, GetObjectTaggingCommandOutput]
  ListMultipartUploads: [ListMultipartUploadsCommandInput, ListMultipartUploadsCommandOutput]
  ListObjectVersions: [ListObjectVersionsCommandInput, ListObjectVersionsCommandOutput]
  PutBucketVersioning: [PutBucketVersioningCommandInput, PutBucketVersioningCommandOutput]
  PutObjectTagging: [PutObjectTaggingCommandInput, PutObjectTaggingCommandOutput]
  UploadPartCopy: [UploadPartCopyCommandInput, UploadPartCopyCommandOutput]
}

type Sdk = typeof import('@aws-sdk/client-s3')

/** A part of an upload that the server has. */
export interface StoredPart {
  readonly partNumber: number
  readonly size: number
  readonly etag: string
}

/** Which object is read: that version of it, under that customer's key. */
export interface ReadFrom {
  readonly versionId?: string | undefined
  /** 32 bytes, for an object that was stored under them. */
  readonly customerKey?: Uint8Array | undefined
}

export interface ReadRange extends ReadFrom {
  readonly start?: number | undefined
  readonly end?: number | undefined
  readonly ifMatch?: string | undefined
}

export interface OpenedBody extends OpenedHead {
  readonly body: Readable
}

/** What the head of an answer says of the bytes that follow. */
export interface OpenedHead {
  readonly etag: string
  readonly lastModified: Date
  /** Bytes of this body. */
  readonly length: number
  /** Place of the first byte in the object. */
  readonly offset: number
  readonly contentEncoding: string | undefined
  readonly metadata: Readonly<Record<string, string>>
  /** Of the whole object; asked for with `checksums: 'when-supported'` only. */
  readonly checksum: Checksum | undefined
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
  /** `AES256`, `aws:kms`, or `customer` for a customer's key; undefined where the server does not say. */
  readonly encryption: string | undefined
  readonly kmsKeyId: string | undefined
  /** How many tags it has; undefined where the server does not say. */
  readonly tagCount: number | undefined
  /** Of the whole object, where it has one that can be verified here; asked for with `checksums: 'when-supported'` only. */
  readonly checksum: Checksum | undefined
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
  /** Default: the handler's own. */
  readonly bucket?: string | undefined
}

/** What is going on between a handler and its server. */
export interface S3Stats {
  /** Connections that are open, idle ones included; those of rare requests are not counted. */
  readonly connections: number
  /** Requests under way that have not begun to be answered with a stream. */
  readonly requests: number
  /** How many may be under way; Infinity until the server asks to slow down. */
  readonly requestLimit: number
  /** How often it has asked. */
  readonly slowDowns: number
}

/** Completing an upload joins all parts on the server; some take minutes before the first byte of the answer. */
const COMPLETE_TIMEOUT_FACTOR = 10
/** Uploads are watched for stalls; this only ends a try whose bytes trickle, at 8 kB a second. */
const TRICKLE_BYTES_PER_MS = 8

/**
 * The requests that are made of S3, each tried once. Those that transfers are made of go over {@link Transport}; the
 * others, and the credentials of the AWS chain, are the SDK's, which is loaded when one of them is wanted. Everything from
 * the SDK stays in this file: its answers leave as plain values, its errors as core's.
 */
export class S3Driver {
  #config: S3Config
  readonly #credentials: CredentialCache | undefined
  readonly #given: SigningCredentials | undefined
  readonly #transport: Transport
  readonly #limit = new RequestLimit()
  #sdk: Promise<{ readonly sdk: Sdk; readonly client: S3Client }> | undefined
  #destroyed = false

  /** Without credentials of a provider, those of the configuration or of the AWS chain. */
  constructor(config: S3Config, credentials?: CredentialCache) {
    this.#config = config
    this.#credentials = credentials
    this.#given = givenCredentials(config)
    this.#transport = new Transport(config)
  }

  /** From the next request on. Endpoint, region and credentials stay. */
  configure(config: S3Config): void {
    this.#config = config
    this.#transport.configure(config)
  }

  get stats(): S3Stats {
    const { limit, running, slowDowns } = this.#limit
    return { connections: this.#transport.connections, requests: running, requestLimit: limit, slowDowns }
  }

  /** The whole key is needed: the driver knows no prefix. */
  async getObject(key: string, options: Try & ReadRange): Promise<OpenedBody> {
    // The time-out ends with the headers; the caller's signal stays with the stream.
    return this.#hot('GetObject', key, options, async (signal, credentials) => {
      const request = this.#getRequest(key, options)
      const { headers, body } = await this.#transport.open(request, credentials, { signal, stallTimeoutMs: 0 })
      try {
        return { body, ...openedOf(headers, this.request('GetObject', key, options)) }
      } catch (error) {
        body.on('error', () => undefined).destroy()
        throw error
      }
    })
  }

  /**
   * Reads a range into the memory that `place` gives once the head of the answer is known. No limit but the signal's: the
   * bytes must not stop for `stallTimeoutMs` while there is room for them.
   */
  async fillObject(
    key: string,
    options: Try & ReadRange & { readonly place: (head: OpenedHead, resume: () => void) => BodyMemory },
  ): Promise<void> {
    const { stallTimeoutMs, timeoutMs } = this.#config
    const named = this.request('GetObject', key, options)
    const stop = new Stop(options.signal)
    const watch = (limitMs: number): void => stop.after(limitMs, () => bodyStalled(named, limitMs))
    try {
      await this.#hot('GetObject', key, { signal: stop.signal, timeoutMs: Infinity }, (signal, credentials) => {
        watch(options.timeoutMs ?? timeoutMs)
        const request = this.#getRequest(key, options)
        return this.#transport.fill(request, credentials, { signal, stallTimeoutMs: 0 }, ({ headers }, resume) => {
          const memory = options.place(openedOf(headers, named), () => {
            watch(stallTimeoutMs)
            resume()
          })
          watch(stallTimeoutMs)
          return {
            space: () => memory.space(),
            filled: (count) => {
              const more = memory.filled(count)
              if (more) stop.again()
              else stop.rest()
              return more
            },
          }
        })
      })
    } finally {
      stop.over()
    }
  }

  async headObject(key: string, options: Try & ReadFrom): Promise<ObjectDetails> {
    const { bucket = this.#config.bucket, versionId } = options
    const { headers } = await this.#hot('HeadObject', key, options, (signal, credentials) =>
      this.#collect(
        {
          method: 'HEAD',
          bucket,
          key,
          query: { versionId },
          headers: { ...customerKeyHeaders(options.customerKey), ...this.#checksumMode() },
        },
        credentials,
        signal,
      ),
    )
    const { etag, lastModified, length, contentEncoding, metadata, checksum } = openedOf(
      headers,
      this.request('HeadObject', key, options),
    )
    const storageClass = headers['x-amz-storage-class']
    const tagCount = headers['x-amz-tagging-count']
    const encryption = confirmedBy(headers)
    return {
      key,
      size: length,
      etag,
      lastModified,
      contentType: headers['content-type'],
      contentEncoding,
      contentDisposition: headers['content-disposition'],
      cacheControl: headers['cache-control'],
      metadata,
      storageClass: storageClass === 'STANDARD' ? undefined : storageClass,
      versionId: headers['x-amz-version-id'],
      encryption: encryption.server ?? (encryption.customer === undefined ? undefined : 'customer'),
      kmsKeyId: headers['x-amz-server-side-encryption-aws-kms-key-id'],
      tagCount: tagCount === undefined ? undefined : Number(tagCount),
      checksum,
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
    const query = {
      'list-type': 2,
      prefix,
      'max-keys': options.limit,
      'continuation-token': options.next,
      delimiter: options.delimiter,
      'start-after': options.startAfter,
      // XML cannot carry every character that a key may hold.
      'encoding-type': 'url',
    }
    const xml = await this.#xml('ListObjectsV2', 'ListBucketResult', undefined, options, { method: 'GET', query })
    const encoding = textOf(xml, 'EncodingType')
    const items = elements(xml, 'Contents').map((object) => ({
      key: decodeKey(textOf(object, 'Key') ?? '', encoding),
      size: Number(textOf(object, 'Size') ?? 0),
      etag: quoted(textOf(object, 'ETag')),
      lastModified: new Date(textOf(object, 'LastModified') ?? 0),
    }))
    const prefixes = elements(xml, 'CommonPrefixes').map((common) => decodeKey(textOf(common, 'Prefix') ?? '', encoding))
    return { items, prefixes, next: textOf(xml, 'IsTruncated') === 'true' ? textOf(xml, 'NextContinuationToken') : undefined }
  }

  /** Gives the etag. */
  async putObject(
    key: string,
    body: Uint8Array,
    options: Try &
      ObjectHeaders & {
        readonly ifNoneMatch?: '*' | undefined
        readonly ifMatch?: string | undefined
        readonly checksum?: Checksum | undefined
      },
  ): Promise<string> {
    const { ifNoneMatch, ifMatch, checksum } = options
    const headers = { ...storedAs(options), ...conditions(ifNoneMatch, ifMatch), ...checksumHeaders(checksum) }
    const answer = await this.#upload('PutObject', key, body, options, { headers })
    // It stays: what is at the key by now may be somebody else's.
    const { encryption } = options
    if (encryption !== undefined && !isEncrypted(encryption, confirmedBy(answer)))
      throw encryptionIgnored(this.request('PutObject', key, options), encryption.kind, true)
    return quoted(answer['etag'])
  }

  /** Gives the upload's id, and whether the answer confirms the encryption asked for: some servers' says nothing of it. */
  async createMultipartUpload(
    key: string,
    options: Try & ObjectHeaders & { readonly checksumAlgorithm?: ChecksumAlgorithm | undefined },
  ): Promise<{ readonly uploadId: string; readonly encrypted: boolean }> {
    const { checksumAlgorithm: algorithm } = options
    const checksum: Record<string, string> =
      algorithm === undefined
        ? {}
        : { 'x-amz-checksum-algorithm': algorithm.toUpperCase(), 'x-amz-checksum-type': wholeOrParts(algorithm) }
    const request = { method: 'POST', query: { uploads: '' }, headers: { ...storedAs(options), ...checksum } } as const
    const root = 'InitiateMultipartUploadResult'
    const { headers, body } = await this.#whole('CreateMultipartUpload', key, options, request, root)
    const uploadId = textOf(body.toString(), 'UploadId') ?? ''
    return { uploadId, encrypted: isEncrypted(options.encryption, confirmedBy(headers)) }
  }

  /** Gives the part's etag. Parts count from 1. `encryption` is what the answer must confirm. */
  async uploadPart(
    key: string,
    uploadId: string,
    partNumber: number,
    body: Uint8Array,
    options: Try & {
      readonly checksum?: Checksum | undefined
      readonly headers?: Readonly<Record<string, string>> | undefined
      readonly encryption?: S3Encryption | undefined
    },
  ): Promise<string> {
    const { encryption } = options
    const headers = { ...options.headers, ...checksumHeaders(options.checksum) }
    const answer = await this.#upload('UploadPart', key, body, options, { query: { partNumber, uploadId }, headers })
    if (encryption !== undefined && !isEncrypted(encryption, confirmedBy(answer)))
      throw encryptionIgnored(this.request('UploadPart', key, options), encryption.kind, false)
    return quoted(answer['etag'])
  }

  /** The parts that the server has of an upload that was not ended, in order. */
  async listParts(key: string, uploadId: string, options: Try): Promise<StoredPart[]> {
    const parts: StoredPart[] = []
    for (let marker: string | undefined; ;) {
      const query = { uploadId, 'part-number-marker': marker }
      const xml = await this.#xml('ListParts', 'ListPartsResult', key, options, { method: 'GET', query })
      for (const part of elements(xml, 'Part')) {
        const partNumber = Number(textOf(part, 'PartNumber') ?? 0)
        parts.push({ partNumber, size: Number(textOf(part, 'Size') ?? 0), etag: quoted(textOf(part, 'ETag')) })
      }
      const next = textOf(xml, 'NextPartNumberMarker')
      if (textOf(xml, 'IsTruncated') !== 'true' || next === undefined || next === marker) return parts
      marker = next
    }
  }

  /** Gives the object's etag. */
  async completeMultipartUpload(
    key: string,
    uploadId: string,
    etags: readonly string[],
    options: Try & {
      /** Of each part. */
      readonly checksums?: readonly (Checksum | undefined)[] | undefined
      /** Of the whole object. */
      readonly checksum?: Checksum | undefined
    },
  ): Promise<string> {
    const list = etags.map((etag, index) => {
      const checksum = options.checksums?.[index]
      const tag = checksum === undefined ? '' : `Checksum${checksum.algorithm.toUpperCase()}`
      const sum = checksum === undefined ? '' : `<${tag}>${checksum.value}</${tag}>`
      return `<Part><PartNumber>${index + 1}</PartNumber><ETag>${escapeXml(etag)}</ETag>${sum}</Part>`
    })
    const { checksum } = options
    const timeoutMs = (options.timeoutMs ?? this.#config.timeoutMs) * COMPLETE_TIMEOUT_FACTOR
    const xml = await this.#xml(
      'CompleteMultipartUpload',
      'CompleteMultipartUploadResult',
      key,
      { ...options, timeoutMs },
      {
        method: 'POST',
        query: { uploadId },
        headers: {
          'content-type': 'application/xml',
          ...(checksum === undefined
            ? {}
            : {
                [`x-amz-checksum-${checksum.algorithm}`]: checksum.value,
                'x-amz-checksum-type': wholeOrParts(checksum.algorithm),
              }),
        },
        body: Buffer.from(
          `<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">${list.join('')}</CompleteMultipartUpload>`,
        ),
      },
    )
    return quoted(textOf(xml, 'ETag'))
  }

  async abortMultipartUpload(key: string, uploadId: string, options: Try): Promise<void> {
    await this.#whole('AbortMultipartUpload', key, options, { method: 'DELETE', query: { uploadId } })
  }

  async listMultipartUploads(
    prefix: string,
    options: Try & { readonly after?: UploadMarker | undefined },
  ): Promise<{
    readonly items: readonly (UploadMarker & { readonly initiated: Date })[]
    readonly next: UploadMarker | undefined
  }> {
    const input = {
      Prefix: prefix,
      KeyMarker: options.after?.key,
      UploadIdMarker: options.after?.uploadId,
      // No encoding asked for: SeaweedFS says that it encodes these keys, and does not.
    }
    const answer = await this.send('ListMultipartUploads', input, options)
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
    await this.#whole('DeleteObject', key, options, {
      method: 'DELETE',
      query: { versionId },
      headers: conditions(undefined, ifMatch),
    })
  }

  /** At most 1 000 keys. Gives those that could not be deleted. */
  async deleteObjects(keys: readonly string[], options: Try): Promise<FailedDelete[]> {
    const input = { Delete: { Objects: keys.map((key) => ({ Key: key })), Quiet: true } }
    const answer = await this.send('DeleteObjects', input, options)
    return (answer.Errors ?? []).map(({ Key, Code, Message }) => ({
      key: Key ?? '',
      code: Code ?? 'Unknown',
      message: Message ?? '',
    }))
  }

  async headBucket(options: Try): Promise<void> {
    await this.#whole('HeadBucket', undefined, options, { method: 'HEAD' })
  }

  async createBucket(options: Try): Promise<void> {
    const { region, endpoint } = this.#config
    // AWS wants the region said twice, but not for its first one; other servers have no constraint to satisfy.
    const elsewhere = endpoint === undefined && region !== 'us-east-1'
    const input = elsewhere ? { CreateBucketConfiguration: { LocationConstraint: region as never } } : {}
    await this.send('CreateBucket', input, options)
  }

  /** A request that has no method of its own, with these headers besides those that its input makes. */
  async send<Name extends keyof RareRequests>(
    action: Name,
    input: Omit<RareRequests[Name][0], 'Bucket'>,
    options: Try & { readonly headers?: Readonly<Record<string, string>> | undefined },
  ): Promise<RareRequests[Name][1]> {
    const { Key } = input as { readonly Key?: string }
    return this.#once(action, Key, options, async (abortSignal) => {
      const { sdk, client } = await this.#open()
      const Command = sdk[`${action}Command`] as unknown as new (input: unknown) => CopyObjectCommand
      const command = withHeaders(new Command({ ...input, Bucket: options.bucket ?? this.#config.bucket }), options.headers ?? {})
      return (await client.send(command, { abortSignal })) as RareRequests[Name][1]
    })
  }

  /** Closes every connection. */
  destroy(): void {
    this.#destroyed = true
    this.#transport.destroy()
    void this.#sdk?.then(({ client }) => client.destroy())
  }

  #getRequest(
    key: string,
    { start, end, ifMatch, versionId, customerKey, bucket = this.#config.bucket }: Try & ReadRange,
  ): HotRequest {
    const range = start === undefined && end === undefined ? undefined : `bytes=${start ?? 0}-${end ?? ''}`
    const headers = { ...customerKeyHeaders(customerKey), ...conditions(undefined, ifMatch), ...this.#checksumMode() }
    return { method: 'GET', bucket, key, query: { versionId }, headers: range === undefined ? headers : { ...headers, range } }
  }

  /** Asks for the checksum that the object was stored with. */
  #checksumMode(): Record<string, string> {
    return this.#config.checksums === 'when-required' ? {} : { 'x-amz-checksum-mode': 'ENABLED' }
  }

  #collect(
    request: HotRequest,
    credentials: SigningCredentials,
    signal: AbortSignal,
  ): Promise<WireHead & { readonly body: Buffer }> {
    return this.#transport.collect(request, credentials, { signal, stallTimeoutMs: 0 })
  }

  /** A request with bytes: they must not stop for `stallTimeoutMs`. Gives the headers of the answer. */
  async #upload(
    action: string,
    key: string,
    body: Uint8Array,
    options: Try,
    request: { readonly query?: Readonly<Record<string, string | number>>; readonly headers: Readonly<Record<string, string>> },
  ): Promise<Readonly<Record<string, string>>> {
    const timeoutMs = Math.ceil((options.timeoutMs ?? this.#config.timeoutMs) + body.byteLength / TRICKLE_BYTES_PER_MS)
    const { bucket, stallTimeoutMs } = this.#config
    return this.#hot(action, key, { ...options, timeoutMs }, async (signal, credentials) => {
      const made = { method: 'PUT', bucket, key, body, ...request } as const
      const { headers } = await this.#transport.collect(made, credentials, { signal, stallTimeoutMs })
      // Whoever answers a write without an etag has not stored it.
      if (headers['etag'] === undefined) throw new TypeError('it has no etag')
      return headers
    })
  }

  async #xml(
    action: string,
    root: string,
    key: string | undefined,
    options: Try,
    request: Omit<HotRequest, 'bucket' | 'key'>,
  ): Promise<string> {
    const { body } = await this.#whole(action, key, options, request, root)
    return body.toString()
  }

  /** With `root`, the body is that element: the page of a proxy is no empty list, and half a list no end of one. */
  #whole(
    action: string,
    key: string | undefined,
    options: Try,
    request: Omit<HotRequest, 'bucket' | 'key'>,
    root?: string,
  ): Promise<WireHead & { readonly body: Buffer }> {
    const { bucket = this.#config.bucket } = options
    return this.#hot(action, key, options, async (signal, credentials) => {
      const found = await this.#collect({ ...request, bucket, key }, credentials, signal)
      const { body } = found
      // A long job is answered with 200 before it is done, and may fail all the same.
      if (body.subarray(0, 500).includes('<Error>')) throw answerError({ ...found, status: 500 }, body)
      if (root !== undefined && !(body.includes(`<${root}`) && body.subarray(-100).includes(`</${root}>`)))
        throw new TypeError(`it is no whole ${root}`)
      return found
    })
  }

  #hot<T>(
    action: string,
    key: string | undefined,
    options: Try,
    send: (signal: AbortSignal, credentials: SigningCredentials) => Promise<T>,
  ): Promise<T> {
    return this.#limit.run(options.signal, isSlowDown, () =>
      this.#once(action, key, options, async (signal) => {
        return send(signal, await this.credentials())
      }),
    )
  }

  /** What the server's clock is ahead of ours, as far as it is known and matters. */
  get clockOffsetMs(): number {
    return this.#transport.clockOffsetMs
  }

  /** A request as errors name it. */
  request(action: string, key: string | undefined, { bucket = this.#config.bucket }: Pick<Try, 'bucket'> = {}): S3Request {
    return { action, bucket, key, endpoint: this.#config.endpoint }
  }

  /** Those that the next request is signed with. */
  async credentials(): Promise<SigningCredentials> {
    if (this.#given !== undefined) return this.#given
    return this.#credentials === undefined ? this.#chain() : this.#credentials.get()
  }

  /** Where a bucket or an object is. */
  address(bucket: string, key?: string): ReturnType<Transport['address']> {
    return this.#transport.address(bucket, key)
  }

  /** The credentials of the AWS chain, which the SDK keeps and renews. */
  async #chain(): Promise<SigningCredentials> {
    const { client } = await this.#open()
    const { accessKeyId, secretAccessKey, sessionToken, expiration } = await client.config.credentials()
    return {
      accessKeyId,
      secretAccessKey,
      ...(sessionToken === undefined ? {} : { sessionToken }),
      ...(expiration === undefined ? {} : { expiration }),
    }
  }

  async #once<T>(action: string, key: string | undefined, options: Try, send: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const request = this.request(action, key, options)
    const limitMs = options.timeoutMs ?? this.#config.timeoutMs
    const stop = new Stop(options.signal)
    const { signal } = stop
    stop.after(limitMs, () => tookTooLong(request, limitMs))
    try {
      const credentials = await this.#credentials?.get()
      let renewed = false
      let corrected = false
      for (;;) {
        const offset = this.#transport.clockOffsetMs
        try {
          return await send(signal)
        } catch (thrown) {
          // Whatever the request made of its aborted signal.
          signal.throwIfAborted()
          const error = toS3Error(thrown, request)
          // The answer to HEAD has no code: any refusal by a server whose time is another one is about the time.
          if (!corrected && (error.outcome === 'auth' || error.outcome === 'permission')) {
            this.#transport.correctClock(dateOf(thrown))
            // Another request may have set it right meanwhile; the SDK has a clock of its own.
            corrected = this.#transport.clockOffsetMs !== offset || error.code === 'S3_CLOCK_SKEWED'
            if (corrected) continue
          }
          // A lease that was revoked before its time: newer credentials may do.
          if (credentials === undefined || renewed || !noLongerValid.has(error.code)) throw error
          renewed = true
          this.#credentials?.refuse(credentials.accessKeyId)
        }
      }
    } finally {
      stop.over()
    }
  }

  #open(): Promise<{ readonly sdk: Sdk; readonly client: S3Client }> {
    this.#sdk ??= (async () => {
      const sdk = await import('@aws-sdk/client-s3')
      const client = new sdk.S3Client(this.#clientConfig())
      if (this.#destroyed) client.destroy()
      return { sdk, client }
    })()
    return this.#sdk
  }

  #clientConfig(): S3ClientConfig {
    const { endpoint, region, forcePathStyle, checksums, connectTimeoutMs } = this.#config
    const checksum = checksums === 'when-required' ? 'WHEN_REQUIRED' : 'WHEN_SUPPORTED'
    const agent = { keepAlive: true, maxSockets: Infinity, maxFreeSockets: 64 }
    return {
      region,
      endpoint: endpointOf(this.#config),
      forcePathStyle: forcePathStyle ?? endpoint !== undefined,
      ...(this.#credentials === undefined ? {} : { credentials: identity(this.#credentials) }),
      ...(this.#given === undefined ? {} : { credentials: this.#given }),
      requestChecksumCalculation: checksum,
      responseChecksumValidation: checksum,
      maxAttempts: 1,
      systemClockOffset: this.#transport.clockOffsetMs,
      requestHandler: { connectionTimeout: connectTimeoutMs, httpAgent: agent, httpsAgent: agent },
    }
  }
}

/** When the server answered, by its own clock. */
function dateOf(thrown: unknown): string | undefined {
  const { $response } = thrown as { readonly $response?: { readonly headers?: Readonly<Record<string, string>> } }
  return $response?.headers?.['date']
}

function isSlowDown(error: unknown): boolean {
  return HandlerError.is(error) && error.code === 'S3_SLOW_DOWN'
}

function givenCredentials({ accessKeyId, secretAccessKey, sessionToken }: S3Config): SigningCredentials | undefined {
  if (accessKeyId === undefined || secretAccessKey === undefined) return undefined
  const expose = (secret: Secret): string => secret.expose()
  return {
    accessKeyId,
    secretAccessKey: expose(secretAccessKey),
    ...(sessionToken === undefined ? {} : { sessionToken: expose(sessionToken) }),
  }
}

/** What a body is stored as where nobody says is left to no server: some guess by the key. */
function storedAs(options: ObjectHeaders): Record<string, string> {
  return { 'content-type': 'application/octet-stream', ...objectHeaders(options) }
}

function conditions(ifNoneMatch: '*' | undefined, ifMatch: string | undefined): Record<string, string> {
  return {
    ...(ifNoneMatch === undefined ? {} : { 'if-none-match': ifNoneMatch }),
    ...(ifMatch === undefined ? {} : { 'if-match': ifMatch }),
  }
}

function checksumHeaders(checksum: Checksum | undefined): Record<string, string> {
  return checksum === undefined ? {} : { [`x-amz-checksum-${checksum.algorithm}`]: checksum.value }
}

function confirmedBy(headers: Readonly<Record<string, string>>): ConfirmedEncryption {
  return {
    server: headers['x-amz-server-side-encryption'],
    customer: headers['x-amz-server-side-encryption-customer-algorithm'],
  }
}

/** @throws RemoteError `S3_LENGTH_MISSING` */
function openedOf(headers: Readonly<Record<string, string>>, request: S3Request): OpenedHead {
  const [, first, last] = /^bytes (\d+)-(\d+)/.exec(headers['content-range'] ?? '') ?? []
  const offset = Number(first ?? 0)
  // What a proxy has cut into chunks has no length of its own; that of a range is known all the same.
  const length = Number(headers['content-length'] ?? (last === undefined ? NaN : Number(last) + 1 - offset))
  if (Number.isNaN(length)) throw lengthMissing(request)

  const metadata: Record<string, string> = {}
  for (const name in headers) {
    if (name.startsWith('x-amz-meta-')) metadata[name.slice('x-amz-meta-'.length)] = headers[name] ?? ''
  }
  return {
    etag: quoted(headers['etag']),
    lastModified: new Date(headers['last-modified'] ?? 0),
    length,
    offset,
    contentEncoding: headers['content-encoding'],
    metadata,
    checksum: wholeChecksum(headers),
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
