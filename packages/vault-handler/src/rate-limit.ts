import { sleep, untilAborted } from '@common-handlers/core'
import type { RateLimitConfig } from './config.ts'

/** Waits for a turn; rejects with the signal's reason. */
export type Turn = (signal: AbortSignal) => Promise<void>

/** A token bucket: so many turns a second on average, at most `burst` of them at once; those who wait are served in order. */
export function createRateLimit(limit: RateLimitConfig | undefined): Turn {
  if (limit === undefined) return () => Promise.resolve()
  const intervalMs = 1000 / limit.perSecond
  const burst = limit.burst ?? Math.ceil(limit.perSecond)
  // When the bucket will be full again, by a clock that nobody sets; each turn moves it one interval on.
  let fullAt = 0
  let last = Promise.resolve()
  return (signal) => {
    // Only the first in the line waits for time to pass: those who leave the line take no turn.
    const turn = last.then(async () => {
      await sleep(Math.max(fullAt - performance.now(), 0) - (burst - 1) * intervalMs, signal)
      fullAt = Math.max(fullAt, performance.now()) + intervalMs
    })
    last = turn.catch(() => undefined)
    return untilAborted(turn, signal)
  }
}
