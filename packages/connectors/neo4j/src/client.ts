import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { networkSteps } from '@common-handlers/connections/check'
import {
  type CallOptions,
  type CheckAttempt,
  type CheckResult,
  type Closable,
  type CloseOptions,
  Lifecycle,
  onAbort,
  retry,
  runCheck,
  withDeadline,
} from '@common-handlers/core'
import type { Neo4jConfig } from './config.ts'
import { auth, type CypherRecord, type Driver, driver, type Session } from './driver.ts'
import { noAnswer, toNeo4jError } from './errors.ts'
import { type Neo4jParameters, type Neo4jRecord, recordOf, toParameters } from './values.ts'

/** What a statement changed, by the names of Neo4j: `nodesCreated`, `propertiesSet`, … */
export type Neo4jChanges = Readonly<Record<string, number>>

type Signal = Pick<CallOptions, 'signal'>

/** How long a server has to end a statement that nobody waits for. One that does not answer to that either is given up, with all connections to it. */
const RESET_MS = 2_000

const VERSION = `CALL dbms.components() YIELD name, versions, edition WHERE name STARTS WITH 'Neo4j'
  RETURN 'Neo4j ' + versions[0] + ', ' + edition AS said`
const RIGHTS = `CALL db.labels() YIELD label RETURN count(label) + ' labels may be read' AS said`

/** A pool of connections to one server or cluster. */
export class Neo4jClient implements Closable {
  readonly #config: Neo4jConfig
  readonly #life: Lifecycle
  #driver: Driver | undefined
  #connecting: Promise<Driver> | undefined
  /** Statements that nobody waits for but the end. */
  readonly #ending = new Set<Promise<void>>()
  /** Where the driver finds the certificates to trust: it takes names of files. */
  #folder: string | undefined

  constructor(config: Neo4jConfig) {
    this.#config = config
    this.#life = new Lifecycle('Neo4jClient', 'NEO4J', async () => {
      await Promise.all(this.#ending)
      await this.#driver?.close()
      if (this.#folder !== undefined) await rm(this.#folder, { recursive: true, force: true })
    })
  }

  /** `neo4j://host:port/database`, without the account. */
  get url(): string {
    const { host, port, database } = this.#config
    return `neo4j://${hostIn(host)}:${port}${database === undefined ? '' : `/${encodeURIComponent(database)}`}`
  }

