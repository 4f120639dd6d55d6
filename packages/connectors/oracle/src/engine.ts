import { networkSteps } from '@common-handlers/connections/check'
import { ClientPool, loginSteps, rowReader } from '@common-handlers/connections/sql'
import { type CallOptions, type CheckResult, type Closable, type CloseOptions, runCheck } from '@common-handlers/core'
import { type OracleConfig, readWallet } from './config.ts'
import { connectClient, type OracleClient } from './driver.ts'
import { type Circumstances, ORACLE, toOracleError } from './errors.ts'
import type { OracleParameter, OracleRow, OracleValue } from './values.ts'

const STATEMENTS = {
  version: `SELECT 'Oracle Database ' || version FROM product_component_version WHERE product LIKE 'Oracle%' AND ROWNUM = 1`,
  rights: `SELECT COUNT(*) || ' tables can be read' FROM all_tables`,
  nothing: 'SELECT 1 FROM dual',
}

/** A pool of connections to one database. */
export class OracleEngine implements Closable {
  readonly #config: OracleConfig
  readonly #pool: ClientPool<OracleClient>

  constructor(config: OracleConfig) {
    this.#config = config
    const { maxConnections: max, idleTimeoutMs: idleMs, connectTimeoutMs: connectMs } = config
    const connect = (signal: AbortSignal): Promise<OracleClient> => this.#mapped('connect', signal, connectClient(config, signal))
    this.#pool = new ClientPool({ name: 'OracleEngine', prefix: ORACLE, target: this.target, max, idleMs, connectMs, connect })
  }

  /** `user@host:port/service` */
  get target(): string {
    const { username, host, port, serviceName } = this.#config
    return `${username}@${host}:${port}/${serviceName}`
  }

  /** Where rows come from, without the user: `oracle://host:port/service`. */
  get source(): string {
    const { host, port, serviceName } = this.#config
    return `oracle://${host}:${port}/${serviceName}`
  }

  /** Makes a first connection; implied by the first call. */
  connect(options?: CallOptions): Promise<void> {
    return this.#pool.run(options, 'connecting', async () => undefined)
  }

  /** All rows of one statement. `:1` stands for the first parameter. */
  query(sql: string, parameters: readonly OracleParameter[] = [], options?: CallOptions): Promise<OracleRow[]> {
    return this.#pool.run(options, 'the query', (client, signal) => Array.fromAsync(this.#rows(client, sql, parameters, signal)))
  }

  /** A statement for what it does, committed at once; says how many rows it changed. */
  execute(
    sql: string,
    parameters: readonly OracleParameter[] = [],
    options?: CallOptions,
  ): Promise<{ readonly rowsChanged: number }> {
    return this.#pool.run(options, 'the statement', async (client, signal) => ({
      rowsChanged: await this.#mapped('statement', signal, client.run(sql, parameters)),
    }))
  }

  /** Rows one at a time, for results larger than memory; all of one moment. */
  stream(
    sql: string,
    parameters: readonly OracleParameter[] = [],
    options: Pick<CallOptions, 'signal'> = {},
  ): AsyncGenerator<OracleRow, void, undefined> {
    return this.#pool.stream(options.signal, (client, signal) => this.#rows(client, sql, parameters, signal))
  }

  /** Looks for the server, reaches it, logs in and reads. */
  async check(options: CallOptions = {}): Promise<CheckResult> {
    const { host, port, sslMode, walletPassword, connectTimeoutMs: timeoutMs } = this.#config
    const { signal = new AbortController().signal } = options
    // As the driver uses it: one text for all.
    const wallet = await readWallet(this.#config).catch(() => undefined)
    const pair = { ca: wallet, cert: wallet, key: wallet, passphrase: walletPassword?.expose() }
    const tls = sslMode === 'disable' ? {} : { tls: pair }
    const network = networkSteps({ host, port, signal, timeoutMs, ...tls })
    return runCheck(this.target, [...network, ...loginSteps(this, STATEMENTS, options)], signal)
  }

  close(options?: CloseOptions): Promise<void> {
    return this.#pool.close(options)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async *#rows(
    client: OracleClient,
    sql: string,
    parameters: readonly OracleParameter[],
    signal: AbortSignal,
  ): AsyncGenerator<OracleRow, void, undefined> {
    const portions = client.rows(sql, parameters)
    try {
      let toRow: ((values: readonly OracleValue[]) => OracleRow) | undefined
      for (;;) {
        const step = await this.#mapped('statement', signal, portions.next())
        if (step.done === true) return
        toRow ??= rowReader<OracleValue>(ORACLE, step.value.columns)
        for (const values of step.value.rows) yield toRow(values)
      }
    } finally {
      await portions.return()
    }
  }

  async #mapped<T>(phase: Circumstances['phase'], signal: AbortSignal, work: Promise<T>): Promise<T> {
    try {
      return await work
    } catch (error) {
      signal.throwIfAborted()
      throw toOracleError(error, { phase, target: this.target })
    }
  }
}
