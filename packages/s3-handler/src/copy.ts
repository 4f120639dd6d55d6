import { type CallOptions, ConfigError, ConflictError, HandlerError, retry } from '@common-handlers/core'
import { completeUpload } from './complete.ts'
import type { ObjectDetails } from './driver.ts'
import { encryptionIgnored, objectChanged } from './errors.ts'
import {
  customerKeyHeaders,
  customerKeyOf,
  isEncrypted,
  type ObjectHeaders,
  objectHeaders,
  type S3Encryption,
} from './object-headers.ts'
import type { S3Parts } from './parts.ts'
import { readTags } from './tagging.ts'

/** An object to copy from: of this handler, or by its whole key of another bucket that the same credentials may read. */
export interface S3CopySource {
  readonly key: string
  readonly bucket?: string | undefined
  readonly versionId?: string | undefined
  /** 32 bytes, for an object that was stored under them. */
  readonly customerKey?: Uint8Array | undefined
}

/**
 * What the copy is stored with. Content type, encoding, disposition, cache control, metadata and tags are those of the
 * source where they are not given; storage class and encryption are the bucket's own where they are not given.
 */
export interface S3CopyOptions extends CallOptions, ObjectHeaders {
  /** Copies only while the source has this etag. */
  readonly ifSourceMatch?: string | undefined
  /** A larger source goes in parts, in bytes. Default 5 GiB, more than which S3 does not copy in one request. */
  readonly multipartThreshold?: number | undefined
  /** Bytes of one part, 5 MiB to 5 GiB. Default 256 MiB, more where 10 000 parts would not do. */
  readonly partSize?: number | undefined
}

const MIB = 1024 * 1024
const MAX_COPY = 5 * 1024 * MIB
const DEFAULT_PART_SIZE = 256 * MIB
const MAX_PARTS = 10_000
const CLEAN_UP_BUDGET_MS = 10_000

/** Copies on the server, no byte passes here. Gives the etag of the copy. */
export async function copyObject(
  parts: S3Parts,
  from: S3CopySource,
  toKey: string,
  options: S3CopyOptions,
  signal: AbortSignal,
): Promise<{ readonly etag: string; readonly size: number; readonly source: ObjectDetails }> {
  const { driver } = parts
  const config = parts.config()
  const bucket = from.bucket ?? config.bucket
  const sourceKey = from.bucket === undefined ? parts.fullKey(from.key) : from.key
  const key = parts.fullKey(toKey)
  const { versionId, customerKey } = from
  const found = await parts.try(signal, () => driver.headObject(sourceKey, { bucket, versionId, customerKey, signal }))
  const source = { ...found, versionId, bucket }
  if (options.ifSourceMatch !== undefined && options.ifSourceMatch !== source.etag)
    throw new ConflictError(`s3://${bucket}/${sourceKey} does not have the etag ${options.ifSourceMatch}`, {
      code: 'S3_PRECONDITION_FAILED',
      context: { bucket, key: sourceKey, etag: source.etag },
    })
  const version = versionId === undefined ? '' : `?versionId=${encodeURIComponent(versionId)}`
  const job: CopyJob = {
    parts,
    key,
    signal,
    source,
    input: {
      Key: key,
      CopySource: `${bucket}/${sourceKey.split('/').map(encodeURIComponent).join('/')}${version}`,
      CopySourceIfMatch: source.etag,
    },
    sourceHeaders: customerKeyHeaders(customerKey, 'copy-source-'),
    options,
  }
  const inParts = source.size > (options.multipartThreshold ?? MAX_COPY)
  try {
    const etag = await (inParts ? copyInParts(job) : copyWhole(job))
    if (options.encryption !== undefined) await assertEncrypted(job, options.encryption, etag)
    return { etag, size: source.size, source }
  } catch (error) {
    if (!isCode(error, 'S3_PRECONDITION_FAILED')) throw error
    throw objectChanged({ action: 'CopyObject', bucket, key: sourceKey, endpoint: config.endpoint }, undefined, error)
  }
}

