/** A sleep that ends when there is something to do. A call that comes while nobody sleeps is not forgotten. */
export class Alarm {
  #rung = false
  readonly #sleepers = new Set<() => void>()

  /** Somebody sleeps. */
  get awaited(): boolean {
    return this.#sleepers.size > 0
  }

  ring(): void {
    this.#rung = true
    for (const wake of this.#sleepers) wake()
  }

  /** True when it was rung, false when the time has passed. */
  async sleep(ms: number): Promise<boolean> {
    if (!this.#rung) {
      await new Promise<void>((resolve) => {
        const wake = (): void => {
          clearTimeout(timer)
          this.#sleepers.delete(wake)
          resolve()
        }
        const timer = setTimeout(wake, Math.min(ms, 2 ** 31 - 1))
        this.#sleepers.add(wake)
      })
    }
    const rung = this.#rung
    this.#rung = false
    return rung
  }
}

const FIRST_MS = 20

/**
 * How long to wait until the next look: soon after there was something, then less and less often. What was committed just
 * as the worker said that it is idle comes without a notification.
 */
export class Patience {
  #ms = FIRST_MS

  next(limitMs: number): number {
    const ms = Math.min(this.#ms, limitMs)
    this.#ms = Math.min(2 * this.#ms, limitMs)
    return ms
  }

  /** There was something. */
  lose(): void {
    this.#ms = FIRST_MS
  }
}
