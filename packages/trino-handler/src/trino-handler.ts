import {
  type CallOptions,
  type CheckAttempt,
  type CheckResult,
  type Closable,
  type CloseOptions,
  ConfigError,
  Lifecycle,
  type Logger,
  NotFoundError,
  retry,
  runCheck,
  silentLogger,
  sleep,
  withDeadline,
} from '@common-handlers/core'
import { isProtected, parseConfig, type TrinoConfig, type TrinoConfigInput } from './config.ts'
import { type CredentialFunction, type CredentialProvider, credentialsFrom, fixedCredentials } from './credentials.ts'
import { createExternalCsvTable, dropTable } from './csv-stage.ts'
import { followById, type AttachedStatement } from './attached.ts'
import { notTheProtocol } from './errors.ts'
import { TrinoHttp } from './http.ts'
import { parseObject, queryInfo, type QueryInfo, queryPath, type QueryState } from './query-info.ts'
import { inTransaction, type TransactionOptions, TrinoSession } from './session.ts'
import { type SessionOptions, SessionState } from './session-state.ts'
import { ident, sql } from './sql.ts'
import { CANCEL_ANSWERS, type StatementHandle } from './statement.ts'
import { type RunnerParts, SessionRunner } from './statement-runner.ts'
import { type StatementRunner, Statements, submittedStatement } from './statements.ts'
import { textOf, type TrinoTransport } from './transport.ts'

/** What the constructor takes: the configuration, and what is no text. */
export type TrinoOptions = ServerOptions | TransportOptions

export interface ServerOptions extends TrinoConfigInput {
  /**
   * Who logs in, asked for again and again, so that passwords, tokens and certificates may change while the handler
   * lives; in place of `password`, `token` and `tls.clientCert`. A function, or a lease of a vault.
   */
  readonly credentials?: CredentialFunction | CredentialProvider | undefined
  /** Silent by default. */
  readonly logger?: Logger | undefined
  readonly transport?: undefined
}

/** For somebody else's way to the server: what is said by that cannot be said here. */
export interface TransportOptions extends Omit<
  TrinoConfigInput,
  'url' | 'user' | 'password' | 'token' | 'sessionUser' | 'extraCredentials' | 'source' | 'tls' | 'spooling' | 'connections'
> {
  /** From `fromTrinoClient()`. */
  readonly transport: TrinoTransport
  readonly logger?: Logger | undefined
}

export interface CheckOptions extends CallOptions {
  /** Catalogs that must be there. Default: the configured one. */
  readonly catalogs?: readonly string[] | undefined
  /** Tries to make and drop an external CSV table, as reading files in place needs. The location holds no file or any. */
  readonly staging?: { readonly catalog: string; readonly schema: string; readonly location: string } | undefined
}

const POLL_MS = 200

/**
 * Trino through its statement protocol: exact values, errors that are thrown, statements that end when their caller
 * leaves. Each statement has a session of its own, made from the options; see {@link session} for those that share one,
 * and the README for what may be repeated when.
 */
export class TrinoHandler extends Statements implements Closable {
  readonly #config: TrinoConfig
  readonly #transport: TrinoTransport
  readonly #parts: RunnerParts
  readonly #lifecycle: Lifecycle
  readonly #runner: SessionRunner
  protected readonly runner: StatementRunner

  /** @throws ConfigError `TRINO_CONFIG_INVALID` */
  constructor(options: TrinoOptions) {
    super()
    const { logger = silentLogger } = options
    const { config, transport } = options.transport === undefined ? overHttp(options) : over(options)
    this.#config = config
    this.#transport = transport
    this.#lifecycle = new Lifecycle('TrinoHandler', 'TRINO', () => transport.close())
    const { heartbeatMs, spooling } = config
    const context = { transport, retry: config.retry, logger, heartbeatMs, parallel: spooling.parallel }
    this.#parts = { config, context, lifecycle: this.#lifecycle, parameters: { way: config.parameters } }
    this.#runner = new SessionRunner(this.#parts, new SessionState(config), false)
    this.runner = this.#runner
  }

  /** Asks for the server's version, so that a wrong address shows early. Every other call does without. */
  async connect(options?: CallOptions): Promise<void> {
    await this.#call('connecting', options, (signal) => this.#repeat(signal, () => this.#serverInfo(signal)))
  }

