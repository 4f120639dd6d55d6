import { networkSteps, type NetworkTls } from '@common-handlers/connections/check'
import { ClientPool, loginSteps, rowReader } from '@common-handlers/connections/sql'
import { type CallOptions, type CheckResult, type Closable, type CloseOptions, runCheck } from '@common-handlers/core'
import { type PostgresConfig, tlsOptions } from './config.ts'
import { connectClient, type PostgresClient, type StatementResult } from './driver.ts'
import { type Circumstances, parameterInvalid, POSTGRES, toPostgresError } from './errors.ts'
import { startTls } from './ssl-request.ts'
import { type PostgresInput, type PostgresRow, type PostgresValue, sizeOf, toBound } from './values.ts'

/** A stream asks for about so many bytes at a time; for one row before it knows how large they are. */
const PORTION_BYTES = 1024 * 1024
const MOST_ROWS = 4096

const STATEMENTS = {
  version: `SELECT 'PostgreSQL ' || current_setting('server_version')`,
  rights: `SELECT count(*) FILTER (WHERE has_table_privilege(c.oid, 'SELECT')) || ' of ' || count(*) || ' tables can be read'
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')`,
  nothing: 'SELECT 1',
}

type Bound = readonly (string | Buffer | null)[]

/** What is done on the connection of a transaction; errors are ours already. */
export interface Transaction {
  run(sql: string, parameters?: readonly PostgresInput[]): Promise<StatementResult>
  /** COPY FROM STDIN; says how many rows the server took. */
  copyIn(sql: string, chunks: AsyncIterable<Buffer>): Promise<number>
}

/** A pool of connections to one database. */
export class PostgresEngine implements Closable {
  readonly #config: PostgresConfig
  readonly #pool: ClientPool<PostgresClient>

