import { type CallOptions, DataError, issuePath, type StandardSchema } from '@common-handlers/core'
import type { Conversions } from './convert.ts'
import type { TrinoParameter } from './literal.ts'
import type { TrinoStats } from './protocol.ts'
import { objectMaker, type TrinoColumn, type TrinoValue } from './values.ts'
import type { SqlStatement } from './sql.ts'
import type { Page, PagesOptions, Statement, StatementEnd, StatementHandle } from './statement.ts'

/** A row as an object by column name. */
export type TrinoRow = Readonly<Record<string, TrinoValue>>

export interface StatementOptions extends CallOptions {
  /** Called with each answer of the server, about once a second while the statement runs. */
  readonly onProgress?: ((stats: TrinoStats & { readonly queryId: string }) => void) | undefined
}

/** Values other than the exact ones: `{ types: { bigint: asNumber }, columns: { created_at: asDate } }`. */
interface RowOptions extends StatementOptions, Conversions {}

export interface QueryOptions extends RowOptions {
  /** `objects` (default) by column name, or `arrays` in the order of the columns. */
  readonly rowMode?: 'objects' | undefined
}

export interface SchemaQueryOptions<Row> extends QueryOptions {
  /** What each row must be; any Standard Schema (zod, valibot, arktype and others). The rows are what it makes of them. */
  readonly schema: StandardSchema<Row>
}

export interface ArrayQueryOptions extends RowOptions {
  readonly rowMode: 'arrays'
}

type AnyQueryOptions = (QueryOptions & { readonly schema?: StandardSchema | undefined }) | ArrayQueryOptions

/** What a statement did. */
export interface ExecuteResult {
  readonly queryId: string
  /** `INSERT`, `MERGE`, `CREATE TABLE` …; undefined for a query. */
  readonly updateType: string | undefined
  /** Rows written, where the statement counts them. */
  readonly updateCount: number | undefined
  readonly stats: TrinoStats
}

export interface QueryResult<Row> extends ExecuteResult {
  readonly columns: readonly TrinoColumn[]
  readonly rows: Row[]
}

/** Some rows of a result, as they came. */
export interface ResultPage<Row> {
  readonly queryId: string
  readonly columns: readonly TrinoColumn[]
  readonly rows: Row[]
  readonly stats: TrinoStats
}

/** A statement that the server knows by its id. One that was submitted has not begun; it begins with `follow()` or `pages()`. */
export interface SubmittedStatement {
  readonly queryId: string
  /** To be stored before the statement is followed: with it any process can follow it, or cancel it for good, begun or not. */
  readonly handle: StatementHandle
  /** Runs the statement and waits for its end. Its rows are dropped. This or `pages`, once. */
  follow(options?: StatementOptions): Promise<ExecuteResult>
  /** Runs the statement and gives its rows as arrays, some at a time. Leaving the loop cancels it. */
  pages(options?: RowOptions): AsyncGenerator<ResultPage<readonly TrinoValue[]>, void, undefined>
  /** Stops the statement, or forgets it when it was never followed. */
  cancel(): Promise<void>
}

/** How statements are run: each call under the session of whoever has this. */
export interface StatementRunner {
  /** Runs `work` under a signal that ends with the caller's, the time limit and the handler; `again` when the server is not ready. */
  run<T>(options: CallOptions, work: (signal: AbortSignal) => Promise<T>, again: boolean): Promise<T>
  submit(statement: string | SqlStatement, params: readonly TrinoParameter[] | undefined, signal: AbortSignal): Promise<Statement>
  /** As {@link run}, for what is read at the reader's pace. */
  read<T>(
    options: CallOptions,
    open: (signal: AbortSignal) => Promise<Statement>,
    work: (statement: Statement, signal: AbortSignal) => AsyncGenerator<T, void, undefined>,
  ): AsyncGenerator<T, void, undefined>
}

/** The calls that run statements. */
export abstract class Statements {
  /** @internal */
  protected abstract readonly runner: StatementRunner

