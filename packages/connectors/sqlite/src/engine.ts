import { DatabaseSync, type SQLInputValue, type StatementSync } from 'node:sqlite'
import { setImmediate } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { rowReader } from '@common-handlers/connections/sql'
import {
  type CallOptions,
  type CheckResult,
  type Closable,
  type CloseOptions,
  Lifecycle,
  onAbort,
  retry,
  runCheck,
  withDeadline,
} from '@common-handlers/core'
import type { SqliteConfig } from './config.ts'
import { parameterInvalid, SQLITE, toSqliteError } from './errors.ts'

/** What SQLite stores: NULL, INTEGER, REAL, TEXT, BLOB. */
export type SqliteValue = null | bigint | number | string | Uint8Array

/** By column name. INTEGER is always a bigint, REAL a number. */
export type SqliteRow = Record<string, SqliteValue>

/** By position, or by name (`{ id: 1n }` for `:id`). A number is REAL, a bigint INTEGER. */
export type SqliteParameters = readonly SqliteValue[] | Readonly<Record<string, SqliteValue>>

/** Rows between two looks at the signal and at the event loop. */
const ROWS_A_TURN = 256

/** One open database. Its statements run on this thread: one that works for long holds up the process. */
export class SqliteEngine implements Closable {
  readonly #config: SqliteConfig
  readonly #life: Lifecycle
  #database: DatabaseSync | undefined

  constructor(config: SqliteConfig) {
    this.#config = config
    this.#life = new Lifecycle('SqliteEngine', SQLITE, async () => this.#database?.close())
  }

  /** The file. */
  get path(): string {
    return this.#config.databasePath
  }

