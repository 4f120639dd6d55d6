import { setTimeout as startTimer } from 'node:timers'
import { setTimeout } from 'node:timers/promises'
import { ConnectionError, type Logger } from '@common-handlers/core'
import { assertMigrated } from './migrate.ts'
import type { OutboxNames } from './names.ts'
import { borrow, type ConnectionPool, onBorrowed, type PoolClient, textRows } from './pool.ts'
import { connectionSilent, watchSilence } from './silence.ts'

/**
 * How the others know that a worker lives.
 * - `session`: a session holds an advisory lock, which ends with its connection;
 * - `heartbeat`: a row is touched, where a pooler gives each transaction another session.
 */
export type PresenceKind = 'session' | 'heartbeat'

export interface PresenceOptions {
  readonly pool: ConnectionPool
  readonly names: OutboxNames
  readonly name: string
  readonly types: readonly string[]
  readonly maxCrashes: number
  readonly connectTimeoutMs: number
  /** A statement that gets no answer for so long ends its connection. */
  readonly silenceMs: number
  readonly log: Logger
  /** There may be something to do. */
  readonly onWake: () => void
  /** Another worker took over what this one had begun: it lives under a new id. */
  readonly onLost: () => void
  /** So many workers were found dead. */
  readonly onRescue: (workers: number) => void
}

const RESCUE_MS: Readonly<Record<PresenceKind, number>> = { session: 400, heartbeat: 3000 }
const BEAT_LIMIT = '15 seconds'
const RECONNECT_MS = 250
/** How often the lock of a worker that lost its connection is asked for, until the server has noticed the end of the old one. */
const RESUME_TRIES = 8
/** From this try on the old connection is ended: the server may not notice for long that its other end is gone. */
const RESUME_BY_FORCE = 4
/** What cut off one worker has often cut off the others: they get so much time to come back before they are taken for dead. */
const RETURN_MS = 2000
const SIGN_OFF_MS = 5000

/** The life of one worker in the database: its row, its lock, its ear for notifications, and its care for dead peers. */
export class Presence {
  readonly #options: PresenceOptions
  #client: PoolClient | undefined
  #unwatch: () => void = () => undefined
  #kind: PresenceKind = 'session'
  #id: bigint | undefined
  #idle = false
  #idleSaid = false
  #stopped = false
  #timer: NodeJS.Timeout | undefined
  #round: Promise<void> = Promise.resolve()
  #turn: Promise<unknown> = Promise.resolve()
  #whenReady = Promise.withResolvers<void>()
  #gaveUp = false
  /** Process ids of connections that fell silent. */
  #silent: readonly number[] = []

  constructor(options: PresenceOptions) {
    this.#options = options
  }

  get id(): bigint {
    if (this.#id === undefined) throw new Error('the worker has not been registered')
    return this.#id
  }

  get kind(): PresenceKind {
    return this.#kind
  }

  /** Resolves when the worker is known to the database: at once, or after a connection was lost when it is there again. */
  ready(): Promise<void> {
    return this.#whenReady.promise
  }

  /** The worker is to stop, and waits no longer for a connection that is not there: {@link ready} rejects. */
  giveUp(): void {
    this.#gaveUp = true
    this.#whenReady.promise.catch(() => undefined)
    this.#whenReady.reject(new ConnectionError('the worker was stopped', { code: 'OUTBOX_WORKER_STOPPED', retry: 'safe' }))
  }

  get gaveUp(): boolean {
    return this.#gaveUp
  }

  async start(): Promise<void> {
    await this.#enter()
    this.#schedule()
  }

  /** A worker that is idle asks writers for a notification. */
  setIdle(idle: boolean): void {
    this.#idle = idle
    if (idle !== this.#idleSaid) void this.#sayIdle()
  }

  /** A statement of the worker's own, outside of all transactions. */
  async run(text: string, values: unknown[]): Promise<(string | null)[][]> {
    await this.ready()
    return await this.#ask(text, values)
  }

  async #ask(text: string, values: unknown[]): Promise<(string | null)[][]> {
    const client = this.#client
    if (client !== undefined) {
      // One after the other: a connection has one statement at a time.
      const running = this.#turn.then(() => textRows(client, text, values))
      this.#turn = running.catch(() => undefined)
      return await running
    }
    const { pool, connectTimeoutMs } = this.#options
    return await onBorrowed(pool, connectTimeoutMs, 'the worker', (borrowed) =>
      this.#answered(borrowed, () => textRows(borrowed, text, values)),
    )
  }

  /**
   * A connection fell silent: the server, which may take it for alive, is to end it with all that it holds. The worker's
   * own connection may have gone the same way, so it is asked for with the next look at dead peers.
   */
  end({ processID }: PoolClient): void {
    if (typeof processID === 'number') this.#silent = [...this.#silent, processID]
  }

  /** Fails when the server falls silent; the connection is to be closed then. */
  #answered<T>(client: PoolClient, work: () => Promise<T>): Promise<T> {
    const { silenceMs } = this.#options
    const silent = Promise.withResolvers<never>()
    const unwatch = watchSilence(client, silenceMs, () => silent.reject(connectionSilent(silenceMs)))
    return Promise.race([work(), silent.promise]).finally(unwatch)
  }

