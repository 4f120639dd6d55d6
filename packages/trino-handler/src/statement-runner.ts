import { type CallOptions, HandlerError, type Lifecycle, OperationTimeoutError, retry, withDeadline } from '@common-handlers/core'
import type { TrinoConfig } from './config.ts'
import { isNotReady } from './errors.ts'
import type { TrinoParameter } from './literal.ts'
import { refuseSessionChange, type SessionState } from './session-state.ts'
import { render, type SqlStatement } from './sql.ts'
import { attached, type HeaderWatch, type Statement, type StatementContext, type StatementHandle, submit } from './statement.ts'
import type { StatementRunner } from './statements.ts'

/** What the handler and its sessions run statements with. */
export interface RunnerParts {
  readonly config: TrinoConfig
  readonly context: StatementContext
  readonly lifecycle: Lifecycle
  /** Turns to `prepared` when the server turns out not to know EXECUTE IMMEDIATE. */
  readonly parameters: { way: 'immediate' | 'prepared' }
}

/** Timers of Node take 31 bits; a longer delay fires at once. */
const MAX_TIMER_MS = 2 ** 31 - 1

/** Runs statements under a session; `keeps` says whether what they change in it is taken over or refused. */
export class SessionRunner implements StatementRunner {
  readonly #parts: RunnerParts
  readonly #session: SessionState
  readonly #watch: HeaderWatch

  constructor(parts: RunnerParts, session: SessionState, keeps: boolean) {
    this.#parts = parts
    this.#session = session
    this.#watch = keeps ? (headers) => session.apply(headers) : refuseSessionChange
  }

  submit(
    statement: string | SqlStatement,
    params: readonly TrinoParameter[] | undefined,
    signal: AbortSignal,
  ): Promise<Statement> {
    const { config, context, parameters } = this.#parts
    const headers = this.#session.headers()
    const rendered = render(statement, params, parameters.way)
    const { encodings } = config.spooling
    if (context.transport.download !== undefined && encodings.length > 0) {
      headers['X-Trino-Query-Data-Encoding'] = encodings.join(',')
    }
    if (rendered.prepared !== undefined) {
      const others = headers['X-Trino-Prepared-Statement']
      headers['X-Trino-Prepared-Statement'] = others === undefined ? rendered.prepared : `${others},${rendered.prepared}`
    }
    return submit(context, rendered, headers, this.#watch, signal)
  }

  attach(handle: StatementHandle): Statement {
    return attached(this.#parts.context, handle, this.#watch)
  }

  run<T>(options: CallOptions, work: (signal: AbortSignal) => Promise<T>, again: boolean): Promise<T> {
    const { lifecycle, config } = this.#parts
    return lifecycle.run(options.signal, (signal) =>
      withDeadline(
        { signal, timeoutMs: options.timeoutMs },
        { prefix: 'TRINO', action: 'a statement', defaultMs: config.timeoutMs },
        (deadline) => (again ? this.#whenReady(deadline.signal, () => work(deadline.signal)) : work(deadline.signal)),
      ),
    )
  }

  /**
   * Runs a whole statement, and again from its start while the server answers that it is starting or has no node yet,
   * or that it does not know EXECUTE IMMEDIATE: then it did not begin. What else may be tried again is tried below, one
   * exchange at a time.
   */
  async #whenReady<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    const { config, context } = this.#parts
    const done = await retry(
      () =>
        this.#withParameters(work).then(
          (value) => ({ value }),
          (error: unknown) => {
            if (isNotReady(error)) throw error
            return { error }
          },
        ),
      {
        policy: config.retry,
        signal,
        onRetry: (error, next) =>
          context.logger.warn({ code: error.code, ...next }, 'the server is not ready, running the statement again'),
      },
    )
    if ('error' in done) throw done.error
    return done.value
  }

  async #withParameters<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      if (!this.#canPrepare(error)) throw error
      return await work()
    }
  }

  /** From now on, values are bound by prepared statements. */
  #canPrepare(error: unknown): boolean {
    const { parameters } = this.#parts
    if (!HandlerError.is(error) || error.code !== 'TRINO_EXECUTE_IMMEDIATE_UNKNOWN') return false
    parameters.way = 'prepared'
    return true
  }

  async *read<T>(
    options: CallOptions,
    open: (signal: AbortSignal) => Promise<Statement>,
    work: (statement: Statement, signal: AbortSignal) => AsyncGenerator<T, void, undefined>,
  ): AsyncGenerator<T, void, undefined> {
    const { lifecycle, config } = this.#parts
    const release = lifecycle.hold()
    const limitMs = options.timeoutMs ?? config.timeoutMs
    const timeout = new AbortController()
    const timer = setTimeout(
      () => {
        const error = new OperationTimeoutError(`a streamed statement took longer than ${limitMs} ms`, {
          code: 'TRINO_TIMEOUT',
          retry: 'if-idempotent',
          context: { timeoutMs: limitMs },
        })
        timeout.abort(error)
      },
      Math.min(limitMs, MAX_TIMER_MS),
    )
    // A reader that does not go on must not keep the process alive.
    timer.unref()
    const signals = [timeout.signal, lifecycle.signal, ...(options.signal === undefined ? [] : [options.signal])]
    const signal = AbortSignal.any(signals)
    let statement: Statement | undefined
    // A reader that has stopped reading must not keep close() waiting once its statement is cancelled.
    const aborted = (): void => void (statement?.cancel() ?? Promise.resolve()).finally(release)
    signal.addEventListener('abort', aborted, { once: true })
    let begun = false
    try {
      for (;;) {
        try {
          statement = await open(signal)
          for await (const some of work(statement, signal)) {
            begun = true
            yield some
          }
          return
        } catch (error) {
          if (begun || !this.#canPrepare(error)) throw error
        }
      }
    } finally {
      clearTimeout(timer)
      signal.removeEventListener('abort', aborted)
      release()
    }
  }
}
