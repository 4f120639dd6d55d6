import { sleep } from '@common-handlers/core'
import type { RateLimitConfig } from './config.ts'

/** Waits for a turn; rejects with the signal's reason. */
export type Turn = (signal: AbortSignal) => Promise<void>

/** A token bucket: so many turns a second on average, at most `burst` of them at once; those who wait are served in order. */
export function createRateLimit(limit: RateLimitConfig | undefined): Turn {
  if (limit === undefined) return () => Promise.resolve()
  const intervalMs = 1000 / limit.perSecond
  const burst = limit.burst ?? Math.ceil(limit.perSecond)
  // When the bucket will be full again; each turn moves it one interval on.
  let fullAt = 0
  return async (signal) => {
    const now = Date.now()
    fullAt = Math.max(fullAt, now) + intervalMs
    await sleep(fullAt - now - burst * intervalMs, signal)
  }
}
