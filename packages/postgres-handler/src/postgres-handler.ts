import {
  type CallOptions,
  type CheckResult,
  type CloseOptions,
  Lifecycle,
  type Logger,
  retry,
  runCheck,
  silentLogger,
  withDeadline,
} from '@common-handlers/core'
import { checkReadable, type QueryDescription, type TableDescription } from './catalog.ts'
import { parseConfig, type PostgresConfig, type PostgresConfigInput, tlsOptions } from './config.ts'
import { Connection, type ConnectionPlace } from './connection.ts'
import type { CopyBlock } from './copy-reader.ts'
import { type DriverPool, openPool, type PooledClient } from './driver.ts'
import { toHandlerError } from './errors.ts'
import {
  type CopyOutOptions,
  type ExecuteResult,
  type Queries,
  queriesOfTransaction,
  queriesOn,
  type ReadOptions,
  type Row,
  streamWithin,
} from './session.ts'
import type { SqlStatement } from './sql.ts'

/** Everything that {@link PostgresHandler} takes. `user` (or `url`) is needed. */
export interface PostgresHandlerOptions extends PostgresConfigInput {
  /** Told of connections that were lost while idle and of tries to connect. Silent by default. */
  logger?: Logger | undefined
}

export type IsolationLevel = 'read committed' | 'repeatable read' | 'serializable'

export interface TransactionOptions extends CallOptions {
  /** Default: the server's, `read committed` unless it was changed. */
  readonly isolation?: IsolationLevel | undefined
  readonly readOnly?: boolean | undefined
  /** With `serializable` and `readOnly`: waits until the transaction cannot fail (PostgreSQL, SET TRANSACTION). */
  readonly deferrable?: boolean | undefined
}

/** The queries of a transaction; all run on its connection, one after the other. */
export type Transaction = Queries

/** What a snapshot sees, and where in the write-ahead log it was taken. */
export interface SnapshotFacts {
  /** pg_current_snapshot(): `xmin:xmax:xip_list`. */
  readonly id: string
  /** Every transaction below it has ended. */
  readonly xmin: string
  /** No transaction from here on is seen. */
  readonly xmax: string
  /** Transactions between the two that were running. */
  readonly xip: readonly string[]
  /** Write-ahead log position; absent on a standby. */
  readonly lsn?: string
  /** `15.13 (Debian 15.13-0+deb12u1)` */
  readonly serverVersion: string
}

/** One REPEATABLE READ, READ ONLY transaction: every query in it sees the same rows. */
export interface ReadSnapshot extends Queries {
  readonly snapshot: SnapshotFacts
}

export interface ReadSnapshotOptions extends CallOptions {
  /** Instead of the handler's statementTimeoutMs, for long reads; 0 is no limit. */
  readonly statementTimeoutMs?: number | undefined
}

export interface PostgresCheckOptions extends CallOptions {
  /** Tables or views that must be readable, named as in SQL. */
  readonly tables?: readonly string[] | undefined
}

/** How many connections there are. */
export interface PoolStatus {
  readonly total: number
  readonly idle: number
  /** Calls that wait for one. */
  readonly waiting: number
}

