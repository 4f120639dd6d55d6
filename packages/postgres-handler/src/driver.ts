import { onAbort } from '@common-handlers/core'
import type { EventEmitter } from 'node:events'
import type { Duplex } from 'node:stream'
import type { ConnectionOptions } from 'node:tls'
import pg from 'pg'
import type { PostgresConfig } from './config.ts'
import { MessageReader, type RowSink } from './message-reader.ts'
import { asStartupOptions } from './settings.ts'
import { lendingSocket } from './socket.ts'

// The one file that knows pg. What it uses beyond pg's documentation is declared here and held by the tests on a real
// server: the shape of a submittable, the socket of a connection, its ReadyForQuery state.

/** The half of pg's connection that speaks to the socket. */
export interface Wire {
  readonly stream: Duplex
  query(text: string): void
  parse(query: { readonly name: string; readonly text: string; readonly types: readonly number[] }): void
  bind(message: {
    readonly portal: string
    readonly statement: string
    readonly values: readonly (string | Buffer | null)[]
  }): void
  describe(message: { readonly type: 'S' | 'P'; readonly name: string }): void
  /** `rows` at most; 0 is all of them. */
  execute(message: { readonly portal: string; readonly rows: number }): void
  close(message: { readonly type: 'S' | 'P'; readonly name: string }): void
  sync(): void
  endCopyFrom(): void
  sendCopyFail(message: string): void
  on(event: string, listener: (message: never) => void): unknown
  once(event: string, listener: (message: never) => void): unknown
  off(event: string, listener: (message: never) => void): unknown
}

/** A field of RowDescription as pg reads it. */
export interface WireField {
  readonly name: string
  readonly tableID: number
  readonly columnID: number
  readonly dataTypeID: number
  readonly dataTypeModifier: number
}

/** What pg calls while a query is the active one; its rows do not pass through pg. */
export interface Submittable extends RowSink {
  submit(wire: Wire): Error | null
  handleError(error: Error, wire: Wire): void
  handleReadyForQuery(wire: Wire): void
  handleRowDescription(message: { readonly fields: readonly WireField[] }): void
  handleCommandComplete(message: { readonly text: string }): void
  handleEmptyQuery(wire: Wire): void
  handlePortalSuspended(wire: Wire): void
  handleCopyInResponse(wire: Wire): void
}

/** How long nothing may come before the peer's kernel is asked whether it is there. */
const KEEP_ALIVE_MS = 60_000

/** How long a peer gets to answer the goodbye. */
const GOODBYE_MS = 2_000

/** The server changes these by itself, or they change nothing that the next user of a connection would notice. */
const MAY_CHANGE = new Set(['in_hot_standby', 'application_name'])

/** The part of pg's connection that listens to the socket. */
interface Listening {
  attachListeners(stream: EventEmitter): void
}

/** pg's connection, but for the rows: they go to the exchange that is under way, or to pg where the query is pg's own. */
class RowConnection extends (pg.Connection as unknown as new (config: object) => pg.Connection & Listening) {
  sink: RowSink | undefined

  constructor(config: object) {
    super(config)
    this.on('readyForQuery', () => {
      this.sink = undefined
    })
  }

  /** pg calls it with the socket that it speaks on, which is another one once TLS has begun. */
  override attachListeners(stream: Duplex): void {
    super.attachListeners(new MessageReader(stream, () => this.sink))
  }
}

/** A connection that tells whether the server is idle, whether it is still there and whether its settings are as they were. */
export class DriverClient extends pg.Client {
  /** Where it is connected to, and as whom. */
  readonly place: ConnectionPlace
  #gone = false
  #failure: Error | undefined
  #serverVersion = ''
  readonly #reported = new Map<string, string>()
  readonly #altered = new Set<string>()

  constructor(config: pg.ClientConfig, place: ConnectionPlace) {
    super({ ...config, connection: new RowConnection(config) } as pg.ClientConfig)
    this.place = place
    // pg reads PGBINARY and PGREPLICATION from the environment, which would turn results into bytes, and PGOPTIONS.
    Object.assign(this, { binary: false })
    Object.assign((this as unknown as { readonly connectionParameters: object }).connectionParameters, {
      replication: undefined,
      options: config.options,
    })
    // An error without a listener ends the process, and a backend may be killed at any time. Whoever waits is told by
    // the query's own rejection.
    this.on('error', (error) => {
      this.#failure ??= error
    })
    // pg leaves the socket open where it is pg that gives up, for want of a password for example; the server would keep
    // its half of it for a minute.
    this.wire.on('error', () => this.destroy())
    this.wire.once('end', () => {
      this.#gone = true
    })
    this.wire.on('parameterStatus', (message: { readonly parameterName: string; readonly parameterValue: string }) =>
      this.#report(message.parameterName, message.parameterValue),
    )
  }

  get wire(): Wire {
    return this.connection as unknown as Wire
  }

  /** The connection has ended. */
  get gone(): boolean {
    return this.#gone
  }

  /** What ended it, or is about to: the server's last words, or those of the socket. */
  get failure(): Error | undefined {
    return this.#failure
  }

  /** It is there, as far as is known. */
  get usable(): boolean {
    return !this.#gone && this.#failure === undefined && !this.wire.stream.destroyed
  }

