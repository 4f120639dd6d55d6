import { ConfigError, ConflictError, DataError } from '@common-handlers/core'
import { type BoundStatement, StatementBatch, toField } from './batch.ts'
import { type CopyBlock, CopyReader, type CopyReaderOptions } from './copy-reader.ts'
import { DescribeStatement } from './describe-statement.ts'
import { type DriverClient, requestCancel } from './driver.ts'
import { type Circumstances, toHandlerError } from './errors.ts'
import type { Exchange } from './exchange.ts'
import type { Loan } from './pool.ts'
import type { RawResult, ResultField, RowFormat } from './rows.ts'
import { asSetLocal, type ServerTimeouts, type TransactionSettings } from './settings.ts'
import { bindValues } from './values.ts'

/** How long the server gets to end a cancelled statement before its connection is cut. */
const CANCEL_LIMIT_MS = 5_000
/** A cancel request that reaches the server before the statement does is lost, so it is sent again. */
const CANCEL_AGAIN_MS = 100
/** How long the work of a transaction gets to end by itself after it was told to. */
const UNWIND_MS = 1_000

const unbound = (text: string): BoundStatement => ({ text, values: [] })

/** A notification as pg gives it. */
interface Notification {
  readonly channel: string
  readonly payload?: string | undefined
  readonly processId: number
}

/** What an error says about the statement that failed, and how it is told of an abort. */
interface Attended {
  readonly statement: string
  readonly place?: string | undefined
  readonly file?: string | undefined
  interrupt?(reason: unknown): void
}

/**
 * One connection on loan from the pool. Statements run one after the other; an abort cancels on the server and waits
 * until it is idle, so that a connection that is given back runs nothing.
 */
export class Connection {
  readonly #client: DriverClient
  readonly #giveBack: () => void
  readonly #settings: TransactionSettings | undefined
  #last: Promise<void> = Promise.resolve()
  #copying = false
  #inTransaction = false
  #released = false
  #numbers = 0

  /** `settings` are given in each transaction where the server's session is not ours. */
  constructor(loan: Loan, settings?: TransactionSettings) {
    this.#client = loan.client
    this.#giveBack = () => loan.release()
    this.#settings = settings
  }

  /** `15.13 (Debian 15.13-0+deb12u1)` */
  get serverVersion(): string {
    return this.#client.serverVersion
  }

  get user(): string {
    return this.#client.place.user
  }

  /** True between BEGIN and its end. */
  get inTransaction(): boolean {
    return this.#inTransaction
  }

