import {
  type CallOptions,
  type CheckAttempt,
  type CheckResult,
  type Closable,
  type CloseOptions,
  DataError,
  Lifecycle,
  NotFoundError,
  OperationTimeoutError,
  retry,
  runCheck,
  silentLogger,
  sleep,
  withDeadline,
} from '@common-handlers/core'
import { parseConfig, type TrinoConfig, type TrinoOptions } from './config.ts'
import { createExternalCsvTable, dropTable } from './csv-stage.ts'
import { isNotReady, notTheProtocol } from './errors.ts'
import { sessionHeaders, TrinoHttp } from './http.ts'
import type { TrinoParameter } from './literal.ts'
import type { TrinoStats } from './protocol.ts'
import { ident, render, sql, type SqlStatement } from './sql.ts'
import { type Page, type Statement, type StatementContext, type StatementHandle, submit } from './statement.ts'
import { objectMaker, type TrinoColumn, type TrinoValue } from './values.ts'

/** A row as an object by column name. */
export type TrinoRow = Readonly<Record<string, TrinoValue>>

export interface StatementOptions extends CallOptions {
  /** Called with each answer of the server, about once a second while the statement runs. */
  readonly onProgress?: ((stats: TrinoStats & { readonly queryId: string }) => void) | undefined
}

export interface QueryOptions extends StatementOptions {
  /** `objects` (default) by column name, or `arrays` in the order of the columns. */
  readonly rowMode?: 'objects' | undefined
}

export interface ArrayQueryOptions extends StatementOptions {
  readonly rowMode: 'arrays'
}

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

/** A statement that the server knows by its id and has not begun. It begins with `follow()`. */
export interface SubmittedStatement {
  readonly queryId: string
  /** To be stored before `follow()`: with it any process can cancel the statement for good, begun or not. */
  readonly handle: StatementHandle
  /** Runs the statement and waits for its end. Once only. Its rows are dropped. */
  follow(options?: StatementOptions): Promise<ExecuteResult>
  /** Stops the statement, or forgets it when it was never followed. */
  cancel(): Promise<void>
}

/**
 * What became of a query:
 * `queued` waits for its turn, `running` includes planning and committing, `finished` and `failed` are final.
 * `unknown`: the server has no such query. It was never followed, or the server has forgotten it or was restarted.
 */
export type QueryState = 'queued' | 'running' | 'finished' | 'failed' | 'unknown'

export interface CheckOptions extends CallOptions {
  /** Catalogs that must be there. Default: the configured one. */
  readonly catalogs?: readonly string[] | undefined
  /** Tries to make and drop an external CSV table, as reading files in place needs. The location holds no file or any. */
  readonly staging?: { readonly catalog: string; readonly schema: string; readonly location: string } | undefined
}

const POLL_MS = 200

const states: Readonly<Record<string, QueryState>> = {
  QUEUED: 'queued',
  WAITING_FOR_PREREQUISITES: 'queued',
  WAITING_FOR_RESOURCES: 'queued',
  FINISHED: 'finished',
  FAILED: 'failed',
}

/**
 * Trino through its statement protocol: exact values, errors that are thrown, statements that end when their caller
 * leaves. Each statement has a session of its own, made from the options. See the README for what may be repeated when.
 */
export class TrinoHandler implements Closable {
  readonly #config: TrinoConfig
  readonly #context: StatementContext
  readonly #headers: Readonly<Record<string, string>>
  readonly #lifecycle: Lifecycle

