import { AuthError, HandlerError, registerSecretValue, type Secret } from '@common-handlers/core'
import { unlessAborted } from './abort.ts'

/** A user and its password, good until `release()` or `expiresAt`, whichever is first. */
export interface HeldCredentials {
  readonly user: string
  readonly password: string
  /** When the provider lets them end whatever happens, in milliseconds of Date.now(); Infinity if it does not know. */
  readonly expiresAt: number
  /** They are not needed any more. Called once for each `acquire()`; must not throw and does not wait. */
  release(): void
}

/**
 * Who gives user and password, and says when they change: a lease of a vault, for example. Structural, so that neither
 * side imports the other.
 */
export interface CredentialProvider {
  /**
   * The credentials for a login now, held until released. Asked for before every new connection, so it is to be cheap
   * while they are current. `rejected`: credentials that the server has just refused; the provider gives newer ones if
   * there are, else the same again.
   */
  acquire(options?: {
    readonly signal?: AbortSignal | undefined
    readonly rejected?: HeldCredentials | undefined
  }): Promise<HeldCredentials>
  /** `rotated`: acquire() now gives other credentials. An EventEmitter fits. */
  on(event: 'rotated', listener: () => void): unknown
  off(event: 'rotated', listener: () => void): unknown
}

/** What a {@link CredentialFunction} gives. */
export interface Login {
  readonly user: string
  readonly password: string
  /** Kept for further logins until a minute before this time, in milliseconds of Date.now(); without it asked for anew each time. */
  readonly expiresAt?: number | undefined
}

/** The short form of a provider: asked for each login, a token that lives for some minutes for example. */
export type CredentialFunction = (options: { readonly signal: AbortSignal }) => Promise<Login>

/** A token is not used in its last minute: the clocks differ, and a login takes time. */
const MARGIN_MS = 60_000

const never = new AbortController().signal
const unheld = { release: () => undefined }
const silent = { on: () => undefined, off: () => undefined }

/** The user and password of the options, which never change. */
export function fixedCredentials(user: string, password: Secret | undefined): CredentialProvider {
  // Without a password pg says so at login; an empty one stands for none.
  const held = { user, password: password?.expose() ?? '', expiresAt: Infinity, ...unheld }
  return { acquire: () => Promise.resolve(held), ...silent }
}

/** A function as a provider. Calls at one time share one question. */
export function credentialsFrom(read: CredentialFunction): CredentialProvider {
  let kept: HeldCredentials | undefined
  let reading: Promise<HeldCredentials> | undefined
  const ask = async (signal: AbortSignal): Promise<HeldCredentials> => {
    try {
      const { user, password, expiresAt } = await unlessAborted(read({ signal }), signal)
      registerSecretValue(password)
      kept = { user, password, expiresAt: expiresAt ?? 0, ...unheld }
      return kept
    } catch (cause) {
      signal.throwIfAborted()
      if (HandlerError.is(cause)) throw cause
      throw new AuthError(`the credentials function failed: ${cause instanceof Error ? cause.message : String(cause)}`, {
        code: 'POSTGRES_CREDENTIALS_UNAVAILABLE',
        retry: 'safe',
        cause,
      })
    } finally {
      reading = undefined
    }
  }
  return {
    acquire({ signal = never, rejected } = {}) {
      if (kept !== undefined && rejected === undefined && Date.now() < kept.expiresAt - MARGIN_MS) return Promise.resolve(kept)
      return unlessAborted((reading ??= ask(signal)), signal)
    },
    ...silent,
  }
}
