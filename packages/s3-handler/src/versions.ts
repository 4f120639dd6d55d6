import type { CallOptions } from '@common-handlers/core'
import type { S3Parts } from './parts.ts'

/** One state that a key has had. */
export interface S3ObjectVersion {
  readonly key: string
  /** `null` for what was written before the bucket kept versions. */
  readonly versionId: string
  /** True for the one that a read without a version finds. */
  readonly isLatest: boolean
  /** True where the key was deleted: there are no bytes, and size and etag say nothing. */
  readonly isDeleteMarker: boolean
  readonly size: number
  readonly etag: string
  readonly lastModified: Date
}

/** `off`: versions were never kept. `suspended`: those that were kept are still there. */
export type S3Versioning = 'enabled' | 'suspended' | 'off'

/** What versions and delete markers have in common in the answer. */
interface Entry {
  readonly Key?: string | undefined
  readonly VersionId?: string | undefined
  readonly IsLatest?: boolean | undefined
  readonly LastModified?: Date | undefined
}

/** All versions of all keys below the prefix, the newest of a key first. */
export async function* listVersions(
  parts: S3Parts,
  prefix: string,
  options: CallOptions,
): AsyncGenerator<S3ObjectVersion, void, undefined> {
  let marker: { readonly KeyMarker?: string; readonly VersionIdMarker?: string } = {}
  for (let more = true; more;) {
    const input = { Prefix: parts.fullPrefix(prefix), EncodingType: 'url', ...marker } as const
    const page = await parts.run(options, `listing the versions of ${parts.where(prefix)}`, (signal) =>
      parts.try(signal, () => parts.driver.send('ListObjectVersions', input, { signal })),
    )
    const decode = (key = ''): string => (page.EncodingType === 'url' ? decodeURIComponent(key.replaceAll('+', ' ')) : key)
    const ofKey = (entry: Entry) => ({
      key: parts.ownKey(decode(entry.Key)),
      versionId: entry.VersionId ?? 'null',
      isLatest: entry.IsLatest ?? false,
      lastModified: entry.LastModified ?? new Date(0),
    })
    const entries: S3ObjectVersion[] = [
      ...(page.Versions ?? []).map((entry) => ({
        ...ofKey(entry),
        isDeleteMarker: false,
        size: entry.Size ?? 0,
        etag: entry.ETag ?? '',
      })),
      ...(page.DeleteMarkers ?? []).map((entry) => ({ ...ofKey(entry), isDeleteMarker: true, size: 0, etag: '' })),
    ]
    // The answer has versions and markers in two lists; the newest of a key is the latest, then by time.
    entries.sort((a, b) =>
      a.key === b.key
        ? Number(b.isLatest) - Number(a.isLatest) || b.lastModified.getTime() - a.lastModified.getTime()
        : Buffer.compare(Buffer.from(a.key), Buffer.from(b.key)),
    )
    yield* entries
    more = page.IsTruncated === true && page.NextKeyMarker !== undefined
    marker = {
      KeyMarker: decode(page.NextKeyMarker),
      ...(page.NextVersionIdMarker === undefined ? {} : { VersionIdMarker: page.NextVersionIdMarker }),
    }
  }
}

export async function getVersioning(parts: S3Parts, signal: AbortSignal): Promise<S3Versioning> {
  const { Status } = await parts.try(signal, () => parts.driver.send('GetBucketVersioning', {}, { signal }))
  return Status === 'Enabled' ? 'enabled' : Status === 'Suspended' ? 'suspended' : 'off'
}

export async function setVersioning(parts: S3Parts, versioning: 'enabled' | 'suspended', signal: AbortSignal): Promise<void> {
  const Status = versioning === 'enabled' ? 'Enabled' : 'Suspended'
  await parts.try(signal, () => parts.driver.send('PutBucketVersioning', { VersioningConfiguration: { Status } }, { signal }))
}