  /**
   * Runs a statement and gives its rows, values exact by their type (see {@link TrinoValue}). `?` in the text stands
   * for the next parameter. All rows are held: use {@link stream} for more than fits.
   * @throws DataError `TRINO_DUPLICATE_COLUMN` when two columns have one name and rows are objects, `TRINO_ROW_INVALID`
   * when a row does not fit the schema
   */
  query<Row>(
    statement: string | SqlStatement,
    params: readonly TrinoParameter[] | undefined,
    options: SchemaQueryOptions<Row>,
  ): Promise<QueryResult<Row>>
  query<Row extends readonly unknown[] = readonly TrinoValue[]>(
    statement: string | SqlStatement,
    params: readonly TrinoParameter[] | undefined,
    options: ArrayQueryOptions,
  ): Promise<QueryResult<Row>>
  query<Row extends object = TrinoRow>(
    statement: string | SqlStatement,
    params?: readonly TrinoParameter[],
    options?: QueryOptions,
  ): Promise<QueryResult<Row>>
  async query(
    statement: string | SqlStatement,
    params?: readonly TrinoParameter[],
    options: AnyQueryOptions = {},
  ): Promise<QueryResult<unknown>> {
    return this.runner.run(
      options,
      async (signal) => {
        const rows: unknown[] = []
        const make = rowMaker(options)
        const submitted = await this.runner.submit(statement, params, signal)
        for await (const page of submitted.pages(pagesOptions(submitted, options, signal))) {
          const made = make(page)
          for (const row of made instanceof Promise ? await made : made) rows.push(row)
        }
        const { columns, ...end } = submitted.end
        // Also of a result without rows.
        if (rows.length === 0) assertDistinct(columns, options)
        return { ...resultOf(submitted.queryId, end), columns, rows }
      },
      true,
    )
  }

  /** Runs a statement for what it does. */
  async execute(
    statement: string | SqlStatement,
    params?: readonly TrinoParameter[],
    options: StatementOptions = {},
  ): Promise<ExecuteResult> {
    return this.runner.run(
      options,
      async (signal) => followed(await this.runner.submit(statement, params, signal), options, signal),
      true,
    )
  }

  /**
   * Runs a statement and gives its rows one by one, at the reader's pace: some are fetched while some are read, and a
   * reader that rests keeps its query alive. {@link pages} is faster. Leaving the loop cancels the statement.
   */
  stream<Row>(
    statement: string | SqlStatement,
    params: readonly TrinoParameter[] | undefined,
    options: SchemaQueryOptions<Row>,
  ): AsyncGenerator<Row, void, undefined>
  stream<Row extends readonly unknown[] = readonly TrinoValue[]>(
    statement: string | SqlStatement,
    params: readonly TrinoParameter[] | undefined,
    options: ArrayQueryOptions,
  ): AsyncGenerator<Row, void, undefined>
  stream<Row extends object = TrinoRow>(
    statement: string | SqlStatement,
    params?: readonly TrinoParameter[],
    options?: QueryOptions,
  ): AsyncGenerator<Row, void, undefined>
  async *stream(
    statement: string | SqlStatement,
    params?: readonly TrinoParameter[],
    options: AnyQueryOptions = {},
  ): AsyncGenerator<unknown, void, undefined> {
    for await (const page of this.#pages(statement, params, options)) {
      // Not `yield*`, which takes more turns of the event loop for each row.
      for (const row of page.rows) yield row
    }
  }

  /** As {@link stream}, some rows at a time: what stood in some 8 kB of the answer. */
  pages<Row>(
    statement: string | SqlStatement,
    params: readonly TrinoParameter[] | undefined,
    options: SchemaQueryOptions<Row>,
  ): AsyncGenerator<ResultPage<Row>, void, undefined>
  pages<Row extends readonly unknown[] = readonly TrinoValue[]>(
    statement: string | SqlStatement,
    params: readonly TrinoParameter[] | undefined,
    options: ArrayQueryOptions,
  ): AsyncGenerator<ResultPage<Row>, void, undefined>
  pages<Row extends object = TrinoRow>(
    statement: string | SqlStatement,
    params?: readonly TrinoParameter[],
    options?: QueryOptions,
  ): AsyncGenerator<ResultPage<Row>, void, undefined>
  pages(
    statement: string | SqlStatement,
    params?: readonly TrinoParameter[],
    options: AnyQueryOptions = {},
  ): AsyncGenerator<ResultPage<unknown>, void, undefined> {
    return this.#pages(statement, params, options)
  }

