// What many short requests hang on a signal that lives as long as its handler must leave no trace: a listener that Node
// has removed from its list still points to the next one, an entry of a Set's old table to the next table, and what
// AbortSignal.any makes stays until a full collection. Each held the request after it, and 5,000 small objects took 40 MB
// more. So one listener stands for all, and an array, whose places are taken again, for those that it calls.

interface Heard {
  readonly callback: () => void
  index: number
}

const heardBy = new WeakMap<AbortSignal, Heard[]>()

/** Calls back when the signal is aborted. Gives what ends it. */
export function onAbort(signal: AbortSignal, callback: () => void): () => void {
  const all = heardBy.get(signal) ?? []
  if (all.length === 0) {
    heardBy.set(signal, all)
    signal.addEventListener('abort', callAll)
  }
  const heard: Heard = { callback, index: all.length }
  all.push(heard)
  return () => {
    if (all[heard.index] !== heard) return
    const last = all.pop()
    if (last !== undefined && last !== heard) {
      last.index = heard.index
      all[last.index] = last
    }
    if (all.length === 0) signal.removeEventListener('abort', callAll)
  }
}

function callAll(this: unknown): void {
  // A copy: who is called lets go.
  const all = heardBy.get(this as AbortSignal)?.slice() ?? []
  for (const { callback } of all) callback()
}

/** The end of one request: with the signal that it was given, or when its time has passed. */
export class Stop {
  readonly #controller = new AbortController()
  readonly #release: () => void
  #timer: NodeJS.Timeout | undefined

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
    if (ms !== Infinity) this.#timer = setTimeout(() => this.#controller.abort(reason()), Math.min(ms, MAX_TIMER_MS))
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
    this.rest()
    this.#release()
  }
}

/** Timers of Node take 31 bits. */
const MAX_TIMER_MS = 2 ** 31 - 1
