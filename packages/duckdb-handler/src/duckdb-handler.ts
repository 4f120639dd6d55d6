import { resolve } from 'node:path'
import {
  type CallOptions,
  type CheckResult,
  type CloseOptions,
  Lifecycle,
  type Logger,
  runCheck,
  silentLogger,
  withDeadline,
} from '@common-handlers/core'
import { databaseOptions, type DuckDbConfig, type DuckDbConfigInput, parseConfig } from './config.ts'
import { Database, type DuckDbColumn, type DuckDbValue, type Row, type Session, type Statement } from './driver.ts'
import { duplicateColumn, toDuckDbError } from './errors.ts'
import type { DuckDbInput } from './sql.ts'

export interface DuckDbHandlerOptions extends DuckDbConfigInput {
  readonly logger?: Logger | undefined
}

export type DuckDbRecord = { readonly [column: string]: DuckDbValue }

export interface QueryResult<R = DuckDbRecord> {
  readonly columns: readonly DuckDbColumn[]
  readonly rows: R[]
}

/** What can be done with a connection; a transaction gives one. */
export interface DuckDbSession {
  /** All rows of a query, by column name. @throws DataError `DUCKDB_DUPLICATE_COLUMN` */
  query<R = DuckDbRecord>(sql: string, parameters?: readonly DuckDbInput[], options?: CallOptions): Promise<QueryResult<R>>
  /** Runs one statement, or several without parameters; tells how many rows the last one changed. */
  execute(sql: string, parameters?: readonly DuckDbInput[], options?: CallOptions): Promise<{ readonly rowsChanged: number }>
}

/** How often a statement that was told to stop is told again: one that is just beginning does not hear the first time. */
const INTERRUPT_EVERY_MS = 10

/**
 * DuckDB, in this process. Each call has a connection of its own, so calls may run side by side; what must happen
 * together happens in `transaction()`.
 */
export class DuckDbHandler implements DuckDbSession, AsyncDisposable {
  readonly #config: DuckDbConfig
  readonly #logger: Logger
  readonly #path: string
  readonly #lifecycle: Lifecycle
  #opening: Promise<Database> | undefined

