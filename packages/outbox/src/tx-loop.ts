import { Alarm, Patience } from './alarm.ts'
import type { BoundHandler } from './handler.ts'
import { Marks } from './marks.ts'
import { type PendingEvent, readMeta, readPending } from './pending.ts'
import { borrow, type PoolClient, textRows } from './pool.ts'
import { claimText, finishText, type Finished, finishedJson, OutboxRepository } from './repository.ts'
import { failed, type NotDone, type Outcome, type Repositories, RunContext, withLimit } from './run.ts'
import type { LoopContext } from './worker.ts'

const ERROR_PAUSE_MS = 250

interface Batch {
  readonly events: readonly PendingEvent[]
  readonly keys: readonly string[]
  readonly solo: boolean
}

/** Runs events in the transaction that completes them: what the handlers write and the completion are one commit. */
export class TxLoop {
  readonly #context: LoopContext
  readonly #types: readonly string[]
  readonly #marks = new Marks()
  readonly #alarm = new Alarm()
  readonly #patience = new Patience()
  #client: PoolClient | undefined
  /** The note of the batch before. */
  #over: string | undefined
  #current: RunContext | undefined
  #dueMs: number | undefined
  /** A batch could not be committed: so many events run one by one, to find which of them it was. */
  #singles = 0
  #stopping = false

  constructor(context: LoopContext, types: readonly string[]) {
    this.#context = context
    this.#types = types
  }

  get contexts(): Iterable<RunContext> {
    return this.#current === undefined ? [] : [this.#current]
  }

  wake(): void {
    this.#marks.forget()
    this.#alarm.ring()
  }

  stop(): void {
    this.#stopping = true
    this.#alarm.ring()
  }