  /** Opens the file; implied by the first call. */
  connect(options?: CallOptions): Promise<void> {
    return this.#call(options, 'connecting', () => {
      this.#open()
    })
  }

  /** All rows of one statement. */
  query(sql: string, parameters: SqliteParameters = [], options?: CallOptions): Promise<SqliteRow[]> {
    return this.#call(options, 'the query', () => {
      const statement = this.#prepare(sql)
      const toRow = readerOf(statement)
      return (statement.all(...bound(parameters)) as unknown as SqliteValue[][]).map(toRow)
    })
  }

  /** A statement that gives no rows, or several without parameters; says how many rows it changed. */
  execute(sql: string, parameters?: SqliteParameters, options?: CallOptions): Promise<{ readonly rowsChanged: number }> {
    return this.#call(options, 'the statement', () => {
      if (parameters === undefined) {
        const before = this.#totalChanges()
        this.#open().exec(sql)
        return { rowsChanged: this.#totalChanges() - before }
      }
      const statement = this.#prepare(sql)
      const { changes } = statement.run(...bound(parameters))
      return { rowsChanged: Number(changes) }
    })
  }

  /** Rows one at a time, for results larger than memory; all of one moment. */
  async *stream(
    sql: string,
    parameters: SqliteParameters = [],
    options: Pick<CallOptions, 'signal'> = {},
  ): AsyncGenerator<SqliteRow, void, undefined> {
    const leave = this.#life.hold()
    // Nobody may come back to a stream that was left standing.
    const forget = onAbort(this.#life.signal, leave)
    try {
      const signal = AbortSignal.any([this.#life.signal, ...(options.signal === undefined ? [] : [options.signal])])
      // The lock is taken with the first row.
      const { iterator, toRow, first } = await this.#patient(signal, () => {
        const statement = this.#prepare(sql)
        const started: Iterator<unknown> = statement.iterate(...bound(parameters))
        return { iterator: started, toRow: readerOf(statement), first: started.next() }
      })
      try {
        let count = 0
        for (let step = first; step.done !== true; step = this.#mapped(() => iterator.next())) {
          yield toRow(step.value as SqliteValue[])
          count += 1
          if (count % ROWS_A_TURN === 0) await setImmediate()
          signal.throwIfAborted()
        }
      } finally {
        // A file that was closed has ended its statements.
        if (!this.#life.signal.aborted) iterator.return?.()
      }
    } finally {
      forget()
      leave()
    }
  }

  /** Opens the file and reads from it. */
  check(options?: CallOptions): Promise<CheckResult> {
    const { databasePath } = this.#config
    return runCheck(
      databasePath,
      [
        { name: `open ${databasePath}`, run: () => this.connect(options).then(() => undefined) },
        {
          name: 'read',
          run: async () => {
            const [row] = await this.query(
              `SELECT sqlite_version() AS version, (SELECT count(*) FROM sqlite_schema WHERE type = 'table') AS tables`,
              [],
              options,
            )
            return `SQLite ${String(row?.['version'])}, ${String(row?.['tables'])} tables`
          },
        },
      ],
      options?.signal,
    )
  }

  close(options?: CloseOptions): Promise<void> {
    return this.#life.close(options)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #call<T>(options: CallOptions | undefined, action: string, work: () => T): Promise<T> {
    return this.#life.run(options?.signal, (signal) =>
      withDeadline({ ...options, signal }, { prefix: SQLITE, action }, (deadline) => this.#patient(deadline.signal, work)),
    )
  }

  /** Tries again while the file is locked, without holding up the process as SQLite's own waiting would. */
  #patient<T>(signal: AbortSignal, work: () => T): Promise<T> {
    const budgetMs = this.#config.busyTimeoutMs
    return retry(async () => this.#mapped(work), {
      signal,
      policy: { attempts: Infinity, budgetMs, baseDelayMs: 5, maxDelayMs: 100 },
    })
  }

  #mapped<T>(work: () => T): T {
    try {
      return work()
    } catch (error) {
      throw toSqliteError(error, this.#config.databasePath)
    }
  }

  #open(): DatabaseSync {
    if (this.#database !== undefined) return this.#database
    const { databasePath, readOnly, create } = this.#config
    const options = { readOnly, timeout: 0 }
    if (databasePath === ':memory:') return (this.#database = new DatabaseSync(databasePath, { ...options, readOnly: false }))
    // As a URI it says whether a file may be made: https://sqlite.org/uri.html
    const file = pathToFileURL(databasePath)
    file.searchParams.set('mode', readOnly ? 'ro' : create ? 'rwc' : 'rw')
    const database = new DatabaseSync(file, options)
    try {
      // Opening alone reads nothing: a file that is no database would be found by somebody else.
      database.exec('SELECT count(*) FROM sqlite_schema')
    } catch (error) {
      database.close()
      throw error
    }
    return (this.#database = database)
  }

  #prepare(sql: string): StatementSync {
    const statement = this.#open().prepare(sql)
    statement.setReadBigInts(true)
    statement.setReturnArrays(true)
    return statement
  }

  #totalChanges(): number {
    return Number(this.#open().prepare('SELECT total_changes() AS changes').get()?.['changes'] ?? 0)
  }
}

/** The arguments of the driver. It takes an object in the first place for names, a Date for one without any, and a boolean for a number. */
function bound(parameters: SqliteParameters): SQLInputValue[] {
  const isList = Array.isArray(parameters)
  for (const [name, value] of Object.entries(parameters as Readonly<Record<string, unknown>>)) {
    const isPlain = value === null || ['string', 'number', 'bigint'].includes(typeof value)
    if (!isPlain && !(value instanceof Uint8Array)) throw parameterInvalid(isList ? `${Number(name) + 1}` : name)
  }
  // One of the driver's two forms; its types keep them apart, its code does not.
  return isList ? (parameters as SQLInputValue[]) : [parameters as unknown as SQLInputValue]
}

const readerOf = (statement: StatementSync): ((values: readonly SqliteValue[]) => SqliteRow) =>
  rowReader<SqliteValue>(
    SQLITE,
    statement.columns().map(({ name }) => name),
  )
