import type { Duplex } from 'node:stream'
import type { ConnectionOptions } from 'node:tls'
import { onAbort } from '@common-handlers/core'
import pg from 'pg'
import Cursor from 'pg-cursor'
import type { PostgresConfig } from './config.ts'
import { type PostgresValue, readerOf } from './values.ts'

// The one file that knows pg. What it uses beyond pg's documentation is declared here and held by the tests on a real server.

/** The half of pg's connection that speaks to the socket. */
interface Wire {
  readonly stream: Duplex
  query(text: string): void
  sendCopyFromChunk(chunk: Buffer): void
  endCopyFrom(): void
  sendCopyFail(message: string): void
  connect(port: number, host: string): void
  requestSsl(): void
  cancel(processId: number, secretKey: number): void
  on(event: string, listener: (message: never) => void): unknown
  once(event: string, listener: (message: never) => void): unknown
  off(event: string, listener: (message: never) => void): unknown
}

/** Everything that decides how a value is read and written as text. */
const EXACT_TEXT = {
  TimeZone: 'UTC',
  DateStyle: 'ISO,MDY',
  IntervalStyle: 'postgres',
  extra_float_digits: '1',
  bytea_output: 'hex',
  standard_conforming_strings: 'on',
}

/** How long a peer gets to answer the goodbye, and a statement to end after it was cancelled. */
const GOODBYE_MS = 2_000
/** How long nothing may come before the peer's kernel is asked whether it is there. */
const KEEP_ALIVE_MS = 60_000

/** The server changes these by itself, or they change nothing that the next user of a connection would notice. */
const MAY_CHANGE = new Set(['in_hot_standby', 'application_name'])

/** What a statement gave. */
export interface StatementResult {
  readonly columns: readonly string[]
  readonly rows: readonly (readonly PostgresValue[])[]
  readonly rowsChanged: number
}

/** A statement whose rows are asked for in portions. */
export interface RowCursor {
  /** Gives none at the end. */
  read(count: number): Promise<{ readonly columns: readonly string[]; readonly rows: readonly (readonly PostgresValue[])[] }>
  /** Ends it before its end, unless it has failed. */
  close(): void
}

/** A connection of pg that tells whether it is still there. */
export class PostgresClient extends pg.Client {
  readonly #ssl: ConnectionOptions | false
  #usable = true
  /** As the server reported its settings at first; whether one has another value now. */
  readonly #reported = new Map<string, string>()
  readonly #altered = new Set<string>()

