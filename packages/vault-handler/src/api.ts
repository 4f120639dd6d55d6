import type { CallOptions, Logger } from '@common-handlers/core'
import type { ApiRequest } from './client.ts'

/** What the parts of a handler (kv, transit, wrapping, token, leases) work with. The handler gives it to their constructors. */
export interface VaultApi {
  readonly logger: Logger
  /**
   * Aborted when the grace of `close()` has passed, or all calls have ended: for work that several calls wait for, which none
   * of them may abort.
   */
  readonly signal: AbortSignal
  /** Aborted as soon as `close()` is called: timers and background work end with it. */
  readonly closing: AbortSignal
  /** One public call: let in while the handler is open, waited for by `close()`, ended by the caller's signal or time-out. */
  call<T>(action: string, options: CallOptions | undefined, work: (signal: AbortSignal) => Promise<T>): Promise<T>
  /**
   * A request with the token of the handler; logs in first, and once more when the token was lost. What the cache holds of a
   * path that was written is forgotten.
   */
  authorised(request: ApiRequest, signal: AbortSignal): Promise<unknown>
  /** A request as it is: with `request.token` or with none. For what a token of its own opens. */
  send(request: ApiRequest, signal: AbortSignal): Promise<unknown>
  /**
   * Work for `close()`, done after the calls under way and before the token is revoked, at most for two seconds; its errors
   * are not told. Returns how to take it back.
   */
  onClose(work: (signal: AbortSignal) => Promise<void>): () => void
  /**
   * Tells when another token took the place of the one before, and at what time (of `Date.now()`) that one ends or has ended:
   * the leases that were made by it end then too. While somebody listens, a token that no renewal can extend is replaced
   * before its end, without waiting for a call. Returns how to stop it.
   */
  onTokenLost(listener: (endsAt: number) => void): () => void
}