/** Copies, looks at the copy, and deletes the source if it is still what was copied. */
export async function moveObject(
  parts: S3Parts,
  from: string,
  to: string,
  options: S3CopyOptions,
  signal: AbortSignal,
): Promise<{ readonly etag: string; readonly size: number }> {
  const { driver } = parts
  const config = parts.config()
  const key = parts.fullKey(from)
  const target = parts.fullKey(to)
  if (key === target) throw new ConfigError(`${parts.where(from)} cannot be moved onto itself`, { code: 'S3_OPTIONS_INVALID' })
  const { etag, size, source } = await copyObject(parts, { key: from }, to, options, signal)
  const customerKey = customerKeyOf(options.encryption)
  const copy = await parts.try(signal, () => driver.headObject(target, { customerKey, signal }))
  const request = { action: 'MoveObject', bucket: config.bucket, endpoint: config.endpoint }
  if (copy.size !== size || copy.etag !== etag) throw objectChanged({ ...request, key: target })
  const now = await parts.try(signal, () => driver.headObject(key, { signal }))
  if (now.etag !== source.etag) throw objectChanged({ ...request, key })
  // Servers that know no condition on a delete do without; the look before leaves them a moment only.
  try {
    await parts.try(signal, () => driver.deleteObject(key, { signal, ifMatch: source.etag }))
  } catch (error) {
    if (!isCode(error, 'S3_PRECONDITION_FAILED') && !isCode(error, 'S3_OBJECT_NOT_FOUND')) throw error
    // A delete whose answer was lost finds nothing the second time; a source that is there is another one.
    const there = await parts
      .try(signal, () => driver.headObject(key, { signal }))
      .catch((missing: unknown) => {
        if (isCode(missing, 'S3_OBJECT_NOT_FOUND')) return undefined
        throw missing
      })
    if (there !== undefined) throw objectChanged({ ...request, key }, undefined, error)
  }
  return { etag, size }
}

const isCode = (error: unknown, code: string): boolean => HandlerError.is(error) && error.code === code

interface CopyJob {
  readonly parts: S3Parts
  readonly key: string
  readonly signal: AbortSignal
  readonly source: ObjectDetails & { readonly bucket: string }
  readonly input: { readonly Key: string; readonly CopySource: string; readonly CopySourceIfMatch: string }
  readonly sourceHeaders: Readonly<Record<string, string>>
  readonly options: S3CopyOptions
}

/** What is given, and what the source has where nothing is. */
function headersOf({ source, options }: CopyJob): ObjectHeaders {
  return {
    contentType: options.contentType ?? source.contentType,
    contentEncoding: options.contentEncoding ?? source.contentEncoding,
    contentDisposition: options.contentDisposition ?? source.contentDisposition,
    cacheControl: options.cacheControl ?? source.cacheControl,
    metadata: options.metadata ?? source.metadata,
    storageClass: options.storageClass,
    encryption: options.encryption,
  }
}

async function copyWhole(job: CopyJob): Promise<string> {
  const { parts, key, signal, source, input, options, sourceHeaders } = job
  const { contentType, contentEncoding, contentDisposition, cacheControl, metadata, tags } = options
  // A copy onto itself is refused where it replaces nothing, and some servers take no class or encryption for something.
  const itself = source.key === key && source.bucket === parts.config().bucket
  const replaced =
    itself || [contentType, contentEncoding, contentDisposition, cacheControl, metadata].some((one) => one !== undefined)
  const { storageClass, encryption } = options
  const headers = {
    ...objectHeaders(replaced ? { ...headersOf(job), tags } : { storageClass, encryption, tags }),
    ...sourceHeaders,
    ...(replaced ? { 'x-amz-metadata-directive': 'REPLACE' } : {}),
    ...(tags === undefined ? {} : { 'x-amz-tagging-directive': 'REPLACE' }),
  }
  // The server copies before it answers.
  const timeoutMs = parts.config().timeoutMs * 10
  const answer = await parts.try(signal, () => parts.driver.send('CopyObject', input, { signal, headers, timeoutMs }))
  return quoted(answer.CopyObjectResult?.ETag)
}

