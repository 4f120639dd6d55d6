import {
  type CallOptions,
  type CheckResult,
  type CloseOptions,
  HandlerError,
  Lifecycle,
  type Logger,
  retry,
  type RetryPolicy,
  runCheck,
  silentLogger,
  withDeadline,
  onAbort,
} from '@common-handlers/core'
import { type AdvisoryKey, type AdvisoryLock, type AdvisoryLockOptions, withLock } from './advisory-lock.ts'
import { checkReadable, type QueryDescription, type TableDescription } from './catalog.ts'
import { configFromEnvironment, parseConfig, type PostgresConfig, type PostgresConfigInput, tlsOptions } from './config.ts'
import { Connection } from './connection.ts'
import type { CopyResult, CopySource } from './copy-in.ts'
import type { CopyBlock } from './copy-reader.ts'
import type { CopySink } from './copy-to.ts'
import {
  type CredentialFunction,
  type CredentialProvider,
  credentialsFrom,
  fixedCredentials,
  type HeldCredentials,
} from './credentials.ts'
import { connectClient, type DriverClient } from './driver.ts'
import { toHandlerError } from './errors.ts'
import type { InsertRow } from './insert-many.ts'
import { listen, type ListenEvent, type ListenOptions } from './listen.ts'
import { type PgPool, pgPoolClient } from './pg-pool.ts'
import { Pool, type PoolStatus } from './pool.ts'
import {
  type BatchResult,
  type CopyOutOptions,
  type ExecuteResult,
  type InsertManyOptions,
  type Queries,
  queriesIn,
  queriesOn,
  type ReadOptions,
  type Row,
  type StatementOptions,
  type StreamOptions,
} from './session.ts'
import { streamWithin, UNWIND_MS } from './scope.ts'
import { type ExportedSnapshot, exportSnapshot, joinSnapshot, type ReadSnapshot, snapshotFacts } from './snapshot.ts'
import { retryConflicts, type Transaction, transactionIn } from './transaction.ts'
import { type ServerTimeouts, type TransactionSettings, transactionSettings } from './settings.ts'
import type { RangesOptions } from './ranges.ts'
import type { SqlStatement } from './sql.ts'
import type { ValueOptions } from './values.ts'

/** Everything that {@link PostgresHandler} takes. `user` (or `url`) is needed, or `credentials` and `database`. */
export interface PostgresHandlerOptions extends PostgresConfigInput {
  /**
   * Who gives user and password, instead of `user` and `password`: a provider that says when they change, such as a
   * lease of VaultHandler, or a function that is asked before a login. Not closed with the handler.
   */
  credentials?: CredentialProvider | CredentialFunction | undefined
  /** Told of connections that were lost while idle and of tries to connect. Silent by default. */
  logger?: Logger | undefined
}

export type IsolationLevel = 'read committed' | 'repeatable read' | 'serializable'

export interface TransactionOptions extends CallOptions, ServerTimeouts {
  /** Default: the server's, `read committed` unless it was changed. */
  readonly isolation?: IsolationLevel | undefined
  readonly readOnly?: boolean | undefined
  /** With `serializable` and `readOnly`: waits until the transaction cannot fail (PostgreSQL, SET TRANSACTION). */
  readonly deferrable?: boolean | undefined
  /**
   * Runs the whole work again where it has lost against another transaction (40001, 40P01), `{ attempts: 5 }` times in all for
   * example. Not given: once. What the work does outside the database is done again.
   */
  readonly retry?: Partial<RetryPolicy> | undefined
}

/** Limits here stand instead of the handler's; 0, for long reads, is none. */
export interface ReadSnapshotOptions extends CallOptions, ServerTimeouts {
  /** The name of an exported snapshot to read in, instead of a new one. */
  readonly join?: string | undefined
}

export interface PostgresCheckOptions extends CallOptions {
  /** Tables or views that must be readable, named as in SQL. */
  readonly tables?: readonly string[] | undefined
}

const PREFIX = 'POSTGRES'

/**
 * PostgreSQL with exact values, COPY at the speed of psql and cancellation that reaches the server.
 *
 * Making one does nothing; the first call connects. Every call takes `signal` and `timeoutMs`: when one of them ends a
 * call, its statement is cancelled on the server, and the call rejects once the server is idle.
 */
