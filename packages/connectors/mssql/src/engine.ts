import { networkSteps } from '@common-handlers/connections/check'
import { ClientPool, loginSteps, rowReader } from '@common-handlers/connections/sql'
import { type CallOptions, type CheckResult, type Closable, type CloseOptions, runCheck } from '@common-handlers/core'
import type { MssqlConfig } from './config.ts'
import { connectClient, type MssqlClient } from './driver.ts'
import { type Circumstances, MSSQL, toMssqlError } from './errors.ts'
import type { MssqlParameter, MssqlRow, MssqlValue } from './values.ts'

const STATEMENTS = {
  version: `SELECT CONCAT('SQL Server ', CONVERT(varchar(128), SERVERPROPERTY('ProductVersion')))`,
  rights: `SELECT CONCAT(SUM(HAS_PERMS_BY_NAME(QUOTENAME(s.name) + '.' + QUOTENAME(o.name), 'OBJECT', 'SELECT')), ' tables can be read')
             FROM sys.objects o JOIN sys.schemas s ON s.schema_id = o.schema_id WHERE o.type IN ('U', 'V')`,
  nothing: 'SELECT 1',
}

/** A pool of connections to one database. */
export class MssqlEngine implements Closable {
  readonly #config: MssqlConfig
  readonly #pool: ClientPool<MssqlClient>

  constructor(config: MssqlConfig) {
    this.#config = config
    const { maxConnections: max, idleTimeoutMs: idleMs, connectTimeoutMs: connectMs } = config
    const connect = (signal: AbortSignal): Promise<MssqlClient> => this.#mapped('connect', signal, connectClient(config, signal))
    this.#pool = new ClientPool({ name: 'MssqlEngine', prefix: MSSQL, target: this.target, max, idleMs, connectMs, connect })
  }

  /** `user@host:port/database` */
  get target(): string {
    const { username, host, port, database } = this.#config
    return `${username}@${host}:${port}/${database}`
  }

  /** Where rows come from, without the user: `mssql://host:port/database`. */
  get source(): string {
    const { host, port, database } = this.#config
    return `mssql://${host}:${port}/${encodeURIComponent(database)}`
  }

  /** Makes a first connection; implied by the first call. */
  connect(options?: CallOptions): Promise<void> {
    return this.#pool.run(options, 'connecting', async () => undefined)
  }

  /** All rows of one statement. `@p1` stands for the first parameter. */
  query(sql: string, parameters: readonly MssqlParameter[] = [], options?: CallOptions): Promise<MssqlRow[]> {
    return this.#pool.run(options, 'the query', (client, signal) => Array.fromAsync(this.#rows(client, sql, parameters, signal)))
  }

  /** A statement for what it does, or several without parameters; says how many rows it changed. */
  execute(sql: string, parameters?: readonly MssqlParameter[], options?: CallOptions): Promise<{ readonly rowsChanged: number }> {
    return this.#pool.run(options, 'the statement', async (client, signal) => ({
      rowsChanged: await this.#mapped('statement', signal, client.run(sql, parameters)),
    }))
  }

  /** Rows one at a time, for results larger than memory. */
  stream(
    sql: string,
    parameters: readonly MssqlParameter[] = [],
    options: Pick<CallOptions, 'signal'> = {},
  ): AsyncGenerator<MssqlRow, void, undefined> {
    return this.#pool.stream(options.signal, (client, signal) => this.#rows(client, sql, parameters, signal))
  }

  /** Looks for the server, reaches it, logs in and reads. */
  check(options: CallOptions = {}): Promise<CheckResult> {
    const { host, port, connectTimeoutMs: timeoutMs } = this.#config
    const { signal = new AbortController().signal } = options
    // TLS begins inside TDS: the login looks at the certificate.
    const network = networkSteps({ host, port, signal, timeoutMs })
    return runCheck(this.target, [...network, ...loginSteps(this, STATEMENTS, options)], signal)
  }

  close(options?: CloseOptions): Promise<void> {
    return this.#pool.close(options)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async *#rows(
    client: MssqlClient,
    sql: string,
    parameters: readonly MssqlParameter[],
    signal: AbortSignal,
  ): AsyncGenerator<MssqlRow, void, undefined> {
    const rows = client.rows(sql, parameters)
    try {
      let toRow: ((values: readonly MssqlValue[]) => MssqlRow) | undefined
      for (;;) {
        const step = await this.#mapped('statement', signal, rows.next())
        if (step.done === true) return
        toRow ??= rowReader<MssqlValue>(MSSQL, step.value.columns)
        if ('values' in step.value) yield toRow(step.value.values)
      }
    } finally {
      await rows.return(undefined)
    }
  }

  async #mapped<T>(phase: Circumstances['phase'], signal: AbortSignal, work: Promise<T>): Promise<T> {
    try {
      return await work
    } catch (error) {
      signal.throwIfAborted()
      throw toMssqlError(error, { phase, target: this.target })
    }
  }
}