/** Not every server says so in its answer to a copy. @throws RemoteError `S3_ENCRYPTION_IGNORED` */
async function assertEncrypted({ parts, key, signal }: CopyJob, encryption: S3Encryption, etag: string): Promise<void> {
  const { driver } = parts
  const { bucket, endpoint } = parts.config()
  const customerKey = customerKeyOf(encryption)
  const found = await parts.try(signal, () => driver.headObject(key, { customerKey, signal }))
  const { encryption: server } = found
  if (found.etag !== etag || isEncrypted(encryption, { server, customer: server === 'customer' ? server : undefined })) return
  throw encryptionIgnored({ action: 'CopyObject', bucket, key, endpoint }, encryption.kind, true)
}

async function copyInParts(job: CopyJob): Promise<string> {
  const { parts, key, signal, source, options } = job
  const { driver } = parts
  const config = parts.config()
  const partSize = Math.max(options.partSize ?? DEFAULT_PART_SIZE, Math.ceil(source.size / MAX_PARTS))
  const count = Math.ceil(source.size / partSize)
  const tags = options.tags ?? (await tagsOf(job))
  const stop = new AbortController()
  const running = AbortSignal.any([signal, stop.signal])
  // Not given the caller's signal: an answer that nobody waits for would leave an upload whose id nobody knows.
  const alone = new AbortController().signal
  const { uploadId } = await parts.try(signal, () =>
    driver.createMultipartUpload(key, { ...headersOf(job), tags, signal: alone }),
  )
  const etags: string[] = []
  let next = 0
  const copyParts = async (): Promise<void> => {
    for (let index = next++; index < count && !running.aborted; index = next++) {
      const start = index * partSize
      const range = { PartNumber: index + 1, CopySourceRange: `bytes=${start}-${Math.min(start + partSize, source.size) - 1}` }
      etags[index] = await parts.try(running, () => copyPart(job, uploadId, range, running))
    }
  }
  try {
    const workers = Array.from({ length: config.concurrency }, () =>
      copyParts().catch((error: unknown) => {
        stop.abort(error)
        throw error
      }),
    )
    await Promise.allSettled(workers)
    running.throwIfAborted()
    const upload = { key, uploadId, etags, size: source.size, customerKey: customerKeyOf(options.encryption) }
    return await completeUpload(driver, upload, signal, (work) => parts.try(signal, work))
  } catch (error) {
    const policy = { ...config.retry, budgetMs: CLEAN_UP_BUDGET_MS }
    const abort = (): Promise<void> => driver.abortMultipartUpload(key, uploadId, { signal: alone })
    // What stays is found by abortUnfinishedUploads; the error that matters is the one before.
    await retry(abort, { policy, idempotent: true }).catch(() => undefined)
    throw error
  }
}

async function copyPart(
  { parts, input, options, sourceHeaders }: CopyJob,
  uploadId: string,
  range: { readonly PartNumber: number; readonly CopySourceRange: string },
  signal: AbortSignal,
): Promise<string> {
  const customerKey = customerKeyOf(options.encryption)
  const headers = { ...sourceHeaders, ...customerKeyHeaders(customerKey) }
  const timeoutMs = parts.config().timeoutMs * 10
  const answer = await parts.driver.send(
    'UploadPartCopy',
    { ...input, ...range, UploadId: uploadId },
    { signal, headers, timeoutMs },
  )
  return quoted(answer.CopyPartResult?.ETag)
}

/** Parts are an upload of their own, which knows nothing of the tags of its source. */
function tagsOf({ parts, signal, source }: CopyJob): Promise<Record<string, string>> {
  const { bucket, key, versionId } = source
  return readTags(parts, key, { bucket, versionId, signal })
}

const quoted = (etag: string | undefined): string => (etag === undefined || etag.endsWith('"') ? (etag ?? '') : `"${etag}"`)
