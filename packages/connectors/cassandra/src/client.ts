import { networkSteps } from '@common-handlers/connections/check'
import {
  type CallOptions,
  type CheckAttempt,
  type CheckResult,
  type Closable,
  type CloseOptions,
  HandlerError,
  Lifecycle,
  onAbort,
  retry,
  runCheck,
  withDeadline,
} from '@common-handlers/core'
import type { CassandraConfig } from './config.ts'
import { Client, policies, types } from './driver.ts'
import { partitionerUnknown, queryInvalid, tableMissing, toCassandraError } from './errors.ts'
import { HIGHEST, LOWEST, type Page, scanPages } from './scan.ts'
import { type CassandraParameter, type CassandraRow, rowReader, toParameter } from './values.ts'

/** A part of a table to scan. */
export interface CassandraScan {
  /** Default: all. */
  readonly columns?: readonly string[] | undefined
  /** Only rows whose token is past this one. */
  readonly after?: bigint | undefined
}

/** A row of a scan, with its place. */
export interface CassandraScannedRow {
  readonly row: CassandraRow
  readonly token: bigint
  /** The primary key, in its order. */
  readonly key: CassandraRow
}

type Signal = Pick<CallOptions, 'signal'>

const DEFAULT_PORT = 9_042
/** No column is named so. */
const TOKEN = 'token()'
/** Tables that the check looks at. */
const CHECKED_TABLES = 10

/** Connections to the nodes of one data centre. */
export class CassandraClient implements Closable {
  readonly #config: CassandraConfig
  readonly #life: Lifecycle
  #client: Client | undefined
  #connecting: Promise<Client> | undefined

