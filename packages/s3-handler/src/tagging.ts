import type { Try } from './driver.ts'
import type { S3Parts } from './parts.ts'

type TagTry = Try & { readonly versionId?: string | undefined }

/** The whole key is needed. */
export async function readTags(parts: S3Parts, key: string, options: TagTry): Promise<Record<string, string>> {
  const input = { Key: key, VersionId: options.versionId }
  const answer = await parts.try(options.signal, () => parts.driver.send('GetObjectTagging', input, options))
  return Object.fromEntries((answer.TagSet ?? []).map((tag) => [tag.Key ?? '', tag.Value ?? '']))
}

/** Puts these tags in place of all that were there; no tags at all is a request of its own. The whole key is needed. */
export async function writeTags(
  parts: S3Parts,
  key: string,
  tags: Readonly<Record<string, string>>,
  options: TagTry,
): Promise<void> {
  const input = { Key: key, VersionId: options.versionId }
  const TagSet = Object.entries(tags).map(([Key, Value]) => ({ Key, Value }))
  await parts.try(options.signal, async () => {
    if (TagSet.length === 0) await parts.driver.send('DeleteObjectTagging', input, options)
    else await parts.driver.send('PutObjectTagging', { ...input, Tagging: { TagSet } }, options)
  })
}