  /** @throws ConfigError `TRINO_CONFIG_INVALID` */
  constructor(options: TrinoOptions) {
    const { logger = silentLogger, ...input } = options
    this.#config = parseConfig(input)
    const http = new TrinoHttp(this.#config)
    this.#context = { http, retry: this.#config.retry, logger }
    this.#headers = sessionHeaders(this.#config)
    this.#lifecycle = new Lifecycle('TrinoHandler', 'TRINO', () => http.close())
  }

  /** Asks for the server's version, so that a wrong address shows early. Every other call does without. */
  async connect(options?: CallOptions): Promise<void> {
    await this.#call('connecting', options, (signal) => this.#repeat(signal, () => this.#serverInfo(signal)))
  }

  /**
   * Runs a statement and gives its rows, values exact by their type (see {@link TrinoValue}). `?` in the text stands
   * for the next parameter. All rows are held: use {@link stream} for more than fits.
   * @throws DataError `TRINO_DUPLICATE_COLUMN` when two columns have one name and rows are objects
   */
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
    options: QueryOptions | ArrayQueryOptions = {},
  ): Promise<QueryResult<unknown>> {
    const rendered = render(statement, params)
    const mode = options.rowMode ?? 'objects'
    return this.#whenReady(options, async (signal) => {
      const rows: unknown[] = []
      let columns: readonly TrinoColumn[] = []
      const convert = rowConverter(mode)
      const result = await this.#follow(await submit(this.#context, rendered, this.#headers, signal), options, signal, (page) => {
        columns = page.columns
        for (const row of convert(page)) rows.push(row)
      })
      return { ...result, columns, rows }
    })
  }

  /** Runs a statement for what it does. */
  async execute(
    statement: string | SqlStatement,
    params?: readonly TrinoParameter[],
    options: StatementOptions = {},
  ): Promise<ExecuteResult> {
    const rendered = render(statement, params)
    return this.#whenReady(options, async (signal) =>
      this.#follow(await submit(this.#context, rendered, this.#headers, signal), options, signal),
    )
  }

  /**
   * Runs a statement and gives its rows one by one, at the reader's pace: one page is fetched while one is read.
   * {@link pages} is faster. Leaving the loop cancels the statement. A reader that takes longer than the server's
   * `query.client.timeout` (5 minutes by default) over one page finds its query abandoned.
   */
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
    options: QueryOptions | ArrayQueryOptions = {},
  ): AsyncGenerator<unknown, void, undefined> {
    for await (const page of this.#pages(statement, params, options)) {
      // Not `yield*`, which takes more turns of the event loop for each row.
      for (const row of page.rows) yield row
    }
  }

  /** As {@link stream}, a page of rows at a time. */
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
    options: QueryOptions | ArrayQueryOptions = {},
  ): AsyncGenerator<ResultPage<unknown>, void, undefined> {
    return this.#pages(statement, params, options)
  }

  /**
   * Gives the statement to the server and takes its query id; nothing runs before `follow()`. Store the handle
   * first, then follow: after a crash the id tells whether the statement was applied (an Iceberg snapshot carries it).
   */
  async submit(
    statement: string | SqlStatement,
    params?: readonly TrinoParameter[],
    options?: CallOptions,
  ): Promise<SubmittedStatement> {
    const rendered = render(statement, params)
    const submitted = await this.#call('submitting a statement', options, (signal) =>
      submit(this.#context, rendered, this.#headers, signal),
    )
    return {
      queryId: submitted.queryId,
      handle: { queryId: submitted.queryId, nextUri: submitted.nextUri },
      follow: (followOptions = {}) =>
        this.#call('a statement', followOptions, (signal) => this.#follow(submitted, followOptions, signal)),
      cancel: () => submitted.cancel(),
    }
  }

  /** What became of a query, by its id. Needs to be its owner, or the right to see others' queries. */
  queryState(queryId: string, options?: CallOptions): Promise<QueryState> {
    return this.#call('asking for the state of a query', options, (signal) => this.#queryState(queryId, signal))
  }

  /**
   * Stops a query and waits until it has ended: the answer is its last state. `finished` means that it was too late;
   * `unknown`, that the server has no such query. A statement that was never followed is `unknown` too and could still
   * be followed by whoever submitted it: give its handle instead of the id, and it never can.
   */
  cancel(query: string | StatementHandle, options?: CallOptions): Promise<QueryState> {
    const queryId = typeof query === 'string' ? query : query.queryId
    return this.#call('cancelling a query', options, async (signal) => {
      if (typeof query !== 'string') {
        // Must not fail in silence here: the caller takes the statement for dead afterwards.
        await this.#repeat(signal, () =>
          this.#context.http.send({ method: 'DELETE', uri: query.nextUri, signal, expected: CANCEL_ANSWERS }),
        )
      }
      await this.#repeat(signal, () =>
        this.#context.http.send({ method: 'DELETE', uri: queryPath(queryId), signal, expected: CANCEL_ANSWERS }),
      )
      for (;;) {
        const state = await this.#queryState(queryId, signal)
        if (state !== 'queued' && state !== 'running') return state
        await sleep(POLL_MS, signal)
      }
    })
  }

  /**
   * Tries, in this order: the server is up, a statement runs, the catalogs are there, an external table can be made.
   * A server that does not answer is reported at once, not waited for; `timeoutMs` limits each step.
   */
  check(options: CheckOptions = {}): Promise<CheckResult> {
    const { catalogs = this.#config.catalog === undefined ? [] : [this.#config.catalog], staging, timeoutMs } = options
    return this.#lifecycle.run(options.signal, (caller) => {
      const step = (name: string, work: (signal: AbortSignal) => Promise<string>): CheckAttempt => ({
        name,
        run: () =>
          withDeadline(
            { signal: caller, timeoutMs },
            { prefix: 'TRINO', action: name, defaultMs: this.#config.timeoutMs },
            ({ signal }) => work(signal),
          ),
      })
      const attempts = [
        step(`reach ${this.#context.http.target}`, (signal) => this.#serverInfo(signal)),
        step(`run SELECT 1 as ${this.#config.user}`, async (signal) => {
          const { queryId } = await this.query('SELECT 1', [], { signal })
          return `query ${queryId}`
        }),
        ...catalogs.map((catalog) => step(`find catalog ${catalog}`, (signal) => this.#findCatalog(catalog, signal))),
      ]
      if (staging !== undefined) {
        const name = `make an external table in ${staging.catalog}.${staging.schema}`
        attempts.push(step(name, (signal) => this.#tryStaging(staging, signal)))
      }
      return runCheck(this.#context.http.target, attempts, caller)
    })
  }

  /** Waits for what is under way, cancels it after the grace, and closes the connections. */
  close(options?: CloseOptions): Promise<void> {
    return this.#lifecycle.close(options)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #call<T>(action: string, options: CallOptions | undefined, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    return this.#lifecycle.run(options?.signal, (signal) =>
      withDeadline(
        { signal, timeoutMs: options?.timeoutMs },
        { prefix: 'TRINO', action, defaultMs: this.#config.timeoutMs },
        (deadline) => work(deadline.signal),
      ),
    )
  }

  #repeat<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    return retry(work, { policy: this.#config.retry, signal, idempotent: true })
  }

  /**
   * Runs a whole statement, and again from its start while the server answers that it is starting or has no node yet:
   * then it did not begin. What else may be tried again is tried below, one exchange at a time.
   */
  #whenReady<T>(options: StatementOptions, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const { logger } = this.#context
    return this.#call('a statement', options, async (signal) => {
      const done = await retry(
        () =>
          work(signal).then(
            (value) => ({ value }),
            (error: unknown) => {
              if (isNotReady(error)) throw error
              return { error }
            },
          ),
        {
          policy: this.#config.retry,
          signal,
          onRetry: (error, next) =>
            logger.warn({ code: error.code, ...next }, 'the server is not ready, running the statement again'),
        },
      )
      if ('error' in done) throw done.error
      return done.value
    })
  }

  async #follow(
    statement: Statement,
    options: StatementOptions,
    signal: AbortSignal,
    onPage?: (page: Page) => void,
  ): Promise<ExecuteResult> {
    let last: Page | undefined
    for await (const page of statement.pages(signal, progressOf(statement, options))) {
      onPage?.(page)
      last = page
    }
    if (last === undefined) throw notTheProtocol(this.#context.http.target, '')
    const { updateType, updateCount, stats } = last
    return { queryId: statement.queryId, updateType, updateCount, stats }
  }

  async *#pages(
    sqlText: string | SqlStatement,
    params: readonly TrinoParameter[] | undefined,
    options: QueryOptions | ArrayQueryOptions,
  ): AsyncGenerator<ResultPage<unknown>, void, undefined> {
    const rendered = render(sqlText, params)
    const convert = rowConverter(options.rowMode ?? 'objects')
    const limitMs = options.timeoutMs ?? this.#config.timeoutMs
    const timeout = new AbortController()
    const timer = setTimeout(
      () => {
        const error = new OperationTimeoutError(`a streamed statement took longer than ${limitMs} ms`, {
          code: 'TRINO_TIMEOUT',
          retry: 'if-idempotent',
          context: { timeoutMs: limitMs },
        })
        timeout.abort(error)
      },
      Math.min(limitMs, 2 ** 31 - 1),
    )
    const release = this.#lifecycle.hold()
    const signals = [timeout.signal, this.#lifecycle.signal, ...(options.signal === undefined ? [] : [options.signal])]
    const signal = AbortSignal.any(signals)
    let statement: Statement | undefined
    // A reader that has stopped reading must not keep close() waiting once its statement is cancelled.
    const aborted = (): void => void (statement?.cancel() ?? Promise.resolve()).finally(release)
    signal.addEventListener('abort', aborted, { once: true })
    try {
      statement = await submit(this.#context, rendered, this.#headers, signal)
      const { queryId } = statement
      for await (const page of statement.pages(signal, progressOf(statement, options))) {
        if (page.rows.length > 0) yield { queryId, columns: page.columns, rows: convert(page), stats: page.stats }
      }
    } finally {
      clearTimeout(timer)
      signal.removeEventListener('abort', aborted)
      release()
    }
  }

  async #serverInfo(signal: AbortSignal): Promise<string> {
    const { http } = this.#context
    const answer = await http.send({ method: 'GET', uri: '/v1/info', signal, expected: [200] })
    const info = parseObject<{ nodeVersion?: { version?: string }; starting?: boolean }>(answer.text)
    const version = info?.nodeVersion?.version
    if (version === undefined) throw notTheProtocol(http.target, answer.text)
    return `Trino ${version}${info?.starting === true ? ', starting' : ''}`
  }

  async #queryState(queryId: string, signal: AbortSignal): Promise<QueryState> {
    const { http } = this.#context
    const answer = await this.#repeat(signal, () =>
      http.send({ method: 'GET', uri: `${queryPath(queryId)}?pruned=true`, signal, expected: [200, 404, 410] }),
    )
    if (answer.status !== 200) return 'unknown'
    const state = parseObject<{ state?: unknown }>(answer.text)?.state
    if (typeof state !== 'string') throw notTheProtocol(http.target, answer.text)
    return states[state] ?? 'running'
  }

  async #findCatalog(catalog: string, signal: AbortSignal): Promise<string> {
    const { rows } = await this.query<{ connector_name: string }>(
      'SELECT connector_name FROM system.metadata.catalogs WHERE catalog_name = ?',
      [catalog.toLowerCase()],
      { signal },
    )
    const found = rows[0]
    if (found === undefined) {
      throw new NotFoundError(`catalog ${catalog} is not there, or ${this.#config.user} may not see it`, {
        code: 'TRINO_CATALOG_NOT_FOUND',
        context: { catalog },
      })
    }
    return `connector ${found.connector_name}`
  }

  async #tryStaging(staging: { catalog: string; schema: string; location: string }, signal: AbortSignal): Promise<string> {
    const { catalog, schema, location } = staging
    await this.execute(sql`CREATE SCHEMA IF NOT EXISTS ${ident(catalog, schema)}`, [], { signal })
    const table = { catalog, schema, table: `check_${crypto.randomUUID().replaceAll('-', '')}` }
    await createExternalCsvTable(this, table, ['checked'], location, { signal })
    await dropTable(this, table, { signal })
    return `over ${location}`
  }
}