  constructor(config: CassandraConfig) {
    this.#config = config
    this.#life = new Lifecycle('CassandraClient', 'CASSANDRA', async () => {
      // The driver cannot end what it is connecting: that is done as soon as it is there.
      if (this.#client === undefined) this.#connecting?.then((late) => late.shutdown()).catch(() => undefined)
      await this.#client?.shutdown()
    })
  }

  /** `cassandra://host:port/keyspace`, without the account. */
  get url(): string {
    const { hosts, keyspace } = this.#config
    return `cassandra://${hosts.join(',')}/${encodeURIComponent(keyspace)}`
  }

  /** Reaches a node and logs in; implied by the first call. */
  connect(options?: CallOptions): Promise<void> {
    return this.#call(options, 'connecting', (signal) =>
      this.#tried(signal, true, async () => {
        await this.#connected()
      }),
    )
  }

  /** All rows of a statement that only reads. */
  query(cql: string, parameters: readonly CassandraParameter[] = [], options?: CallOptions): Promise<CassandraRow[]> {
    return this.#call(options, 'the query', (signal) => Array.fromAsync(this.stream(cql, parameters, { signal })))
  }

  /** A statement that changes something. It is not tried again once it may have been done. */
  execute(cql: string, parameters: readonly CassandraParameter[] = [], options?: CallOptions): Promise<void> {
    return this.#call(options, 'the statement', async (signal) => {
      await this.#page(signal, false, cql, parameters)
    })
  }

  /** The rows of a statement that only reads, one at a time, asked for by the page. */
  async *stream(
    cql: string,
    parameters: readonly CassandraParameter[] = [],
    options: Signal = {},
  ): AsyncGenerator<CassandraRow, void, undefined> {
    const leave = this.#life.hold()
    try {
      const signal = this.#joined(options)
      let pageState: string | undefined
      do {
        const page: Page = await this.#page(signal, true, cql, parameters, pageState)
        for (const row of page.rows) {
          yield row
          signal.throwIfAborted()
        }
        pageState = page.pageState
      } while (pageState !== undefined)
    } finally {
      leave()
    }
  }

  /**
   * The rows of a table or view in the order of their tokens, several ranges of them read at once.
   * @throws NotFoundError if it is not there, RemoteError `CASSANDRA_NOT_SUPPORTED` with another partitioner than Murmur3
   */
  async *scan(
    table: string,
    { columns, after = LOWEST }: CassandraScan = {},
    options: Signal = {},
  ): AsyncGenerator<CassandraScannedRow, void, undefined> {
    const leave = this.#life.hold()
    // Ends what is read ahead when the loop is left.
    const left = new AbortController()
    try {
      const signal = AbortSignal.any([this.#joined(options), left.signal])
      const { keyspace } = this.#config
      const [local] = await this.#rows(signal, 'SELECT partitioner FROM system.local')
      const partitioner = textOf(local?.['partitioner'])
      if (!partitioner.endsWith('.Murmur3Partitioner')) throw partitionerUnknown(partitioner)
      const { all, partition, key } = await this.#tableColumns(table, signal)
      const unknown = columns?.find((name) => !all.includes(name))
      if (unknown !== undefined) throw queryInvalid(`"${table}" has no column "${unknown}"`)
      const wanted = columns ?? all
      const hidden = key.filter((name) => !wanted.includes(name))
      const token = `token(${partition.map(ident).join(', ')})`
      const cql = [
        `SELECT ${[...wanted, ...hidden].map(ident).join(', ')}, ${token} AS ${ident(TOKEN)}`,
        `FROM ${ident(keyspace)}.${ident(table)} WHERE ${token} > ? AND ${token} <= ?`,
      ].join(' ')
      const read = (from: bigint, to: bigint, pageState: string | undefined): Promise<Page> =>
        this.#page(signal, true, cql, [from, to], pageState)
      if (after >= HIGHEST) return
      for await (const rows of scanPages(read, after, this.#config)) {
        for (const { [TOKEN]: place, ...row } of rows) {
          yield {
            row: hidden.length === 0 ? row : pick(row, wanted),
            token: place as bigint,
            key: pick(row, key),
          }
          signal.throwIfAborted()
        }
      }
    } finally {
      left.abort()
      leave()
    }
  }

  /** Finds the host, reaches it, logs in, and says which server it is, what may be read there and how long an answer takes. */
  check(options: CallOptions = {}): Promise<CheckResult> {
    const { hosts, tls, ca, connectTimeoutMs, keyspace, username } = this.#config
    const { signal } = options
    const [only = '', ...others] = hosts
    const { hostname, port } = new URL(`tcp://${only}`)
    // Of several it is enough that one answers.
    const network =
      others.length > 0
        ? []
        : networkSteps({
            host: hostname,
            port: port === '' ? DEFAULT_PORT : Number(port),
            ...(tls ? { tls: { ca } } : {}),
            signal: signal ?? new AbortController().signal,
            timeoutMs: connectTimeoutMs,
          })
    const steps: CheckAttempt[] = [
      ...network,
      {
        name: 'log in',
        run: () => this.connect(options).then(() => (username === undefined ? 'without a role' : `as ${username}`)),
      },
      {
        name: 'version',
        run: async () => {
          const [local] = await this.query('SELECT release_version, data_center FROM system.local', [], options)
          return `Cassandra ${textOf(local?.['release_version'])} in ${textOf(local?.['data_center'])}`
        },
      },
      { name: 'rights', run: () => this.#rights(keyspace, options) },
      {
        name: 'latency',
        run: async () => {
          const start = performance.now()
          await this.query('SELECT key FROM system.local', [], options)
          return `${(performance.now() - start).toFixed(1)} ms`
        },
      },
    ]
    return runCheck(this.url, steps, signal)
  }

  close(options?: CloseOptions): Promise<void> {
    return this.#life.close(options)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #joined({ signal }: Signal): AbortSignal {
    return AbortSignal.any([this.#life.signal, ...(signal === undefined ? [] : [signal])])
  }

  #call<T>(options: CallOptions | undefined, action: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    return this.#life.run(options?.signal, (outer) =>
      withDeadline({ ...options, signal: outer }, { prefix: 'CASSANDRA', action }, ({ signal }) => work(signal)),
    )
  }

  async #tried<T>(signal: AbortSignal, idempotent: boolean, work: () => Promise<T>): Promise<T> {
    const { attempts, retryBudgetMs } = this.#config
    return retry(() => this.#mapped(work(), signal), { signal, idempotent, policy: { attempts, budgetMs: retryBudgetMs } })
  }

  /** Ends with the signal. The protocol has no way to end a statement: a node gives up by its own limit of time. */
  async #mapped<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
    const { promise, reject } = Promise.withResolvers<never>()
    const forget = onAbort(signal, () => reject(signal.reason as Error))
    try {
      return await Promise.race([work, promise])
    } catch (error) {
      signal.throwIfAborted()
      throw toCassandraError(error, this.url)
    } finally {
      forget()
    }
  }

  async #page(
    signal: AbortSignal,
    idempotent: boolean,
    cql: string,
    parameters: readonly CassandraParameter[],
    pageState?: string,
  ): Promise<Page> {
    const given = parameters.map(toParameter)
    return this.#tried(signal, idempotent, async () => {
      const client = await this.#connected()
      const {
        rows,
        columns,
        pageState: next,
      } = await client.execute(cql, given, {
        // Parameters go by the types that the server has for them.
        prepare: given.length > 0,
        fetchSize: this.#config.fetchSize,
        isIdempotent: false,
        ...(pageState === undefined ? {} : { pageState }),
      })
      // What gives no rows has no list of them.
      const read = rowReader(columns ?? [])
      return { rows: (rows ?? []).map(read), ...(typeof next === 'string' && next !== '' ? { pageState: next } : {}) }
    })
  }

  async #rows(signal: AbortSignal, cql: string, parameters: readonly CassandraParameter[] = []): Promise<CassandraRow[]> {
    return Array.fromAsync(this.stream(cql, parameters, { signal }))
  }

  async #tableColumns(
    table: string,
    signal: AbortSignal,
  ): Promise<{ readonly all: readonly string[]; readonly partition: readonly string[]; readonly key: readonly string[] }> {
    const { keyspace } = this.#config
    const columns = await this.#rows(
      signal,
      'SELECT column_name, kind, position FROM system_schema.columns WHERE keyspace_name = ? AND table_name = ?',
      [keyspace, table],
    )
    if (columns.length === 0) throw tableMissing(keyspace, table)
    const of = (kind: string): string[] =>
      columns
        .filter((column) => column['kind'] === kind)
        .toSorted((a, b) => Number(a['position']) - Number(b['position']))
        .map((column) => textOf(column['column_name']))
    const [partition, clustering] = [of('partition_key'), of('clustering')]
    return {
      all: [...partition, ...clustering, ...of('static'), ...of('regular')],
      partition,
      key: [...partition, ...clustering],
    }
  }

  /** Asks some tables for a place where no row can be: it costs nothing, and takes the right to read. */
  async #rights(keyspace: string, options: CallOptions): Promise<string> {
    const ask = 'SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?'
    const tables = (await this.query(ask, [keyspace], options)).map((row) => textOf(row['table_name']))
    const asked = tables.slice(0, CHECKED_TABLES)
    const refused: string[] = []
    for (const table of asked) {
      const { partition } = await this.#tableColumns(table, this.#joined(options))
      const columns = partition.map(ident).join(', ')
      const nowhere = `SELECT ${columns} FROM ${ident(keyspace)}.${ident(table)} WHERE token(${columns}) > ${HIGHEST}`
      try {
        await this.query(nowhere, [], options)
      } catch (error) {
        if (!HandlerError.is(error) || error.outcome !== 'permission') throw error
        refused.push(table)
        if (refused.length === asked.length) throw error
      }
    }
    const first = asked.length < tables.length ? `the first ${asked.length} of ` : ''
    return `${asked.length - refused.length} of ${first}${tables.length} tables may be read`
  }

  /** Connected once for all calls; what failed is tried again by the next one. */
  #connected(): Promise<Client> {
    return (this.#connecting ??= this.#connect().catch((error: unknown) => {
      this.#connecting = undefined
      throw error
    }))
  }

  async #connect(): Promise<Client> {
    const client = createClient(this.#config)
    try {
      await client.connect()
    } catch (error) {
      await client.shutdown()
      throw error
    }
    if (!this.#life.closed) this.#client = client
    return client
  }
}

