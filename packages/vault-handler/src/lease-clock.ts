import { retryDelay } from '@common-handlers/core'

/** Timers of Node take 31 bits; a longer delay fires at once. */
const MAX_TIMER_MS = 2 ** 31 - 1

/** One thing to do at a time to come, however far away. It does not keep the process alive. */
export class Alarm {
  #timer: NodeJS.Timeout | undefined

  /** Sets it, in the time of `Date.now()`; what it was set to before is forgotten. */
  set(time: number, work: () => void): void {
    clearTimeout(this.#timer)
    const left = Math.max(0, time - Date.now())
    this.#timer = setTimeout(left > MAX_TIMER_MS ? () => this.set(time, work) : work, Math.min(left, MAX_TIMER_MS)).unref()
  }

  clear(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }
}

const BASE_DELAY_MS = 100
const MAX_DELAY_MS = 60_000
/** In the time that is given so many tries fit at least. */
const TRIES = 12

/**
 * The wait after the n-th failure in a row: doubling from 100 ms up to a twelfth of a time, the life of a lease or token, and
 * a minute at most. Half of it is by chance and half is certain, so that the number of tries has a bound too.
 */
export function leaseRetryDelay(failures: number, lifeMs: number, retryAfterMs: number = 0): number {
  const maxDelayMs = Math.max(BASE_DELAY_MS, Math.min(MAX_DELAY_MS, lifeMs / TRIES))
  const policy = { attempts: Infinity, budgetMs: Infinity, baseDelayMs: BASE_DELAY_MS, maxDelayMs }
  return retryDelay(failures, policy, Math.min(retryAfterMs, MAX_DELAY_MS), () => 0.5 + Math.random() / 2)
}

/** When to renew or replace what is good from one time to another: between one half and two thirds of it, by chance. */
export function leaseDueAt(from: number, to: number): number {
  return from + (to - from) * (1 / 2 + Math.random() / 6)
}
