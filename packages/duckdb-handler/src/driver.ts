// The one file that imports the driver.
import { randomUUID } from 'node:crypto'
import { existsSync } from 'node:fs'
import { link, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import {
  blobValue,
  DuckDBBlobValue,
  type DuckDBConnection,
  DuckDBDateValue,
  DuckDBInstance,
  DuckDBListValue,
  DuckDBArrayValue,
  DuckDBMapValue,
  DuckDBStructValue,
  type DuckDBValue,
} from '@duckdb/node-api'
import { valueNotBindable } from './errors.ts'
import type { DuckDbInput } from './sql.ts'

/**
 * A value as it comes back: 64-bit and larger integers as bigint, smaller ones and floats as number, BLOB as Buffer, and
 * everything else (decimals, dates, times, uuid, intervals) as the text DuckDB itself writes, so that no digit is lost.
 */
export type DuckDbValue =
  | null
  | string
  | number
  | bigint
  | boolean
  | Buffer
  | readonly DuckDbValue[]
  | { readonly [name: string]: DuckDbValue }

export interface DuckDbColumn {
  readonly name: string
  /** In DuckDB's words: `DECIMAL(10,2)`, `TIMESTAMP WITH TIME ZONE`, `JSON`. */
  readonly type: string
}

export type Row = readonly DuckDbValue[]

/** The days with which DuckDB marks `infinity` and `-infinity` in a DATE. */
const INFINITE_DAYS = 2 ** 31 - 1

function fromDriver(value: DuckDBValue): DuckDbValue {
  if (value === null || typeof value !== 'object') return value ?? null
  if (value instanceof DuckDBBlobValue) return Buffer.from(value.bytes)
  // The driver's own toString() makes a date of an infinity.
  if (value instanceof DuckDBDateValue && Math.abs(value.days) === INFINITE_DAYS) return value.days > 0 ? 'infinity' : '-infinity'
  if (value instanceof DuckDBListValue || value instanceof DuckDBArrayValue) return value.items.map(fromDriver)
  if (value instanceof DuckDBStructValue) {
    return Object.fromEntries(Object.entries(value.entries).map(([name, inner]) => [name, fromDriver(inner)]))
  }
  if (value instanceof DuckDBMapValue)
    return value.entries.map(({ key, value: inner }) => ({ key: fromDriver(key), value: fromDriver(inner) }))
  return value.toString()
}

function toDriver(value: DuckDbInput, index: number): DuckDBValue {
  if (value instanceof Uint8Array) return blobValue(value)
  if (value === null || ['string', 'number', 'bigint', 'boolean'].includes(typeof value)) return value
  throw valueNotBindable(index, typeof value === 'object' ? ((value as object).constructor?.name ?? 'object') : typeof value)
}

export interface Statement {
  readonly columns: readonly DuckDbColumn[]
  /** Batches of rows, until there are none. */
  batches(): AsyncGenerator<Row[]>
  /** Of an INSERT, UPDATE or DELETE, and only of one that was not streamed. */
  rowsChanged(): number
}

/** One connection: one transaction and one statement at a time. */
export class Session {
  readonly #connection: DuckDBConnection

  constructor(connection: DuckDBConnection) {
    this.#connection = connection
  }

  /** Runs a statement; streamed, its rows are made as they are read. */
  async run(sql: string, parameters: readonly DuckDbInput[], streamed: boolean): Promise<Statement> {
    const values = parameters.length === 0 ? undefined : parameters.map(toDriver)
    const result = streamed ? await this.#connection.stream(sql, values) : await this.#connection.run(sql, values)
    const types = result.columnTypes()
    return {
      columns: result.columnNames().map((name, index) => ({ name, type: types[index]?.alias ?? String(types[index]) })),
      rowsChanged: () => result.rowsChanged,
      async *batches() {
        for (let chunk = await result.fetchChunk(); chunk !== null && chunk.rowCount > 0; chunk = await result.fetchChunk()) {
          const columns = chunk.getColumns()
          yield Array.from({ length: chunk.rowCount }, (_, row) => columns.map((column) => fromDriver(column[row] ?? null)))
        }
      },
    }
  }

  /** Ends the statement that runs now, if one does. */
  interrupt(): void {
    this.#connection.interrupt()
  }

  end(): void {
    this.#connection.disconnectSync()
  }
}

/**
 * A file that is not there yet comes whole: DuckDB makes an empty file first and locks and fills it then. A process that
 * opens it in between finds no database, and one that ends in between leaves none, which nobody could open any more.
 */
async function makeFile(path: string): Promise<void> {
  if (existsSync(path)) return
  const whole = join(dirname(path), `.${randomUUID()}.duckdb`)
  try {
    try {
      ;(await DuckDBInstance.create(whole)).closeSync()
      await link(whole, path)
    } finally {
      await rm(whole, { force: true })
    }
  } catch {
    // Another process was quicker, or there are no links here: then DuckDB makes it. Opening says what else is wrong.
  }
}

/** An open database. */
export class Database {
  readonly #instance: DuckDBInstance

  private constructor(instance: DuckDBInstance) {
    this.#instance = instance
  }

  /**
   * Files go through the driver's cache: opened twice in one process they must be one instance, since closing a second
   * one would release the first one's lock (POSIX locks belong to the process) and let another process write.
   */
  static async open(path: string, options: Record<string, string>): Promise<Database> {
    if (path === ':memory:') return new Database(await DuckDBInstance.create(path, options))
    if (options['access_mode'] !== 'READ_ONLY') await makeFile(path)
    return new Database(await DuckDBInstance.fromCache(path, options))
  }

  async session(): Promise<Session> {
    return new Session(await this.#instance.connect())
  }

  close(): void {
    this.#instance.closeSync()
  }
}
