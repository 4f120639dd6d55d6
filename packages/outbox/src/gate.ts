/**
 * Lets many work side by side, or one alone. Who wants to be alone waits for those inside, and nobody comes in meanwhile.
 */
export class Gate {
  #inside = 0
  #alone = false
  #wanting = 0
  readonly #waiting: (() => void)[] = []

  /** Somebody is alone, or waits to be. */
  get closing(): boolean {
    return this.#alone || this.#wanting > 0
  }

  async enter(): Promise<void> {
    while (this.closing) await this.#change()
    this.#inside += 1
  }

  leave(): void {
    this.#inside -= 1
    this.#changed()
  }

  async alone<T>(work: () => Promise<T>): Promise<T> {
    this.#wanting += 1
    try {
      while (this.#alone || this.#inside > 0) await this.#change()
      this.#alone = true
    } finally {
      this.#wanting -= 1
    }
    try {
      return await work()
    } finally {
      this.#alone = false
      this.#changed()
    }
  }

  #change(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve))
  }

  #changed(): void {
    for (const resolve of this.#waiting.splice(0)) resolve()
  }
}
