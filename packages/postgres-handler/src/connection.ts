import { ConfigError, ConflictError, DataError, onAbort } from '@common-handlers/core'
import { type BoundStatement, StatementBatch } from './batch.ts'
import { type CopyBlock, CopyReader, type CopyReaderOptions } from './copy-reader.ts'
import { DescribeStatement } from './describe-statement.ts'
import { type DriverClient, requestCancel, type WireField } from './driver.ts'
import { type Circumstances, connectionBusy, scopeEnded, toHandlerError, transactionEnded } from './errors.ts'
import type { Exchange } from './exchange.ts'
import type { Loan } from './pool.ts'
import type { RawResult, RowFormat } from './rows.ts'
import { Scope } from './scope.ts'
import { Script } from './script.ts'
import { asSetLocal, type ServerTimeouts, type TransactionSettings } from './settings.ts'
import { bindValues } from './values.ts'

/** How long the server gets to end a cancelled statement before its connection is cut. */
const CANCEL_LIMIT_MS = 5_000
/** A cancel request that reaches the server before the statement does is lost, so it is sent again. */
const CANCEL_AGAIN_MS = 100
/** How long the server gets to answer what ends a transaction, a portal or a lock. */
const CONCLUDE_LIMIT_MS = 5_000

/** A statement of the handler's own at the end of something: it comes in its turn, whatever is held. */
type Ending = 'commit' | 'undo'

const unbound = (text: string): BoundStatement => ({ text, values: [] })

/** A notification as pg gives it. */
interface Notification {
  readonly channel: string
  readonly payload?: string | undefined
  readonly processId: number
}

/** What an error says about the statement that failed. */
interface Attended {
  readonly statement: string
  readonly place?: string | undefined
  readonly file?: string | undefined
}

/**
 * One connection on loan from the pool. Statements run one after the other; an abort cancels on the server and waits
 * until it is idle, so that a connection that is given back runs nothing.
 */
export class Connection {
  readonly #client: DriverClient
  readonly #loan: Loan
  readonly #settings: TransactionSettings | undefined
  /** A statement runs. */
  #taken = false
  /** Whose turn it is next. */
  readonly #queue: (() => void)[] = []
  /** Why other statements are refused instead of waiting: what runs waits for the caller. */
  #busy: string | undefined
  #inTransaction = false
  #leftTransaction = false
  #released = false
  #numbers = 0

