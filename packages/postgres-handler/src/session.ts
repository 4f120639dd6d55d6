import { type CallOptions, DataError, type StandardSchema } from '@common-handlers/core'
import { describeQuery, describeTable, estimateRows, type QueryDescription, type TableDescription } from './catalog.ts'
import type { Connection } from './connection.ts'
import { copyFrom, type CopyResult, type CopySource } from './copy-in.ts'
import type { CopyBlock, CopyReaderOptions } from './copy-reader.ts'
import { type CopySink, writeBlocks } from './copy-to.ts'
import { fetchRows } from './cursor.ts'
import { insertMany, type InsertRow, type OnConflict } from './insert-many.ts'
import { OneByOne } from './one-by-one.ts'
import { divide, type RangesOptions } from './ranges.ts'
import { type RawResult, type RowFormat, validated } from './rows.ts'
import type { Scope } from './scope.ts'
import { isStatement, type SqlStatement } from './sql.ts'
import { bindValues, type ValueOptions } from './values.ts'

/** A row by column name: boolean, number (int2, int4), bigint (int8), else PostgreSQL's own text; null for NULL. */
export type Row = Record<string, boolean | number | bigint | string | null>

export interface StatementOptions extends CallOptions {
  /**
   * Running it twice is the same as running it once, as of anything that only reads: it is tried again when its connection
   * was lost, or when it lost against another transaction. Not looked at inside a transaction.
   */
  readonly idempotent?: boolean | undefined
}

export interface ReadOptions<T> extends StatementOptions, ValueOptions {
  /** Checks and converts each row; any library that follows Standard Schema. */
  readonly schema?: StandardSchema<T> | undefined
}

export interface StreamOptions<T> extends ReadOptions<T> {
  /** Rows that are fetched at a time at most; fewer where they are long. Default 1000. */
  readonly batchRows?: number | undefined
}

/** What one statement of a batch gave. */
export interface BatchResult extends ExecuteResult {
  readonly records: readonly Row[]
}

export interface InsertManyOptions<C extends string> extends CallOptions {
  /** Default: a key that is there already is an error. */
  readonly onConflict?: OnConflict<C> | undefined
}

export interface CopyOutOptions extends CallOptions, CopyReaderOptions {}

/** What a statement did. */
export interface ExecuteResult {
  /** Rows changed, or returned. */
  readonly rowCount: number
  /** `INSERT`, `UPDATE`, `CREATE`, … */
  readonly command: string
}

