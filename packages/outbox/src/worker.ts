import { EventEmitter } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { type CloseOptions, ConfigError, ConnectionError, type Logger, silentLogger } from '@common-handlers/core'
import { readWorkerConfig, type WorkerConfig, type WorkerConfigInput } from './config.ts'
import { Gate } from './gate.ts'
import { type BoundHandler, bindHandler, type Handlers } from './handler.ts'
import { connectionsLikeThoseOf, HandlerDatabase } from './handler-database.ts'
import { LeaseLoop } from './lease-loop.ts'
import { type Bloat, Maintenance } from './maintenance.ts'
import { logConsumers, LogLoop } from './log-loop.ts'
import { type OutboxNames, outboxNames } from './names.ts'
import type { OwnConnectionOptions } from './own-connection.ts'
import type { PendingEvent } from './pending.ts'
import { borrow, type ConnectionPool, type PoolClient } from './pool.ts'
import { Presence } from './presence.ts'
import { Rates } from './rates.ts'
import type { OutboxRepository } from './repository.ts'
import { type Backoff, type NotDone, type Outcome, type RunContext, runHandler } from './run.ts'
import { connectionSilent } from './silence.ts'
import { runTraced, type TracerLike } from './tracing.ts'
import { TxLoop } from './tx-loop.ts'

export interface OutboxWorkerOptions extends WorkerConfigInput {
  /** `pg.Pool`, or anything that lends connections like it. It stays the caller's. */
  readonly pool: ConnectionPool
  /** A handler for each type of event that this worker takes; events of other types are left to other workers. */
  readonly handlers: Handlers
  /** `new Schedules([...])` of `@common-handlers/outbox/schedule`: events by the clock, while this worker runs. */
  readonly schedules?: Companion | undefined
  /** Makes a connection that is not of the pool, for handlers with `usePool: false`. Default: as `pg.Pool` does it. */
  readonly openConnection?: (() => Promise<PoolClient>) | undefined
  /** Default: silent. */
  readonly logger?: Logger | undefined
  /** A tracer of `@opentelemetry/api`: a span for each attempt, linked to the producer's. Default: none. */
  readonly tracer?: TracerLike | undefined
}

/** What runs beside a worker, as long as it does. */
export interface Companion {
  start(context: {
    readonly pool: ConnectionPool
    readonly schema: string
    readonly connectTimeoutMs: number
    readonly logger: Logger
  }): Promise<void>
  stop(): Promise<void>
}

/** What a worker tells while it runs. */
export interface OutboxWorkerEvents {
  /** An attempt ended and that is written down. `released`: it does not count, the event is free again. */
  settled: [
    {
      readonly type: string
      readonly id: bigint
      readonly attempt: number
      readonly outcome: 'done' | 'retry' | 'dead' | 'discarded' | 'released'
      readonly error?: string
      readonly delayMs?: number
      /** How long the handler ran; undefined where it was not begun. */
      readonly durationMs?: number
    },
  ]
  /** A handler ended and had not closed its repository. */
  forgotten: [{ readonly type: string; readonly repositories: number }]
  /** A handler got its connection after so many milliseconds. */
  connected: [{ readonly type: string; readonly waitedMs: number }]
  /** A handler held a connection of the pool for longer than `holdWarningMs`. */
  held: [{ readonly type: string; readonly heldMs: number }]
  /** A handler has to wait: handlers hold all connections of the pool that they may hold. */
  exhausted: [{ readonly type: string; readonly waiting: number }]
  /** Workers that were found dead: what they had begun runs again, alone. */
  rescued: [{ readonly workers: number }]
  /** Another worker took over what this one had begun, since it was not heard of. */
  lost: []
  /** Somebody keeps PostgreSQL from vacuuming the table of events: told in each round by the worker that has it. */
  bloat: [Bloat]
  /** Something failed that is tried again: the connection, a statement. */
  trouble: [unknown]
}

export interface WorkerStatus {
  readonly state: 'new' | 'running' | 'stopping' | 'stopped'
  readonly running: number
  readonly handlerConnections: { readonly inUse: number; readonly waiting: number }
  /** How other workers know that this one lives. */
  readonly presence: 'session' | 'heartbeat' | undefined
}

