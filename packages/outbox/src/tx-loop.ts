import { ConflictError, ConnectionError } from '@common-handlers/core'
import { Alarm, Patience } from './alarm.ts'
import type { BoundHandler } from './handler.ts'
import { Marks } from './marks.ts'
import { literal } from './names.ts'
import { type PendingEvent, readMeta, readPending } from './pending.ts'
import { OwnConnection } from './own-connection.ts'
import { type PoolClient, textAnswers } from './pool.ts'
import { finishText, type Finished, finishedJson, OutboxRepository } from './repository.ts'
import { failed, isThenable, type NotDone, type Outcome, type Repositories, RunContext, withLimit } from './run.ts'
import { steps } from './steps.ts'
import type { LoopContext } from './worker.ts'

const ERROR_PAUSE_MS = 250
/** An event that loses its connection so often in a row is to blame for it. */
const MAX_LOSSES = 3

interface Batch {
  /** None where there is no event. */
  readonly claim: string | null
  /** The transaction in which they run. */
  readonly xact: string | null | undefined
  readonly events: readonly PendingEvent[]
  /** There may be more: another worker was quicker. */
  readonly outrun: boolean
}

/** Runs events in the transaction that completes them: what the handlers write and the completion are one commit. */
export class TxLoop {
  readonly #context: LoopContext
  readonly #types: readonly string[]
  readonly #marks = new Marks()
  readonly #alarm = new Alarm()
  readonly #patience = new Patience()
  readonly #connection: OwnConnection
  /** Among the loops of the worker. */
  readonly #number: number
  #current: RunContext | undefined
  #dueMs: number | undefined
  /** A batch could not be committed: so many events run one by one, to find which of them it was. */
  #singles = 0
  #losses: { readonly id: bigint; readonly count: number } | undefined
  #broken = false
  #stopping = false
  #solo: Promise<void> = Promise.resolve()

  constructor(context: LoopContext, types: readonly string[], number: number) {
    this.#context = context
    this.#number = number
    this.#types = types
    this.#connection = new OwnConnection({ ...context.connection, onLost: () => this.#lose() })
  }

  get contexts(): Iterable<RunContext> {
    return this.#current === undefined ? [] : [this.#current]
  }

  /** It has nothing to do, and waits for somebody who wakes it. */
  get asleep(): boolean {
    return this.#alarm.awaited
  }

  wake(): void {
    this.#marks.forget()
    this.#alarm.ring()
  }

  stop(): void {
    this.#stopping = true
    this.#alarm.ring()
  }

  /** Another worker took over, so there was no transaction that held a claim. */
  lose(): void {
    this.#alarm.ring()
  }

