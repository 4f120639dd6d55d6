import { ConfigError, ConflictError } from '@common-handlers/core'
import { Alarm } from './alarm.ts'
import type { BoundHandler } from './handler.ts'
import { literal } from './names.ts'
import { type PendingEvent, readPending } from './pending.ts'
import { OwnConnection } from './own-connection.ts'
import { type PoolClient, textAnswers, textRows } from './pool.ts'
import { type NotDone, type Outcome, failed, RunContext, withLimit } from './run.ts'
import { isServerError, Savepoint } from './tx-loop.ts'
import type { LoopContext } from './worker.ts'

/** Who reads the log, each for itself. */
export interface LogConsumer {
  readonly name: string
  readonly start: 'beginning' | 'end'
  readonly handlers: ReadonlyMap<string, BoundHandler>
}

/**
 * The consumers that these handlers make up, and the handlers of their dead letters: redriven, an event goes through the
 * queue to the consumer where it failed, under the type `order.created@search-index`.
 * @throws ConfigError `OUTBOX_CONFIG_INVALID`
 */
export function logConsumers(handlers: readonly BoundHandler[]): {
  readonly consumers: readonly LogConsumer[]
  readonly redriven: readonly BoundHandler[]
} {
  const consumers = new Map<string, { name: string; start: LogConsumer['start']; handlers: Map<string, BoundHandler> }>()
  const redriven: BoundHandler[] = []
  const queued = new Set<string>()
  for (const handler of handlers) {
    const { type, effect, consumer: name, start } = handler
    if (effect !== 'log') {
      if (name !== '') throw invalid(type, 'a consumer belongs to the effect `log`')
      if (queued.has(type)) throw invalid(type, 'one handler takes the events of the queue, there are two')
      queued.add(type)
      continue
    }
    if (name === '') throw invalid(type, 'the effect `log` needs a consumer, on whose behalf it reads')
    const consumer = consumers.get(name) ?? { name, start, handlers: new Map<string, BoundHandler>() }
    if (consumer.handlers.has(type)) throw invalid(type, `the consumer ${name} has two handlers for it`)
    if (consumer.start !== start)
      throw invalid(type, `the consumer ${name} begins at one place, not at the beginning and the end`)
    consumer.handlers.set(type, handler)
    consumers.set(name, consumer)
    redriven.push({ ...handler, type: `${type}@${name}`, effect: 'tx' })
  }
  return { consumers: [...consumers.values()], redriven }
}

/** How far a consumer is, as the database writes it. */
interface Position {
  readonly since: string
  readonly until: string
  readonly position: string
  readonly last: string
}

/** An event that was read; `undefined`: of a type that this consumer does not take. */
interface Read {
  readonly event: PendingEvent | undefined
  readonly id: string
}

/** What the last row of an answer says. */
interface Meta {
  readonly state: 'events' | 'locked' | 'gone' | 'types' | 'waiting' | 'noted' | 'alone' | 'paused' | 'fenced' | 'end'
  readonly waitMs: number | null
  /** Those that the consumer takes and this worker does not know. */
  readonly types: readonly string[]
  /** Where it was, and is until a batch is committed. */
  readonly read: Pick<Position, 'until' | 'position'>
  /** What is read now. */
  readonly generation: Position
  readonly attempts: number
  readonly crashes: number
  readonly tid: string
}

interface Dead {
  readonly id: bigint
  readonly attempts: number
  readonly crashes: number
  readonly reason: string
  readonly error: string
}

/** Where a batch got to. */
interface Progress {
  /** The last event that is over. */
  position: string
  /** So many events are over. */
  over: number
  readonly dead: Dead[]
  readonly settled: { readonly event: PendingEvent; readonly outcome: Outcome; readonly durationMs: number | undefined }[]
  /** The event after it failed. */
  failure: NotDone | undefined
  /** A handler was left behind: the transaction is given up. */
  abandoned: boolean
}

