import { OperationTimeoutError } from './errors.ts'

/** What every call of a handler takes. */
export interface CallOptions {
  /** Ends the call, on the server too where it has a way; the call rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined
  /** Ends the call with an OperationTimeoutError after so many milliseconds. */
  readonly timeoutMs?: number | undefined
}

/** Timers of Node take 31 bits; a longer delay fires at once. */
const MAX_TIMER_MS = 2 ** 31 - 1

/** Waits; rejects with the signal's reason at once when it is aborted. Any length, also past the 24.8 days of one timer. */
export async function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  const end = performance.now() + ms
  signal?.throwIfAborted()
  for (let left = ms; left > 0; left = end - performance.now()) {
    await new Promise<void>((resolve, reject) => {
      const abort = (): void => {
        clearTimeout(timer)
        reject(signal?.reason as Error)
      }
      const timer = setTimeout(
        () => {
          signal?.removeEventListener('abort', abort)
          resolve()
        },
        Math.min(left, MAX_TIMER_MS),
      )
      signal?.addEventListener('abort', abort, { once: true })
    })
  }
}

/** What the work inside {@link withDeadline} gets. */
export interface Deadline {
  /** Aborted by the caller's signal or when the time has passed. */
  readonly signal: AbortSignal
  /** Milliseconds left; Infinity without a limit. */
  remainingMs(): number
}

/**
 * Runs work under the caller's signal and time-out together. When the time has passed the call rejects with an
 * OperationTimeoutError (code `<prefix>_TIMEOUT`), whatever the work made of its aborted signal.
 */
export async function withDeadline<T>(
  options: CallOptions | undefined,
  what: { readonly prefix: string; readonly action: string; readonly defaultMs?: number },
  work: (deadline: Deadline) => Promise<T>,
): Promise<T> {
  const limit = options?.timeoutMs ?? what.defaultMs
  options?.signal?.throwIfAborted()
  if (limit === undefined) {
    const signal = options?.signal ?? new AbortController().signal
    return work({ signal, remainingMs: () => Infinity })
  }
  const timeout = new AbortController()
  const end = performance.now() + limit
  // Made when it is needed: a stack for each call that ends in time costs more than the rest of this.
  const expire = (): void =>
    timeout.abort(
      new OperationTimeoutError(`${what.action} took longer than ${limit} ms`, {
        code: `${what.prefix}_TIMEOUT`,
        retry: 'if-idempotent',
        context: { timeoutMs: limit },
      }),
    )
  const timer = setTimeout(expire, Math.min(limit, MAX_TIMER_MS))
  const signal = options?.signal === undefined ? timeout.signal : AbortSignal.any([options.signal, timeout.signal])
  try {
    return await work({ signal, remainingMs: () => Math.max(0, end - performance.now()) })
  } catch (thrown) {
    options?.signal?.throwIfAborted()
    timeout.signal.throwIfAborted()
    throw thrown
  } finally {
    clearTimeout(timer)
  }
}
