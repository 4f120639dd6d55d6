import { createHmac, createSecretKey, hash, type KeyObject } from 'node:crypto'
import type { SigningCredentials } from './credentials.ts'

/** A request before it is signed. Path and query are encoded already, exactly as they are sent. */
export interface UnsignedRequest {
  readonly method: string
  readonly path: string
  /** `a=1&b=`, sorted by name; empty without a query. */
  readonly query: string
  /** Names in lower case, `host` and `x-amz-date` among them. All of them are signed. */
  readonly headers: Readonly<Record<string, string>>
  /** SHA-256 of the body in hexadecimal, or `UNSIGNED-PAYLOAD`. */
  readonly payloadHash: string
}

/**
 * Signature Version 4 (AWS General Reference, "Signing AWS API requests"). The key that is derived from the secret is
 * kept for its day, which leaves two hashes and one HMAC for a request.
 */
export class RequestSigner {
  readonly #region: string
  readonly #service: string
  #derived: { readonly secret: string; readonly day: string; readonly key: KeyObject } | undefined

  constructor(region: string, service: string) {
    this.#region = region
    this.#service = service
  }

  /** Gives the `authorization` header. The headers must hold `x-amz-date` as {@link amzDate} writes it. */
  authorization(request: UnsignedRequest, credentials: SigningCredentials): string {
    const { method, path, query, headers, payloadHash } = request
    const date = headers['x-amz-date'] ?? ''
    const names = Object.keys(headers).toSorted()
    const signedNames = names.join(';')
    let lines = ''
    for (const name of names) lines += `${name}:${(headers[name] ?? '').trim().replaceAll(/ {2,}/g, ' ')}\n`
    const canonical = `${method}\n${path}\n${query}\n${lines}\n${signedNames}\n${payloadHash}`
    const scope = this.scope(date)
    const text = `AWS4-HMAC-SHA256\n${date}\n${scope}\n${hash('sha256', canonical)}`
    const signature = this.sign(text, credentials.secretAccessKey, date)
    return `AWS4-HMAC-SHA256 Credential=${credentials.accessKeyId}/${scope}, SignedHeaders=${signedNames}, Signature=${signature}`
  }

  /** The date is as {@link amzDate} writes it. */
  scope(date: string): string {
    return `${date.slice(0, 8)}/${this.#region}/${this.#service}/aws4_request`
  }

  /** The signature of any text: of a request, or of the policy of a form. */
  sign(text: string, secret: string, date: string): string {
    return createHmac('sha256', this.#key(secret, date.slice(0, 8)))
      .update(text)
      .digest('hex')
  }

  #key(secret: string, day: string): KeyObject {
    if (this.#derived?.secret === secret && this.#derived.day === day) return this.#derived.key
    let key: Buffer = Buffer.from(`AWS4${secret}`)
    for (const part of [day, this.#region, this.#service, 'aws4_request']) key = createHmac('sha256', key).update(part).digest()
    this.#derived = { secret, day, key: createSecretKey(key) }
    return this.#derived.key
  }
}

/** `20261121T142602Z` */
export function amzDate(now: Date): string {
  return `${now.toISOString().slice(0, 19).replaceAll(/[-:]/g, '')}Z`
}

/** As RFC 3986 has it, which the signature wants: nothing but letters, digits, `-`, `.`, `_` and `~` stays. */
export function encodeQueryPart(text: string): string {
  return encodeURIComponent(text).replaceAll(/[!'()*]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`)
}

/** The same, but slashes stay. */
export function encodePath(path: string): string {
  return /^[\w./~-]*$/.test(path) ? path : path.split('/').map(encodeQueryPart).join('/')
}

/** Encoded and in the order that the signature wants. Names without a value are left out. */
export function encodeQuery(values: Readonly<Record<string, string | number | undefined>>): string {
  const parts: string[] = []
  for (const [name, value] of Object.entries(values)) {
    if (value !== undefined) parts.push(`${encodeQueryPart(name)}=${encodeQueryPart(String(value))}`)
  }
  return parts.toSorted().join('&')
}