/** What the loops share. */
export interface LoopContext {
  readonly pool: ConnectionPool
  readonly names: OutboxNames
  readonly schema: string
  readonly options: WorkerConfig & { readonly backoff: Backoff }
  readonly queryTimeoutMs: number
  /** Of each loop's own connection. */
  readonly connection: OwnConnectionOptions
  readonly handlers: ReadonlyMap<string, BoundHandler>
  readonly presence: Presence
  readonly database: HandlerDatabase
  readonly gate: Gate
  readonly rates: Rates
  /** Runs the handler. Never throws or rejects. */
  run(event: PendingEvent, context: RunContext): Outcome | Promise<Outcome>
  /** Milliseconds since the attempt began, where somebody wants to know. */
  durationOf(context: RunContext): number | undefined
  onSettled(event: PendingEvent, outcome: Outcome, durationMs?: number): void
  onSuspects(): void
  /** There may be more than this one takes: another one is to look as well. */
  onMore(): void
  onError(error: unknown): void
  setIdle(loop: object, idle: boolean): void
  /** One after the other: two that claim at the same time look at the same events. */
  inTurn<T>(work: () => Promise<T>): Promise<T>
  takeBack(type: string, forgotten: readonly OutboxRepository[]): Promise<void>
}

/** Writers notify again when a worker has had nothing to do, and no more when it was busy for so long. */
const BUSY_MS = 100
/** The server ends a statement at its limit; what has not been heard of so long after it is not to come. */
const SILENCE_MARGIN_MS = 2000
const WATCH_MS = 100
/** So long a loop waits for another one at most: that one may have a connection that fell silent. */
const TURN_MS = 1000
const DEFAULT_GRACE_MS = 10_000

/**
 * Takes events out of the outbox and gives them to their handlers. Any number of workers, in any number of processes,
 * share one outbox.
 */
export class OutboxWorker extends EventEmitter<OutboxWorkerEvents> implements AsyncDisposable {
  readonly #config: WorkerConfig
  readonly #handlers: ReadonlyMap<string, BoundHandler>
  readonly #log: Logger
  readonly #presence: Presence
  readonly #maintenance: Maintenance
  readonly #database: HandlerDatabase
  readonly #loops: readonly (LeaseLoop | TxLoop | LogLoop)[]
  readonly #gate = new Gate()
  readonly #rates: Rates
  readonly #pool: ConnectionPool
  readonly #schedules: Companion | undefined
  readonly #busy = new Set<object>()
  #busyTimer: NodeJS.Timeout | undefined
  #watch: NodeJS.Timeout | undefined
  #solo = false
  #state: WorkerStatus['state'] = 'new'
  #runs: Promise<void>[] = []
  #turn: Promise<unknown> = Promise.resolve()
  #starting: Promise<void> | undefined
  #stopped: Promise<void> | undefined

