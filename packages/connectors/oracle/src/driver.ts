import type { PooledClient } from '@common-handlers/connections/sql'
import { onAbort } from '@common-handlers/core'
import oracledb from 'oracledb'
import { type OracleConfig, readWallet } from './config.ts'
import { parameterInvalid } from './errors.ts'
import { type Fetch, fetchOf, type OracleColumn, type OracleValue, toBound } from './values.ts'

// The one file that knows oracledb, in its thin mode: without Oracle's client libraries.

/** How long a statement gets to end after it was cancelled. */
const GOODBYE_MS = 2_000

/** Everything that decides how a value is read, written and ordered as text. */
const SESSION = `ALTER SESSION SET NLS_NUMERIC_CHARACTERS = '.,' NLS_SORT = BINARY NLS_COMP = BINARY TIME_ZONE = '+00:00'`

/** Some rows; the first portion comes in any case, for its columns. */
export interface Portion {
  readonly columns: readonly string[]
  readonly rows: readonly (readonly OracleValue[])[]
}

/** A connection of oracledb that can be waited for. */
export class OracleClient implements PooledClient {
  readonly #connection: oracledb.Connection
  readonly #fetchRows: number
  #running = 0
  #ended: (() => void)[] = []
  #usable = true

  constructor(connection: oracledb.Connection, fetchRows: number) {
    this.#connection = connection
    this.#fetchRows = fetchRows
  }

  get reusable(): boolean {
    return this.#usable && this.#running === 0 && this.#connection.isHealthy() && !this.#connection.transactionInProgress
  }

  idle(): Promise<void> {
    if (this.#running === 0) return Promise.resolve()
    return new Promise((resolve) => this.#ended.push(resolve))
  }

  async cancelAndClose(): Promise<void> {
    this.#usable = false
    const limit = Promise.withResolvers<void>()
    const timer = setTimeout(limit.resolve, GOODBYE_MS)
    if (this.#running > 0) void this.#connection.break().catch(() => undefined)
    await Promise.race([this.idle(), limit.promise])
    clearTimeout(timer)
    await this.close()
  }

  async close(): Promise<void> {
    this.#usable = false
    const limit = Promise.withResolvers<void>()
    const timer = setTimeout(limit.resolve, GOODBYE_MS)
    await Promise.race([this.#connection.close().catch(() => undefined), limit.promise])
    clearTimeout(timer)
  }

  /** What it changes is committed. */
  async run(sql: string, parameters: readonly unknown[]): Promise<number> {
    const { rowsAffected = 0 } = await this.#busy(() => this.#connection.execute(sql, bound(parameters), { autoCommit: true }))
    return rowsAffected
  }

  async *rows(sql: string, parameters: readonly unknown[]): AsyncGenerator<Portion, void, undefined> {
    let failure: { readonly error: unknown } | undefined
    const reads: ((value: unknown) => OracleValue)[] = []
    // Thrown from there it would come back as the driver's own.
    const fetchTypeHandler = (column: oracledb.Metadata<unknown>): { type: number } | undefined => {
      try {
        const { as, read }: Fetch = fetchOf(column as unknown as OracleColumn)
        reads.push(read ?? ((value) => value as OracleValue))
        return as === undefined ? undefined : ({ type: oracledb[`DB_TYPE_${as}`] } as unknown as { type: number })
      } catch (error) {
        failure ??= { error }
        return undefined
      }
    }
    const { resultSet, metaData = [] } = await this.#busy(() =>
      this.#connection.execute<unknown[]>(sql, bound(parameters), {
        resultSet: true,
        outFormat: oracledb.OUT_FORMAT_ARRAY,
        fetchArraySize: this.#fetchRows,
        prefetchRows: 0,
        fetchTypeHandler: fetchTypeHandler as never,
      }),
    )
    const columns = metaData.map(({ name }) => name)
    try {
      if (failure !== undefined) throw failure.error
      yield { columns, rows: [] }
      if (resultSet === undefined) return
      for (;;) {
        const rows = await this.#busy(() => resultSet.getRows(this.#fetchRows))
        if (rows.length === 0) return
        yield { columns, rows: rows.map((row) => row.map((value, index) => reads[index]?.(value) ?? null)) }
      }
    } finally {
      if (this.#usable) await resultSet?.close().catch(() => undefined)
    }
  }

  async #busy<T>(work: () => Promise<T>): Promise<T> {
    this.#running += 1
    try {
      return await work()
    } finally {
      this.#running -= 1
      if (this.#running === 0) for (const ended of this.#ended.splice(0)) ended()
    }
  }
}

const bound = (parameters: readonly unknown[]): oracledb.BindParameters =>
  parameters.map((given, index) => {
    try {
      return toBound(given) as string
    } catch (error) {
      throw parameterInvalid(index + 1, (error as Error).message)
    }
  })

/** Logs in. @throws what oracledb makes of a server that refuses or is not there; the signal's reason */
export async function connectClient(config: OracleConfig, signal: AbortSignal): Promise<OracleClient> {
  const { host, port, serviceName, username, password, sslMode, walletPassword, fetchRows, connectTimeoutMs } = config
  const wallet = await readWallet(config)
  signal.throwIfAborted()
  const seconds = Math.ceil(connectTimeoutMs / 1_000)
  const opening = oracledb.getConnection({
    user: username,
    password: password.expose(),
    connectString: `${sslMode === 'disable' ? 'tcp' : 'tcps'}://${host}:${port}/${serviceName}`,
    sslServerDNMatch: true,
    transportConnectTimeout: seconds,
    connectTimeout: seconds,
    ...(wallet === undefined ? {} : { walletContent: wallet }),
    ...(walletPassword === undefined ? {} : { walletPassword: walletPassword.expose() }),
  })
  const aborted = Promise.withResolvers<never>()
  const forget = onAbort(signal, () => aborted.reject(signal.reason as Error))
  try {
    const connection = await Promise.race([opening, aborted.promise])
    const client = new OracleClient(connection, fetchRows)
    await Promise.race([client.run(SESSION, []), aborted.promise])
    return client
  } catch (error) {
    // The driver cannot be told to stop: what comes of it is closed, within the time it was given.
    opening.then((connection) => connection.close()).catch(() => undefined)
    throw error
  } finally {
    forget()
  }
}
