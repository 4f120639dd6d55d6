import type { BoundHandler } from './handler.ts'

/** Starts per second, by type: a bucket that holds one second's worth. */
export class Rates {
  readonly #buckets = new Map<string, { readonly rate: number; tokens: number; at: number; timer: NodeJS.Timeout | undefined }>()

  constructor(handlers: Iterable<BoundHandler>) {
    for (const { type, ratePerSecond } of handlers)
      if (ratePerSecond !== Infinity)
        this.#buckets.set(type, {
          rate: ratePerSecond,
          tokens: Math.max(1, ratePerSecond),
          at: performance.now(),
          timer: undefined,
        })
  }

  take(type: string): boolean {
    const bucket = this.#buckets.get(type)
    if (bucket === undefined) return true
    const now = performance.now()
    bucket.tokens = Math.min(Math.max(1, bucket.rate), bucket.tokens + ((now - bucket.at) / 1000) * bucket.rate)
    bucket.at = now
    if (bucket.tokens < 1) return false
    bucket.tokens -= 1
    return true
  }

  /** Calls back when the next one may start. */
  later(type: string, call: () => void): void {
    const bucket = this.#buckets.get(type)
    if (bucket === undefined || bucket.timer !== undefined) return
    const wait = ((1 - bucket.tokens) / bucket.rate) * 1000
    bucket.timer = setTimeout(
      () => {
        bucket.timer = undefined
        call()
      },
      Math.max(1, Math.ceil(wait)),
    )
  }

  stop(): void {
    for (const bucket of this.#buckets.values()) clearTimeout(bucket.timer)
  }
}