  async run(): Promise<void> {
    const { gate, options } = this.#context
    while (!this.#stopping) {
      await gate.enter()
      let count: number
      try {
        count = await this.#batch(false)
      } finally {
        gate.leave()
      }
      if (count > 0 || this.#stopping) continue
      this.#context.setIdle(this, true)
      this.#connection.release()
      if (!(await this.#alarm.sleep(Math.min(this.#patience.next(options.pollInterval), this.#dueMs ?? Infinity))))
        this.#marks.forget()
    }
    await this.#solo
    this.#context.setIdle(this, false)
    this.#connection.release()
  }

  runSolo(): Promise<void> {
    return (this.#solo = this.#runSuspects())
  }

  async #runSuspects(): Promise<void> {
    while (!this.#stopping && (await this.#batch(true)) > 0);
  }

  /** One transaction. Gives how many events it had; 0 where there was none, or the connection was lost. */
  async #batch(solo: boolean): Promise<number> {
    const { presence } = this.#context
    const full = this.#marks.full
    let claimed: Batch = { claim: null, xact: undefined, events: [], outrun: false }
    let size = 0
    let handled = false
    try {
      await presence.ready()
      const client = await this.#connected()
      claimed = await this.#context.inTurn(() => this.#claim(client, solo, full))
      size = claimed.events.length
      if (size === 0) {
        await client.query('ROLLBACK')
        if (claimed.outrun && !this.#stopping) return await this.#batch(solo)
        if (!full && !solo) {
          this.#marks.forget()
          return this.#stopping ? 0 : await this.#batch(false)
        }
        return 0
      }
      this.#patience.lose()
      this.#context.setIdle(this, false)
      steps.onStep?.('tx claimed')
      const outcomes = await this.#runAll(client, claimed.events)
      if (outcomes === undefined) return size
      handled = true
      await this.#commit(client, claimed, outcomes)
      steps.onStep?.('tx committed')
      this.#losses = undefined
      for (const { event, outcome, durationMs } of outcomes) this.#context.onSettled(event, outcome, durationMs)
      return size
    } catch (error) {
      this.#abandon()
      this.#context.onError(error)
      this.#context.onMore()
      const [only] = claimed.events
      if (size > 1) this.#singles = size
      // What is checked at commit speaks against the event; a connection that is lost does not, at first.
      else if (only !== undefined && handled && isServerError(error)) await this.#fail(only, failed(error))
      else if (only !== undefined) await this.#lostWith(only)
      if (!handled) await this.#alarm.sleep(ERROR_PAUSE_MS)
      this.#marks.forget()
      // What was claimed, if the answer to it was lost, waits for the next look of this loop.
      if (size === 0) this.#patience.lose()
      return size
    }
  }

  async #claim(client: PoolClient, solo: boolean, full: boolean): Promise<Batch> {
    const { names, presence, options } = this.#context
    const { schema } = names
    const { id } = presence
    const total = solo || this.#singles > 0 ? 1 : options.batchSize
    if (this.#singles > 0) this.#singles -= 1
    const began = performance.now()
    const all = this.#types.map(() => total)
    const values = [id, 'tx', this.#types, all, total, full, ...this.#marks.parameters, solo, this.#number]
    // Behind the locks it looks again at what has been committed meanwhile.
    const begin = `BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = ${Math.trunc(this.#context.queryTimeoutMs)}`
    // What is about to run is written down before it runs: if the process dies of it, the others know.
    const answers = await textAnswers(
      client,
      `${begin}; SELECT * FROM ${schema}.claim(${values.map(literal).join(', ')}); COMMIT;
       ${begin}; SELECT ${schema}.hold(${id}, ${this.#number}, ${this.#marks.lowClaim}), pg_current_xact_id_if_assigned()::text`,
    )
    const rows = (answers[2]?.rows ?? []) as (string | null)[][]
    const [[held, xact] = []] = (answers.at(-1)?.rows ?? []) as (string | null)[][]
    const meta = readMeta(rows[0])
    if (meta.claim !== held) throw takenOver()
    const events = rows.slice(1).map(readPending)
    if (!solo) {
      // One that has to wait for a while is not to wait for this loop.
      if (events.length === total || (events.length > 0 && meta.dueMs !== null)) this.#context.onMore()
      this.#marks.note(meta, full, performance.now() - began)
      this.#dueMs = meta.dueMs ?? Infinity
      if (meta.suspects) this.#context.onSuspects()
    }
    return { claim: meta.claim, xact, events, outrun: meta.outrun }
  }

  /** Undefined when a handler had to be left behind: the transaction is given up, with all that was done in it. */
  async #runAll(client: PoolClient, events: readonly PendingEvent[]): Promise<Ended[] | undefined> {
    const ended: Ended[] = []
    const blocked = new Set<string>()
    const savepoint = new Savepoint(client, this.#context.schema, this.#context.queryTimeoutMs)
    for (const event of events) {
      const handler = this.#context.handlers.get(event.type)
      if (handler === undefined || this.#stopping || (event.key !== undefined && blocked.has(event.key))) {
        ended.push({ event, outcome: { verdict: 'release' } })
        if (event.key !== undefined) blocked.add(event.key)
        continue
      }
      const running = this.#runOne(event, handler, savepoint)
      const { outcome, durationMs } = isThenable(running) ? await running : running
      steps.onStep?.('tx handled')
      if (savepoint.abandoned || this.#broken) {
        const lost = this.#broken
        this.#abandon()
        if (lost && events.length > 1) this.#singles = events.length
        else if (lost) await this.#lostWith(event)
        else if (outcome.verdict !== 'done' && outcome.verdict !== 'release') await this.#fail(event, outcome)
        return undefined
      }
      if (outcome.verdict === 'retry' || outcome.verdict === 'release') if (event.key !== undefined) blocked.add(event.key)
      ended.push({ event, outcome, durationMs })
    }
    await savepoint.rest()
    return ended
  }

  /** A handler that returns no promise, and asks for nothing, is over at once. */
  #runOne(event: PendingEvent, handler: BoundHandler, savepoint: Savepoint): Run | Promise<Run> {
    savepoint.next()
    const context = new RunContext(event, handler, savepoint)
    this.#current = context
    const running = this.#context.run(event, context)
    if (isThenable(running) || running.verdict !== 'done' || context.asked) return this.#clear(event, context, running, savepoint)
    const durationMs = this.#context.durationOf(context)
    this.#current = undefined
    context.end()
    return { outcome: running, durationMs }
  }

  /** What a handler leaves behind. */
  async #clear(
    event: PendingEvent,
    context: RunContext,
    running: Outcome | Promise<Outcome>,
    savepoint: Savepoint,
  ): Promise<Run> {
    const { handler } = context
    const outcome = await running
    const durationMs = this.#context.durationOf(context)
    this.#current = undefined
    const forgotten = context.end()
    if (forgotten.length > 0) await this.#context.takeBack(handler.type, forgotten)
    const failure = savepoint.busy ? notAwaited(event.type) : savepoint.failure
    const result = outcome.verdict === 'done' && failure !== undefined ? failed(failure) : outcome
    // Statements that are still on their way belong to a handler that did not wait for them.
    const late = context.timedOut || savepoint.busy
    if (late && savepoint.used) savepoint.abandoned = true
    else if (result.verdict !== 'done' && savepoint.used) await savepoint.undo()
    return { outcome: withLimit(result, event, handler, this.#context.options.backoff), durationMs }
  }

  async #commit(client: PoolClient, { claim, xact }: Batch, outcomes: readonly Ended[]): Promise<void> {
    const done: bigint[] = []
    const others: Finished[] = []
    for (const { event, outcome } of outcomes) {
      if (outcome.verdict === 'done') done.push(event.id)
      else if (outcome.verdict !== 'release') others.push({ id: event.id, attempts: event.failed, ...outcome })
    }
    const values = [claim, xact ?? null, done, others.length === 0 ? null : finishedJson(others)]
    const answers = await textAnswers(
      client,
      `SELECT ${this.#context.names.schema}.complete(${values.map(literal).join(', ')}); COMMIT`,
    )
    // What fails in a transaction turns its COMMIT into a ROLLBACK, without an error.
    const command = answers.at(-1)?.command
    if (command !== undefined && command !== 'COMMIT') throw new Error(`the server answered COMMIT with ${command}`)
  }

  /** Outside of the transaction that it broke. */
  async #fail(event: PendingEvent, outcome: NotDone): Promise<void> {
    const { handlers, names, options, presence } = this.#context
    const handler = handlers.get(event.type)
    if (handler === undefined) return
    const limited = withLimit(outcome, event, handler, options.backoff)
    try {
      await presence.run(finishText(names), [[], finishedJson([{ id: event.id, attempts: event.failed, ...limited }])])
      this.#context.onSettled(event, limited)
    } catch (error) {
      this.#context.onError(error)
    }
  }

  /** The connection was lost with this event alone in its transaction. */
  async #lostWith(event: PendingEvent): Promise<void> {
    const count = this.#losses?.id === event.id ? this.#losses.count + 1 : 1
    this.#losses = { id: event.id, count }
    if (count < MAX_LOSSES || this.#stopping) return
    this.#losses = undefined
    await this.#fail(event, failed(connectionLost()))
  }

  /** Gives up the transaction, with all that was done in it. */
  #abandon(): void {
    this.#connection.release(true)
  }

  #connected(): Promise<PoolClient> {
    this.#broken = false
    return this.#connection.get()
  }

  /** What the handler does now is rolled back already: it need not go on. */
  #lose(): void {
    this.#broken = true
    this.#current?.stop(connectionLost(), { verdict: 'release' })
  }
}

