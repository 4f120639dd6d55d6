import type { PooledClient } from '@common-handlers/connections/sql'
import { onAbort } from '@common-handlers/core'
import { Connection, type ConnectionConfiguration, Request, TYPES } from 'tedious'
import { type MssqlConfig, rootCertificates } from './config.ts'
import { parameterInvalid, severalResults } from './errors.ts'
import { type MssqlColumn, type MssqlValue, readerOf, sizeOf, toBound } from './values.ts'

// The one file that knows tedious.

/** How long a statement gets to end after it was cancelled. */
const GOODBYE_MS = 2_000

/** The driver is told to wait when rows of so many bytes were not taken yet. */
const BUFFERED_BYTES = 256 * 1024

export interface Rows {
  readonly columns: readonly string[]
  readonly values: readonly MssqlValue[]
}

/** A connection of tedious that can be waited for. */
export class MssqlClient implements PooledClient {
  readonly #connection: Connection
  #running: Promise<void> = Promise.resolve()
  #isRunning = false
  #usable = true

  constructor(connection: Connection) {
    this.#connection = connection
    connection.on('error', () => (this.#usable = false))
    connection.on('end', () => (this.#usable = false))
  }

  get reusable(): boolean {
    return this.#usable && !this.#isRunning && !this.#connection.closed && !this.#connection.inTransaction
  }

  idle(): Promise<void> {
    return this.#running
  }

  async cancelAndClose(): Promise<void> {
    const timer = setTimeout(() => void this.close(), GOODBYE_MS)
    this.#connection.cancel()
    await this.#running
    clearTimeout(timer)
    await this.close()
  }

  close(): Promise<void> {
    this.#usable = false
    this.#connection.close()
    return Promise.resolve()
  }

  /** Several statements without parameters; says how many rows they changed. */
  async run(sql: string, parameters: readonly unknown[] | undefined): Promise<number> {
    let changed = 0
    let isResult = false
    await this.#execute(sql, parameters, (request) => {
      request.on('columnMetadata', () => (isResult = true))
      const done = (rows: number | undefined): void => {
        if (!isResult) changed += rows ?? 0
        isResult = false
      }
      request.on('doneInProc', done)
      request.on('done', done)
    }).finished
    return changed
  }

  /** The rows of one statement, in bounded memory; the columns come with each, and before the first where there is none. */
  async *rows(sql: string, parameters: readonly unknown[]): AsyncGenerator<Rows | { readonly columns: readonly string[] }> {
    const queue: (readonly MssqlValue[])[] = []
    let bytes = 0
    let columns: readonly string[] | undefined
    let readers: readonly ((value: unknown) => MssqlValue)[] = []
    let failure: { readonly error: unknown } | undefined
    let arrived = Promise.withResolvers<void>()
    const fail = (error: unknown): void => {
      failure ??= { error }
      this.#connection.cancel()
    }
    const { request, finished } = this.#execute(sql, parameters, (prepared) => {
      prepared.on('columnMetadata', (given) => {
        try {
          if (columns !== undefined) throw severalResults()
          const described = Object.values(given) as unknown as readonly MssqlColumn[]
          columns = described.map(({ colName }) => colName)
          readers = described.map(readerOf)
        } catch (error) {
          fail(error)
        }
        arrived.resolve()
      })
      prepared.on('row', (given: readonly { readonly value: unknown }[]) => {
        if (failure !== undefined) return
        const values = given.map(({ value }, index) => readers[index]?.(value) ?? null)
        queue.push(values)
        bytes += sizeOf(values)
        if (bytes > BUFFERED_BYTES) prepared.pause()
        arrived.resolve()
      })
    })
    let isFinished = false
    finished.then(
      () => {
        isFinished = true
        arrived.resolve()
      },
      (error: unknown) => {
        isFinished = true
        failure ??= { error }
        arrived.resolve()
      },
    )
    try {
      let isNew = true
      for (;;) {
        await arrived.promise
        arrived = Promise.withResolvers()
        if (failure !== undefined) throw failure.error
        if (isNew && columns !== undefined) yield { columns }
        isNew &&= columns === undefined
        for (let values = queue.shift(); values !== undefined; values = queue.shift()) yield { columns: columns ?? [], values }
        bytes = 0
        if (isFinished) return
        request.resume()
      }
    } finally {
      if (!isFinished) this.#connection.cancel()
    }
  }

  #execute(
    sql: string,
    parameters: readonly unknown[] | undefined,
    prepare: (request: Request) => void,
  ): { readonly request: Request; readonly finished: Promise<void> } {
    const { promise: finished, resolve, reject } = Promise.withResolvers<void>()
    const request = new Request(sql, (error) => {
      this.#isRunning = false
      if (error === null || error === undefined) resolve()
      else reject(error)
    })
    for (const [index, given] of (parameters ?? []).entries()) {
      const { type, value } = bound(given, index)
      request.addParameter(`p${index + 1}`, TYPES[type], value, type === 'DateTime2' ? { scale: 7 } : undefined)
    }
    prepare(request)
    this.#isRunning = true
    this.#running = finished.catch(() => undefined)
    if (parameters === undefined) this.#connection.execSqlBatch(request)
    else this.#connection.execSql(request)
    return { request, finished }
  }
}

function bound(given: unknown, index: number): ReturnType<typeof toBound> {
  try {
    return toBound(given)
  } catch (error) {
    throw parameterInvalid(index + 1, (error as Error).message)
  }
}

/** Logs in. @throws what tedious makes of a server that refuses or is not there; the signal's reason */
export async function connectClient(config: MssqlConfig, signal: AbortSignal): Promise<MssqlClient> {
  const { host, port, database, username, password, sslMode, applicationName, readOnlyIntent, connectTimeoutMs } = config
  const ca = await rootCertificates(config)
  const settings: ConnectionConfiguration = {
    server: host,
    authentication: { type: 'default', options: { userName: username, password: password.expose() } },
    options: {
      port,
      database,
      encrypt: sslMode === 'strict' ? 'strict' : sslMode !== 'disable',
      trustServerCertificate: sslMode === 'require',
      ...(ca === undefined ? {} : { cryptoCredentialsDetails: { ca } }),
      appName: applicationName,
      readOnlyIntent,
      // The pool's own limit comes first; statements have that of their call; what is tried again is the caller's to say.
      connectTimeout: connectTimeoutMs * 2,
      requestTimeout: 0,
      cancelTimeout: GOODBYE_MS,
      maxRetriesOnTransientErrors: 0,
      useUTC: true,
      rowCollectionOnDone: false,
      rowCollectionOnRequestCompletion: false,
      useColumnNames: false,
    },
  }
  signal.throwIfAborted()
  const connection = new Connection(settings)
  const forget = onAbort(signal, () => connection.close())
  try {
    await new Promise<void>((resolve, reject) => {
      connection.on('error', reject)
      connection.connect((error) => (error === undefined || error === null ? resolve() : reject(error)))
    })
    return new MssqlClient(connection)
  } catch (error) {
    connection.close()
    signal.throwIfAborted()
    throw error
  } finally {
    forget()
  }
}