  constructor(config: PostgresConfig) {
    this.#config = config
    const { maxConnections: max, idleTimeoutMs: idleMs, connectTimeoutMs: connectMs } = config
    const connect = (signal: AbortSignal): Promise<PostgresClient> => this.#login(signal)
    this.#pool = new ClientPool({
      name: 'PostgresEngine',
      prefix: POSTGRES,
      target: this.target,
      max,
      idleMs,
      connectMs,
      connect,
    })
  }

  /** `user@host:port/database` */
  get target(): string {
    const { username, host, port, database } = this.#config
    return `${username}@${host}:${port}/${database}`
  }

  /** Where rows come from, without the user: `postgres://host:port/database`. */
  get source(): string {
    const { host, port, database } = this.#config
    return `postgres://${host}:${port}/${encodeURIComponent(database)}`
  }

  /** Makes a first connection; implied by the first call. */
  connect(options?: CallOptions): Promise<void> {
    return this.#pool.run(options, 'connecting', async () => undefined)
  }

  /** All rows of one statement. `$1` stands for the first parameter. */
  async query(sql: string, parameters: readonly PostgresInput[] = [], options?: CallOptions): Promise<PostgresRow[]> {
    const values = bound(parameters)
    return this.#pool.run(options, 'the query', async (client) => {
      const { columns, rows } = await this.#mapped('statement', client.run(sql, values))
      return rows.map(rowReader<PostgresValue>(POSTGRES, columns))
    })
  }

  /** A statement for what it does, or several without parameters, which are one transaction; says how many rows it changed. */
  async execute(
    sql: string,
    parameters?: readonly PostgresInput[],
    options?: CallOptions,
  ): Promise<{ readonly rowsChanged: number }> {
    const values = parameters === undefined ? undefined : bound(parameters)
    return this.#pool.run(options, 'the statement', async (client) => {
      const { rowsChanged } = await this.#mapped('statement', client.run(sql, values))
      return { rowsChanged }
    })
  }

  /** Rows one at a time, for results larger than memory; all of one moment. */
  stream(
    sql: string,
    parameters: readonly PostgresInput[] = [],
    options: Pick<CallOptions, 'signal'> = {},
  ): AsyncGenerator<PostgresRow, void, undefined> {
    return this.#pool.stream(options.signal, (client) => this.#rows(client, sql, bound(parameters)))
  }

  /** What the warehouse is made of: work in one transaction, undone when it throws. */
  transaction<T>(
    options: CallOptions | undefined,
    action: string,
    work: (transaction: Transaction, signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    return this.#pool.run(options, action, async (client, signal) => {
      const mapped = <R>(done: Promise<R>): Promise<R> => this.#mapped('transaction', done)
      await this.#mapped('statement', client.run('BEGIN'))
      try {
        const result = await work(
          {
            run: (sql, parameters) => mapped(client.run(sql, parameters === undefined ? undefined : bound(parameters))),
            copyIn: (sql, chunks) => mapped(client.copyIn(sql, chunks)),
          },
          signal,
        )
        signal.throwIfAborted()
        await this.#mapped('commit', client.run('COMMIT'))
        return result
      } catch (error) {
        await client.run('ROLLBACK').catch(() => undefined)
        throw error
      }
    })
  }

  /** Looks for the server, reaches it, logs in and reads. */
  async check(options: CallOptions = {}): Promise<CheckResult> {
    const { host, port, connectTimeoutMs: timeoutMs } = this.#config
    const { signal = new AbortController().signal } = options
    const tls = await networkTls(this.#config)
    const network = networkSteps({ host, port, signal, timeoutMs, ...(tls === undefined ? {} : { tls }) })
    return runCheck(this.target, [...network, ...loginSteps(this, STATEMENTS, options)], signal)
  }

  close(options?: CloseOptions): Promise<void> {
    return this.#pool.close(options)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async *#rows(client: PostgresClient, sql: string, parameters: Bound): AsyncGenerator<PostgresRow, void, undefined> {
    const cursor = client.cursor(sql, parameters)
    try {
      let count = 1
      let toRow: ((values: readonly PostgresValue[]) => PostgresRow) | undefined
      for (;;) {
        const { columns, rows } = await this.#mapped('statement', cursor.read(count))
        toRow ??= rowReader<PostgresValue>(POSTGRES, columns)
        if (rows.length === 0) return
        let bytes = 0
        for (const values of rows) {
          bytes += sizeOf(values)
          yield toRow(values)
        }
        const fitting = Math.floor((PORTION_BYTES * rows.length) / (bytes + 1))
        count = Math.min(MOST_ROWS, count * 4, Math.max(1, fitting))
      }
    } finally {
      cursor.close()
    }
  }

  async #login(signal: AbortSignal): Promise<PostgresClient> {
    try {
      return await connectClient(this.#config, await tlsOptions(this.#config), signal)
    } catch (error) {
      signal.throwIfAborted()
      throw toPostgresError(error, { phase: 'connect', target: this.target })
    }
  }

  async #mapped<T>(phase: Circumstances['phase'], work: Promise<T>): Promise<T> {
    try {
      return await work
    } catch (error) {
      throw toPostgresError(error, { phase, target: this.target })
    }
  }
}

/** The handshake of the test is that of the driver. */
async function networkTls(config: PostgresConfig): Promise<NetworkTls | undefined> {
  const tls = await tlsOptions(config).catch(() => false as const)
  if (tls === false || config.sslMode === 'disable') return undefined
  const { ca, cert, key } = tls as { readonly ca?: string; readonly cert?: string; readonly key?: string }
  const verify = ({ require: 'none', 'verify-ca': 'ca', 'verify-full': 'full' } as const)[config.sslMode]
  return { ca, cert, key, verify, startTls }
}

const bound = (parameters: readonly PostgresInput[]): Bound =>
  parameters.map((value, index) => {
    try {
      return toBound(value)
    } catch (error) {
      throw parameterInvalid(index + 1, (error as Error).message)
    }
  })