function connectionLost(): ConnectionError {
  return new ConnectionError('the connection of the transaction was lost', { code: 'OUTBOX_CONNECTION_LOST', retry: 'safe' })
}

function takenOver(): ConflictError {
  return new ConflictError('another worker took over: this one was not heard of', { code: 'OUTBOX_LEASE_LOST' })
}

function notAwaited(type: string): ConflictError {
  return new ConflictError(`the handler of ${type} ended before one of its statements did: await it`, {
    code: 'OUTBOX_STATEMENT_NOT_AWAITED',
  })
}

interface Run {
  readonly outcome: Outcome
  readonly durationMs?: number | undefined
}

interface Ended extends Run {
  readonly event: PendingEvent
}

/** The server refused a statement; it did not end the connection. */
export function isServerError(error: unknown): boolean {
  return error instanceof Error && 'severity' in error && error.severity === 'ERROR'
}

/**
 * The part of the transaction that belongs to one event. It begins with the first statement of the handler: a handler
 * that asks for nothing costs nothing.
 */
export class Savepoint implements Repositories {
  readonly #client: PoolClient
  readonly #schema: string
  /** Of a statement: that of the worker's own. */
  readonly #limitMs: number
  /** The one that holds now; undefined after a ROLLBACK. */
  #limitNow: number | undefined
  #standing = false
  #under = 0
  #begun: Promise<unknown> | undefined
  used = false
  failure: unknown
  abandoned = false