const { consistencies } = types
const consistencyOf = {
  ONE: consistencies.one,
  LOCAL_ONE: consistencies.localOne,
  QUORUM: consistencies.quorum,
  LOCAL_QUORUM: consistencies.localQuorum,
  ALL: consistencies.all,
} as const

function createClient(config: CassandraConfig): Client {
  const { hosts, username, password, tls, ca } = config
  const { port } = new URL(`tcp://${hosts[0] ?? ''}`)
  return new Client({
    contactPoints: [...hosts],
    protocolOptions: { port: port === '' ? DEFAULT_PORT : Number(port) },
    localDataCenter: config.localDataCenter,
    keyspace: config.keyspace,
    ...(username === undefined || password === undefined ? {} : { credentials: { username, password: password.expose() } }),
    // The driver trusts every certificate unless it is told not to.
    ...(tls ? { sslOptions: { rejectUnauthorized: true, ...(ca === undefined ? {} : { ca }) } } : {}),
    encoding: { map: Map, useBigIntAsLong: true, useBigIntAsVarint: true },
    queryOptions: { consistency: consistencyOf[config.consistency] },
    socketOptions: { connectTimeout: config.connectTimeoutMs, readTimeout: config.answerTimeoutMs },
    policies: {
      retry: new policies.retry.FallthroughRetryPolicy(),
      reconnection: new policies.reconnection.ExponentialReconnectionPolicy(100, 10_000, false),
    },
    isMetadataSyncEnabled: false,
  })
}

/** A name as it is, whatever it holds. */
const ident = (name: string): string => `"${name.replaceAll('"', '""')}"`

const pick = (row: CassandraRow, names: readonly string[]): CassandraRow =>
  Object.fromEntries(names.map((name) => [name, row[name] ?? null]))

const textOf = (value: unknown): string => (typeof value === 'string' ? value : '')