  /** @throws ConfigError `DUCKDB_CONFIG_INVALID` */
  constructor(options: DuckDbHandlerOptions) {
    const { logger = silentLogger, ...config } = options
    this.#config = parseConfig(config)
    this.#logger = logger
    this.#path = this.#config.path === ':memory:' ? ':memory:' : resolve(this.#config.path)
    this.#lifecycle = new Lifecycle('DuckDbHandler', 'DUCKDB', async () => {
      const database = await this.#opening?.catch(() => undefined)
      database?.close()
    })
  }

  /** Opens the file; the first call does so by itself. @throws ConflictError `DUCKDB_LOCKED`, DataError `DUCKDB_FILE_UNUSABLE` */
  async connect(options?: CallOptions): Promise<void> {
    await this.#call(options, 'opening the database', () => Promise.resolve())
  }

  query<R = DuckDbRecord>(sql: string, parameters: readonly DuckDbInput[] = [], options?: CallOptions): Promise<QueryResult<R>> {
    return this.#call(options, 'a query', (session) => query<R>(session, sql, parameters))
  }

  execute(
    sql: string,
    parameters: readonly DuckDbInput[] = [],
    options?: CallOptions,
  ): Promise<{ readonly rowsChanged: number }> {
    return this.#call(options, 'a statement', (session) => execute(session, sql, parameters))
  }

  /** Rows in batches as the database makes them, as arrays in the order of the columns: for results larger than memory. */
  async *stream(sql: string, parameters: readonly DuckDbInput[] = [], options?: CallOptions): AsyncGenerator<Row[]> {
    const release = this.#lifecycle.hold()
    const signals = [this.#lifecycle.signal, ...(options?.signal === undefined ? [] : [options.signal])]
    const timeoutMs = options?.timeoutMs ?? this.#config.timeoutMs
    const signal = AbortSignal.any(signals)
    let session: Session | undefined
    try {
      const opened = (session = await this.#session())
      // The time limit is that of each step: between them the reader may take as long as it likes.
      const step = <T>(work: () => Promise<T>): Promise<T> =>
        withDeadline({ signal, timeoutMs }, { prefix: 'DUCKDB', action: 'a query' }, (deadline) =>
          interruptible(opened, deadline.signal, work),
        )
      const statement = await step(() => opened.run(sql, parameters, true))
      const batches = statement.batches()
      for (let next = await step(() => batches.next()); next.done !== true; next = await step(() => batches.next()))
        yield next.value
    } catch (error) {
      throw toDuckDbError(error, { path: this.#path, action: 'a query' })
    } finally {
      session?.end()
      release()
    }
  }

  /**
   * Runs work in one transaction: committed when it resolves, rolled back when it throws or is aborted. The calls inside
   * run one after the other. Nothing is retried; a conflict (`DUCKDB_TRANSACTION_CONFLICT`) may be, by the caller.
   */
  transaction<T>(work: (transaction: DuckDbSession) => Promise<T>, options?: CallOptions): Promise<T> {
    return this.#call(options, 'a transaction', async (session, signal) => {
      await session.run('BEGIN TRANSACTION', [], false)
      try {
        const result = await work(new Transaction(session, this.#path))
        signal.throwIfAborted()
        await session.run('COMMIT', [], false)
        return result
      } catch (error) {
        // After a failed commit or statement there may be none left to roll back; the first error tells the story.
        await session
          .run('ROLLBACK', [], false)
          .catch((failure: unknown) => this.#logger.debug({ error: failure }, 'nothing was rolled back'))
        throw error
      }
    })
  }

  async check(options?: CallOptions): Promise<CheckResult> {
    return runCheck(
      this.#path,
      [
        {
          name: 'open the database',
          run: async () =>
            String((await this.query<{ version: string }>('SELECT version() AS version', [], options)).rows[0]?.version),
        },
        {
          name: this.#config.readOnly ? 'read its tables' : 'make a table, and take it back',
          run: async () => {
            if (!this.#config.readOnly) {
              await this.transaction(async (transaction) => {
                await transaction.execute('CREATE SCHEMA __check')
                await transaction.execute('DROP SCHEMA __check')
              }, options)
            }
            const { rows } = await this.query<{ tables: bigint }>('SELECT count(*) AS tables FROM duckdb_tables()', [], options)
            return `${rows[0]?.tables} tables`
          },
        },
      ],
      options?.signal,
    )
  }

  close(options?: CloseOptions): Promise<void> {
    return this.#lifecycle.close(options)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #call<T>(
    options: CallOptions | undefined,
    action: string,
    work: (session: Session, signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const timeoutMs = options?.timeoutMs ?? this.#config.timeoutMs
    return this.#lifecycle.run(options?.signal, (joined) =>
      withDeadline({ signal: joined, timeoutMs }, { prefix: 'DUCKDB', action }, async ({ signal }) => {
        let session: Session | undefined
        try {
          const opened = (session = await this.#session())
          return await interruptible(opened, signal, () => work(opened, signal))
        } catch (error) {
          signal.throwIfAborted()
          throw toDuckDbError(error, { path: this.#path, action })
        } finally {
          session?.end()
        }
      }),
    )
  }

  async #session(): Promise<Session> {
    this.#opening ??= Database.open(this.#path, databaseOptions(this.#config)).catch((error: unknown) => {
      // The next call tries again: a lock may be gone by then.
      this.#opening = undefined
      throw error
    })
    return (await this.#opening).session()
  }
}

/** The view of a transaction's connection that its work gets. */
class Transaction implements DuckDbSession {
  readonly #session: Session
  readonly #path: string
  #last: Promise<unknown> = Promise.resolve()

  constructor(session: Session, path: string) {
    this.#session = session
    this.#path = path
  }

  query<R = DuckDbRecord>(sql: string, parameters: readonly DuckDbInput[] = [], options?: CallOptions): Promise<QueryResult<R>> {
    return this.#next(options, () => query<R>(this.#session, sql, parameters))
  }

  execute(
    sql: string,
    parameters: readonly DuckDbInput[] = [],
    options?: CallOptions,
  ): Promise<{ readonly rowsChanged: number }> {
    return this.#next(options, () => execute(this.#session, sql, parameters))
  }

  /** One after the other: the connection holds one statement at a time. */
  async #next<T>(options: CallOptions | undefined, work: () => Promise<T>): Promise<T> {
    const mine = this.#last.then(() =>
      withDeadline(options, { prefix: 'DUCKDB', action: 'a statement' }, ({ signal }) =>
        interruptible(this.#session, signal, work),
      ),
    )
    this.#last = mine.catch(() => undefined)
    try {
      return await mine
    } catch (error) {
      throw toDuckDbError(error, { path: this.#path, action: 'a statement of a transaction' })
    }
  }
}

/** Runs work on a session, ending its statement when the signal is aborted; then rejects with the signal's reason. */
async function interruptible<T>(session: Session, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
  signal.throwIfAborted()
  let timer: NodeJS.Timeout | undefined
  const interrupt = (): void => {
    session.interrupt()
    timer ??= setInterval(() => session.interrupt(), INTERRUPT_EVERY_MS)
  }
  signal.addEventListener('abort', interrupt, { once: true })
  try {
    return await work()
  } catch (error) {
    signal.throwIfAborted()
    throw error
  } finally {
    signal.removeEventListener('abort', interrupt)
    clearInterval(timer)
  }
}

async function query<R>(session: Session, sql: string, parameters: readonly DuckDbInput[]): Promise<QueryResult<R>> {
  const statement = await session.run(sql, parameters, false)
  assertDistinct(statement)
  const names = statement.columns.map((column) => column.name)
  const rows: R[] = []
  for await (const batch of statement.batches()) {
    for (const row of batch) rows.push(Object.fromEntries(names.map((name, index) => [name, row[index] ?? null])) as R)
  }
  return { columns: statement.columns, rows }
}

async function execute(
  session: Session,
  sql: string,
  parameters: readonly DuckDbInput[],
): Promise<{ readonly rowsChanged: number }> {
  const statement = await session.run(sql, parameters, false)
  return { rowsChanged: statement.rowsChanged() }
}

function assertDistinct({ columns }: Statement): void {
  const seen = new Set<string>()
  for (const { name } of columns) {
    if (seen.has(name)) throw duplicateColumn(name)
    seen.add(name)
  }
}
