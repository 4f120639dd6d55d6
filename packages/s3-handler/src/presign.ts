import { hash } from 'node:crypto'
import { type CallOptions, ConfigError } from '@common-handlers/core'
import type { SigningCredentials } from './credentials.ts'
import type { S3Driver } from './driver.ts'
import { type ObjectHeaders, objectHeaders } from './object-headers.ts'
import type { S3Parts } from './parts.ts'
import { amzDate, encodeQuery, RequestSigner } from './sigv4.ts'

export interface S3PresignOptions extends CallOptions {
  /** How long the address holds, in milliseconds, up to 7 days. Default 15 minutes. */
  readonly expiresInMs?: number | undefined
}

export interface S3PresignGetOptions extends S3PresignOptions {
  readonly versionId?: string | undefined
  /** What the answer says in `Content-Type`, in place of what is stored. */
  readonly contentType?: string | undefined
  /** What the answer says in `Content-Disposition`: `attachment; filename="report.csv"`. */
  readonly contentDisposition?: string | undefined
}

/** What the writer must send besides the bytes is in `headers` of the answer. */
export interface S3PresignPutOptions extends S3PresignOptions, ObjectHeaders {}

export interface S3PresignPostOptions extends S3PresignOptions, ObjectHeaders {
  /** Bytes that the object may have. */
  readonly minBytes?: number | undefined
  readonly maxBytes?: number | undefined
}

/** An address that anybody may use, without credentials, until it expires. It is as good as a password for what it allows. */
export interface S3Presigned {
  readonly method: 'GET' | 'PUT'
  readonly url: string
  /** Must be sent as they are: they are part of the signature. */
  readonly headers: Readonly<Record<string, string>>
  /** When it ends: after the time that was asked for, or with the credentials. */
  readonly expiresAt: Date
}

/** A form that a browser may send: `multipart/form-data` with these fields, then the field `file`. */
export interface S3PresignedPost {
  readonly url: string
  readonly fields: Readonly<Record<string, string>>
  readonly expiresAt: Date
}

const DEFAULT_EXPIRY_MS = 15 * 60_000
/** Amazon S3 API Reference, "Authenticating requests: using query parameters". */
const MAX_EXPIRY_MS = 7 * 24 * 3_600_000
/** The largest object that one request makes. */
const MAX_POST_BYTES = 5 * 1024 ** 3
const ALGORITHM = 'AWS4-HMAC-SHA256'

export async function presignGet(parts: S3Parts, key: string, options: S3PresignGetOptions): Promise<S3Presigned> {
  const query = {
    versionId: options.versionId,
    'response-content-type': options.contentType,
    'response-content-disposition': options.contentDisposition,
  }
  return presign(parts, 'GET', key, query, {}, options)
}

export async function presignPut(parts: S3Parts, key: string, options: S3PresignPutOptions): Promise<S3Presigned> {
  return presign(parts, 'PUT', key, {}, objectHeaders(options), options)
}

async function presign(
  { config, driver, fullKey }: S3Parts,
  method: 'GET' | 'PUT',
  key: string,
  given: Readonly<Record<string, string | undefined>>,
  headers: Readonly<Record<string, string>>,
  options: S3PresignOptions,
): Promise<S3Presigned> {
  const { protocol, host, path } = driver.address(config().bucket, fullKey(key))
  const credentials = await driver.credentials()
  const { date, seconds, expiresAt, scope, signer } = begin(driver, config().region, credentials, options)
  const signed: Record<string, string> = { ...headers, host }
  const names = Object.keys(signed).toSorted()
  const query = encodeQuery({
    ...given,
    'X-Amz-Algorithm': ALGORITHM,
    'X-Amz-Credential': `${credentials.accessKeyId}/${scope}`,
    'X-Amz-Date': date,
    'X-Amz-Expires': seconds,
    'X-Amz-Security-Token': credentials.sessionToken,
    'X-Amz-SignedHeaders': names.join(';'),
  })
  const lines = names.map((name) => `${name}:${(signed[name] ?? '').trim().replaceAll(/ {2,}/g, ' ')}\n`).join('')
  const canonical = `${method}\n${path}\n${query}\n${lines}\n${names.join(';')}\nUNSIGNED-PAYLOAD`
  const text = `${ALGORITHM}\n${date}\n${scope}\n${hash('sha256', canonical)}`
  const signature = signer.sign(text, credentials.secretAccessKey, date)
  return { method, url: `${protocol}//${host}${path}?${query}&X-Amz-Signature=${signature}`, headers, expiresAt }
}

/** A key that ends with a slash leaves the name behind it to the sender. */
export async function presignPost(
  { config, driver, fullKey }: S3Parts,
  key: string,
  options: S3PresignPostOptions,
): Promise<S3PresignedPost> {
  const { bucket, region } = config()
  const full = fullKey(key)
  const { protocol, host, path } = driver.address(bucket)
  const credentials = await driver.credentials()
  const { date, expiresAt, policyEnd, scope, signer } = begin(driver, region, credentials, options)
  const fields: Record<string, string> = {
    ...objectHeaders(options),
    'x-amz-algorithm': ALGORITHM,
    'x-amz-credential': `${credentials.accessKeyId}/${scope}`,
    'x-amz-date': date,
    ...(credentials.sessionToken === undefined ? {} : { 'x-amz-security-token': credentials.sessionToken }),
  }
  const { minBytes = 0, maxBytes } = options
  const range = maxBytes === undefined && minBytes === 0 ? [] : [['content-length-range', minBytes, maxBytes ?? MAX_POST_BYTES]]
  const below = full.endsWith('/')
  const policy = {
    expiration: policyEnd.toISOString(),
    conditions: [
      { bucket },
      below ? ['starts-with', '$key', full] : { key: full },
      ...Object.entries(fields).map(([name, value]) => ({ [name]: value })),
      ...range,
    ],
  }
  const encoded = Buffer.from(JSON.stringify(policy)).toString('base64')
  return {
    url: `${protocol}//${host}${path}`,
    fields: {
      key: below ? `${full}\${filename}` : full,
      ...fields,
      policy: encoded,
      'x-amz-signature': signer.sign(encoded, credentials.secretAccessKey, date),
    },
    expiresAt,
  }
}

interface Begun {
  readonly date: string
  readonly seconds: number
  readonly expiresAt: Date
  /** The same by the server's clock. */
  readonly policyEnd: Date
  readonly scope: string
  readonly signer: RequestSigner
}

function begin(
  { clockOffsetMs }: S3Driver,
  region: string,
  credentials: SigningCredentials,
  { expiresInMs = DEFAULT_EXPIRY_MS }: S3PresignOptions,
): Begun {
  if (!(expiresInMs >= 1_000 && expiresInMs <= MAX_EXPIRY_MS))
    throw new ConfigError(`an address holds between one second and 7 days, not ${expiresInMs} ms`, { code: 'S3_OPTIONS_INVALID' })
  const now = Date.now()
  const date = amzDate(new Date(now + clockOffsetMs))
  const seconds = Math.floor(expiresInMs / 1_000)
  const end = now + seconds * 1_000
  const signer = new RequestSigner(region, 's3')
  const expiresAt = new Date(Math.min(end, credentials.expiration?.getTime() ?? end))
  const policyEnd = new Date(expiresAt.getTime() + clockOffsetMs)
  return { date, seconds, expiresAt, policyEnd, scope: signer.scope(date), signer }
}