const ERROR_PAUSE_MS = 250
/** A transaction that writes is a fence for all consumers: it is not to last. */
const BATCH_MS = 1000
const FENCED_MS = 10
const FAILED = 5
const META = 9

/**
 * Runs the events of the log for one consumer, in order: a batch, what its handlers write and the consumer's
 * new position are one commit. Of all workers one reads at a time.
 */
export class LogLoop {
  readonly #context: LoopContext
  readonly #consumer: LogConsumer
  readonly #types: readonly string[]
  readonly #alarm = new Alarm()
  readonly #connection: OwnConnection
  #current: RunContext | undefined
  /** Of the last attempt. */
  #durationMs: number | undefined
  #known = false
  /** Where the row of the consumer was last seen. */
  #tid: string | null = null
  #stopping = false
  /** A batch could not be committed: so many events run one by one. */
  #singles = 0
  #told = ''
  #pauseMs = 0
  #fencedMs = FENCED_MS

  constructor(context: LoopContext, consumer: LogConsumer) {
    this.#context = context
    this.#connection = new OwnConnection(context.connection)
    this.#consumer = consumer
    this.#types = [...consumer.handlers.keys()]
  }

  get contexts(): Iterable<RunContext> {
    return this.#current === undefined ? [] : [this.#current]
  }

  wake(): void {
    this.#alarm.ring()
  }

  stop(): void {
    this.#stopping = true
    this.#alarm.ring()
  }

  /** The lock of the consumer is held by its transaction, not by the worker. */
  lose(): void {
    this.#alarm.ring()
  }

  /** Suspects of the log are found by {@link run}. */
  async runSolo(): Promise<void> {
    // Nothing of the queue is here.
  }

