import { createHash } from 'node:crypto'
import { ConfigError } from '@common-handlers/core'

/** How the server encrypts an object at rest. */
export type S3Encryption =
  /** Keys of S3 itself (SSE-S3). */
  | { readonly kind: 's3' }
  /** A key of KMS (SSE-KMS); without `keyId` the account's own key for S3. `bucketKey` saves calls of KMS. */
  | { readonly kind: 'kms'; readonly keyId?: string | undefined; readonly bucketKey?: boolean | undefined }
  /** 32 bytes that the server forgets (SSE-C): every later read needs them again. Amazon takes it over TLS only. */
  | { readonly kind: 'customer'; readonly key: Uint8Array }

/** What an object is stored with. */
export interface ObjectHeaders {
  readonly contentType?: string | undefined
  /** `gzip`, `zstd`: how the bytes are compressed. They are stored as they are given. */
  readonly contentEncoding?: string | undefined
  readonly contentDisposition?: string | undefined
  readonly cacheControl?: string | undefined
  /** User metadata (`x-amz-meta-*`): ASCII, 2 kB in all. Names are stored in lower case. */
  readonly metadata?: Readonly<Record<string, string>> | undefined
  /** `STANDARD_IA`, `GLACIER_IR` …: what the server offers. Default: its own. */
  readonly storageClass?: string | undefined
  /** Up to 10. */
  readonly tags?: Readonly<Record<string, string>> | undefined
  readonly encryption?: S3Encryption | undefined
}

/** The options as the headers of PutObject, CreateMultipartUpload and CopyObject. */
export function objectHeaders(options: ObjectHeaders): Record<string, string> {
  const { contentType, contentEncoding, contentDisposition, cacheControl, metadata, storageClass, tags, encryption } = options
  const headers: Record<string, string> = {}
  const set = (name: string, value: string | undefined): void => {
    if (value === undefined) return
    // What a header cannot carry would fail deep in the client, or be stored as something else.
    if (!/^[\t\x20-\x7e]*$/.test(value)) throw notAscii(name)
    headers[name] = value
  }
  set('content-type', contentType)
  set('content-encoding', contentEncoding)
  set('content-disposition', contentDisposition)
  set('cache-control', cacheControl)
  for (const [name, value] of Object.entries(metadata ?? {})) {
    if (!/^[!#$%&'*+.^_`|~0-9a-z-]+$/i.test(name)) throw notAscii('a name of metadata')
    set(`x-amz-meta-${name.toLowerCase()}`, value)
  }
  set('x-amz-storage-class', storageClass)
  if (tags !== undefined && Object.keys(tags).length > 0) set('x-amz-tagging', queryString(tags))
  return Object.assign(headers, encryptionHeaders(encryption))
}

/** With `%20` for a blank, which every server reads as one; some take `+` for itself. */
function queryString(values: Readonly<Record<string, string>>): string {
  return Object.entries(values)
    .map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(value)}`)
    .join('&')
}

function encryptionHeaders(encryption: S3Encryption | undefined): Record<string, string> {
  if (encryption === undefined) return {}
  if (encryption.kind === 's3') return { 'x-amz-server-side-encryption': 'AES256' }
  if (encryption.kind === 'customer') return customerKeyHeaders(encryption.key)
  return {
    'x-amz-server-side-encryption': 'aws:kms',
    ...(encryption.keyId === undefined ? {} : { 'x-amz-server-side-encryption-aws-kms-key-id': encryption.keyId }),
    ...(encryption.bucketKey === undefined
      ? {}
      : { 'x-amz-server-side-encryption-bucket-key-enabled': String(encryption.bucketKey) }),
  }
}

/** What an answer says of the encryption of what was stored: the values of its two headers. */
export interface ConfirmedEncryption {
  readonly server: string | undefined
  readonly customer: string | undefined
}

/** Whether the server did what it was asked for. One that does not know encryption answers as if nobody had asked. */
export function isEncrypted(encryption: S3Encryption | undefined, { server, customer }: ConfirmedEncryption): boolean {
  if (encryption === undefined) return true
  if (encryption.kind === 'customer') return customer !== undefined
  return encryption.kind === 's3' ? server !== undefined : server?.startsWith('aws:kms') === true
}

/** What a look at the object needs. */
export function customerKeyOf(encryption: S3Encryption | undefined): Uint8Array | undefined {
  return encryption?.kind === 'customer' ? encryption.key : undefined
}

/** For every request that touches the bytes of an object under a customer's key; with `copy-source` for that of the source. */
export function customerKeyHeaders(key: Uint8Array | undefined, of: '' | 'copy-source-' = ''): Record<string, string> {
  if (key === undefined) return {}
  if (key.byteLength !== 32)
    throw new ConfigError(`a customer key has 32 bytes, not ${key.byteLength}`, { code: 'S3_OPTIONS_INVALID' })
  const prefix = `x-amz-${of}server-side-encryption-customer-`
  return {
    [`${prefix}algorithm`]: 'AES256',
    [`${prefix}key`]: Buffer.from(key).toString('base64'),
    [`${prefix}key-md5`]: createHash('md5').update(key).digest('base64'),
  }
}

function notAscii(name: string): ConfigError {
  return new ConfigError(`${name} holds something that a header cannot carry; encode it`, {
    code: 'S3_OPTIONS_INVALID',
    context: { name },
  })
}