  /** Reaches the server and logs in; implied by the first call. */
  connect(options?: CallOptions): Promise<void> {
    return this.#call(options, 'connecting', (signal) =>
      this.#tried(signal, true, async () => {
        await this.#mapped(this.#connected(), signal)
      }),
    )
  }

  /** All records of a statement that only reads. */
  query(cypher: string, parameters: Neo4jParameters = {}, options?: CallOptions): Promise<Neo4jRecord[]> {
    return this.#call(options, 'the query', (signal) => Array.fromAsync(this.stream(cypher, parameters, { signal })))
  }

  /** A statement in a transaction of its own; says what it changed. It is not tried again once it may have been done. */
  execute(cypher: string, parameters: Neo4jParameters = {}, options?: CallOptions): Promise<Neo4jChanges> {
    const given = toParameters(parameters)
    return this.#call(options, 'the statement', (signal) =>
      this.#tried(signal, false, async () => {
        const session = await this.#session('WRITE', signal)
        try {
          const { summary } = await this.#mapped(session.run(cypher, given), signal)
          await session.close()
          return summary.counters.updates()
        } catch (error) {
          this.#abandon(session)
          throw error
        }
      }),
    )
  }

  /** The records of a statement that only reads, one at a time; the server sends no more than are taken. */
  async *stream(
    cypher: string,
    parameters: Neo4jParameters = {},
    options: Signal = {},
  ): AsyncGenerator<Neo4jRecord, void, undefined> {
    for await (const record of this.read(cypher, parameters, options)) yield recordOf(record)
  }

  /** As {@link stream}, with records as the driver has them. */
  async *read(cypher: string, parameters: Neo4jParameters, options: Signal): AsyncGenerator<CypherRecord, void, undefined> {
    const given = toParameters(parameters)
    const leave = this.#life.hold()
    try {
      const signal = AbortSignal.any([this.#life.signal, ...(options.signal === undefined ? [] : [options.signal])])
      const { session, records, first } = await this.#tried(signal, true, async () => {
        const opened = await this.#session('READ', signal)
        const found = opened.run(cypher, given)[Symbol.asyncIterator]()
        try {
          return { session: opened, records: found, first: await this.#mapped(found.next(), signal) }
        } catch (error) {
          this.#abandon(opened)
          throw error
        }
      })
      let step = first
      try {
        while (step.done !== true) {
          yield step.value
          signal.throwIfAborted()
          step = await this.#mapped(records.next(), signal)
        }
      } finally {
        // A loop that was left does not wait for the server.
        if (step.done === true) await session.close()
        else this.#abandon(session)
      }
    } finally {
      leave()
    }
  }

  /** Finds the host, reaches it, logs in, and says which server it is, what may be read there and how long an answer takes. */
  check(options: CallOptions = {}): Promise<CheckResult> {
    const { host, port, tls, ca, connectTimeoutMs, username, token } = this.#config
    const { signal } = options
    const account = username === undefined ? (token === undefined ? 'without a user' : 'with a token') : `as ${username}`
    const steps: CheckAttempt[] = [
      ...networkSteps({
        host,
        port,
        ...(tls ? { tls: { ca } } : {}),
        signal: signal ?? new AbortController().signal,
        timeoutMs: connectTimeoutMs,
      }),
      { name: 'log in', run: () => this.connect(options).then(() => account) },
      { name: 'version', run: () => this.#said(VERSION, options) },
      { name: 'rights', run: () => this.#said(RIGHTS, options) },
      {
        name: 'latency',
        run: async () => {
          const start = performance.now()
          await this.query('CALL db.ping()', {}, options)
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

  async #said(cypher: string, options: CallOptions): Promise<string> {
    const [row] = (await this.query(cypher, {}, options)) as readonly { readonly said?: unknown }[]
    return typeof row?.said === 'string' ? row.said : ''
  }

  #call<T>(options: CallOptions | undefined, action: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    return this.#life.run(options?.signal, (outer) =>
      withDeadline({ ...options, signal: outer }, { prefix: 'NEO4J', action }, ({ signal }) => work(signal)),
    )
  }

  #tried<T>(signal: AbortSignal, idempotent: boolean, work: () => Promise<T>): Promise<T> {
    const { attempts, retryBudgetMs } = this.#config
    return retry(work, { signal, idempotent, policy: { attempts, budgetMs: retryBudgetMs } })
  }

  /** Ends with the signal and with a server that is silent, whatever the driver makes of it. */
  async #mapped<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
    const { promise, reject } = Promise.withResolvers<never>()
    const { answerTimeoutMs } = this.#config
    const timer = setTimeout(() => reject(noAnswer(this.url, answerTimeoutMs)), answerTimeoutMs)
    const forget = onAbort(signal, () => reject(signal.reason as Error))
    try {
      return await Promise.race([work, promise])
    } catch (error) {
      signal.throwIfAborted()
      throw toNeo4jError(error, this.url)
    } finally {
      clearTimeout(timer)
      forget()
    }
  }

  async #session(mode: 'READ' | 'WRITE', signal: AbortSignal): Promise<Session> {
    const { database, fetchSize } = this.#config
    const connected = await this.#mapped(this.#connected(), signal)
    return connected.session({ defaultAccessMode: mode, fetchSize, ...(database === undefined ? {} : { database }) })
  }

  /** Ends what runs on the server; only the end of the client waits for that. */
  #abandon(session: Session): void {
    const used = this.#driver
    const { promise, resolve } = Promise.withResolvers<void>()
    const giveUp = (): void => {
      if (this.#driver === used) this.#connecting = this.#driver = undefined
      used?.close().catch(() => undefined)
      resolve()
    }
    const timer = setTimeout(giveUp, RESET_MS)
    session
      .close()
      .catch(() => undefined)
      .finally(resolve)
    this.#ending.add(promise)
    void promise.then(() => {
      clearTimeout(timer)
      this.#ending.delete(promise)
    })
  }

  /** Connected once for all calls; what failed is tried again by the next one. */
  #connected(): Promise<Driver> {
    return (this.#connecting ??= this.#connect().catch((error: unknown) => {
      this.#connecting = undefined
      throw error
    }))
  }

  async #connect(): Promise<Driver> {
    const { database, ca } = this.#config
    if (ca !== undefined && this.#folder === undefined) {
      this.#folder = await mkdtemp(join(tmpdir(), 'neo4j-ca-'))
      await writeFile(join(this.#folder, 'ca.pem'), ca)
    }
    const made = createDriver(this.#config, this.#folder === undefined ? undefined : join(this.#folder, 'ca.pem'))
    this.#driver = made
    try {
      // Who may only change a password is let in; a first statement is refused.
      const session = made.session({ defaultAccessMode: 'READ', ...(database === undefined ? {} : { database }) })
      await session.run('CALL db.ping()')
      await session.close()
    } catch (error) {
      await made.close()
      throw error
    }
    return made
  }
}

const hostIn = (host: string): string => (host.includes(':') && !host.startsWith('[') ? `[${host}]` : host)

function createDriver(config: Neo4jConfig, caFile: string | undefined): Driver {
  const { host, port, username, password, token, routing, tls } = config
  const login =
    token !== undefined
      ? auth.bearer(token.expose())
      : username !== undefined && password !== undefined
        ? auth.basic(username, password.expose())
        : undefined
  return driver(`${routing ? 'neo4j' : 'bolt'}://${hostIn(host)}:${port}`, login, {
    encrypted: tls,
    ...(caFile === undefined ? {} : { trust: 'TRUST_CUSTOM_CA_SIGNED_CERTIFICATES', trustedCertificates: [caFile] }),
    useBigInt: true,
    fetchSize: config.fetchSize,
    maxConnectionPoolSize: config.maxConnections,
    connectionTimeout: config.connectTimeoutMs,
    connectionAcquisitionTimeout: config.connectTimeoutMs,
    maxTransactionRetryTime: 0,
    disableAutoCommitRetries: true,
    telemetryDisabled: true,
    userAgent: 'common-handlers',
  })
}