  constructor(config: pg.ClientConfig, ssl: ConnectionOptions | false) {
    super({ ...config, ssl })
    this.#ssl = ssl
    // pg reads PGBINARY, PGREPLICATION and PGOPTIONS from the environment.
    Object.assign(this, { binary: false })
    const { connectionParameters } = this as unknown as { readonly connectionParameters: object }
    Object.assign(connectionParameters, { replication: undefined, options: config.options })
    // An error without a listener ends the process, and a backend may be killed at any time.
    this.on('error', () => (this.#usable = false))
    // pg leaves the socket open where it is pg that gives up, for want of a password for example.
    this.wire.on('error', () => this.destroy())
    this.wire.once('end', () => (this.#usable = false))
    this.wire.on('parameterStatus', (message: { readonly parameterName: string; readonly parameterValue: string }) =>
      this.#report(message.parameterName, message.parameterValue),
    )
  }

  get wire(): Wire {
    return this.connection as unknown as Wire
  }

  /** It is there, as far as is known, in no transaction, and its settings are as they were. */
  get reusable(): boolean {
    const isIdle = this.#ready && this.getTransactionStatus() === 'I'
    return this.#usable && !this.wire.stream.destroyed && isIdle && this.#altered.size === 0
  }

  get #ready(): boolean {
    return (this as unknown as { readonly readyForQuery?: boolean }).readyForQuery === true
  }

  /** Resolves when the server waits for the next statement, or the connection has ended. */
  idle(): Promise<void> {
    if (this.#ready || !this.#usable) return Promise.resolve()
    const { wire } = this
    return new Promise((resolve) => {
      const done = (): void => {
        wire.off('readyForQuery', done)
        wire.off('end', done)
        resolve()
      }
      wire.on('readyForQuery', done)
      wire.on('end', done)
    })
  }

  /** One statement with parameters, by the extended protocol; or several without, by the simple one. */
  async run(sql: string, parameters?: readonly (string | Buffer | null)[]): Promise<StatementResult> {
    const query = {
      text: sql,
      rowMode: 'array' as const,
      types: { getTypeParser: readerOf as never },
      // Without it pg sends a statement that has no parameters by the simple protocol.
      ...(parameters === undefined ? {} : { values: [...parameters], queryMode: 'extended' }),
    }
    // Several statements give several results.
    const given: pg.QueryArrayResult<PostgresValue[]> | pg.QueryArrayResult<PostgresValue[]>[] =
      await this.query<PostgresValue[]>(query)
    const results = [given].flat()
    const last = results.at(-1)
    return {
      columns: (last?.fields ?? []).map(({ name }) => name),
      rows: last?.rows ?? [],
      rowsChanged: results.reduce((sum, { command, rowCount }) => sum + (CHANGES.has(command) ? (rowCount ?? 0) : 0), 0),
    }
  }

  cursor(sql: string, parameters: readonly (string | Buffer | null)[]): RowCursor {
    const cursor = this.query(
      new Cursor<PostgresValue[]>(sql, [...parameters], { rowMode: 'array', types: { getTypeParser: readerOf as never } }),
    )
    let failed = false
    return {
      read: (count) =>
        new Promise((resolve, reject) => {
          cursor.read(count, (error: Error | null | undefined, rows, result: pg.QueryResult | undefined) => {
            failed = error !== null && error !== undefined
            // pg-cursor gives no result with the empty portion after the last.
            if (failed) reject(error)
            else resolve({ columns: (result?.fields ?? []).map(({ name }) => name), rows })
          })
        }),
      close: () => {
        if (!failed && this.#usable) cursor.close(() => undefined)
      },
    }
  }

  /** COPY FROM STDIN; says how many rows the server took. What the chunks throw takes all of them back. */
  async copyIn(sql: string, chunks: AsyncIterable<Buffer>): Promise<number> {
    const copy = new CopyIn(sql)
    this.query(copy as unknown as pg.Submittable)
    try {
      for await (const chunk of chunks) await copy.write(chunk)
      return await copy.end()
    } catch (error) {
      await copy.fail('the client has no further rows')
      throw error
    }
  }

  /** Cancels what runs, waits for that, and ends the connection, politely where the server listens. */
  async cancelAndClose(): Promise<void> {
    const timer = setTimeout(() => this.destroy(), GOODBYE_MS)
    try {
      await this.#requestCancel()
      await this.idle()
    } finally {
      clearTimeout(timer)
      await this.close()
    }
  }

  async close(): Promise<void> {
    if (!this.#usable) return this.destroy()
    const timer = setTimeout(() => this.destroy(), GOODBYE_MS)
    try {
      await this.end()
    } finally {
      clearTimeout(timer)
    }
  }

  #report(name: string, value: string): void {
    const first = this.#reported.get(name)
    if (first === undefined) this.#reported.set(name, value)
    else if (first === value) this.#altered.delete(name)
    else if (!MAY_CHANGE.has(name)) this.#altered.add(name)
  }

  /** Ends the connection without a goodbye. */
  destroy(): void {
    this.#usable = false
    this.wire.stream.destroy()
  }

  /**
   * Asks the server to cancel what runs (PostgreSQL, "Canceling Requests in Progress"), on a socket of its own, with TLS
   * where the connection has it. The server closes it once the signal is on its way.
   */
  async #requestCancel(): Promise<void> {
    const { processID, secretKey } = this as unknown as { readonly processID: number | null; readonly secretKey: number | null }
    if (processID === null || secretKey === null || this.#ready) return
    const wire = new pg.Connection({ ssl: this.#ssl }) as unknown as Wire
    await new Promise<void>((resolve) => {
      const timer = setTimeout(() => wire.stream.destroy(), GOODBYE_MS)
      const done = (): void => {
        clearTimeout(timer)
        wire.stream.destroy()
        resolve()
      }
      wire.on('connect', () => (this.#ssl === false ? wire.cancel(processID, secretKey) : wire.requestSsl()))
      wire.on('sslconnect', () => wire.cancel(processID, secretKey))
      wire.on('error', done)
      wire.on('end', done)
      wire.connect(this.port, this.host)
    })
  }
}

const CHANGES = new Set(['INSERT', 'UPDATE', 'DELETE', 'MERGE', 'COPY'])

/** Logs in. @throws what pg makes of a server that refuses or is not there; the signal's reason */
export async function connectClient(
  config: PostgresConfig,
  ssl: ConnectionOptions | false,
  signal: AbortSignal,
): Promise<PostgresClient> {
  const { host, port, database, username, password, applicationName, statementTimeoutMs } = config
  const settings = { ...EXACT_TEXT, ...(statementTimeoutMs === 0 ? {} : { statement_timeout: String(statementTimeoutMs) }) }
  const client = new PostgresClient(
    {
      host,
      port,
      database,
      user: username,
      // A function, for pg looks into PGPASSWORD and ~/.pgpass when there is no password.
      password: () => password?.expose() ?? (undefined as unknown as string),
      sslnegotiation: 'postgres',
      application_name: applicationName,
      client_encoding: 'UTF8',
      options: Object.entries(settings)
        .map(([name, value]) => `-c ${name}=${value}`)
        .join(' '),
      keepAlive: true,
      keepAliveInitialDelayMillis: KEEP_ALIVE_MS,
    },
    ssl,
  )
  const forget = onAbort(signal, () => client.destroy())
  try {
    signal.throwIfAborted()
    await client.connect()
    return client
  } catch (error) {
    client.destroy()
    signal.throwIfAborted()
    throw error
  } finally {
    forget()
  }
}

/** The rows of a COPY on their way to the server; what pg calls while it is the active query. */
class CopyIn {
  readonly #sql: string
  readonly #ready = Promise.withResolvers<void>()
  readonly #done = Promise.withResolvers<number>()
  #wire: Wire | undefined
  #rows = 0
  #error: Error | undefined

  constructor(sql: string) {
    this.#sql = sql
    this.#ready.promise.catch(() => undefined)
    this.#done.promise.catch(() => undefined)
  }

  /** Resolves when there is room for more. @throws what the server or the socket makes of it */
  async write(chunk: Buffer): Promise<void> {
    await this.#ready.promise
    if (this.#error !== undefined) throw this.#error
    const stream = this.#wire?.stream
    this.#wire?.sendCopyFromChunk(chunk)
    if (stream?.writableNeedDrain !== true) return
    await Promise.race([new Promise<void>((resolve) => stream.once('drain', resolve)), this.#done.promise])
  }

  /** All rows were written: resolves with how many the server took. */
  async end(): Promise<number> {
    await this.#ready.promise
    if (this.#error === undefined) this.#wire?.endCopyFrom()
    return this.#done.promise
  }

  /** Takes all rows back, and waits for the server to have done so. */
  async fail(reason: string): Promise<void> {
    await this.#ready.promise.then(() => this.#error ?? this.#wire?.sendCopyFail(reason)).catch(() => undefined)
    await this.#done.promise.catch(() => undefined)
  }

  submit(wire: Wire): void {
    this.#wire = wire
    wire.query(this.#sql)
  }

  handleCopyInResponse(): void {
    this.#ready.resolve()
  }

  handleCommandComplete({ text }: { readonly text: string }): void {
    this.#rows = Number(/^COPY (\d+)$/.exec(text)?.[1] ?? 0)
  }

  handleError(error: Error): void {
    this.#error = error
    this.#ready.reject(error)
    this.#done.reject(error)
  }

  handleReadyForQuery(): void {
    this.#done.resolve(this.#rows)
  }

  handleRowDescription(): void {}
  handleDataRow(): void {}
  handleEmptyQuery(): void {}
  handlePortalSuspended(): void {}
  handleCopyData(): void {}
}