  /** `15.13 (Debian 15.13-0+deb12u1)` */
  get serverVersion(): string {
    return this.#serverVersion
  }

  /** True while the server waits for the next statement. */
  get ready(): boolean {
    return (this as unknown as { readonly readyForQuery?: boolean }).readyForQuery === true
  }

  /** The server waits for the next statement, and is in no transaction. */
  get outsideTransaction(): boolean {
    return this.ready && this.getTransactionStatus() === 'I'
  }

  /** True when the connection is as it was when it was made: idle, in no transaction, its settings unchanged. */
  get reusable(): boolean {
    const asMade = this.place.pooled || this.#altered.size === 0
    return this.usable && this.outsideTransaction && asMade
  }

  /** Resolves when the server waits for the next statement, or the connection has ended. */
  idle(): Promise<void> {
    if (this.#gone || this.ready) return Promise.resolve()
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

  /** One at a time: the next one when the server is ready again. */
  submit(submittable: Submittable): void {
    ;(this.connection as unknown as RowConnection).sink = submittable
    this.query(submittable as unknown as pg.Submittable)
  }

  /** Calls back when the connection has ended, at once if it has already; not after what it returns was called. */
  onEnd(listener: () => void): () => void {
    if (this.#gone) listener()
    else this.wire.once('end', listener)
    return () => void this.wire.off('end', listener)
  }

  /** Ends the connection, politely where the server listens. A peer that has vanished never answers the goodbye. */
  async close(): Promise<void> {
    if (this.#gone) return
    const timer = setTimeout(() => this.destroy(), GOODBYE_MS)
    try {
      await this.end()
    } finally {
      clearTimeout(timer)
    }
  }

  /** Ends the connection without a goodbye; what runs on it fails for the given reason. */
  destroy(reason?: Error): void {
    this.wire.stream.destroy(reason)
  }

  #report(name: string, value: string): void {
    if (name === 'server_version') this.#serverVersion = value
    const first = this.#reported.get(name)
    if (first === undefined) this.#reported.set(name, value)
    else if (first === value) this.#altered.delete(name)
    else if (!MAY_CHANGE.has(name)) this.#altered.add(name)
  }
}

/** Logs in. @throws what pg makes of a server that refuses or is not there; the signal's reason */
export async function connectClient(
  config: PostgresConfig,
  ssl: ConnectionOptions | false,
  login: { readonly user: string; readonly password: string },
  signal: AbortSignal,
): Promise<DriverClient> {
  const { host, port, database } = config
  const { user, password } = login
  const client = new DriverClient(
    {
      host,
      port,
      database,
      user,
      // A function, for pg looks into PGPASSWORD and ~/.pgpass when there is no password.
      password: () => (password === '' ? (undefined as unknown as string) : password),
      ssl,
      sslnegotiation: 'postgres',
      application_name: config.applicationName,
      client_encoding: 'UTF8',
      // A pooler takes no options, and would give the connection's settings to others.
      ...(config.poolerMode === 'session' ? { options: asStartupOptions(config) } : {}),
      keepAlive: true,
      // Node asks ten times, a second apart, from then on: a peer that has vanished without a word is noticed.
      keepAliveInitialDelayMillis: KEEP_ALIVE_MS,
      // TLS has buffers of its own.
      ...(ssl === false ? { stream: lendingSocket } : {}),
    },
    { host, port, ssl, user, target: `${user}@${host}:${port}/${database}`, pooled: config.poolerMode === 'transaction' },
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

/** How a cancel request is sent: on a socket of its own, with TLS where the connection has it. */
export interface CancelTarget {
  readonly host: string
  readonly port: number
  readonly ssl: ConnectionOptions | false
}

/** Where a connection leads, and as whom. */
export interface ConnectionPlace extends CancelTarget {
  /** `user@host:port/database` */
  readonly target: string
  readonly user: string
  /** A pooler stands between: other clients may have the same server session before and after. */
  readonly pooled: boolean
}

interface CancelWire extends Wire {
  connect(port: number | string, host?: string): void
  requestSsl(): void
  cancel(processId: number, secretKey: number): void
}

/**
 * Asks the server to cancel what a connection runs (PostgreSQL, "Canceling Requests in Progress"). The server closes
 * the socket once the signal is on its way; whether it came in time shows on the connection itself.
 */
export async function requestCancel(client: DriverClient, timeoutMs: number): Promise<void> {
  const target: CancelTarget = client.place
  const { processID, secretKey } = client as unknown as { readonly processID: number | null; readonly secretKey: number | null }
  if (processID === null || secretKey === null) return
  const wire = new pg.Connection({ ssl: target.ssl }) as unknown as CancelWire
  await new Promise<void>((resolve) => {
    const timer = setTimeout(() => wire.stream.destroy(), timeoutMs)
    const done = (): void => {
      clearTimeout(timer)
      wire.stream.destroy()
      resolve()
    }
    wire.on('connect', () => (target.ssl === false ? wire.cancel(processID, secretKey) : wire.requestSsl()))
    wire.on('sslconnect', () => wire.cancel(processID, secretKey))
    wire.on('error', done)
    wire.on('end', done)
    if (target.host.startsWith('/')) wire.connect(`${target.host}/.s.PGSQL.${target.port}`)
    else wire.connect(target.port, target.host)
  })
}