  /** `settings` are given in each transaction where the server's session is not ours. */
  constructor(loan: Loan, settings?: TransactionSettings) {
    this.#client = loan.client
    this.#loan = loan
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

  /** Cuts the connection, for nobody can say what state it is in; not after it was given back, when it is another's. */
  destroy(): void {
    if (!this.#released) this.#client.destroy()
  }

  /** A number that no other caller on this connection gets, for the names of portals and savepoints. */
  nextNumber(): number {
    return ++this.#numbers
  }

  /** One statement with bound values; rows as arrays. */
  async query(text: string, values: readonly unknown[], signal: AbortSignal | undefined, ending?: Ending): Promise<RawResult> {
    const [result] = await this.batch([{ text, values: bindValues(values) }], { as: 'arrays' }, signal, ending)
    return result as RawResult
  }

  /** Several statements in one round trip; their results in the same order. */
  batch(
    statements: readonly BoundStatement[],
    format: RowFormat,
    signal: AbortSignal | undefined,
    ending?: Ending,
  ): Promise<RawResult<unknown>[]> {
    if (this.#settings === undefined || this.#inTransaction || ending !== undefined) {
      return this.exchange(new StatementBatch(statements, format), signal, ending)
    }
    const leading = [unbound(this.#settings.beforeStatement)]
    return this.exchange(new StatementBatch([...leading, ...statements], format, leading.length), signal)
  }

  /** Any number of statements, one after the other, in one implicit transaction unless they say otherwise. */
  async script(text: string, signal: AbortSignal): Promise<void> {
    await this.settled(signal, () => this.exchange(new Script(text), signal))
  }

  /** The columns a statement would return, without running it; none for one that returns nothing. */
  async describe(text: string, signal: AbortSignal | undefined): Promise<readonly WireField[]> {
    return await this.exchange(new DescribeStatement(text), signal)
  }

  /** Speaks to the server when it is this exchange's turn, and ends when the server is idle again. */
  async exchange<T>(exchange: Exchange<T>, signal: AbortSignal | undefined, ending?: Ending): Promise<T> {
    signal?.throwIfAborted()
    const client = this.#client
    const turn = this.#turn(signal, ending)
    if (turn !== undefined) await turn
    let cancelled: Promise<void> | undefined
    let forget: (() => void) | undefined
    try {
      signal?.throwIfAborted()
      if (ending === undefined) this.#assertTransaction()
      forget =
        signal &&
        onAbort(signal, () => {
          exchange.interrupt(signal.reason)
          cancelled = this.#cancel().then(() => exchange.giveUp(signal.reason))
        })
      this.#busy = exchange.holds
      try {
        client.submit(exchange)
      } catch (error) {
        // Some of it may be on its way to the server, which waits for the rest.
        client.destroy()
        throw error
      }
      const result = await exchange.done
      if (ending === undefined) this.#assertTransaction(exchange.committed)
      return result
    } catch (error) {
      signal?.throwIfAborted()
      // In a transaction the server's last words may have come between two statements: it stood idle for too long.
      const told = this.#inTransaction && !client.usable ? (client.failure ?? error) : error
      throw toHandlerError(told, this.#circumstances(exchange, ending))
    } finally {
      // The error comes before ReadyForQuery; only then is the server idle.
      if (!client.ready) await client.idle()
      forget?.()
      if (cancelled !== undefined) await cancelled
      this.#done()
    }
  }

  /**
   * Says what ends something, whatever has become of it. A server that does not answer has its connection cut: nobody is to
   * wait for it for ever.
   */
  async conclude(what: string | Exchange<void>): Promise<void> {
    const limit = setTimeout(() => this.#client.destroy(), CONCLUDE_LIMIT_MS)
    try {
      await this.exchange(typeof what === 'string' ? new Script(what) : what, undefined, 'undo')
    } finally {
      clearTimeout(limit)
    }
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
    await this.#turn(signal)
    const reader = new CopyReader(text, options)
    let free = (): void => {
      free = () => undefined
      this.#done()
    }
    let cancelled: Promise<void> | undefined
    // The connection is free as soon as the server is, also where the loop stands still.
    const stop = (reason: unknown): Promise<void> => {
      reader.discard(reason)
      return (cancelled ??= this.#cancel().finally(() => free()))
    }
    let forget: (() => void) | undefined
    try {
      signal?.throwIfAborted()
      this.#assertTransaction()
      forget = signal && onAbort(signal, () => void stop(signal.reason))
      this.#busy = 'a COPY is read'
      this.#client.submit(reader)
      for (let block = await reader.next(); block !== undefined; block = await reader.next()) yield block
      this.#assertTransaction()
    } catch (error) {
      signal?.throwIfAborted()
      throw toHandlerError(error, this.#circumstances({ statement: text }))
    } finally {
      forget?.()
      if (!reader.finished) await stop(new DataError('the COPY was left before its end', { code: 'POSTGRES_COPY_LEFT' }))
      if (cancelled === undefined) await this.#client.idle()
      else await cancelled
      free()
    }
  }

  /** Runs work between BEGIN and COMMIT; an error, or an abort, rolls back. */
  async transaction<T>(
    begin: string,
    signal: AbortSignal,
    work: (scope: Scope) => Promise<T>,
    limits?: ServerTimeouts,
  ): Promise<T> {
    await this.begin(begin, signal, limits)
    let result: T
    try {
      result = await Scope.run(this, signal, work)
    } catch (error) {
      // What is there already is not undone by this, and must not be done again.
      const told = this.#hasLeftTransaction() ? transactionEnded(error) : error
      await this.rollback()
      throw told
    }
    await this.commit(signal)
    return result
  }

  /** Runs work in the transaction that is open, or in one of its own. */
  atomically<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    return this.#inTransaction ? work() : this.transaction('BEGIN', signal, work)
  }

  /** Runs work with the settings of this connection, in a transaction of its own where a session cannot hold them. */
  settled<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    return this.#settings === undefined ? work() : this.atomically(signal, work)
  }

  async begin(begin: string, signal: AbortSignal | undefined, limits: ServerTimeouts = {}): Promise<void> {
    const statements = [begin, ...(this.#settings?.inTransaction ?? []), ...asSetLocal(limits)]
    await this.exchange(new StatementBatch(statements.map(unbound), { as: 'arrays' }), signal)
    this.#inTransaction = true
    this.#leftTransaction = false
  }

  /** A rollback that fails leaves a connection that is not reusable, and the loss of it rolls back too. */
  async rollback(): Promise<void> {
    if (this.#client.usable) await this.conclude('ROLLBACK').catch(() => undefined)
    this.#inTransaction = false
  }

  /** @throws ConflictError `POSTGRES_TRANSACTION_FAILED`, `POSTGRES_TRANSACTION_ENDED` */
  async commit(signal: AbortSignal | undefined): Promise<void> {
    if (this.#hasLeftTransaction()) {
      await this.rollback()
      throw transactionEnded()
    }
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
    this.#loan.release()
  }

  #circumstances({ statement, place, file }: Attended, ending?: Ending): Circumstances {
    const { target, user } = this.#client.place
    const phase = ending === 'commit' ? 'commit' : this.#inTransaction ? 'transaction' : 'statement'
    return { phase, target, user, statement, place, file }
  }

  /** A statement of the work's own has ended the transaction: COMMIT, ROLLBACK, PREPARE TRANSACTION. */
  #hasLeftTransaction(): boolean {
    const client = this.#client
    this.#leftTransaction ||= this.#inTransaction && client.usable && client.outsideTransaction
    return this.#leftTransaction
  }

  /** `committed`: a COMMIT was among what has run; AND CHAIN, or BEGIN, leave another transaction behind than it ended. */
  #assertTransaction(committed = false): void {
    if (!this.#inTransaction) return
    this.#leftTransaction ||= committed
    if (this.#hasLeftTransaction()) throw transactionEnded()
  }

  /** Waits until the connection is free. Call `#done` when it is again. */
  #turn(signal: AbortSignal | undefined, ending?: Ending): Promise<void> | undefined {
    if (this.#released) throw scopeEnded()
    if (this.#busy !== undefined && ending === undefined) throw connectionBusy(this.#busy)
    if (!this.#taken) {
      this.#taken = true
      return undefined
    }
    return new Promise((resolve, reject) => {
      const next = (): void => {
        forget?.()
        resolve()
      }
      const forget =
        signal &&
        onAbort(signal, () => {
          const place = this.#queue.indexOf(next)
          if (place < 0) return
          this.#queue.splice(place, 1)
          reject(signal.reason as Error)
        })
      this.#queue.push(next)
    })
  }

  #done(): void {
    this.#busy = undefined
    const next = this.#queue.shift()
    if (next === undefined) this.#taken = false
    else next()
  }

  /** Cancels on the server until it is idle; past the limit the connection is cut. */
  async #cancel(): Promise<void> {
    const client = this.#client
    const end = performance.now() + CANCEL_LIMIT_MS
    const limit = setTimeout(() => client.destroy(), CANCEL_LIMIT_MS)
    const idle = client.idle()
    while (!client.gone && !client.ready) {
      await requestCancel(client, Math.max(1, end - performance.now()))
      await waitAtMost(idle, CANCEL_AGAIN_MS)
    }
    // The signal of the last request may still be under way to the server; this statement takes it, not the next user's.
    if (!client.gone) {
      const last = new Script('')
      client.submit(last)
      await last.done.catch(() => undefined)
    }
    await client.idle()
    clearTimeout(limit)
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