  constructor(client: PoolClient, schema: string, limitMs: number) {
    this.#client = client
    this.#schema = schema
    this.#limitMs = limitMs
    this.#limitNow = limitMs
  }

  /** A statement has not been answered yet. */
  get busy(): boolean {
    return this.#under > 0
  }

  next(): void {
    this.used = false
    this.failure = undefined
  }

  async open({ queryTimeoutMs }: BoundHandler, context: RunContext): Promise<OutboxRepository> {
    const repository: OutboxRepository = new OutboxRepository(
      {
        client: this.#counting(context),
        inTransaction: true,
        before: () => {
          context.assertRunning()
          return this.#begin(queryTimeoutMs)
        },
        failed: (error) => (this.failure ??= error),
        end: () => void context.open.delete(repository),
      },
      this.#schema,
    )
    context.open.add(repository)
    return repository
  }

  async undo(): Promise<void> {
    await this.#client.query('ROLLBACK TO SAVEPOINT outbox')
    this.#limitNow = undefined
  }

  /** The handlers have run: what follows has the worker's own limit again. */
  async rest(): Promise<void> {
    const text = this.#limit(this.#limitMs)
    if (text !== '') await this.#client.query(text)
  }

  /** Before the first statement of the handler. Statements that come at the same time wait for it too. */
  async #begin(limitMs: number): Promise<void> {
    if (!this.used) {
      this.used = true
      const release = this.#standing ? 'RELEASE SAVEPOINT outbox; ' : ''
      this.#standing = true
      this.#begun = this.#client.query(`${release}SAVEPOINT outbox;${this.#limit(limitMs)}`)
    }
    this.#under += 1
    try {
      await this.#begun
    } finally {
      this.#under -= 1
    }
  }

  #limit(ms: number): string {
    if (ms === this.#limitNow) return ''
    this.#limitNow = ms
    return `SET LOCAL statement_timeout = ${Math.trunc(ms)}`
  }

  #counting(context: RunContext): PoolClient {
    const client = this.#client
    return {
      query: (async (...query: [string, unknown[]?]) => {
        context.assertRunning()
        this.#under += 1
        try {
          return await client.query(...query)
        } finally {
          this.#under -= 1
        }
      }) as PoolClient['query'],
      release: () => undefined,
      on: client.on.bind(client),
      off: client.off.bind(client),
    }
  }
}
