import { AuthError, HandlerError, registerSecretValue, type Secret } from '@common-handlers/core'
import type { TrinoConfig } from './config.ts'

/** Who logs in. One of password, token and client certificate, or a certificate and one of the others. */
export interface TrinoLogin {
  /** The name to log in with; the statements run under it too, unless `sessionUser` says another. Default: the option `user`. */
  readonly user?: string | undefined
  readonly password?: string | undefined
  /** A JWT or an OAuth2 access token. */
  readonly token?: string | undefined
  /** PEM text, with {@link clientKey}. New connections are made when it changes. */
  readonly clientCert?: string | undefined
  readonly clientKey?: string | undefined
  /** When they end, in milliseconds of Date.now(). */
  readonly expiresAt?: number | undefined
}

/** A login that its provider wants to know the end of. */
export interface HeldLogin extends TrinoLogin {
  release(): void
}

/**
 * Who gives the login and changes it: a lease of a vault, for example. Structural, so that neither side imports the
 * other. Asked before each HTTP exchange, so it is to be cheap while the login is current; held until the answer is there.
 */
export interface CredentialProvider {
  /** `rejected`: what the server has just refused; newer ones if there are, else the same again. */
  acquire(options?: { readonly signal?: AbortSignal | undefined; readonly rejected?: HeldLogin | undefined }): Promise<HeldLogin>
}

/**
 * The short form of a provider. What it gives is kept until half a minute before `expiresAt`, for good without one, and
 * asked for anew when the server refuses it.
 */
export type CredentialFunction = (options: { readonly signal: AbortSignal }) => Promise<TrinoLogin>

/** A token is not used in its last moments: clocks differ, and an exchange takes time. */
const MARGIN_MS = 30_000

/** How long a credentials function may take. */
const LIMIT_MS = 60_000

const release = (): void => undefined

/** The login of the options, which never changes. */
export function fixedCredentials({ password, token, tls }: TrinoConfig): CredentialProvider {
  const expose = (secret: Secret | undefined): string | undefined => secret?.expose()
  const login: HeldLogin = {
    password: expose(password),
    token: expose(token),
    clientCert: tls.clientCert,
    clientKey: expose(tls.clientKey),
    release,
  }
  return { acquire: () => Promise.resolve(login) }
}

/** A function as a provider. Calls at one time share one question, which outlives the signal of the first who asked. */
export function credentialsFrom(read: CredentialFunction): CredentialProvider {
  let kept: HeldLogin | undefined
  let reading: Promise<HeldLogin> | undefined
  const ask = async (): Promise<HeldLogin> => {
    try {
      const limit = AbortSignal.timeout(LIMIT_MS)
      // One that does not look at its signal must not stop the handler for good.
      const login = await unlessAborted(read({ signal: limit }), limit)
      for (const value of [login.password, login.token, login.clientKey]) if (value !== undefined) registerSecretValue(value)
      return (kept = { ...login, release })
    } catch (cause) {
      if (HandlerError.is(cause)) throw cause
      throw new AuthError(`the credentials function failed: ${cause instanceof Error ? cause.message : String(cause)}`, {
        code: 'TRINO_CREDENTIALS_UNAVAILABLE',
        retry: 'safe',
        cause,
      })
    } finally {
      reading = undefined
    }
  }
  return {
    async acquire({ signal, rejected } = {}) {
      // Somebody else may have been refused before, and have got newer ones.
      const refused = rejected !== undefined && rejected === kept
      if (kept !== undefined && !refused && Date.now() < (kept.expiresAt ?? Infinity) - MARGIN_MS) return kept
      return unlessAborted((reading ??= ask()), signal)
    },
  }
}

/** The promise, or the reason of the signal if that comes first; the work behind it goes on. */
export async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work
  signal.throwIfAborted()
  const { promise, reject } = Promise.withResolvers<never>()
  const abort = (): void => reject(signal.reason as Error)
  signal.addEventListener('abort', abort, { once: true })
  try {
    return await Promise.race([work, promise])
  } finally {
    signal.removeEventListener('abort', abort)
  }
}