  /** Statements that share a session, which begins with the options of the handler and these. */
  session(options: SessionOptions = {}): TrinoSession {
    const state = new SessionState(this.#config, options)
    return new TrinoSession(state, new SessionRunner(this.#parts, state, true))
  }

  /**
   * Runs work in a transaction: committed when it ends, rolled back when it throws. Few connectors write in one: Iceberg
   * refuses to (`TRINO_AUTOCOMMIT_WRITE_CONFLICT`); reads see one snapshot where the connector has some.
   */
  transaction<T>(work: (transaction: TrinoSession) => Promise<T>, options: TransactionOptions = {}): Promise<T> {
    return inTransaction(this.session(options.session), work, options)
  }

  /**
   * A statement that was submitted before, perhaps by another process. With its handle it is followed as if it had been
   * submitted here, rows included, unless somebody else has gone on with it. By its id alone its end is waited for and
   * its rows are out of reach; and since only a follower keeps a query alive, one that nobody follows is abandoned by the server.
   */
  attach(query: string | StatementHandle): AttachedStatement {
    if (typeof query !== 'string') return submittedStatement(this.#runner, this.#runner.attach(query))
    return followById(query, {
      info: (options) => this.#call('asking for a query', options, (signal) => this.#queryInfo(query, signal)),
      wait: (options, work) => this.#call('waiting for a query', options, work),
      cancel: async () => void (await this.cancel(query)),
    })
  }

  /** What became of a query, by its id. Needs to be its owner, or the right to see others' queries. */
  async queryState(queryId: string, options?: CallOptions): Promise<QueryState> {
    const info = await this.#call('asking for the state of a query', options, (signal) => this.#queryInfo(queryId, signal))
    return info.state
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
          this.#transport.send({ method: 'DELETE', uri: query.nextUri, signal, expected: CANCEL_ANSWERS }),
        )
      }
      await this.#repeat(signal, () =>
        this.#transport.send({ method: 'DELETE', uri: queryPath(queryId), signal, expected: CANCEL_ANSWERS }),
      )
      for (;;) {
        const { state } = await this.#queryInfo(queryId, signal)
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
        step(`reach ${this.#transport.target}`, (signal) => this.#serverInfo(signal)),
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
      return runCheck(this.#transport.target, attempts, caller)
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

  async #serverInfo(signal: AbortSignal): Promise<string> {
    const transport = this.#transport
    const answer = textOf(await transport.send({ method: 'GET', uri: '/v1/info', signal, expected: [200] }))
    const info = parseObject<{ nodeVersion?: { version?: string }; starting?: boolean }>(answer)
    const version = info?.nodeVersion?.version
    if (version === undefined) throw notTheProtocol(transport.target, answer)
    return `Trino ${version}${info?.starting === true ? ', starting' : ''}`
  }

  async #queryInfo(queryId: string, signal: AbortSignal): Promise<QueryInfo> {
    const info = await this.#repeat(signal, () => queryInfo(this.#transport, queryId, signal))
    if (info === undefined) throw notTheProtocol(this.#transport.target, '')
    return info
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

interface Way {
  readonly config: TrinoConfig
  readonly transport: TrinoTransport
}

function overHttp({ logger: _, transport: _none, credentials, ...input }: ServerOptions): Way {
  const config = parseConfig(input)
  if (credentials === undefined) return { config, transport: new TrinoHttp(config, fixedCredentials(config)) }
  const { password, token, tls } = config
  const problem =
    password !== undefined || token !== undefined || tls.clientCert !== undefined
      ? 'credentials: give these, or password, token and tls.clientCert, not both'
      : isProtected(config.url)
        ? undefined
        : 'url: credentials would cross the network unencrypted: use https'
  if (problem !== undefined) {
    throw new ConfigError(`the options of TrinoHandler cannot be used: ${problem}`, {
      code: 'TRINO_CONFIG_INVALID',
      context: { problems: [problem] },
    })
  }
  const provider = typeof credentials === 'function' ? credentialsFrom(credentials) : credentials
  return { config, transport: new TrinoHttp(config, provider) }
}

/** Where the server is and who asks is the transport's business; the configuration needs a word in their place. */
function over({ logger: _, transport, ...input }: TransportOptions): Way {
  return { config: parseConfig({ ...input, url: 'http://localhost', user: 'transport' }), transport }
}