export class PostgresHandler implements Queries, AsyncDisposable {
  readonly #config: PostgresConfig
  readonly #logger: Logger
  readonly #lifecycle: Lifecycle
  readonly #queries: Queries
  readonly #pool: Pool
  readonly #settings: TransactionSettings | undefined
  /** `host:port/database` */
  readonly #place: string
  /** `user@host:port/database`, without the user where a provider gives it. */
  readonly #target: string

  /** @throws ConfigError `POSTGRES_CONFIG_INVALID` */
  constructor(options: PostgresHandlerOptions) {
    const { logger, credentials, ...input } = options
    this.#config = parseConfig(input, credentials !== undefined)
    this.#logger = logger ?? silentLogger
    const { user, password, host, port, database } = this.#config
    this.#place = `${host}:${port}/${database}`
    this.#target = credentials === undefined ? `${user}@${this.#place}` : this.#place
    this.#settings = this.#config.poolerMode === 'transaction' ? transactionSettings(this.#config) : undefined
    const warn = (what: string) => (reason: string) => this.#logger.warn({ server: this.#target, reason }, what)
    const limits = { ...this.#config.pool, connectTimeoutMs: this.#config.connectTimeoutMs }
    this.#pool = new Pool(this.#target, limits, {
      credentials:
        typeof credentials === 'function' ? credentialsFrom(credentials) : (credentials ?? fixedCredentials(user, password)),
      connect: (login, signal) => this.#login(login, signal),
      onLost: warn('an idle connection was lost'),
      onRotationFailed: warn('new credentials were announced and could not be had'),
    })
    this.#lifecycle = new Lifecycle('PostgresHandler', PREFIX, () => this.#pool.end())
    this.#queries = queriesOn(
      (action, callOptions, work) => this.#run(action, callOptions, work),
      (callOptions, work) => this.#stream(callOptions, work),
    )
  }

  /**
   * A handler with the options that `PGHOST`, `PGPORT`, `PGDATABASE`, `PGUSER`, `PGPASSWORD`, `PGSSLMODE`, `PGSSLROOTCERT`,
   * `PGSSLCERT`, `PGSSLKEY`, `PGAPPNAME` and `PGCONNECT_TIMEOUT` name, as libpq reads them. Options given here win; with `url` nothing is read.
   * @throws ConfigError `POSTGRES_CONFIG_INVALID`
   */
  static fromEnvironment(
    options: PostgresHandlerOptions = {},
    variables?: Readonly<Record<string, string | undefined>>,
  ): PostgresHandler {
    const { user, password, ...found } = options.url === undefined ? configFromEnvironment(variables) : {}
    const login = options.credentials === undefined ? { user, password } : {}
    return new PostgresHandler({ ...found, ...login, ...options })
  }

  /** Makes a connection, so that a wrong address shows now. Implied by the first call. */
  async connect(options?: CallOptions): Promise<void> {
    await this.#run('connecting', options, () => Promise.resolve())
  }

  getRecords<T = Row>(statement: string | SqlStatement, params?: readonly unknown[], options?: ReadOptions<T>): Promise<T[]> {
    return this.#queries.getRecords(statement, params, options)
  }

  getRows<T extends readonly unknown[] = readonly Row[string][]>(
    statement: string | SqlStatement,
    params?: readonly unknown[],
    options?: StatementOptions & ValueOptions,
  ): Promise<T[]> {
    return this.#queries.getRows(statement, params, options)
  }

  execute(statement: string | SqlStatement, params?: readonly unknown[], options?: StatementOptions): Promise<ExecuteResult> {
    return this.#queries.execute(statement, params, options)
  }

  /** Any number of statements separated by semicolons, such as a schema file: all or none of them, unless they say COMMIT. */
  executeScript(script: string, options?: CallOptions): Promise<void> {
    return this.#run('the script', options, (connection, signal) => connection.script(script, signal))
  }

  stream<T = Row>(statement: string | SqlStatement, params?: readonly unknown[], options?: StreamOptions<T>): AsyncIterable<T> {
    return this.#queries.stream(statement, params, options)
  }

  batch(statements: readonly (string | SqlStatement)[], options?: StatementOptions): Promise<BatchResult[]> {
    return this.#queries.batch(statements, options)
  }

  insertMany<const C extends string>(
    table: string,
    columns: readonly C[],
    rows: Iterable<InsertRow<NoInfer<C>>> | AsyncIterable<InsertRow<NoInfer<C>>>,
    options?: InsertManyOptions<NoInfer<C>>,
  ): Promise<number> {
    return this.#queries.insertMany(table, columns, rows, options)
  }

  copyTo(statement: string | SqlStatement, sink: CopySink, options?: CopyOutOptions): Promise<CopyResult> {
    return this.#queries.copyTo(statement, sink, options)
  }

  copyFrom(statement: string | SqlStatement, source: CopySource, options?: CallOptions): Promise<CopyResult> {
    return this.#queries.copyFrom(statement, source, options)
  }

  copyOut(statement: string | SqlStatement, options?: CopyOutOptions): AsyncIterable<CopyBlock> {
    return this.#queries.copyOut(statement, options)
  }

  ranges(table: string, options: RangesOptions & CallOptions): Promise<SqlStatement[]> {
    return this.#queries.ranges(table, options)
  }

  describeTable(name: string, options?: CallOptions): Promise<TableDescription> {
    return this.#queries.describeTable(name, options)
  }

  describeQuery(query: string, options?: CallOptions): Promise<QueryDescription> {
    return this.#queries.describeQuery(query, options)
  }

  estimateRows(query: string, options?: CallOptions): Promise<number> {
    return this.#queries.estimateRows(query, options)
  }

  /**
   * Runs work in a transaction on a connection of its own: committed when it resolves, rolled back when it rejects.
   * @throws what the work throws; ConflictError `POSTGRES_SERIALIZATION_FAILED`, `POSTGRES_DEADLOCK` (retry `safe`)
   */
  transaction<T>(work: (transaction: Transaction) => Promise<T>, options: TransactionOptions = {}): Promise<T> {
    const begin = beginStatement(options)
    const onRetry = (error: HandlerError, next: object): void =>
      this.#logger.debug({ code: error.code, ...next }, 'running the transaction again')
    return withDeadline(options, { prefix: PREFIX, action: 'the transaction' }, ({ signal: outer }) =>
      retryConflicts(options.retry, outer, onRetry, () =>
        this.#run('the transaction', { signal: outer }, (connection, signal) =>
          connection.transaction(begin, signal, (scope) => work(transactionIn(scope)), options),
        ),
      ),
    )
  }

  /**
   * Runs work while a connection of its own holds an advisory lock; the lock's queries run on that connection. A signal
   * tells when the lock is lost.
   * @throws ConflictError `POSTGRES_LOCK_NOT_AVAILABLE` (with `wait: false`), ConnectionError `POSTGRES_LOCK_LOST`
   */
  withAdvisoryLock<T>(key: AdvisoryKey, work: (lock: AdvisoryLock) => Promise<T>, options: AdvisoryLockOptions = {}): Promise<T> {
    return this.#run('the work under the lock', options, (connection, signal) =>
      withLock(connection, key, options.wait, signal, work),
    )
  }

  /**
   * What is notified on a channel, or on several, as an endless loop. It holds a connection of the pool, makes a new one when that is lost,
   * and says where notifications may have been missed.
   */
  listen(channel: string | readonly string[], options: ListenOptions = {}): AsyncIterable<ListenEvent> {
    const channels = typeof channel === 'string' ? [channel] : channel
    return listen((callOptions, work) => this.#stream(callOptions, work), channels, options)
  }

  /** Takes a snapshot that other connections can join until it is closed: `readSnapshot(work, { join: snapshot.name })`. */
  async snapshot(options?: CallOptions): Promise<ExportedSnapshot> {
    const opening = new AbortController()
    const held = this.#stream({ signal: opening.signal }, async function* (connection, signal) {
      await connection.begin(BEGIN_SNAPSHOT, signal, { idleInTransactionTimeoutMs: 0 })
      try {
        yield await exportSnapshot(connection, signal)
      } finally {
        await connection.rollback()
      }
    })
    return await withDeadline(options, { prefix: PREFIX, action: 'the snapshot' }, async ({ signal }) => {
      const forget = onAbort(signal, () => opening.abort(signal.reason))
      try {
        const { value } = await held.next()
        if (value === undefined) throw new Error('a stream that yields once has yielded nothing')
        const close = async (): Promise<void> => void (await held.return())
        return { ...value, close, [Symbol.asyncDispose]: close }
      } finally {
        forget()
      }
    })
  }

  /** Runs work that reads in one REPEATABLE READ, READ ONLY transaction on a connection of its own. */
  readSnapshot<T>(work: (reader: ReadSnapshot) => Promise<T>, options: ReadSnapshotOptions = {}): Promise<T> {
    return this.#run('the snapshot', options, (connection, signal) =>
      connection.transaction(
        BEGIN_SNAPSHOT,
        signal,
        async (scope) => {
          if (options.join !== undefined) await joinSnapshot(connection, options.join, signal)
          const snapshot = await snapshotFacts(connection, options.join !== undefined, signal)
          return await work({ ...queriesIn(scope), snapshot })
        },
        options,
      ),
    )
  }

  /** Connects, and looks whether the given tables can be read. It reports and does not throw. */
  async check(options: PostgresCheckOptions = {}): Promise<CheckResult> {
    const connected = async (): Promise<string> =>
      await this.#run('connecting', options, async (connection, signal) => {
        const { rows } = await connection.query('SELECT pg_catalog.pg_is_in_recovery()', [], signal)
        return `PostgreSQL ${connection.serverVersion}${rows[0]?.[0] === true ? ', a standby' : ''}`
      })
    const readable = (table: string) => ({
      name: `read ${table}`,
      run: () => this.#run(`looking at ${table}`, options, (connection, signal) => checkReadable(connection, table, signal)),
    })
    const attempts = [{ name: 'connect', run: connected }, ...(options.tables ?? []).map(readable)]
    return await runCheck(`postgres://${this.#target}`, attempts, options.signal)
  }

  /**
   * The connections as a `pg.Pool` lends them, for libraries that take one: credentials may change behind it. Whoever
   * borrows gives back; `close()` waits for that, and after its grace closes what is still lent.
   */
  asPool(): PgPool {
    return {
      connect: async () => {
        const done = this.#lifecycle.hold()
        try {
          return pgPoolClient(await this.#pool.acquire(this.#lifecycle.signal), this.#lifecycle.signal, done)
        } catch (error) {
          done()
          throw error
        }
      },
    }
  }

  /** What the pool does now, and what it did since the handler was made. */
  poolStatus(): PoolStatus {
    return this.#pool.status()
  }

  /** Lets no new call in, waits for those under way (cancelling them after the grace) and closes the connections. */
  close(options?: CloseOptions): Promise<void> {
    return this.#lifecycle.close(options)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #run<T>(
    action: string,
    options: StatementOptions | undefined,
    work: (connection: Connection, signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const begin = (outer: AbortSignal | undefined): Promise<T> =>
      this.#lifecycle.run(outer, (signal) => this.#lend(signal, options?.idempotent === true, work))
    // Most calls have neither, and signals that are made of others cost as much as a short query does.
    if (options?.signal === undefined && options?.timeoutMs === undefined) return begin(undefined)
    return withDeadline(options, { prefix: PREFIX, action }, ({ signal }) => begin(signal))
  }

  /** Lends a connection to work. What failed before there was one is tried again, and after it too what is idempotent. */
  async #lend<T>(
    signal: AbortSignal,
    idempotent: boolean,
    work: (connection: Connection, signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const start = performance.now()
    let connection: Connection | undefined
    try {
      connection = new Connection(await this.#pool.acquire(signal), this.#settings)
      return await work(connection, signal)
    } catch (error) {
      if (!mayHelp(error) || (connection !== undefined && !idempotent)) throw error
      connection?.release()
      // Only what has failed pays for this.
      return await this.#again(error, start, signal, idempotent, async (begun) => {
        const another = new Connection(await this.#pool.acquire(signal), this.#settings)
        begun()
        try {
          return await work(another, signal)
        } finally {
          another.release()
        }
      })
    } finally {
      connection?.release()
    }
  }

  /** Tries again after a first error, as often as the policy says; after `begun()` only what is idempotent. */
  async #again<T>(
    first: unknown,
    start: number,
    signal: AbortSignal,
    idempotent: boolean,
    work: (begun: () => void) => Promise<T>,
  ): Promise<T> {
    const { attempts, budgetMs } = this.#config.retry
    const outcome = await retry<{ readonly value: T } | { readonly error: unknown }>(
      async (attempt) => {
        if (attempt === 1) throw first
        let sent = false
        try {
          return { value: await work(() => (sent = true)) }
        } catch (error) {
          if (mayHelp(error) && (idempotent || !sent)) throw error
          return { error }
        }
      },
      {
        policy: { attempts, budgetMs: budgetMs - (performance.now() - start) },
        signal,
        idempotent,
        onRetry: (error, next) => this.#logger.debug({ code: error.code, ...next }, 'trying again'),
      },
    )
    if ('error' in outcome) throw outcome.error
    return outcome.value
  }

  async *#stream<T>(
    options: CallOptions | undefined,
    work: (connection: Connection, signal: AbortSignal) => AsyncGenerator<T, void, undefined>,
  ): AsyncGenerator<T, void, undefined> {
    const ended = this.#lifecycle.hold()
    const closing = this.#lifecycle.signal
    const signal = options?.signal === undefined ? closing : AbortSignal.any([options.signal, closing])
    const acquire = async (inner: AbortSignal): Promise<Connection> => {
      const start = performance.now()
      const connect = async (): Promise<Connection> => new Connection(await this.#pool.acquire(inner), this.#settings)
      try {
        return await connect()
      } catch (error) {
        if (!mayHelp(error)) throw error
        return await this.#again(error, start, inner, false, connect)
      }
    }
    try {
      yield* streamWithin({ timeoutMs: options?.timeoutMs, signal }, async function* (inner) {
        const connection = await acquire(inner)
        // A loop that stands still, or was forgotten, keeps neither its connection nor close() once it was told to end.
        let timer: NodeJS.Timeout | undefined
        const letGo = async (): Promise<void> => {
          await connection.idle()
          connection.destroy()
          connection.release()
          ended()
        }
        const forget = onAbort(inner, () => {
          timer = setTimeout(() => void letGo(), UNWIND_MS)
        })
        try {
          yield* work(connection, inner)
        } finally {
          forget()
          clearTimeout(timer)
          connection.release()
        }
      })
    } finally {
      ended()
    }
  }

  async #login(login: HeldCredentials, signal: AbortSignal): Promise<DriverClient> {
    try {
      // Certificates are read for each connection, so that those that were replaced are used without a restart.
      return await connectClient(this.#config, await tlsOptions(this.#config), login, signal)
    } catch (error) {
      signal.throwIfAborted()
      throw toHandlerError(error, { phase: 'connect', target: `${login.user}@${this.#place}`, user: login.user })
    }
  }
}

