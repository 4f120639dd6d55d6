/**
 * How many requests may be under way at a time. There is no limit until the server asks to slow down; then it is half of
 * what was under way, and grows by one with each round of requests that went well (additive increase, multiplicative
 * decrease: RFC 5681 does the same to a connection).
 */
export class RequestLimit {
  #limit = Infinity
  #running = 0
  #succeeded = 0
  #slowDowns = 0
  /** Requests that began before the last cut do not cut again: they say nothing about the new limit. */
  #generation = 0
  readonly #waiting: (() => void)[] = []

  /** Requests that may be under way; Infinity while the server has not complained. */
  get limit(): number {
    return this.#limit
  }

  get running(): number {
    return this.#running
  }

  get slowDowns(): number {
    return this.#slowDowns
  }

  /** Waits for its turn and runs the request; `isSlowDown` reads its error. */
  async run<T>(signal: AbortSignal, isSlowDown: (error: unknown) => boolean, request: () => Promise<T>): Promise<T> {
    while (this.#running >= this.#limit) await this.#turn(signal)
    const generation = this.#generation
    this.#running += 1
    try {
      const result = await request()
      this.#grow()
      return result
    } catch (error) {
      if (isSlowDown(error)) this.#cut(generation)
      throw error
    } finally {
      this.#running -= 1
      this.#waiting.shift()?.()
    }
  }

  #grow(): void {
    if (this.#limit === Infinity) return
    this.#succeeded += 1
    if (this.#succeeded < this.#limit) return
    this.#succeeded = 0
    this.#limit += 1
    this.#waiting.shift()?.()
  }

  #cut(generation: number): void {
    this.#slowDowns += 1
    if (generation !== this.#generation) return
    this.#generation += 1
    this.#succeeded = 0
    this.#limit = Math.max(1, Math.floor(Math.min(this.#limit, this.#running) / 2))
  }

  #turn(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const go = (): void => {
        signal.removeEventListener('abort', abort)
        resolve()
      }
      const abort = (): void => {
        const index = this.#waiting.indexOf(go)
        if (index !== -1) this.#waiting.splice(index, 1)
        reject(signal.reason as Error)
      }
      if (signal.aborted) abort()
      else {
        signal.addEventListener('abort', abort, { once: true })
        this.#waiting.push(go)
      }
    })
  }
}
