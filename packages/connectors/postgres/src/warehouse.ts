import { type ConfigArgument, type ConnectionOptions, getConnection, type Leased } from '@common-handlers/connections'
import { doubleQuoted } from '@common-handlers/connections/sql'
import { type CallOptions, type CheckResult, type Closable, HandlerError } from '@common-handlers/core'
import { postgres } from './connector.ts'
import type { PostgresEngine, Transaction } from './engine.ts'
import { keyMissing, keyTwice, rowRefused, tableNotFound } from './errors.ts'
import { chosen, type PostgresRows, RowEncoder, type TargetColumn } from './rows.ts'
import { tableName } from './source.ts'

export interface LoadOptions extends CallOptions {
  /** Where the table is. Default: where the server looks for it. */
  readonly schema?: string | undefined
  /** The columns to write. Default: those of the first row, which all rows must have. Others get their default. */
  readonly columns?: readonly string[] | undefined
  /** Told every 64 KiB or so how much was sent; nothing is there for others before the end. */
  readonly onProgress?: ((sent: Loaded) => void) | undefined
}

export interface UpsertOptions extends LoadOptions {
  /** What tells rows apart, never NULL: columns with a primary key or a unique index on exactly them. */
  readonly key: readonly string[]
}

export interface Loaded {
  readonly rows: number
  /** As sent. */
  readonly bytes: number
}

/** The warehouse of an ETL job, from `DW_HOST`, `DW_DATABASE` and so on where no configuration is given; `close()` gives it back. */
export async function dwDestination(
  config?: ConfigArgument<typeof postgres>,
  options?: ConnectionOptions,
): Promise<DwDestination> {
  return new DwDestination(await getConnection({ ...postgres, prefix: 'DW' }, config, options))
}

const STAGING = 'pg_temp."common_handlers rows"'
/** The number of a row in {@link STAGING}. */
const NUMBER = '"common_handlers number"'

/** A PostgreSQL database that rows are written to; each call is one transaction, all or nothing. */
export class DwDestination implements Closable {
  readonly #engine: Leased<PostgresEngine>

  constructor(engine: Leased<PostgresEngine>) {
    this.#engine = engine
  }

  /** Looks for the server, reaches it, logs in and reads. */
  check(options?: CallOptions): Promise<CheckResult> {
    return this.#engine.check(options)
  }

  /** New rows, by COPY. @throws DataError whose `where` has the row (`line`, from 1) and the column */
  load(table: string, rows: PostgresRows, options: LoadOptions = {}): Promise<Loaded> {
    return this.#write(table, rows, options, [], (_transaction, target, columns, copy) => copy(target, columns))
  }

  /** New rows, and new values for those that are there, told apart by the key. @throws as {@link load} */
  upsert(table: string, rows: PostgresRows, options: UpsertOptions): Promise<Loaded> {
    const { key } = options
    return this.#write(table, rows, options, key, async (transaction, target, columns, copy) => {
      const missing = key.length === 0 ? '' : key.find((name) => columns.every((column) => column.name !== name))
      if (missing !== undefined) throw keyMissing(missing)
      // A table without constraints: they are for the rows that shall be in the target.
      await transaction.run(
        `CREATE TEMPORARY TABLE "common_handlers rows" ON COMMIT DROP AS SELECT ${list(columns)} FROM ${target} WITH NO DATA`,
      )
      await transaction.run(`ALTER TABLE ${STAGING} ADD COLUMN ${NUMBER} bigint GENERATED ALWAYS AS IDENTITY`)
      const loaded = await copy(STAGING, columns)
      await refuseTwice(transaction, key)
      await insertAll(transaction, mergeStatement(target, columns, key), loaded.rows)
      return loaded
    })
  }

  close(): Promise<void> {
    return this.#engine.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #write(
    table: string,
    rows: PostgresRows,
    options: LoadOptions,
    key: readonly string[],
    work: (
      transaction: Transaction,
      target: string,
      columns: readonly TargetColumn[],
      copy: (into: string, columns: readonly TargetColumn[]) => Promise<Loaded>,
    ) => Promise<Loaded>,
  ): Promise<Loaded> {
    const target = tableName({ schema: options.schema, table })
    return this.#engine.transaction(options, `writing to ${target}`, async (transaction, signal) => {
      const encoder = new RowEncoder(rows, signal)
      const copy = async (into: string, columns: readonly TargetColumn[]): Promise<Loaded> => {
        let bytes = 0
        const text = encoder.copyText(columns, key, options.columns !== undefined)
        const counted = async function* (): AsyncGenerator<Buffer, void, undefined> {
          for await (const chunk of text) {
            yield chunk
            bytes += chunk.length
            options.onProgress?.({ rows: encoder.rows, bytes })
          }
        }
        const sql = `COPY ${into} (${list(columns)}) FROM STDIN`
        return { rows: await transaction.copyIn(sql, counted()), bytes }
      }
      try {
        const known = await columnsOf(transaction, target)
        const given = await encoder.columns()
        if (given === undefined) return { rows: 0, bytes: 0 }
        return await work(transaction, target, chosen(options.columns ?? given, known, target), copy)
      } catch (error) {
        throw encoder.blame(error)
      } finally {
        encoder.end()
      }
    })
  }
}

