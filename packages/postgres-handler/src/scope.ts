import { type CallOptions, withDeadline, onAbort } from '@common-handlers/core'
import type { Connection } from './connection.ts'
import { connectionBusy, scopeEnded } from './errors.ts'

/** How long work gets to end by itself after it was told to. */
export const UNWIND_MS = 1_000

/**
 * The life of what a work is given: a transaction, a savepoint, a snapshot or a lock. It ends with the work. Statements that
 * the work did not wait for are waited for, or cancelled where the work has failed; afterwards every use is refused, for
 * the connection is another's by then.
 */
export class Scope {
  readonly connection: Connection
  /** Aborted when the work is to end, and when it has ended. */
  readonly signal: AbortSignal
  readonly #ended = new AbortController()
  readonly #calls = new Set<Promise<unknown>>()
  /** What has the connection for itself. */
  #held: string | undefined

  constructor(connection: Connection, outer: AbortSignal) {
    this.connection = connection
    this.signal = AbortSignal.any([outer, this.#ended.signal])
  }

  /**
   * Gives a scope to work, and ends it. Work that goes on though its signal was aborted is left alone after a moment.
   * @throws what the work throws, the signal's reason
   */
  static async run<T>(connection: Connection, outer: AbortSignal, work: (scope: Scope) => Promise<T>): Promise<T> {
    const scope = new Scope(connection, outer)
    try {
      const result = await scope.#unlessDeaf(work(scope))
      await Promise.allSettled(scope.#calls)
      scope.signal.throwIfAborted()
      return result
    } finally {
      scope.#ended.abort(scopeEnded())
      while (scope.#calls.size > 0) await Promise.allSettled(scope.#calls)
    }
  }

  /** A call of the work. One that `holds` the connection is alone on it: what others ask for meanwhile is refused. */
  call<T>(
    action: string,
    options: CallOptions | undefined,
    work: (signal: AbortSignal) => Promise<T>,
    holds?: string,
  ): Promise<T> {
    const called = withDeadline(this.#joined(options), { prefix: 'POSTGRES', action }, async ({ signal }) => {
      const free = this.#hold(holds)
      try {
        return await work(signal)
      } finally {
        free()
      }
    })
    this.#calls.add(called)
    called.finally(() => this.#calls.delete(called)).catch(() => undefined)
    return called
  }

  /** A stream of the work. It is not waited for: its loop may have been left where it stood. */
  async *stream<T>(
    options: CallOptions | undefined,
    work: (signal: AbortSignal) => AsyncGenerator<T, void, undefined>,
    holds?: string,
  ): AsyncGenerator<T, void, undefined> {
    this.signal.throwIfAborted()
    const free = this.#hold(holds)
    try {
      yield* streamWithin(this.#joined(options), work)
    } finally {
      free()
    }
  }

  #hold(what: string | undefined): () => void {
    if (this.#held !== undefined) throw connectionBusy(this.#held)
    if (what === undefined) return () => undefined
    this.#held = what
    return () => {
      this.#held = undefined
    }
  }

  #joined(options: CallOptions | undefined): CallOptions {
    const { signal } = this
    return {
      timeoutMs: options?.timeoutMs,
      signal: options?.signal === undefined ? signal : AbortSignal.any([options.signal, signal]),
    }
  }

  async #unlessDeaf<T>(working: Promise<T>): Promise<T> {
    const { signal } = this
    const deaf = Promise.withResolvers<never>()
    let timer: NodeJS.Timeout | undefined
    const abort = (): void => {
      timer = setTimeout(() => deaf.reject(signal.reason), UNWIND_MS)
    }
    const forget = onAbort(signal, abort)
    if (signal.aborted) abort()
    try {
      return await Promise.race([working, deaf.promise])
    } finally {
      clearTimeout(timer)
      forget()
    }
  }
}

/** A stream under a signal and a time-out, which counts from the first item to the end. */
export async function* streamWithin<T>(
  options: CallOptions | undefined,
  work: (signal: AbortSignal) => AsyncGenerator<T, void, undefined>,
): AsyncGenerator<T, void, undefined> {
  const left = Promise.withResolvers<void>()
  const started = Promise.withResolvers<AbortSignal>()
  // withDeadline owns the timer and the error; it is told when the stream has come to its end.
  const deadline = withDeadline(options, { prefix: 'POSTGRES', action: 'reading' }, async ({ signal }) => {
    started.resolve(signal)
    await left.promise
    signal.throwIfAborted()
  })
  deadline.catch((error: unknown) => started.reject(error))
  started.promise.catch(() => undefined)
  const signal = await started.promise
  try {
    yield* work(signal)
  } catch (error) {
    left.resolve()
    await deadline
    throw error
  } finally {
    left.resolve()
    await deadline.catch(() => undefined)
  }
}