  async stop(): Promise<void> {
    this.#stopped = true
    this.giveUp()
    clearTimeout(this.#timer)
    await Promise.race([this.#signOff(), setTimeout(SIGN_OFF_MS, undefined, { ref: false })])
    // Closed, not given back: its lock and LISTEN end with it.
    const client = this.#client
    this.#client = undefined
    this.#unwatch()
    client?.release(true)
  }

  async #signOff(): Promise<void> {
    await this.#round
    const { schema } = this.#options.names
    if (this.#id !== undefined) {
      await this.#ask(`SELECT ${schema}.sign_off($1)`, [this.#id]).catch((error: unknown) =>
        this.#options.log.warn({ err: error }, 'the worker could not be signed off; another one does it'),
      )
    }
  }

  async #enter(): Promise<void> {
    const { pool, connectTimeoutMs, names, silenceMs, log } = this.#options
    const client = await borrow(pool, connectTimeoutMs, 'the worker')
    const onEnd = (): void => this.#leave(client)
    try {
      client.on('error', onEnd)
      await this.#answered(client, () => this.#register(client))
      if (this.#kind === 'session') {
        client.on('end', onEnd)
        client.on('notification', () => this.#options.onWake())
        await this.#answered(client, () => client.query(`LISTEN "${names.channel.replaceAll('"', '""')}"`))
        this.#unwatch = watchSilence(client, silenceMs, () => {
          log.warn({ err: connectionSilent(silenceMs) }, 'the worker does not hear from the server')
          this.#leave(client)
        })
        this.#client = client
      } else {
        client.off('error', onEnd)
        client.release()
      }
    } catch (error) {
      client.release(true)
      throw error
    }
    this.#whenReady.resolve()
    this.#options.onWake()
  }

  async #register(client: PoolClient): Promise<void> {
    const { names, name, types, onLost } = this.#options
    if (this.#id === undefined) await assertMigrated(client, names)
    const [[pid] = []] = await textRows(client, 'SELECT pg_backend_pid()::text')
    // A pooler answers the login with a process id of its own.
    this.#kind =
      client.processID === undefined || client.processID === null || String(client.processID) === pid ? 'session' : 'heartbeat'
    const lock = this.#kind === 'session'
    if (this.#id === undefined || !(await this.#resume(client, lock))) {
      const known = this.#id
      const [[id] = []] = await textRows(
        client,
        `WITH w AS (INSERT INTO ${names.schema}.worker (name, presence, types) VALUES ($1, $2, $3) RETURNING id)
         SELECT w.id::text ${lock ? `, pg_advisory_lock(${names.lockClass}, w.id::int)::text` : ''} FROM w`,
        [name, this.#kind, [...types]],
      )
      this.#id = BigInt(id ?? 0)
      if (known !== undefined) onLost()
    }
    this.#idleSaid = false
  }

  /** Takes up the old id again, unless a peer has already buried it. */
  async #resume(client: PoolClient, lock: boolean): Promise<boolean> {
    const { names } = this.#options
    for (let tries = 1; ; tries++) {
      const [[id, locked] = []] = await textRows(
        client,
        `SELECT w.id::text, ${lock ? `pg_try_advisory_lock(${names.lockClass}, w.id::int)` : 'true'}
          FROM (SELECT id FROM ${names.schema}.worker WHERE id = $1 FOR UPDATE) w`,
        [this.#id],
      )
      if (id === undefined) return false
      if (locked === 't') return true
      if (tries === RESUME_TRIES) return false
      if (tries === RESUME_BY_FORCE) await this.#endHolder(client)
      await setTimeout(RECONNECT_MS)
    }
  }

  /** Of the lock that this worker's own connection took: the server has not noticed yet that nobody is behind it. */
  async #endHolder(client: PoolClient): Promise<void> {
    const { names, log } = this.#options
    try {
      await textRows(
        client,
        `SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
          WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
            AND l.classid::bigint = $1::bigint & 4294967295 AND l.objid::bigint = $2`,
        [names.lockClass, this.#id],
      )
    } catch (error) {
      // The login may be another one since: then the worker begins anew, and the others free what it held.
      log.warn({ err: error }, 'the connection that the worker lost could not be ended on the server')
    }
  }

  #leave(client: PoolClient): void {
    if (this.#client !== client || this.#stopped) return
    this.#client = undefined
    this.#unwatch()
    this.#whenReady = Promise.withResolvers()
    if (this.#gaveUp) this.giveUp()
    client.release(true)
    this.#options.log.warn({}, 'the worker lost its connection')
    clearTimeout(this.#timer)
    this.#again()
  }

  #again(): void {
    this.#round = this.#enter().then(
      () => this.#schedule(RETURN_MS),
      (error: unknown) => {
        this.#options.log.warn({ err: error }, 'the worker has no connection yet')
        if (!this.#stopped) this.#timer = startTimer(() => this.#again(), RECONNECT_MS)
      },
    )
  }

  #schedule(ms = RESCUE_MS[this.#kind]): void {
    if (this.#stopped) return
    clearTimeout(this.#timer)
    this.#timer = startTimer(() => {
      this.#round = this.#care().finally(() => {
        if (this.#kind === 'heartbeat' || this.#client !== undefined) this.#schedule()
      })
    }, ms)
  }

  async #care(): Promise<void> {
    const { names, maxCrashes, onRescue, log } = this.#options
    try {
      if (this.#kind === 'heartbeat') {
        const beaten = await this.run(
          `UPDATE ${names.schema}.worker SET beat_at = clock_timestamp() WHERE id = $1 RETURNING id`,
          [this.#id],
        )
        if (beaten.length === 0) await this.#enter()
      }
      const silent = this.#silent
      if (silent.length > 0) {
        // Behind a pooler they would be somebody else's; a new process with an old id has just begun.
        if (this.#kind === 'session')
          await this.run(
            `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ANY ($1) AND datname = current_database()
                AND usename = current_user AND state_change < clock_timestamp() - $2 * interval '1 ms'`,
            // It worked for a moment after the client began to wait for it.
            [silent, this.#options.silenceMs / 2],
          )
        this.#silent = this.#silent.slice(silent.length)
      }
      const client = this.#client
      const [[rescued, known] = []] = await this.run(
        `SELECT ${names.schema}.rescue($1, $2, $3), EXISTS (SELECT FROM ${names.schema}.worker w WHERE w.id = $1)`,
        [this.#id, BEAT_LIMIT, maxCrashes],
      )
      // Its row is gone though its session lives: it was buried by hand.
      if (known === 'f' && client !== undefined) this.#leave(client)
      if (Number(rescued) > 0) {
        onRescue(Number(rescued))
        this.#options.onWake()
      }
    } catch (error) {
      log.warn({ err: error }, 'looking for dead workers failed')
    }
  }

  async #sayIdle(): Promise<void> {
    const idle = this.#idle
    this.#idleSaid = idle
    try {
      await this.run(`UPDATE ${this.#options.names.schema}.worker SET idle = $2 WHERE id = $1`, [this.#id, idle])
      // What was written before this was seen came without a notification.
      if (idle) this.#options.onWake()
    } catch {
      this.#idleSaid = !idle
    }
  }
}
