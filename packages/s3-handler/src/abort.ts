import { onAbort } from '@common-handlers/core'

/** The end of one request: with the signal that it was given, or when its time has passed. */
export class Stop {
  readonly #controller = new AbortController()
  readonly #release: () => void
  #timer: NodeJS.Timeout | undefined
  #isOver = false

  /** @throws the signal's reason */
  constructor(signal: AbortSignal) {
    signal.throwIfAborted()
    this.#release = onAbort(signal, () => this.#controller.abort(signal.reason))
  }

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  /** Ends it after so long, counted from now; a time that was given before counts no more. Infinity: not. */
  after(ms: number, reason: () => Error): void {
    this.rest()
    if (ms !== Infinity && !this.#isOver)
      this.#timer = setTimeout(() => this.#controller.abort(reason()), Math.min(ms, MAX_TIMER_MS))
  }

  /** Counts the time from now. */
  again(): void {
    this.#timer?.refresh()
  }

  /** No time counts. */
  rest(): void {
    clearTimeout(this.#timer)
  }

  /** The request is over. */
  over(): void {
    this.#isOver = true
    this.rest()
    this.#release()
  }
}

/** Timers of Node take 31 bits. */
const MAX_TIMER_MS = 2 ** 31 - 1