/** The calls that the handler, a transaction and a snapshot have in common. */
export interface Queries {
  /**
   * Rows as objects. Values are exact: boolean, number for int2 and int4, bigint for int8, and PostgreSQL's own text for
   * every other type (numeric, timestamps, json, arrays, …). Times are in UTC.
   * @throws DataError `POSTGRES_DUPLICATE_COLUMN` when two columns have one name
   */
  getRecords<T = Row>(statement: string | SqlStatement, params?: readonly unknown[], options?: ReadOptions<T>): Promise<T[]>
  /** Rows as arrays, in the order of the columns; names may repeat. */
  getRows<T extends readonly unknown[] = readonly Row[string][]>(
    statement: string | SqlStatement,
    params?: readonly unknown[],
    options?: StatementOptions & ValueOptions,
  ): Promise<T[]>
  /** One statement whose rows are not wanted. */
  execute(statement: string | SqlStatement, params?: readonly unknown[], options?: StatementOptions): Promise<ExecuteResult>
  /**
   * Rows one by one, fetched some at a time: memory does not grow with them. Leaving the loop lets go of the query. In a
   * transaction other statements may run meanwhile; outside, the query is a transaction of its own, which is rolled back
   * when the loop is left before the end.
   */
  stream<T = Row>(statement: string | SqlStatement, params?: readonly unknown[], options?: StreamOptions<T>): AsyncIterable<T>
  /**
   * Several statements in one round trip, all of them or none; their results in the same order. What fails names its
   * statement: `context.place` is `statement 2 of 3`.
   */
  batch(statements: readonly (string | SqlStatement)[], options?: StatementOptions): Promise<BatchResult[]>
  /**
   * Inserts rows, which may come from an async iterable: all of them or none. Gives how many were inserted or updated.
   * @throws DataError `POSTGRES_VALUE_INVALID` naming row and column
   */
  insertMany<const C extends string>(
    table: string,
    columns: readonly C[],
    rows: Iterable<InsertRow<NoInfer<C>>> | AsyncIterable<InsertRow<NoInfer<C>>>,
    options?: InsertManyOptions<NoInfer<C>>,
  ): Promise<number>
  /**
   * `COPY … TO STDOUT` into a stream, which is ended (standard output is not), or to a function. In whatever format the
   * statement says.
   */
  copyTo(statement: string | SqlStatement, sink: CopySink, options?: CopyOutOptions): Promise<CopyResult>
  /**
   * `COPY … FROM STDIN` from a stream or an iterable of text or bytes, in whatever format the statement says. An abort, or
   * an error of the source, leaves nothing of it behind.
   * @throws DataError whose `where` names the line and the column, as the server counts them
   */
  copyFrom(statement: string | SqlStatement, source: CopySource, options?: CallOptions): Promise<CopyResult>
  /**
   * `COPY … TO STDOUT` in blocks of whole rows, as fast as psql. It starts with the first block asked for. Leaving the
   * loop cancels it on the server.
   */
  copyOut(statement: string | SqlStatement, options?: CopyOutOptions): AsyncIterable<CopyBlock>
  /**
   * Columns, estimated rows and size of a table, view or foreign table, named as in SQL: `app.audit_log`, `"Mixed Case"`.
   * @throws NotFoundError `POSTGRES_TABLE_NOT_FOUND`
   */
  describeTable(name: string, options?: CallOptions): Promise<TableDescription>
  /**
   * Conditions for WHERE that divide a table into parts, by pages or by a key: `` sql`SELECT * FROM t WHERE ${range}` ``. On
   * one snapshot each row fits exactly one of them.
   * @throws NotFoundError `POSTGRES_TABLE_NOT_FOUND`; DataError `POSTGRES_NO_PAGES` for a view or a foreign table without a key
   */
  ranges(table: string, options: RangesOptions & CallOptions): Promise<SqlStatement[]>
  /** Columns and estimated rows of a query, which is prepared and planned but not run. */
  describeQuery(query: string, options?: CallOptions): Promise<QueryDescription>
  /** How many rows the planner expects of a query, which is not run. */
  estimateRows(query: string, options?: CallOptions): Promise<number>
}

/**
 * Runs work on a connection; the signal is the caller's, the time-out's and, at the end, the handler's. `holds` names work
 * that is a transaction of its own where there is none.
 */
export type OnConnection = <T>(
  action: string,
  options: CallOptions | undefined,
  work: (connection: Connection, signal: AbortSignal) => Promise<T>,
  holds?: string,
) => Promise<T>

/** Runs a stream on a connection. */
export type StreamOnConnection = <T>(
  options: CallOptions | undefined,
  work: (connection: Connection, signal: AbortSignal) => AsyncGenerator<T, void, undefined>,
  holds?: string,
) => AsyncGenerator<T, void, undefined>