const list = (columns: readonly { readonly name: string }[]): string => columns.map(({ name }) => doubleQuoted(name)).join(', ')

/** Columns that can be written. */
async function columnsOf(transaction: Transaction, target: string): Promise<TargetColumn[]> {
  const { rows } = await transaction.run(
    `SELECT a.attname, coalesce(nullif(t.typbasetype, 0), t.oid) IN ('json'::regtype, 'jsonb'::regtype)
       FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
      WHERE a.attrelid = pg_catalog.to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
      ORDER BY a.attnum`,
    [target],
  )
  if (rows.length === 0) throw tableNotFound(target)
  return rows.map(([name, isJson]) => ({ name: String(name), isJson: isJson === true }))
}

/** ON CONFLICT cannot change a row twice, and which of the two should win is not for it to say. */
async function refuseTwice(transaction: Transaction, key: readonly string[]): Promise<void> {
  const columns = key.map(doubleQuoted).join(', ')
  const { rows } = await transaction.run(
    `SELECT min(${NUMBER}), max(${NUMBER}) FROM ${STAGING} GROUP BY ${columns} HAVING count(*) > 1 ORDER BY 1 LIMIT 1`,
  )
  const [twice] = rows
  if (twice !== undefined) throw keyTwice(Number(twice[0]), Number(twice[1]), key)
}

function mergeStatement(target: string, columns: readonly TargetColumn[], key: readonly string[]): string {
  const changed = columns.map(({ name }) => name).filter((name) => !key.includes(name))
  const change =
    changed.length === 0
      ? 'NOTHING'
      : `UPDATE SET ${changed.map((name) => `${doubleQuoted(name)} = excluded.${doubleQuoted(name)}`).join(', ')}`
  return `INSERT INTO ${target} (${list(columns)}) OVERRIDING SYSTEM VALUE SELECT ${list(columns)} FROM ${STAGING}
          WHERE ${NUMBER} BETWEEN $1 AND $2 ORDER BY ${NUMBER}
          ON CONFLICT (${key.map(doubleQuoted).join(', ')}) DO ${change}`
}

/** All rows in one statement. When the target refuses one of them the statement does not say which: then it is looked for, by halves. */
async function insertAll(transaction: Transaction, sql: string, rows: number): Promise<void> {
  const insert = async (first: number, last: number): Promise<HandlerError | undefined> => {
    await transaction.run('SAVEPOINT before_rows')
    try {
      await transaction.run(sql, [first, last])
      return undefined
    } catch (error) {
      if (!HandlerError.is(error) || (error.outcome !== 'data' && error.code !== 'POSTGRES_ALREADY_EXISTS')) throw error
      await transaction.run('ROLLBACK TO SAVEPOINT before_rows')
      return error
    }
  }
  let failure = await insert(1, rows)
  if (failure === undefined) return
  let [first, last] = [1, rows]
  while (first < last) {
    const middle = Math.floor((first + last) / 2)
    const refused = await insert(first, middle)
    if (refused === undefined) first = middle + 1
    else [last, failure] = [middle, refused]
  }
  throw rowRefused(first, (await insert(first, first)) ?? failure)
}
