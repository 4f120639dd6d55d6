import { createHash } from 'node:crypto'
import { HandlerError } from '@common-handlers/core'
import type { Checksum } from './checksum.ts'
import type { S3Driver } from './driver.ts'
import { completionLost } from './errors.ts'

/** A multipart upload of which every part is stored. */
export interface WholeUpload {
  readonly key: string
  readonly uploadId: string
  /** Of each part, in order. */
  readonly etags: readonly string[]
  /** Bytes of all parts. */
  readonly size: number
  readonly customerKey: Uint8Array | undefined
  /** Of each part. */
  readonly checksums?: readonly (Checksum | undefined)[] | undefined
  /** Of the whole object. */
  readonly checksum?: Checksum | undefined
}

/**
 * Joins the parts of an upload and gives the etag of the object. Where an answer was lost, the object itself decides: an
 * upload that is no longer known was completed by the try before, and one that is said to be completed again may be nowhere
 * (versitygw killed in the middle of the first try answers the second well and has no object).
 * @throws RemoteError `S3_COMPLETION_LOST`
 */
export async function completeUpload(
  driver: S3Driver,
  upload: WholeUpload,
  signal: AbortSignal,
  retried: <T>(work: () => Promise<T>) => Promise<T>,
): Promise<string> {
  const { key, uploadId, etags, checksums, checksum } = upload
  let unanswered = false
  let seen = false
  const etag = await retried(async () => {
    try {
      return await driver.completeMultipartUpload(key, uploadId, etags, { checksums, checksum, signal })
    } catch (error) {
      if (!HandlerError.is(error)) throw error
      const made = unanswered && error.code === 'S3_UPLOAD_NOT_FOUND' ? await madeOf(driver, upload, signal) : undefined
      if (error.retry === 'if-idempotent') unanswered = true
      if (made === undefined) throw error
      seen = true
      return made
    }
  })
  if (!unanswered || seen) return etag
  try {
    if ((await retried(() => madeOf(driver, upload, signal))) === etag) return etag
  } catch (error) {
    // Who may write need not be allowed to look; then the answer is all there is.
    if (HandlerError.is(error) && error.outcome === 'permission') return etag
    throw error
  }
  throw completionLost(driver.request('CompleteMultipartUpload', key))
}

/** The etag of what is at the key, if it can be what the parts made. */
async function madeOf(
  driver: S3Driver,
  { key, etags, size, customerKey }: WholeUpload,
  signal: AbortSignal,
): Promise<string | undefined> {
  const found = await driver.headObject(key, { customerKey, signal }).catch((error: unknown) => {
    if (HandlerError.is(error) && error.outcome === 'not-found') return undefined
    throw error
  })
  if (found?.size !== size) return undefined
  return found.etag === joinedEtag(etags) || found.etag.endsWith(`-${etags.length}"`) ? found.etag : undefined
}

/** The etag that S3 gives an object of parts: the MD5 of the parts' MD5s, and their number. */
function joinedEtag(etags: readonly string[]): string {
  const joined = createHash('md5')
  for (const etag of etags) joined.update(Buffer.from(etag.replaceAll('"', ''), 'hex'))
  return `"${joined.digest('hex')}-${etags.length}"`
}
