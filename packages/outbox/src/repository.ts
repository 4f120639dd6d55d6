import { ConflictError } from '@common-handlers/core'
import { type NewEvent, Outbox, type EventSchemas } from './enqueue.ts'
import type { ReceivedEvent } from './handler.ts'
import { outboxNames, type OutboxNames } from './names.ts'
import { borrow, type ConnectionPool, type PoolClient, textRows } from './pool.ts'
import { type PendingEvent, readPending } from './pending.ts'

export interface OutboxRepositoryOptions {
  /** Default `outbox`. */
  readonly schema?: string | undefined
  /** Time to get a connection. Default 5000. */
  readonly connectTimeoutMs?: number | undefined
  /** Time of one statement. Default 10 000. */
  readonly queryTimeoutMs?: number | undefined
}

/** How one connection is used by a repository: what there is to do around its statements and at its end. */
export interface RepositoryConnection {
  readonly client: PoolClient
  /** True where a transaction is open that is not the repository's to end. */
  readonly inTransaction: boolean
  /** In place of BEGIN. */
  readonly begin?: string
  /** Before each statement. @throws where the repository may not be used any more */
  before(): Promise<void> | void
  /** A statement failed, and no savepoint of the repository's own undoes it. */
  failed?(error: unknown): void
  /** Gives the connection back. */
  end(failure: Error | undefined): Promise<void> | void
}

/**
 * The database, as a handler and the worker see it: statements, transactions and the outbox itself, on one connection.
 * Dispose of it when you are done; what a handler forgets is given back when it ends.
 */
export class OutboxRepository implements AsyncDisposable {
  readonly #names: OutboxNames
  readonly #outbox: Outbox
  readonly #connection: RepositoryConnection
  #failure: Error | undefined
  #ended: Promise<void> | undefined
  #depth = 0

  /** @internal */
  constructor(connection: RepositoryConnection, schema: string) {
    this.#connection = connection
    this.#names = outboxNames(schema)
    this.#outbox = new Outbox({ schema })
  }

  /** On a connection of its own, taken from the pool. @throws OperationTimeoutError `OUTBOX_CONNECT_TIMEOUT` */
  static async connect(pool: ConnectionPool, options: OutboxRepositoryOptions = {}): Promise<OutboxRepository> {
    const client = await borrow(pool, options.connectTimeoutMs ?? 5000, 'a repository')
    const timeoutMs = options.queryTimeoutMs ?? 10_000
    const connection = await onLoan(client, timeoutMs, (failure) => client.release(failure))
    return new OutboxRepository(connection, options.schema ?? 'outbox')
  }

  /** On the caller's connection, in its transaction if it has begun one. It stays the caller's. */
  static fromConnection(
    client: PoolClient,
    options: { readonly schema?: string; readonly inTransaction?: boolean } = {},
  ): OutboxRepository {
    return new OutboxRepository(
      { client, inTransaction: options.inTransaction ?? false, before: () => undefined, end: () => undefined },
      options.schema ?? 'outbox',
    )
  }

