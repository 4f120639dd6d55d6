import { ConnectionError } from './errors.ts'

/** Anything that is opened and must be closed. */
export interface Closable extends AsyncDisposable {
  close(options?: CloseOptions): Promise<void>
}

export interface CloseOptions {
  /** How long to wait for what is under way before it is aborted, in milliseconds. Default 10 000. */
  readonly graceMs?: number
}

const DEFAULT_GRACE_MS = 10_000

/**
 * The life of a handler: open until `close()`, which lets no new call in, waits for those under way (aborting them
 * after the grace), and then lets go of the driver. Closing twice, or while a close is under way, is one close.
 */
export class Lifecycle {
  readonly #name: string
  readonly #prefix: string
  readonly #release: () => Promise<void>
  readonly #abort = new AbortController()
  // A count, and no Set of promises: the old tables of a Set that lasts hold on to calls that have ended.
  #running = 0
  #ended: (() => void) | undefined
  #closing: Promise<void> | undefined

  /** `name` and `prefix` make the error of a call after the end: "VaultHandler is closed", `VAULT_CLOSED`. */
  constructor(name: string, prefix: string, release: () => Promise<void>) {
    this.#name = name
    this.#prefix = prefix
    this.#release = release
  }

  get closed(): boolean {
    return this.#closing !== undefined
  }

  /** Aborted when the grace of `close()` has passed. */
  get signal(): AbortSignal {
    return this.#abort.signal
  }

  /** Throws `<PREFIX>_CLOSED` after close() was called. */
  assertOpen(): void {
    if (this.#closing === undefined) return
    throw new ConnectionError(`${this.#name} is closed`, { code: `${this.#prefix}_CLOSED`, retry: 'never' })
  }

  /** Runs a call that `close()` waits for. The signal given to it ends with the caller's or with the grace of close(). */
  async run<T>(signal: AbortSignal | undefined, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    this.assertOpen()
    const joined = signal === undefined ? this.#abort.signal : AbortSignal.any([signal, this.#abort.signal])
    joined.throwIfAborted()
    this.#running += 1
    try {
      return await work(joined)
    } finally {
      this.#leave()
    }
  }

  /** Registers something that lasts longer than one call (a stream, a cursor). Call what it returns when it has ended. */
  hold(): () => void {
    this.assertOpen()
    this.#running += 1
    let held = true
    return () => {
      if (held) this.#leave()
      held = false
    }
  }

  close(options: CloseOptions = {}): Promise<void> {
    return (this.#closing ??= this.#end(options.graceMs ?? DEFAULT_GRACE_MS))
  }

  #leave(): void {
    this.#running -= 1
    if (this.#running === 0) this.#ended?.()
  }

  async #end(graceMs: number): Promise<void> {
    const timer = setTimeout(() => {
      this.#abort.abort(
        new ConnectionError(`${this.#name} was closed`, { code: `${this.#prefix}_CLOSED`, retry: 'if-idempotent' }),
      )
    }, graceMs)
    try {
      while (this.#running > 0) await new Promise<void>((resolve) => (this.#ended = resolve))
    } finally {
      clearTimeout(timer)
    }
    await this.#release()
  }
}