/** Nothing to cancel is as good as cancelled. */
const CANCEL_ANSWERS = [200, 202, 204, 404, 410]

const queryPath = (queryId: string): string => `/v1/query/${encodeURIComponent(queryId)}`

function progressOf(statement: Statement, { onProgress }: StatementOptions): ((stats: TrinoStats) => void) | undefined {
  return onProgress === undefined ? undefined : (stats) => onProgress({ ...stats, queryId: statement.queryId })
}

/** A JSON object whose fields may be there; undefined for anything else. */
function parseObject<Fields extends object>(text: string): Partial<Fields> | undefined {
  try {
    const value = JSON.parse(text) as Partial<Fields> | null
    return typeof value === 'object' && value !== null ? value : undefined
  } catch {
    return undefined
  }
}

function rowConverter(mode: 'objects' | 'arrays'): (page: Page) => unknown[] {
  if (mode === 'arrays') return (page) => page.rows
  let toObject: ReturnType<typeof objectMaker> | undefined
  return ({ columns, rows }) => {
    if (rows.length === 0) return []
    toObject ??= objectMaker(uniqueNames(columns))
    return rows.map(toObject)
  }
}

function uniqueNames(columns: readonly TrinoColumn[]): string[] {
  const names = columns.map((column) => column.name)
  const twice = names.find((name, index) => names.indexOf(name) !== index)
  if (twice === undefined) return names
  throw new DataError(`two columns are called ${JSON.stringify(twice)}: name them with AS, or ask for rowMode 'arrays'`, {
    code: 'TRINO_DUPLICATE_COLUMN',
    where: { column: twice },
  })
}