  /** Does no work. @throws ConfigError `OUTBOX_CONFIG_INVALID` */
  constructor(options: OutboxWorkerOptions) {
    super()
    const { pool, handlers, openConnection, schedules, logger, tracer, ...config } = options
    this.#config = readWorkerConfig(config)
    this.#pool = pool
    this.#schedules = schedules
    const { schema, name, maxCrashes, connectTimeoutMs, poolMaxConnections, holdWarningMs, queryTimeoutMs } = this.#config
    const names = outboxNames(schema)
    this.#log = (logger ?? silentLogger).child({ worker: name })
    const bound = Object.entries(handlers).flatMap(([type, given]) =>
      [given].flat().map((handler) => bindHandler(type, handler, this.#config)),
    )
    if (bound.length === 0) throw invalid('handlers: there is none, so there is nothing to do')
    const { consumers, redriven } = logConsumers(bound)
    const queued = [...bound.filter(({ effect }) => effect !== 'log'), ...redriven]
    this.#handlers = new Map(queued.map((handler) => [handler.type, handler]))
    const own = openConnection ?? connectionsLikeThoseOf(pool)
    for (const { type, needsDb, usePool, effect } of bound)
      if (needsDb && !usePool && effect === 'lease' && own === undefined)
        throw invalid(`handlers.${type}: usePool is false and the pool tells no way to open a connection: pass openConnection`)
    this.#rates = new Rates(bound)
    this.#database = new HandlerDatabase({
      pool,
      openConnection: own,
      schema,
      max: poolMaxConnections,
      holdWarningMs,
      onWait: (type, waitedMs) => this.emit('connected', { type, waitedMs }),
      onHold: (type, heldMs) => {
        this.#log.warn({ type, heldMs }, `the handler of ${type} held a connection of the pool for ${Math.round(heldMs)} ms`)
        this.emit('held', { type, heldMs })
      },
      onExhausted: (type, waiting) => {
        this.#log.warn(
          { type, waiting, max: poolMaxConnections },
          `the handler of ${type} waits for a connection: all ${poolMaxConnections} are held by handlers`,
        )
        this.emit('exhausted', { type, waiting })
      },
    })
    const silenceMs = Math.max(queryTimeoutMs, ...bound.map((handler) => handler.queryTimeoutMs)) + SILENCE_MARGIN_MS
    this.#presence = new Presence({
      pool,
      silenceMs,
      names,
      name,
      types: [...this.#handlers.keys()],
      maxCrashes,
      connectTimeoutMs,
      log: this.#log,
      onWake: () => this.#wake(),
      onLost: () => {
        this.#log.warn({}, 'another worker took over what this one had begun')
        for (const loop of this.#loops) loop.lose()
        this.emit('lost')
      },
      onRescue: (workers) => {
        this.#log.warn({ workers }, `${workers} dead workers: what they had begun runs again, alone`)
        this.emit('rescued', { workers })
      },
    })
    this.#maintenance = new Maintenance({
      pool,
      names,
      connectTimeoutMs,
      everyMs: this.#config.maintenanceMs,
      logRetentionMs: this.#config.logRetentionMs,
      log: this.#log,
      onBloat: (bloat) => this.emit('bloat', bloat),
    })
    const context: LoopContext = {
      pool,
      names,
      schema,
      options: { ...this.#config, backoff: { baseMs: this.#config.backoffBaseMs, maxMs: this.#config.backoffMaxMs } },
      queryTimeoutMs,
      connection: {
        pool,
        connectTimeoutMs,
        silenceMs,
        onSilent: (client) => {
          context.onError(connectionSilent(silenceMs))
          this.#presence.end(client)
        },
      },
      handlers: this.#handlers,
      presence: this.#presence,
      database: this.#database,
      gate: this.#gate,
      rates: this.#rates,
      run: tracer === undefined ? runHandler : (event, one) => runTraced(tracer, event, one),
      durationOf: (run) => (this.listenerCount('settled') === 0 ? undefined : performance.now() - run.began),
      onSettled: (event, outcome, durationMs) => this.#settled(event, outcome, durationMs),
      onSuspects: () => void this.#runSolo(),
      onMore: () => this.#asleep()?.wake(),
      onError: (error) => {
        this.#log.warn({ err: error }, 'tried again after an error')
        this.emit('trouble', error)
      },
      setIdle: (loop, idle) => this.#setIdle(loop, idle),
      inTurn: (work) => {
        const turn = this.#turn.then(work)
        const longEnough = sleep(TURN_MS, undefined, { ref: false })
        this.#turn = Promise.race([turn.catch(() => undefined), longEnough])
        return turn
      },
      takeBack: async (type, forgotten) => {
        await Promise.all(forgotten.map((repository) => repository.close()))
        this.#log.warn({ type }, `the handler of ${type} did not close its repository: it was closed for it`)
        this.emit('forgotten', { type, repositories: forgotten.length })
      },
    }
    const typesOf = (effect: string): string[] => queued.filter((handler) => handler.effect === effect).map(({ type }) => type)
    const leased = typesOf('lease')
    const inTx = typesOf('tx')
    // One is enough for what is redriven.
    const transactions = inTx.length > redriven.length ? this.#config.txConnections : Math.min(1, redriven.length)
    this.#loops = [
      ...(leased.length === 0 ? [] : [new LeaseLoop(context, leased)]),
      ...Array.from({ length: transactions }, (_, number) => new TxLoop(context, inTx, number)),
      ...consumers.map((consumer) => new LogLoop(context, consumer)),
    ]
  }

  get status(): WorkerStatus {
    let running = 0
    for (const loop of this.#loops) running += [...loop.contexts].length
    const presence = this.#state === 'running' ? this.#presence.kind : undefined
    return { state: this.#state, running, handlerConnections: this.#database.status, presence }
  }

  /**
   * Registers the worker and begins.
   * @throws ConfigError `OUTBOX_SCHEMA_MISSING` @throws ConnectionError `OUTBOX_CONNECTION_FAILED`
   */
  async start(): Promise<void> {
    if (this.#state !== 'new') throw new ConnectionError('a worker is started once', { code: 'OUTBOX_WORKER_STARTED' })
    this.#state = 'running'
    const starting = Promise.withResolvers<void>()
    this.#starting = starting.promise
    try {
      await this.#warmUp()
      const { schema, connectTimeoutMs } = this.#config
      await this.#schedules?.start({ pool: this.#pool, schema, connectTimeoutMs, logger: this.#log })
      await this.#presence.start()
    } catch (error) {
      this.#state = 'stopped'
      await this.#schedules?.stop()
      throw error
    } finally {
      starting.resolve()
    }
    this.#runs = this.#loops.map((loop) => loop.run())
    this.#maintenance.start()
    this.#watch = setInterval(() => this.#timeOut(), WATCH_MS)
    this.#log.info({ types: [...this.#handlers.keys()], presence: this.#presence.kind }, 'the worker has begun')
  }

  /**
   * Takes no more events, waits for the handlers that run, and signs off. After the grace (default 10 000 ms) their
   * signals are aborted, and their events are free for other workers, without an attempt lost.
   */
  stop(options: CloseOptions = {}): Promise<void> {
    return (this.#stopped ??= this.#stop(options.graceMs ?? DEFAULT_GRACE_MS))
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  async #stop(graceMs: number): Promise<void> {
    await this.#starting
    const begun = this.#state === 'running'
    this.#state = 'stopping'
    if (begun) {
      for (const loop of this.#loops) loop.stop()
      const timer = setTimeout(() => {
        const reason = new ConnectionError('the worker was stopped', { code: 'OUTBOX_WORKER_STOPPED', retry: 'safe' })
        for (const loop of this.#loops) for (const context of loop.contexts) context.stop(reason, { verdict: 'release' })
        this.#presence.giveUp()
      }, graceMs)
      await Promise.all([this.#schedules?.stop(), ...this.#runs])
      clearTimeout(timer)
      clearInterval(this.#watch)
      clearTimeout(this.#busyTimer)
      this.#rates.stop()
      await this.#maintenance.stop()
      await this.#presence.stop()
    }
    this.#state = 'stopped'
    this.#log.info({}, 'the worker has stopped')
  }

  /** A listener that throws does not end the work. */
  override emit: EventEmitter<OutboxWorkerEvents>['emit'] = (name, ...args) => {
    try {
      return super.emit(name, ...args)
    } catch (error) {
      this.#log.error({ err: error, event: String(name) }, 'a listener of the worker threw')
      return true
    }
  }

  async #warmUp(): Promise<void> {
    const { poolMinConnections, connectTimeoutMs } = this.#config
    const clients = await Promise.all(
      Array.from({ length: poolMinConnections }, () => borrow(this.#pool, connectTimeoutMs, 'the worker')),
    )
    for (const client of clients) client.release()
  }

  /** Of the transactions one is enough: it takes what there is, and has the next one woken when that is too much for it. */
  #wake(): void {
    const one = this.#asleep()
    for (const loop of this.#loops) if (one === undefined || loop === one || !(loop instanceof TxLoop)) loop.wake()
  }

  #asleep(): TxLoop | undefined {
    return this.#loops.filter((loop) => loop instanceof TxLoop).find((loop) => loop.asleep)
  }

  #settled(event: PendingEvent, outcome: Outcome, durationMs: number | undefined): void {
    const { verdict, error, delay, reason }: Omit<NotDone, 'verdict'> & Pick<Outcome, 'verdict'> = outcome
    const { id, type, attempt } = event
    if (verdict === 'done') {
      if (this.listenerCount('settled') > 0)
        this.emit('settled', { type, id, attempt, outcome: 'done', ...(durationMs === undefined ? {} : { durationMs }) })
      return
    }
    const log = { type, id: String(id), attempt, ...(error === undefined ? {} : { error }) }
    if (verdict === 'retry') this.#log.warn({ ...log, delayMs: delay }, `the handler of ${type} failed, and is tried again`)
    else if (verdict === 'dead') this.#log.error({ ...log, reason }, `an event of ${type} became a dead letter`)
    if (this.listenerCount('settled') === 0) return
    const names = { retry: 'retry', dead: 'dead', discard: 'discarded', release: 'released' } as const
    this.emit('settled', {
      type,
      id,
      attempt,
      outcome: names[verdict],
      ...(error === undefined ? {} : { error }),
      ...(delay === undefined ? {} : { delayMs: delay }),
      ...(durationMs === undefined ? {} : { durationMs }),
    })
  }

  async #runSolo(): Promise<void> {
    if (this.#solo) return
    this.#solo = true
    try {
      await this.#gate.alone(async () => {
        for (const loop of this.#loops) await loop.runSolo()
      })
    } finally {
      this.#solo = false
    }
  }

  #setIdle(loop: object, idle: boolean): void {
    if (idle) this.#busy.delete(loop)
    else this.#busy.add(loop)
    if (this.#busy.size === 0) {
      clearTimeout(this.#busyTimer)
      this.#busyTimer = undefined
      this.#presence.setIdle(true)
    } else
      this.#busyTimer ??= setTimeout(() => {
        if (this.#busy.size > 0) this.#presence.setIdle(false)
      }, BUSY_MS)
  }

  #timeOut(): void {
    const now = performance.now()
    for (const loop of this.#loops) for (const context of loop.contexts) if (now > context.deadline) context.timeOut()
  }
}

function invalid(message: string): ConfigError {
  return new ConfigError(`the worker cannot be configured: ${message}`, { code: 'OUTBOX_CONFIG_INVALID' })
}