  /** @throws ConfigError `POSTGRES_NEEDS_SESSION` behind a pooler that lends a server for one transaction */
  needSession(what: string): void {
    if (this.#settings === undefined) return
    throw new ConfigError(`${what} needs a session of its own: connect to the server itself, not with poolerMode transaction`, {
      code: 'POSTGRES_NEEDS_SESSION',
    })
  }

  /** Calls back for each notification, until what it returns is called. */
  onNotification(listener: (notification: Notification) => void): () => void {
    this.#client.on('notification', listener)
    return () => this.#client.off('notification', listener)
  }

  /** Calls back when the connection has ended, unless what it returns was called before. */
  onEnd(listener: () => void): () => void {
    return this.#client.onEnd(listener)
  }

  /** Cuts the connection, for nobody can say what state it is in. */
  destroy(): void {
    this.#client.destroy()
  }

  /** A number that no other caller on this connection gets, for the names of portals and savepoints. */
  nextNumber(): number {
    return ++this.#numbers
  }

  /** One statement with bound values; rows as arrays. */
  async query(text: string, values: readonly unknown[], signal: AbortSignal | undefined, phase?: 'commit'): Promise<RawResult> {
    const [result] = await this.batch([{ text, values: bindValues(values) }], { as: 'arrays' }, signal, phase)
    return result as RawResult
  }

  /** Several statements in one round trip; their results in the same order. */
  batch(
    statements: readonly BoundStatement[],
    format: RowFormat,
    signal: AbortSignal | undefined,
    phase?: 'commit',
  ): Promise<RawResult<unknown>[]> {
    const leading =
      this.#settings === undefined || this.#inTransaction || phase === 'commit' ? [] : [unbound(this.#settings.beforeStatement)]
    return this.exchange(new StatementBatch([...leading, ...statements], format, leading.length), signal, phase)
  }

  /** Any number of statements, one after the other, in one implicit transaction unless they say otherwise. */
  async script(text: string, signal: AbortSignal | undefined): Promise<void> {
    await this.settled(signal, () => this.#attend({ statement: text }, signal, () => this.#client.runScript(text)))
  }

  /** The columns a statement would return, without running it; none for one that returns nothing. */
  async describe(text: string, signal: AbortSignal | undefined): Promise<readonly ResultField[]> {
    return (await this.exchange(new DescribeStatement(text), signal)).map(toField)
  }

  /** Speaks to the server when it is this exchange's turn, and ends when the server is idle again. */
  exchange<T>(exchange: Exchange<T>, signal: AbortSignal | undefined, phase?: 'commit'): Promise<T> {
    const start = (): Promise<T> => {
      this.#client.submit(exchange)
      return exchange.done
    }
    return this.#attend(exchange, signal, start, phase)
  }

  /** COPY … TO STDOUT in blocks of whole rows. Leaving the loop, or an abort, cancels it on the server. */
  async *copyOut(
    text: string,
    signal: AbortSignal | undefined,
    options: CopyReaderOptions | undefined,
  ): AsyncGenerator<CopyBlock, void, undefined> {
    if (this.#settings === undefined || this.#inTransaction) {
      yield* this.#copyOut(text, signal, options)
      return
    }
    await this.begin('BEGIN', signal)
    let whole = false
    try {
      yield* this.#copyOut(text, signal, options)
      whole = true
    } finally {
      await (whole ? this.commit(signal) : this.rollback())
    }
  }

  async *#copyOut(
    text: string,
    signal: AbortSignal | undefined,
    options: CopyReaderOptions | undefined,
  ): AsyncGenerator<CopyBlock, void, undefined> {
    signal?.throwIfAborted()
    const done = await this.#turn()
    this.#copying = true
    const reader = new CopyReader(text, options)
    let cancelled: Promise<void> | undefined
    const stop = (reason: unknown): Promise<void> => {
      reader.discard(reason)
      return (cancelled ??= this.#cancel(() => !reader.finished))
    }
    const abort = (): void => void stop(signal?.reason)
    try {
      signal?.throwIfAborted()
      signal?.addEventListener('abort', abort, { once: true })
      this.#client.submit(reader)
      for (let block = await reader.next(); block !== undefined; block = await reader.next()) yield block
    } catch (error) {
      signal?.throwIfAborted()
      throw toHandlerError(error, this.#circumstances({ statement: text }))
    } finally {
      signal?.removeEventListener('abort', abort)
      if (!reader.finished) await stop(new DataError('the COPY was left before its end', { code: 'POSTGRES_COPY_LEFT' }))
      await cancelled
      await this.#client.idle()
      this.#copying = false
      done()
    }
  }

  /** Runs work between BEGIN and COMMIT; an error, or an abort, rolls back. */
  async transaction<T>(
    begin: string,
    signal: AbortSignal | undefined,
    work: () => Promise<T>,
    limits?: ServerTimeouts,
  ): Promise<T> {
    await this.begin(begin, signal, limits)
    let result: T
    try {
      result = await this.#unlessAbandoned(work(), signal)
      signal?.throwIfAborted()
    } catch (error) {
      await this.rollback()
      throw error
    }
    await this.commit(signal)
    return result
  }

  /** Runs work in the transaction that is open, or in one of its own. */
  atomically<T>(signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
    return this.#inTransaction ? work() : this.transaction('BEGIN', signal, work)
  }

  /** Runs work with the settings of this connection, in a transaction of its own where a session cannot hold them. */
  settled<T>(signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
    return this.#settings === undefined ? work() : this.atomically(signal, work)
  }

  async begin(begin: string, signal: AbortSignal | undefined, limits: ServerTimeouts = {}): Promise<void> {
    const statements = [begin, ...(this.#settings?.inTransaction ?? []), ...asSetLocal(limits)]
    await this.exchange(new StatementBatch(statements.map(unbound), { as: 'arrays' }), signal)
    this.#inTransaction = true
  }

  /** A rollback that fails leaves a connection that is not reusable, and the loss of it rolls back too. */
  async rollback(): Promise<void> {
    if (this.#client.usable) await this.query('ROLLBACK', [], undefined).catch(() => undefined)
    this.#inTransaction = false
  }

  /**
   * What the work comes to. Work that goes on though its signal was aborted is left alone after a moment, with a
   * connection that has ended: nobody is to wait for it for ever.
   */
  async #unlessAbandoned<T>(working: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    if (signal === undefined) return await working
    const abandoned = Promise.withResolvers<never>()
    abandoned.promise.catch(() => undefined)
    let timer: NodeJS.Timeout | undefined
    let ended = false
    const abort = async (): Promise<void> => {
      await this.#client.idle()
      if (ended) return
      timer = setTimeout(() => {
        this.#client.destroy()
        abandoned.reject(signal.reason)
      }, UNWIND_MS)
    }
    const listener = (): void => void abort()
    signal.addEventListener('abort', listener, { once: true })
    if (signal.aborted) listener()
    try {
      return await Promise.race([working, abandoned.promise])
    } finally {
      ended = true
      clearTimeout(timer)
      signal.removeEventListener('abort', listener)
    }
  }

  /** @throws ConflictError `POSTGRES_TRANSACTION_FAILED` */
  async commit(signal: AbortSignal | undefined): Promise<void> {
    this.#inTransaction = false
    const ended = await this.query('COMMIT', [], signal, 'commit')
    if (ended.command === 'COMMIT') return
    throw new ConflictError(
      'a statement of the transaction had failed, so that the server rolled it back instead of committing',
      {
        code: 'POSTGRES_TRANSACTION_FAILED',
      },
    )
  }

  /** Resolves when the server waits for the next statement, or the connection has ended. */
  idle(): Promise<void> {
    return this.#client.idle()
  }

  /** Back to the pool; or closed, where the next user would not find it as it was made. */
  release(): void {
    if (this.#released) return
    this.#released = true
    this.#giveBack()
  }

  #circumstances({ statement, place, file }: Attended, phase?: 'commit'): Circumstances {
    const { target, user } = this.#client.place
    return { phase: phase ?? (this.#inTransaction ? 'transaction' : 'statement'), target, user, statement, place, file }
  }

  /** Waits until the connection is free; call what it returns when it is again. */
  async #turn(): Promise<() => void> {
    if (this.#copying) {
      throw new ConflictError(
        'a COPY is being read on this connection: read it to its end, or leave it, before the next statement',
        {
          code: 'POSTGRES_CONNECTION_BUSY',
        },
      )
    }
    const before = this.#last
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#last = promise
    await before
    return resolve
  }

  async #attend<T>(attended: Attended, signal: AbortSignal | undefined, start: () => Promise<T>, phase?: 'commit'): Promise<T> {
    signal?.throwIfAborted()
    const done = await this.#turn()
    let running = true
    let cancelled: Promise<void> | undefined
    let timer: NodeJS.Timeout | undefined
    const abandoned = Promise.withResolvers<never>()
    const abort = (): void => {
      attended.interrupt?.(signal?.reason)
      cancelled = this.#cancel(() => running)
      // The server is done with it. What still does not end, a source that stands still for one, is not waited for.
      void cancelled.then(() => {
        if (running) timer = setTimeout(() => abandoned.reject(signal?.reason), UNWIND_MS)
      })
    }
    try {
      signal?.throwIfAborted()
      signal?.addEventListener('abort', abort, { once: true })
      return await Promise.race([start(), abandoned.promise])
    } catch (error) {
      signal?.throwIfAborted()
      // In a transaction the server's last words may have come between two statements: it stood idle for too long.
      const told = this.#inTransaction && !this.#client.usable ? (this.#client.failure ?? error) : error
      throw toHandlerError(told, this.#circumstances(attended, phase))
    } finally {
      signal?.removeEventListener('abort', abort)
      // The error comes before ReadyForQuery; only then is the server idle.
      if (cancelled === undefined) await this.#client.idle()
      running = false
      await cancelled
      clearTimeout(timer)
      done()
    }
  }

  /** Cancels on the server until it is idle; past the limit the connection is cut. */
  async #cancel(running: () => boolean): Promise<void> {
    const client = this.#client
    const end = performance.now() + CANCEL_LIMIT_MS
    const idle = client.idle()
    while (running() && !client.gone && !client.ready) {
      const left = end - performance.now()
      if (left <= 0) {
        client.destroy()
        break
      }
      await requestCancel(client, left)
      await waitAtMost(idle, Math.min(CANCEL_AGAIN_MS, left))
    }
    await idle
    // The signal of the last request may still be under way to the server; this statement takes it, not the next user's.
    if (!client.gone) await client.runScript('').catch(() => undefined)
    await client.idle()
  }
}

async function waitAtMost(promise: Promise<void>, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  await Promise.race([
    promise,
    new Promise<void>((resolve) => {
      timer = setTimeout(resolve, ms)
    }),
  ])
  clearTimeout(timer)
}
