import { AuthError, HandlerError, registerSecretValue, type Secret } from '@common-handlers/core'

/** What requests are signed with. */
export interface S3Credentials {
  readonly accessKeyId: string
  readonly secretAccessKey: string | Secret
  /** For temporary credentials. */
  readonly sessionToken?: string | Secret | undefined
  /** When they end. Without it they are taken to last until the server refuses them. */
  readonly expiration?: Date | undefined
}

/** Where credentials come from: a lease of a vault, a file that is replaced, a service of one's own. */
export type S3CredentialProvider = () => Promise<S3Credentials>

/** Credentials as a signer wants them. */
export interface SigningCredentials {
  readonly accessKeyId: string
  readonly secretAccessKey: string
  readonly sessionToken?: string
  readonly expiration?: Date
}

/** New ones are fetched so long before the old ones end, or in the last third of their life where that is shorter. */
const REFRESH_BEFORE_MS = 5 * 60_000
/** A provider that fails while the old credentials still hold is asked again so much later. */
const ASK_AGAIN_MS = 1_000

/**
 * Asks a provider once for all callers at a time, again before what it gave ends, and lives on what it gave before when
 * the provider fails in the meantime.
 */
export class CredentialCache {
  readonly #provider: S3CredentialProvider
  readonly #onFailure: (error: unknown) => void
  #current: { readonly credentials: SigningCredentials; readonly refreshAt: number } | undefined
  #asking: Promise<SigningCredentials> | undefined

  /** `onFailure` hears of a provider that fails while the old credentials still hold. */
  constructor(provider: S3CredentialProvider, onFailure: (error: unknown) => void) {
    this.#provider = provider
    this.#onFailure = onFailure
  }

  /** @throws AuthError `S3_CREDENTIALS_FAILED`; an error of a handler as it is */
  async get(): Promise<SigningCredentials> {
    const current = this.#current
    if (current !== undefined && Date.now() < current.refreshAt) return current.credentials
    this.#asking ??= this.#ask().finally(() => (this.#asking = undefined))
    return this.#asking
  }

  /** The server no longer takes these: the next call asks the provider. False when newer ones are at hand already. */
  refuse(accessKeyId: string): boolean {
    if (this.#current?.credentials.accessKeyId !== accessKeyId) return false
    this.#current = undefined
    return true
  }

  async #ask(): Promise<SigningCredentials> {
    const asked = Date.now()
    try {
      const credentials = signing(await this.#provider())
      const end = credentials.expiration?.getTime() ?? Infinity
      const before = Math.min(REFRESH_BEFORE_MS, (end - asked) / 3)
      this.#current = { credentials, refreshAt: end === Infinity ? Infinity : end - before }
      return credentials
    } catch (error) {
      const held = this.#current?.credentials
      if (held === undefined || (held.expiration?.getTime() ?? Infinity) <= Date.now()) throw failed(error)
      this.#onFailure(error)
      this.#current = { credentials: held, refreshAt: Date.now() + ASK_AGAIN_MS }
      return held
    }
  }
}

function signing({ accessKeyId, secretAccessKey, sessionToken, expiration }: S3Credentials): SigningCredentials {
  const expose = (value: string | Secret): string => {
    const text = typeof value === 'string' ? value : value.expose()
    registerSecretValue(text)
    return text
  }
  const made = {
    accessKeyId,
    secretAccessKey: expose(secretAccessKey),
    ...(sessionToken === undefined ? {} : { sessionToken: expose(sessionToken) }),
    ...(expiration === undefined ? {} : { expiration }),
  }
  if (expiration === undefined || expiration.getTime() > Date.now()) return made
  throw new AuthError(`the credentials that were given ended at ${expiration.toISOString()}`, {
    code: 'S3_TOKEN_EXPIRED',
    context: { accessKeyId },
  })
}

function failed(error: unknown): HandlerError {
  if (HandlerError.is(error)) return error
  const reason = error instanceof Error ? error.message : String(error)
  return new AuthError(`the credential provider failed: ${reason}`, { code: 'S3_CREDENTIALS_FAILED', cause: error })
}
