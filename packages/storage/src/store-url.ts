/** What a store's URL says: `file:///folder`, or `s3://bucket/prefix`. */
export type StoreLocation =
  | { readonly kind: 'folder'; readonly url: string }
  | { readonly kind: 's3'; readonly bucket: string; readonly prefix: string }

/** Takes a store's URL apart; undefined when it is neither. Slashes at the end do not count. */
export function parseStoreUrl(url: string): StoreLocation | undefined {
  const [, bucket, prefix = ''] = /^s3:\/\/([^/?#\s]+)(?:\/([^?#]*))?$/.exec(url) ?? []
  if (bucket !== undefined) return { kind: 's3', bucket, prefix: prefix.replace(/\/+$/, '') }
  const [, path] = /^file:\/\/\/([^?#]*)$/.exec(url) ?? []
  return path === undefined ? undefined : { kind: 'folder', url: `file:///${path.replace(/\/+$/, '')}` }
}