  /**
   * Gives the statement to the server and takes its query id; nothing runs before `follow()` or `pages()`. Store the
   * handle first: after a crash the id tells whether the statement was applied (an Iceberg snapshot carries it).
   */
  async submit(
    statement: string | SqlStatement,
    params?: readonly TrinoParameter[],
    options: CallOptions = {},
  ): Promise<SubmittedStatement> {
    const submitted = await this.runner.run(options, (signal) => this.runner.submit(statement, params, signal), false)
    return submittedStatement(this.runner, submitted)
  }

  #pages(
    statement: string | SqlStatement,
    params: readonly TrinoParameter[] | undefined,
    options: AnyQueryOptions,
  ): AsyncGenerator<ResultPage<unknown>, void, undefined> {
    const make = rowMaker(options)
    return this.runner.read(
      options,
      (signal) => this.runner.submit(statement, params, signal),
      async function* (submitted, signal) {
        const { queryId } = submitted
        for await (const page of submitted.pages(pagesOptions(submitted, options, signal))) {
          const made = make(page)
          yield { queryId, columns: page.columns, rows: made instanceof Promise ? await made : made, stats: page.stats }
        }
      },
    )
  }
}

/** A statement as its caller has it. */
export function submittedStatement(runner: StatementRunner, statement: Statement): SubmittedStatement {
  const { queryId } = statement
  return {
    queryId,
    get handle() {
      return statement.handle
    },
    follow: (options = {}) => runner.run(options, (signal) => followed(statement, options, signal), false),
    pages: (options = {}) =>
      runner.read(
        options,
        () => Promise.resolve(statement),
        async function* (submitted, signal) {
          for await (const page of submitted.pages(pagesOptions(submitted, options, signal))) yield { queryId, ...page }
        },
      ),
    cancel: () => statement.cancel(),
  }
}

async function followed(statement: Statement, options: StatementOptions, signal: AbortSignal): Promise<ExecuteResult> {
  const pages = statement.pages(pagesOptions(statement, options, signal))
  while ((await pages.next()).done !== true);
  return resultOf(statement.queryId, statement.end)
}

const resultOf = (queryId: string, { updateType, updateCount, stats }: Omit<StatementEnd, 'columns'>): ExecuteResult => ({
  queryId,
  updateType,
  updateCount,
  stats,
})

function pagesOptions(statement: Statement, { onProgress, types, columns }: RowOptions, signal: AbortSignal): PagesOptions {
  const report = onProgress && ((stats: TrinoStats) => onProgress({ ...stats, queryId: statement.queryId }))
  return { signal, onProgress: report, types, columns }
}

/** Makes of a page what the caller asked for. */
function rowMaker(options: AnyQueryOptions): (page: Page) => unknown[] | Promise<unknown[]> {
  if (options.rowMode === 'arrays') return ({ rows }) => rows
  let toObject: ReturnType<typeof objectMaker> | undefined
  let before = 0
  return ({ columns, rows }) => {
    if (toObject === undefined) {
      assertDistinct(columns, options)
      toObject = objectMaker(columns.map(({ name }) => name))
    }
    const objects = rows.map(toObject)
    if (options.schema === undefined) return objects
    before += rows.length
    return validated(objects, options.schema, before - rows.length)
  }
}

async function validated(rows: readonly unknown[], schema: StandardSchema, before: number): Promise<unknown[]> {
  const values: unknown[] = []
  for (const [index, row] of rows.entries()) {
    const checked = schema['~standard'].validate(row)
    const result = checked instanceof Promise ? await checked : checked
    if (result.issues !== undefined) {
      const [issue] = result.issues
      const column = issue === undefined ? '' : issuePath(issue)
      const line = before + index + 1
      throw new DataError(
        `row ${line}${column === '' ? '' : `, column "${column}"`}: ${issue?.message ?? 'does not fit the schema'}`,
        { code: 'TRINO_ROW_INVALID', where: { line, ...(column === '' ? {} : { column }) } },
      )
    }
    values.push(result.value)
  }
  return values
}

function assertDistinct(columns: readonly TrinoColumn[], { rowMode }: AnyQueryOptions): void {
  if (rowMode === 'arrays') return
  const names = columns.map((column) => column.name)
  const twice = names.find((name, index) => names.indexOf(name) !== index)
  if (twice === undefined) return
  throw new DataError(`two columns are called ${JSON.stringify(twice)}: name them with AS, or ask for rowMode 'arrays'`, {
    code: 'TRINO_DUPLICATE_COLUMN',
    where: { column: twice },
  })
}