const PREFIX = 'POSTGRES'
const CONNECT_ATTEMPTS = 3

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
  /** `user@host:port/database` */
  readonly #target: string
  #opening: Promise<{ readonly pool: DriverPool; readonly place: ConnectionPlace }> | undefined

  /** @throws ConfigError `POSTGRES_CONFIG_INVALID` */
  constructor(options: PostgresHandlerOptions) {
    const { logger, ...input } = options
    this.#config = parseConfig(input)
    this.#logger = logger ?? silentLogger
    const { user, host, port, database } = this.#config
    this.#target = `${user}@${host}:${port}/${database}`
    this.#lifecycle = new Lifecycle('PostgresHandler', PREFIX, () => this.#release())
    this.#queries = queriesOn(
      (action, callOptions, work) => this.#run(action, callOptions, work),
      (callOptions, work) => this.#stream(callOptions, work),
    )
  }

  /** Makes a connection, so that a wrong address shows now. Implied by the first call. */
  async connect(options?: CallOptions): Promise<void> {
    await this.#run('connecting', options, () => Promise.resolve())
  }

  getRecords<T = Row>(statement: string | SqlStatement, params?: readonly unknown[], options?: ReadOptions<T>): Promise<T[]> {
    return this.#queries.getRecords(statement, params, options)
  }

  getRows(
    statement: string | SqlStatement,
    params?: readonly unknown[],
    options?: CallOptions,
  ): Promise<(readonly Row[string][])[]> {
    return this.#queries.getRows(statement, params, options)
  }

  execute(statement: string | SqlStatement, params?: readonly unknown[], options?: CallOptions): Promise<ExecuteResult> {
    return this.#queries.execute(statement, params, options)
  }

  /** Any number of statements separated by semicolons, such as a schema file: all or none of them, unless they say COMMIT. */
  executeScript(script: string, options?: CallOptions): Promise<void> {
    return this.#run('the script', options, (connection, signal) => connection.script(script, signal))
  }

  copyOut(statement: string | SqlStatement, options?: CopyOutOptions): AsyncIterable<CopyBlock> {
    return this.#queries.copyOut(statement, options)
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
    return this.#run('the transaction', options, (connection, signal) =>
      connection.transaction(beginStatement(options), signal, () => work(queriesOfTransaction(connection, signal))),
    )
  }

  /** Runs work that reads in one REPEATABLE READ, READ ONLY transaction on a connection of its own. */
  readSnapshot<T>(work: (reader: ReadSnapshot) => Promise<T>, options: ReadSnapshotOptions = {}): Promise<T> {
    const begin = beginStatement({ isolation: 'repeatable read', readOnly: true })
    return this.#run('the snapshot', options, (connection, signal) =>
      connection.transaction(begin, signal, async () => {
        if (options.statementTimeoutMs !== undefined) {
          await connection.query(`SET LOCAL statement_timeout = ${Math.trunc(options.statementTimeoutMs)}`, [], signal)
        }
        const snapshot = await snapshotFacts(connection, signal)
        return await work({ ...queriesOfTransaction(connection, signal), snapshot })
      }),
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

  /** How many connections there are now. */
  async poolStatus(): Promise<PoolStatus> {
    if (this.#opening === undefined) return { total: 0, idle: 0, waiting: 0 }
    const { pool } = await this.#opening
    return { total: pool.total, idle: pool.idle, waiting: pool.waiting }
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
    options: CallOptions | undefined,
    work: (connection: Connection, signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    return withDeadline(options, { prefix: PREFIX, action }, ({ signal: outer }) =>
      this.#lifecycle.run(outer, async (signal) => {
        const connection = await this.#acquire(signal)
        try {
          return await work(connection, signal)
        } finally {
          connection.release()
        }
      }),
    )
  }

  async *#stream<T>(
    options: CallOptions | undefined,
    work: (connection: Connection, signal: AbortSignal) => AsyncGenerator<T, void, undefined>,
  ): AsyncGenerator<T, void, undefined> {
    const ended = this.#lifecycle.hold()
    const closing = this.#lifecycle.signal
    const signal = options?.signal === undefined ? closing : AbortSignal.any([options.signal, closing])
    const acquire = (inner: AbortSignal): Promise<Connection> => this.#acquire(inner)
    try {
      yield* streamWithin({ timeoutMs: options?.timeoutMs, signal }, async function* (inner) {
        const connection = await acquire(inner)
        // A loop that stands still, or was forgotten, must not keep close() waiting once its COPY has been cancelled.
        const letGo = (): void =>
          void connection.idle().then(() => {
            connection.release()
            ended()
          })
        closing.addEventListener('abort', letGo, { once: true })
        try {
          yield* work(connection, inner)
        } finally {
          closing.removeEventListener('abort', letGo)
          connection.release()
        }
      })
    } finally {
      ended()
    }
  }

  async #acquire(signal: AbortSignal): Promise<Connection> {
    const { pool, place } = await this.#open()
    const policy = { attempts: CONNECT_ATTEMPTS, budgetMs: this.#config.connectTimeoutMs }
    const client = await retry(() => this.#checkOut(pool, signal), {
      policy,
      signal,
      onRetry: (error, next) => this.#logger.debug({ code: error.code, ...next }, 'connecting again'),
    })
    return new Connection(client, place)
  }

  async #checkOut(pool: DriverPool, signal: AbortSignal): Promise<PooledClient> {
    signal.throwIfAborted()
    const connecting = pool.connect()
    const aborted = Promise.withResolvers<never>()
    const abort = (): void => aborted.reject(signal.reason)
    signal.addEventListener('abort', abort, { once: true })
    try {
      return await Promise.race([connecting, aborted.promise])
    } catch (error) {
      // A connection that comes after its caller has gone is for the next one.
      connecting.then(
        (client) => client.release(),
        () => undefined,
      )
      signal.throwIfAborted()
      throw toHandlerError(error, { phase: 'connect', target: this.#target, user: this.#config.user })
    } finally {
      signal.removeEventListener('abort', abort)
    }
  }

  /** One pool for all calls; a certificate that could not be read is looked for again by the next call. */
  #open(): Promise<{ readonly pool: DriverPool; readonly place: ConnectionPlace }> {
    if (this.#opening !== undefined) return this.#opening
    const opening = this.#openPool()
    this.#opening = opening
    opening.catch(() => {
      this.#opening = undefined
    })
    return opening
  }

  async #openPool(): Promise<{ readonly pool: DriverPool; readonly place: ConnectionPlace }> {
    const ssl = await tlsOptions(this.#config)
    const { host, port, user } = this.#config
    const pool = openPool(this.#config, ssl, (error) => {
      this.#logger.warn({ server: this.#target, reason: error.message }, 'an idle connection was lost')
    })
    return { pool, place: { host, port, user, ssl, target: this.#target } }
  }

  async #release(): Promise<void> {
    const opened = await this.#opening?.catch(() => undefined)
    await opened?.pool.end()
  }
}

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

const SNAPSHOT = `
  SELECT s::text, pg_catalog.pg_snapshot_xmin(s)::text, pg_catalog.pg_snapshot_xmax(s)::text,
         CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL ELSE pg_catalog.pg_current_wal_lsn()::text END
    FROM pg_catalog.pg_current_snapshot() AS s`

async function snapshotFacts(connection: Connection, signal: AbortSignal): Promise<SnapshotFacts> {
  const { rows } = await connection.query(SNAPSHOT, [], signal)
  const [id, xmin, xmax, lsn] = (rows[0] ?? []) as readonly (string | null)[]
  const text = id ?? ''
  return {
    id: text,
    xmin: xmin ?? '',
    xmax: xmax ?? '',
    xip: (text.split(':')[2] ?? '').split(',').filter((transaction) => transaction !== ''),
    ...(lsn === null || lsn === undefined ? {} : { lsn }),
    serverVersion: connection.serverVersion,
  }
}
