import { createPrivateKey, type KeyObject, sign } from 'node:crypto'

/** What stands in the key file of a service account. */
export interface Credentials {
  readonly clientEmail: string
  readonly privateKey: KeyObject
  readonly keyId: string | undefined
  /** Where the key is exchanged for a token. */
  readonly tokenUri: string
}

const TOKEN_URI = 'https://oauth2.googleapis.com/token'
const SCOPE = 'https://www.googleapis.com/auth/spreadsheets.readonly'

/** Reads the text of a key file. @throws Error that says what is wrong with it, and nothing of what is in it */
export function readCredentials(text: string): Credentials {
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch {
    throw new Error('expected the JSON text of a key file of a service account')
  }
  const {
    type,
    client_email: clientEmail,
    private_key: pem,
    private_key_id: keyId,
    token_uri: tokenUri = TOKEN_URI,
  } = (typeof parsed === 'object' && parsed !== null ? parsed : {}) as Readonly<Record<string, unknown>>
  if (type !== 'service_account') throw new Error('expected a key of the type "service_account"')
  if (typeof clientEmail !== 'string' || typeof pem !== 'string') throw new Error('client_email and private_key are needed')
  if (typeof tokenUri !== 'string' || !isTrusted(tokenUri)) throw new Error('token_uri is not an address that may be asked')
  let privateKey: KeyObject
  try {
    privateKey = createPrivateKey(pem)
  } catch {
    throw new Error('private_key is no key')
  }
  return { clientEmail, privateKey, keyId: typeof keyId === 'string' ? keyId : undefined, tokenUri }
}

/** Keys and tokens go over TLS, or to this machine. */
export function isTrusted(address: string): boolean {
  if (!URL.canParse(address)) return false
  const { protocol, hostname } = new URL(address)
  return protocol === 'https:' || (protocol === 'http:' && ['127.0.0.1', '[::1]', 'localhost'].includes(hostname))
}

/** The claim that is exchanged for a token: RFC 7523, https://developers.google.com/identity/protocols/oauth2/service-account. */
export function signedClaim({ clientEmail, privateKey, keyId, tokenUri }: Credentials, now: number): string {
  const seconds = Math.floor(now / 1000)
  const header = { alg: 'RS256', typ: 'JWT', ...(keyId === undefined ? {} : { kid: keyId }) }
  const claims = { iss: clientEmail, scope: SCOPE, aud: tokenUri, iat: seconds, exp: seconds + 3600 }
  const signed = [header, claims].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.')
  return `${signed}.${sign('RSA-SHA256', Buffer.from(signed), privateKey).toString('base64url')}`
}