  /** A statement with bound values. Rows are as the pool's driver reads them. */
  // oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- the caller knows its rows
  query<R = Record<string, unknown>>(
    text: string,
    values: readonly unknown[] = [],
  ): Promise<{ readonly rows: R[]; readonly rowCount: number }> {
    const answer = this.#run((client) => client.query(text, [...values])).then(({ rows, rowCount }) => ({
      rows: rows as R[],
      rowCount: rowCount ?? 0,
    }))
    // A handler that does not wait for it is told so by its failed attempt, not by the end of the process.
    answer.catch(() => undefined)
    return answer
  }

  /** Runs work in a transaction; inside another one it is a savepoint. */
  async transaction<T>(work: (repository: this) => Promise<T>): Promise<T> {
    const savepoint = this.#connection.inTransaction || this.#depth > 0
    const name = `outbox_${this.#depth + 1}`
    await this.#run((client) => client.query(savepoint ? `SAVEPOINT ${name}` : (this.#connection.begin ?? 'BEGIN')))
    this.#depth += 1
    try {
      const value = await work(this)
      await this.#run((client) => client.query(savepoint ? `RELEASE SAVEPOINT ${name}` : 'COMMIT'))
      return value
    } catch (error) {
      await this.#run((client) => client.query(savepoint ? `ROLLBACK TO SAVEPOINT ${name}` : 'ROLLBACK')).catch(
        (failure: unknown) => {
          this.#failure ??= failure instanceof Error ? failure : new Error(String(failure))
        },
      )
      throw error
    } finally {
      this.#depth -= 1
    }
  }

  /** An event of its own, in the transaction that is open. See {@link Outbox.enqueue}. */
  async enqueue(event: NewEvent<Record<string, EventSchemas[string]>>): Promise<bigint | undefined> {
    return this.#outbox.enqueue(
      { query: (text: string, values?: unknown[]) => this.#run((client) => client.query(text, values)) },
      event,
    )
  }

  /**
   * Takes up to so many events of these types and locks them until the transaction ends: the core of a worker of one's
   * own. Call it in {@link transaction}, and one of the `mark` calls for each event before that ends.
   */
  async fetchPending(types: readonly string[], limit: number): Promise<PendingEvent[]> {
    if (!this.#connection.inTransaction && this.#depth === 0)
      throw new ConflictError('fetchPending is called in a transaction: the events are locked until it ends', {
        code: 'OUTBOX_NO_TRANSACTION',
      })
    const all = types.map(() => limit)
    const values = [0, 'tx', types, all, limit, true, 0, [], [], [], 0, null, false]
    await this.#run((client) => client.query(`SELECT ${this.#names.schema}.promote($1)`, [limit]))
    const rows = await this.#run((client) => textRows(client, claimText(this.#names), values))
    return rows.slice(1).map(readPending)
  }

  /** Their handlers are done: the events are gone with the commit. */
  async markSuccess(...events: readonly Pick<ReceivedEvent, 'id'>[]): Promise<void> {
    await this.#finish(
      events.map(({ id }) => id),
      [],
    )
  }

  /** The attempt failed: the event is due again after the delay. */
  async markRetry(
    event: Pick<ReceivedEvent, 'id'>,
    options: { readonly delayMs: number; readonly error: string },
  ): Promise<void> {
    await this.#finish([], [{ id: event.id, verdict: 'retry', delay: options.delayMs, error: options.error }])
  }

  /** The event becomes a dead letter. */
  async markDead(event: Pick<ReceivedEvent, 'id'>, options: { readonly error: string }): Promise<void> {
    await this.#finish([], [{ id: event.id, verdict: 'dead', reason: 'verdict', error: options.error }])
  }

  /** Gives the connection back. What is open is rolled back. */
  close(): Promise<void> {
    return (this.#ended ??= Promise.resolve(this.#connection.end(this.#failure)))
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #finish(done: readonly bigint[], failed: readonly Finished[]): Promise<void> {
    await this.#run((client) =>
      textRows(client, finishText(this.#names), [done, failed.length === 0 ? null : finishedJson(failed)]),
    )
  }

  async #run<T>(work: (client: PoolClient) => Promise<T>): Promise<T> {
    if (this.#ended !== undefined) throw new ConflictError('the repository was closed', { code: 'OUTBOX_REPOSITORY_CLOSED' })
    const before = this.#connection.before()
    if (before !== undefined) await before
    try {
      return await work(this.#connection.client)
    } catch (error) {
      if (this.#depth === 0) this.#connection.failed?.(error)
      throw error
    }
  }
}

/** One event that did not simply succeed, as `finish` and `settle` take it. */
export interface Finished {
  readonly id: bigint
  readonly claim?: string | undefined
  /** Attempts that had failed before: a retry that is said twice counts once. */
  readonly attempts?: number | undefined
  readonly verdict: 'retry' | 'dead' | 'discard' | 'release'
  readonly delay?: number | undefined
  readonly reason?: string | undefined
  readonly error?: string | undefined
}

/** Ids as numbers without loss: JSON has no limit to their digits, JSON.stringify has. */
export function finishedJson(failed: readonly Finished[]): string {
  const items = failed.map(({ id, claim, ...rest }) => {
    const json = JSON.stringify(rest).replaceAll('\\u0000', '\\ufffd')
    return `{"id":${id}${claim === undefined ? '' : `,"claim":${claim}`},${json.slice(1)}`
  })
  return `[${items.join(',')}]`
}

export const finishText = ({ schema }: OutboxNames): string => `SELECT ${schema}.finish($1, $2)`
export const claimText = ({ schema }: OutboxNames): string =>
  `SELECT * FROM ${schema}.claim($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`

/**
 * A connection on loan, whose statements have a limit on the server while it is out. Behind a pooler in transaction mode,
 * where a setting of the session would be others' too, only those inside a transaction have it.
 */
export async function onLoan(
  client: PoolClient,
  timeoutMs: number,
  release: (failure: Error | undefined) => void,
): Promise<RepositoryConnection> {
  // Whoever lost it is told by the statement that fails; without a listener it would end the process.
  const deaf = (): void => undefined
  client.on('error', deaf)
  const giveBack = (failure: Error | undefined): void => {
    client.off('error', deaf)
    release(failure)
  }
  let limited = false
  try {
    // A pooler answers the login with a process id of its own.
    const [[set] = []] = await textRows(
      client,
      `SELECT CASE WHEN $1::int IS NULL OR pg_backend_pid() = $1 THEN set_config('statement_timeout', $2, false) END`,
      [client.processID ?? null, String(Math.trunc(timeoutMs))],
    )
    limited = set !== null
  } catch (error) {
    const failure = error instanceof Error ? error : new Error(String(error))
    giveBack(failure)
    throw failure
  }
  return {
    client,
    inTransaction: false,
    ...(limited ? {} : { begin: `BEGIN; SET LOCAL statement_timeout = ${Math.trunc(timeoutMs)}` }),
    before: () => undefined,
    async end(failure) {
      if (failure !== undefined) return giveBack(failure)
      try {
        await client.query(limited ? 'ROLLBACK; RESET statement_timeout' : 'ROLLBACK')
        giveBack(undefined)
      } catch (error) {
        giveBack(error instanceof Error ? error : new Error(String(error)))
      }
    },
  }
}