/** The queries over a way to get a connection: one from the pool for each call, or the one of a transaction. */
export function queriesOn(on: OnConnection, stream: StreamOnConnection): Queries {
  const read = (
    action: string,
    statement: string | SqlStatement,
    params: readonly unknown[] | undefined,
    options: (CallOptions & ValueOptions) | undefined,
    as: RowFormat['as'] = 'arrays',
  ): Promise<readonly RawResult<unknown>[]> => {
    const { text, values } = asStatement(statement, params)
    const bound = [{ text, values: bindValues(values) }]
    const format = { as, types: options?.types, columns: options?.columns }
    return on(action, options, (connection, signal) => connection.batch(bound, format, signal))
  }
  return {
    async getRecords<T>(statement: string | SqlStatement, params?: readonly unknown[], options?: ReadOptions<T>): Promise<T[]> {
      const [result] = await read('the query', statement, params, options, 'records')
      const records = (result as RawResult<unknown>).rows
      return options?.schema === undefined ? (records as T[]) : validated(records, options.schema)
    },
    async getRows<T extends readonly unknown[]>(
      statement: string | SqlStatement,
      params?: readonly unknown[],
      options?: StatementOptions & ValueOptions,
    ): Promise<T[]> {
      const [result] = await read('the query', statement, params, options)
      return (result as RawResult<unknown>).rows as T[]
    },
    async execute(statement, params, options) {
      const [result] = await read('the statement', statement, params, options)
      const { rowCount, command } = result as RawResult<unknown>
      return { rowCount, command }
    },
    stream<T>(statement: string | SqlStatement, params?: readonly unknown[], options?: StreamOptions<T>): AsyncIterable<T> {
      return new OneByOne(rowsOf(stream, statement, params, options))
    },
    async batch(statements, options) {
      const bound = statements.map((statement) => {
        const { text, values } = asStatement(statement, undefined)
        return { text, values: bindValues(values) }
      })
      const results = await on('the batch', options, (connection, signal) => connection.batch(bound, { as: 'records' }, signal))
      return results.map(({ rows, rowCount, command }) => ({ records: rows as readonly Row[], rowCount, command }))
    },
    insertMany: (table, columns, rows, options) =>
      on(
        `inserting into ${table}`,
        options,
        (connection, signal) =>
          connection.atomically(signal, () => insertMany(connection, table, columns, rows, options?.onConflict, signal)),
        'rows are inserted',
      ),
    async copyTo(statement, sink, options) {
      const text = withoutValues(statement)
      return await on('COPY', options, (connection, signal) =>
        writeBlocks(text, connection.copyOut(text, signal, options), sink, signal),
      )
    },
    async copyFrom(statement, source, options) {
      const text = withoutValues(statement)
      return await on('COPY', options, (connection, signal) =>
        connection.settled(signal, () => copyFrom(connection, text, source, signal)),
      )
    },
    copyOut(statement, options) {
      const text = withoutValues(statement)
      return stream(options, (connection, signal) => connection.copyOut(text, signal, options))
    },
    ranges: (table, options) =>
      on(`dividing ${table}`, options, (connection, signal) => divide(connection, table, options, signal)),
    describeTable: (name, options) =>
      on(`describing ${name}`, options, (connection, signal) => describeTable(connection, name, signal)),
    describeQuery: (query, options) =>
      on('describing the query', options, (connection, signal) => describeQuery(connection, query, signal)),
    estimateRows: (query, options) =>
      on('the estimate', options, (connection, signal) => estimateRows(connection, query, signal)),
  }
}

/** The rows of a query as they are fetched, checked by the schema where there is one. */
async function* rowsOf<T>(
  stream: StreamOnConnection,
  statement: string | SqlStatement,
  params: readonly unknown[] | undefined,
  options: StreamOptions<T> = {},
): AsyncGenerator<Iterator<T, undefined>, void, undefined> {
  const { text, values } = asStatement(statement, params)
  const bound = { text, values: bindValues(values) }
  const { schema, batchRows, types, columns } = options
  let before = 0
  const fetched = stream(
    options,
    (connection, signal) => fetchRows(connection, bound, { as: 'records', types, columns }, signal, batchRows),
    'the rows of a query are read',
  )
  for await (const rows of fetched) {
    if (schema === undefined) {
      yield rows as Iterator<T, undefined>
      continue
    }
    const checked = await validated(Iterator.from(rows).toArray(), schema, before)
    yield checked.values()
    before += checked.length
  }
}

/** The queries of a transaction, a snapshot or a lock: all on its connection, and within its life. */
export function queriesIn(scope: Scope): Queries {
  const { connection } = scope
  // What opens a transaction of its own must be alone in it.
  const own = (holds: string | undefined): string | undefined => (connection.inTransaction ? undefined : holds)
  return queriesOn(
    (action, options, work, holds) => scope.call(action, options, (signal) => work(connection, signal), own(holds)),
    (options, work, holds) => scope.stream(options, (signal) => work(connection, signal), own(holds)),
  )
}

function asStatement(
  statement: string | SqlStatement,
  params: readonly unknown[] | undefined,
): { text: string; values: readonly unknown[] } {
  if (typeof statement === 'string') return { text: statement, values: params ?? [] }
  if (!isStatement(statement))
    throw new DataError('expected SQL text or a statement made by sql``', { code: 'POSTGRES_VALUE_INVALID' })
  if (params !== undefined && params.length > 0) {
    throw new DataError('a statement made by sql`` brings its own values; give no others', { code: 'POSTGRES_VALUE_INVALID' })
  }
  return statement
}

function withoutValues(statement: string | SqlStatement): string {
  const { text, values } = asStatement(statement, undefined)
  if (values.length === 0) return text
  throw new DataError('COPY takes no bound values: put them into the text with quoteLiteral()', {
    code: 'POSTGRES_VALUE_INVALID',
  })
}
