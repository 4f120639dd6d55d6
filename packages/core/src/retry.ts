import { HandlerError } from './errors.ts'
import { sleep } from './time.ts'

/** How often and how long to try. */
export interface RetryPolicy {
  /** Tries in all, the first included. */
  readonly attempts: number
  /** Time for all tries and waits together, in milliseconds. A wait that would end after it is not begun. */
  readonly budgetMs: number
  /** The upper bound of the first wait, in milliseconds; it doubles with each try. */
  readonly baseDelayMs: number
  /** No wait is longer, unless the server asked for it. */
  readonly maxDelayMs: number
}

export const defaultRetryPolicy: RetryPolicy = { attempts: 5, budgetMs: 30_000, baseDelayMs: 100, maxDelayMs: 5_000 }

export interface RetryOptions {
  readonly policy?: Partial<RetryPolicy> | undefined
  readonly signal?: AbortSignal | undefined
  /** True when doing the work twice is the same as doing it once; only then is an `if-idempotent` error tried again. */
  readonly idempotent?: boolean | undefined
  readonly onRetry?: ((error: HandlerError, next: { readonly attempt: number; readonly delayMs: number }) => void) | undefined
  /** For tests: a number in [0, 1). */
  readonly random?: (() => number) | undefined
}

/**
 * The wait before try `attempt + 1`, in milliseconds: full jitter between nothing and the doubled bound
 * (AWS Architecture Blog, "Exponential Backoff and Jitter"), but never sooner than the server asked for.
 */
export function retryDelay(
  attempt: number,
  policy: RetryPolicy,
  retryAfterMs?: number,
  random: () => number = Math.random,
): number {
  const bound = Math.min(policy.maxDelayMs, policy.baseDelayMs * 2 ** (attempt - 1))
  return Math.max(random() * bound, retryAfterMs ?? 0)
}

/**
 * Does the work until it succeeds, its error says `never`, or the budget of tries or time is used up; then the last
 * error is thrown as it is. An abort ends a wait at once.
 */
export async function retry<T>(work: (attempt: number) => Promise<T>, options: RetryOptions = {}): Promise<T> {
  const policy = { ...defaultRetryPolicy, ...options.policy }
  const end = performance.now() + policy.budgetMs
  for (let attempt = 1; ; attempt++) {
    options.signal?.throwIfAborted()
    try {
      return await work(attempt)
    } catch (error) {
      if (!HandlerError.is(error) || attempt >= policy.attempts) throw error
      if (error.retry === 'never' || (error.retry === 'if-idempotent' && options.idempotent !== true)) throw error
      const delayMs = retryDelay(attempt, policy, error.retryAfterMs, options.random)
      if (performance.now() + delayMs > end) throw error
      options.onRetry?.(error, { attempt: attempt + 1, delayMs })
      await sleep(delayMs, options.signal)
    }
  }
}

/** Reads `Retry-After` (seconds or an HTTP date, RFC 9110 section 10.2.3) as milliseconds from now. */
export function parseRetryAfter(header: string | null | undefined, now: number = Date.now()): number | undefined {
  if (header === null || header === undefined || header.trim() === '') return undefined
  if (/^\d+$/.test(header.trim())) return Number(header) * 1000
  const date = Date.parse(header)
  return Number.isNaN(date) ? undefined : Math.max(0, date - now)
}