/** The server was away, or has chosen another transaction over this one; a call that ran out of time, or found the pool full, would again. */
function mayHelp(error: unknown): boolean {
  if (!HandlerError.is(error)) return false
  if (error.outcome === 'connection') return true
  return [
    'POSTGRES_TOO_MANY_CONNECTIONS',
    'POSTGRES_CREDENTIALS_UNAVAILABLE',
    'POSTGRES_SERIALIZATION_FAILED',
    'POSTGRES_DEADLOCK',
  ].includes(error.code)
}

const BEGIN_SNAPSHOT = 'BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY'

function beginStatement(options: TransactionOptions): string {
  const parts = ['BEGIN']
  if (options.isolation !== undefined) parts.push(`ISOLATION LEVEL ${isolationLevels[options.isolation]}`)
  if (options.readOnly !== undefined) parts.push(options.readOnly ? 'READ ONLY' : 'READ WRITE')
  if (options.deferrable !== undefined) parts.push(options.deferrable ? 'DEFERRABLE' : 'NOT DEFERRABLE')
  return parts.join(' ')
}

const isolationLevels: Readonly<Record<IsolationLevel, string>> = {
  'read committed': 'READ COMMITTED',
  'repeatable read': 'REPEATABLE READ',
  serializable: 'SERIALIZABLE',
}