  async run(): Promise<void> {
    const { gate } = this.#context
    while (!this.#stopping) {
      await gate.enter()
      let found: Meta['state']
      try {
        found = await this.#batch(false)
      } finally {
        gate.leave()
      }
      if (found === 'alone') found = await gate.alone(() => this.#batch(true))
      if (found === 'events' || found === 'noted' || this.#stopping) continue
      this.#context.setIdle(this, true)
      this.#connection.release()
      await this.#alarm.sleep(this.#pauseMs)
    }
    this.#context.setIdle(this, false)
    this.#connection.release()
  }

  /** One transaction. */
  async #batch(alone: boolean): Promise<Meta['state']> {
    const { presence, names } = this.#context
    const { name } = this.#consumer
    let read: readonly Read[] = []
    let from: Meta | undefined
    try {
      await presence.ready()
      await this.#register()
      const client = await this.#connection.get()
      const limit = this.#singles > 0 ? 1 : this.#context.options.batchSize
      const timeoutMs = Math.trunc(this.#context.queryTimeoutMs)
      const values = [name, presence.id, this.#types, limit, alone, timeoutMs, this.#tid]
      const answers = await textAnswers(
        client,
        `BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = 0;
         SELECT * FROM ${names.schema}.read_log(${values.map(literal).join(', ')})`,
      )
      const rows = (answers.at(-1)?.rows ?? []) as (string | null)[][]
      const meta = JSON.parse(rows.pop()?.[META] ?? '') as Meta
      if (meta.state !== 'events') {
        await client.query('COMMIT')
        this.#wait(meta)
        return meta.state
      }
      from = meta
      this.#tid = meta.tid
      const [first] = rows
      first?.splice(FAILED, 2, String(meta.attempts), String(meta.crashes))
      read = rows.map((row) => this.#read(row))
      this.#singles = Math.max(0, this.#singles - 1)
      this.#fencedMs = FENCED_MS
      this.#context.setIdle(this, false)
      const count = read.filter(({ event }) => event !== undefined).length
      if (count > 0) await this.#note(read.length)
      const progress = await this.#runAll(client, from, read)
      if (progress.abandoned) {
        this.#drop()
        await this.#afterBreak(from, read, progress.failure)
        return 'events'
      }
      const [[tid] = []] = await textRows(client, this.#endText(), this.#endValues(from, progress))
      if (tid === undefined || tid === null)
        throw new ConflictError('the consumer was moved meanwhile', { code: 'OUTBOX_CONSUMER_MOVED' })
      const committed = await client.query('COMMIT')
      // What fails in a transaction turns its COMMIT into a ROLLBACK, without an error.
      if (committed.command !== undefined && committed.command !== 'COMMIT')
        throw new Error(`the server answered COMMIT with ${committed.command}`)
      this.#tid = tid
      for (const { event, outcome, durationMs } of progress.settled) this.#context.onSettled(event, outcome, durationMs)
      return 'events'
    } catch (error) {
      this.#drop()
      this.#context.onError(error)
      if (from !== undefined)
        await this.#afterBreak(from, read, isServerError(error) ? failed(error) : undefined).catch(() => undefined)
      this.#pauseMs = ERROR_PAUSE_MS
      return 'locked'
    }
  }

  async #runAll(client: PoolClient, from: Meta, read: readonly Read[]): Promise<Progress> {
    const { handlers } = this.#consumer
    const savepoint = new Savepoint(client, this.#context.schema, this.#context.queryTimeoutMs)
    const progress: Progress = {
      position: from.generation.position,
      over: 0,
      dead: [],
      settled: [],
      failure: undefined,
      abandoned: false,
    }
    const end = performance.now() + BATCH_MS
    for (const { event, id } of read) {
      if (progress.over > 0 && performance.now() > end) break
      const handler = event === undefined ? undefined : handlers.get(event.type)
      if (event !== undefined && handler !== undefined) {
        if (this.#stopping) break
        const outcome = await this.#runOne(event, handler, savepoint)
        if (savepoint.abandoned)
          return { ...progress, abandoned: true, failure: outcome.verdict === 'done' ? undefined : outcome }
        if (outcome.verdict === 'release') break
        progress.settled.push({ event, outcome, durationMs: this.#durationMs })
        if (outcome.verdict === 'retry') {
          progress.failure = outcome
          break
        }
        if (outcome.verdict === 'dead') progress.dead.push(deadOf(event, outcome))
      }
      progress.position = id
      progress.over += 1
    }
    await savepoint.rest()
    return progress
  }

  async #runOne(event: PendingEvent, handler: BoundHandler, savepoint: Savepoint): Promise<Outcome> {
    const { maxCrashes, backoff } = this.#context.options
    this.#durationMs = undefined
    if (event.crashes >= maxCrashes)
      return { verdict: 'dead', reason: 'crash', error: `its worker died ${event.crashes} times while it ran alone` }
    savepoint.next()
    const context = new RunContext(event, handler, savepoint)
    this.#current = context
    const outcome = await this.#context.run(event, context)
    this.#durationMs = this.#context.durationOf(context)
    this.#current = undefined
    context.end()
    const result = outcome.verdict === 'done' && savepoint.failure !== undefined ? failed(savepoint.failure) : outcome
    if ((context.timedOut || savepoint.busy) && savepoint.used) savepoint.abandoned = true
    else if (result.verdict !== 'done' && savepoint.used) await savepoint.undo()
    return withLimit(result, event, handler, backoff)
  }

  /** A transaction was given up. One event: its attempt failed. More: they run again, one by one. */
  async #afterBreak(from: Meta, read: readonly Read[], failure: NotDone | undefined): Promise<void> {
    const { presence } = this.#context
    if (read.length > 1) this.#singles = read.length
    const [only] = read
    const handler = only?.event === undefined ? undefined : this.#consumer.handlers.get(only.event.type)
    if (
      read.length !== 1 ||
      only?.event === undefined ||
      handler === undefined ||
      failure === undefined ||
      failure.verdict === 'release'
    )
      return await this.#note(undefined)
    const { event, id } = only
    const outcome = withLimit(failure, event, handler, this.#context.options.backoff)
    const over = outcome.verdict !== 'retry'
    const progress: Progress = {
      position: over ? id : from.generation.position,
      over: over ? 1 : 0,
      dead: outcome.verdict === 'dead' ? [deadOf(event, outcome)] : [],
      settled: [],
      failure: over ? undefined : outcome,
      abandoned: false,
    }
    await presence.run(this.#endText(), this.#endValues(from, progress))
    this.#context.onSettled(event, outcome)
  }

  #endText(): string {
    return `SELECT ${this.#context.names.schema}.end_log($1, $2, $3, $4, $5, $6, $7, $8)`
  }

  #endValues({ read, generation }: Meta, { position, over, dead, failure }: Progress): unknown[] {
    const json = dead.map(({ id, ...rest }) => `{"id":${id},${asJson(rest).slice(1)}`)
    return [
      this.#consumer.name,
      this.#tid,
      asJson(read),
      asJson({ ...generation, position }),
      over,
      dead.length === 0 ? null : `[${json.join(',')}]`,
      failure?.delay ?? null,
      failure?.error ?? null,
    ]
  }

  /** Written down before they run, by another connection: if the process dies of it, the next one knows. */
  async #note(events: number | undefined): Promise<void> {
    const { names, presence } = this.#context
    const [[tid] = []] = await presence.run(`SELECT ${names.schema}.begin_log($1, $2, $3, $4)`, [
      this.#consumer.name,
      this.#tid,
      events === undefined ? null : presence.id,
      events ?? null,
    ])
    this.#tid = tid ?? null
  }

  async #register(): Promise<void> {
    if (this.#known) return
    const { names, presence } = this.#context
    const { name, start } = this.#consumer
    await presence.run(`SELECT ${names.schema}.add_consumer($1, $2, $3)`, [name, this.#types, start])
    this.#known = true
  }

  /** How long to sleep, and what the user should know. */
  #wait({ state, waitMs, types }: Meta): void {
    const { pollInterval } = this.#context.options
    this.#pauseMs = pollInterval
    if (state === 'waiting') this.#pauseMs = Math.min(pollInterval, waitMs ?? pollInterval)
    // It is there, and only waits for older transactions: soon, then less often.
    if (state === 'fenced') this.#pauseMs = this.#fencedMs = Math.min(pollInterval, this.#fencedMs * 1.5)
    else this.#fencedMs = FENCED_MS
    const told = state === 'types' ? types.join(', ') : state === 'gone' ? state : ''
    if (told !== this.#told && told !== '') {
      const { name } = this.#consumer
      const message =
        state === 'gone'
          ? `the consumer ${name} was deleted while it was at work: start the worker again to make it anew`
          : `the consumer ${name} also takes ${told}, for which this worker has no handler: it leaves the consumer to others`
      this.#context.onError(new ConflictError(message, { code: 'OUTBOX_CONSUMER_FOREIGN' }))
    }
    this.#told = told
  }

  #read(row: readonly (string | null)[]): Read {
    const [id, type, payload] = row
    const known = payload !== null && this.#consumer.handlers.has(type ?? '')
    return { event: known ? readPending(row) : undefined, id: id ?? '0' }
  }

  #drop(): void {
    this.#connection.release(true)
  }
}

function deadOf(event: PendingEvent, outcome: NotDone): Dead {
  const { id, failed: before, crashes } = event
  const tried = outcome.reason === 'attempts' || outcome.reason === 'verdict'
  return { id, attempts: before + (tried ? 1 : 0), crashes, reason: outcome.reason ?? 'verdict', error: outcome.error ?? '' }
}

function invalid(type: string, message: string): ConfigError {
  return new ConfigError(`the worker cannot be configured: handlers.${type}: ${message}`, { code: 'OUTBOX_CONFIG_INVALID' })
}

const asJson = (value: object): string => JSON.stringify(value).replaceAll('\\u0000', '\\ufffd')