  /** Another worker took over: the locks of this one are gone with its connection, or will hold until it ends. */
  lose(): void {
    this.#over = undefined
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
      if (!(await this.#alarm.sleep(Math.min(this.#patience.next(options.pollInterval), this.#dueMs ?? Infinity)))) this.#marks.forget()
    }
    this.#context.setIdle(this, false)
    this.#client?.release()
    this.#client = undefined
  }

  async runSolo(): Promise<void> {
    while (!this.#stopping && (await this.#batch(true)) > 0);
  }

  /** One transaction. Gives how many events it had; 0 where there was none, or the connection was lost. */
  async #batch(solo: boolean): Promise<number> {
    const { presence } = this.#context
    const full = this.#marks.full
    let claimed: Batch = { events: [], keys: [], solo }
    let size = 0
    try {
      await presence.ready()
      const client = await this.#connected()
      claimed = await this.#claim(client, solo, full)
      size = claimed.events.length
      if (size === 0) {
        await client.query('ROLLBACK')
        // The last batch is over: its keys are free for others.
        await this.#note(claimed)
        if (!full && !solo) {
          this.#marks.forget()
          return this.#stopping ? 0 : await this.#batch(false)
        }
        return 0
      }
      this.#patience.lose()
      this.#context.setIdle(this, false)
      await this.#note(claimed)
      const outcomes = await this.#runAll(client, claimed.events)
      if (outcomes === undefined) return size
      await this.#commit(client, outcomes)
      for (const { event, outcome, durationMs } of outcomes) this.#context.onSettled(event, outcome, durationMs)
      return size
    } catch (error) {
      this.#client?.release(true)
      this.#client = undefined
      const [only] = claimed.events
      if (size > 1) this.#singles = size
      else if (only !== undefined && isServerError(error)) await this.#fail(only, failed(error))
      this.#context.onError(error)
      await this.#note({ events: [], keys: [], solo }).catch(() => undefined)
      if (size === 0) await this.#alarm.sleep(ERROR_PAUSE_MS)
      this.#marks.forget()
      return size
    }
  }

  async #claim(client: PoolClient, solo: boolean, full: boolean): Promise<Batch> {
    const { names, presence, options } = this.#context
    const total = solo || this.#singles > 0 ? 1 : options.batchSize
    if (this.#singles > 0) this.#singles -= 1
    const began = performance.now()
    await client.query(`BEGIN; SET LOCAL statement_timeout = ${Math.trunc(this.#context.queryTimeoutMs)}`)
    const rows = await textRows(client, claimText(names), [
      presence.id,
      'tx',
      this.#types,
      this.#types.map(() => total),
      total,
      full,
      this.#marks.lowClaim,
      this.#marks.types,
      this.#marks.priorities,
      this.#marks.lows,
      this.#marks.lane,
      this.#marks.laneKey,
      solo,
    ])
    const meta = readMeta(rows[0])
    const events = rows.slice(1).map(readPending)
    if (!solo) {
      this.#marks.note(meta, full, performance.now() - began)
      this.#dueMs = meta.dueMs ?? Infinity
      if (meta.suspects) this.#context.onSuspects()
    }
    return { events, keys: meta.keys, solo }
  }

  /** Writes down what is about to run, before it runs: if the process dies of it, the others know. */
  async #note({ events, keys, solo }: Batch): Promise<void> {
    const { names, presence } = this.#context
    if (events.length === 0 && this.#over === undefined) return
    const over = this.#over
    const [[claim] = []] = await presence.run(`SELECT ${names.schema}.begin_tx($1, $2, $3, $4, $5)::text`, [
      presence.id,
      over,
      events.map(({ id }) => id),
      keys,
      solo,
    ])
    this.#over = claim ?? undefined
  }

  /** Undefined when a handler had to be left behind: the transaction is given up, with all that was done in it. */
  async #runAll(client: PoolClient, events: readonly PendingEvent[]): Promise<Ended[] | undefined> {
    const ended: Ended[] = []
    const blocked = new Set<string>()
    const savepoint = new Savepoint(client, this.#context.schema)
    for (const event of events) {
      const handler = this.#context.handlers.get(event.type)
      if (handler === undefined || this.#stopping || (event.key !== undefined && blocked.has(event.key))) {
        ended.push({ event, outcome: { verdict: 'release' } })
        if (event.key !== undefined) blocked.add(event.key)
        continue
      }
      const { outcome, durationMs } = await this.#runOne(event, handler, savepoint)
      if (savepoint.abandoned) {
        this.#client?.release(true)
        this.#client = undefined
        if (outcome.verdict !== 'done') await this.#fail(event, outcome)
        return undefined
      }
      if (outcome.verdict === 'retry' || outcome.verdict === 'release') if (event.key !== undefined) blocked.add(event.key)
      ended.push({ event, outcome, durationMs })
    }
    return ended
  }

  async #runOne(event: PendingEvent, handler: BoundHandler, savepoint: Savepoint): Promise<Omit<Ended, 'event'>> {
    savepoint.next()
    const context = new RunContext(event, handler, savepoint)
    this.#current = context
    const outcome = await this.#context.run(event, context)
    const durationMs = this.#context.durationOf(context)
    this.#current = undefined
    const forgotten = context.end()
    if (forgotten.length > 0) await this.#context.takeBack(handler.type, forgotten)
    const result = outcome.verdict === 'done' && savepoint.failure !== undefined ? failed(savepoint.failure) : outcome
    // Statements that are still on their way belong to a handler that did not wait for them.
    const late = context.timedOut || savepoint.busy
    if (late && savepoint.used) savepoint.abandoned = true
    else if (result.verdict !== 'done' && savepoint.used) await savepoint.undo()
    return { outcome: withLimit(result, event, handler, this.#context.options.backoff), durationMs }
  }

  async #commit(client: PoolClient, outcomes: readonly Ended[]): Promise<void> {
    const done: bigint[] = []
    const others: Finished[] = []
    for (const { event, outcome } of outcomes) {
      if (outcome.verdict === 'done') done.push(event.id)
      else if (outcome.verdict !== 'release') others.push({ id: event.id, ...outcome })
    }
    await textRows(client, finishText(this.#context.names), [done, others.length === 0 ? null : finishedJson(others)])
    const committed = await client.query('COMMIT')
    // What fails in a transaction turns its COMMIT into a ROLLBACK, without an error.
    if (committed.command !== undefined && committed.command !== 'COMMIT')
      throw new Error(`the server answered COMMIT with ${committed.command}`)
  }

  /** Outside of the transaction that it broke. */
  async #fail(event: PendingEvent, outcome: NotDone): Promise<void> {
    const { handlers, names, options, presence } = this.#context
    const handler = handlers.get(event.type)
    if (handler === undefined) return
    const limited = withLimit(outcome, event, handler, options.backoff)
    await presence.run(finishText(names), [[], finishedJson([{ id: event.id, ...limited }])])
    this.#context.onSettled(event, limited)
  }

  async #connected(): Promise<PoolClient> {
    if (this.#client !== undefined) return this.#client
    const { pool, options } = this.#context
    const client = await borrow(pool, options.connectTimeoutMs, 'the worker')
    client.on('error', () => undefined)
    return (this.#client = client)
  }
}

interface Ended {
  readonly event: PendingEvent
  readonly outcome: Outcome
  readonly durationMs?: number | undefined
}

/** SQLSTATE: an answer of the server, not a lost connection. */
export function isServerError(error: unknown): boolean {
  return error instanceof Error && 'severity' in error && 'code' in error
}

/**
 * The part of the transaction that belongs to one event. It begins with the first statement of the handler: a handler
 * that asks for nothing costs nothing.
 */
export class Savepoint implements Repositories {
  readonly #client: PoolClient
  readonly #schema: string
  #standing = false
  #under = 0
  #begun: Promise<unknown> | undefined
  used = false
  failure: unknown
  abandoned = false

  constructor(client: PoolClient, schema: string) {
    this.#client = client
    this.#schema = schema
  }

  /** A statement has not been answered yet. */
  get busy(): boolean {
    return this.#under > 0
  }

  next(): void {
    this.used = false
    this.failure = undefined
  }

  async open(_: BoundHandler, context: RunContext): Promise<OutboxRepository> {
    const repository: OutboxRepository = new OutboxRepository(
      {
        client: this.#counting(),
        inTransaction: true,
        before: () => {
          context.assertRunning()
          return this.#begin()
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
  }

  /** Before the first statement of the handler. Statements that come at the same time wait for it too. */
  async #begin(): Promise<void> {
    if (!this.used) {
      this.used = true
      const text = this.#standing ? 'RELEASE SAVEPOINT outbox; SAVEPOINT outbox' : 'SAVEPOINT outbox'
      this.#standing = true
      this.#begun = this.#client.query(text)
    }
    await this.#begun
  }

  #counting(): PoolClient {
    const client = this.#client
    return {
      query: (async (...query: [string, unknown[]?]) => {
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
