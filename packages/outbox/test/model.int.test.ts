import { setTimeout as sleep } from 'node:timers/promises'
import { createDatabase, describeWith, type PostgresAddress } from '@common-handlers/testkit'
import * as fc from 'fast-check'
import pg from 'pg'
import { afterAll, beforeAll, expect, it } from 'vitest'
import {
  deadLetter,
  type DatabaseContext,
  discard,
  type Handlers,
  migrate,
  Outbox,
  OutboxWorker,
  type Verdict,
} from '../src/index.ts'
import { checkHistory, type HistoryRecord } from '../src/testing/index.ts'
import { proofSize } from './proof-size.ts'

// Random interleavings of producers, workers, cut connections and pauses, held against a model and the history checker.

/** What the handler of an event does; it travels as the payload. */
interface Plan {
  readonly fails: number
  readonly end: 'done' | 'discard' | 'dead'
  readonly ms: number
}

interface Planned {
  /** `a` is handled in transactions, `b` under leases. */
  readonly type: 'a' | 'b'
  readonly key: number | undefined
  readonly plan: Plan
  readonly delayMs: number
  readonly expired: boolean
  readonly dedup: number | undefined
}

type Command =
  | { readonly do: 'enqueue'; readonly events: readonly Planned[]; readonly commit: boolean; readonly holdMs: number }
  | { readonly do: 'start'; readonly types: readonly ('a' | 'b')[]; readonly batchSize: number }
  | { readonly do: 'stop'; readonly which: number; readonly graceMs: number }
  | { readonly do: 'cut'; readonly which: number }
  | { readonly do: 'pause' | 'resume'; readonly type: 'a' | 'b' }
  | { readonly do: 'wait'; readonly ms: number }

const MAX_ATTEMPTS = 3

const type = fc.constantFrom('a' as const, 'b' as const)
const planned: fc.Arbitrary<Planned> = fc.record({
  type,
  key: fc.option(fc.nat(3), { nil: undefined, freq: 3 }),
  plan: fc.record({
    fails: fc.constantFrom(0, 0, 0, 1, 2, 3),
    end: fc.constantFrom('done' as const, 'done' as const, 'done' as const, 'discard' as const, 'dead' as const),
    ms: fc.constantFrom(0, 0, 0, 2, 20),
  }),
  delayMs: fc.constantFrom(0, 0, 0, 30, 150),
  expired: fc.constantFrom(false, false, false, false, true),
  dedup: fc.option(fc.nat(2), { nil: undefined, freq: 5 }),
})
const command: fc.Arbitrary<Command> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('enqueue' as const),
      events: fc.array(planned, { minLength: 1, maxLength: 12 }),
      commit: fc.constantFrom(true, true, true, false),
      holdMs: fc.constantFrom(0, 0, 5, 60),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('start' as const),
      types: fc.constantFrom(['a' as const], ['b' as const], ['a' as const, 'b' as const]),
      batchSize: fc.constantFrom(1, 3, 100),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('stop' as const), which: fc.nat(9), graceMs: fc.constantFrom(0, 200) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('cut' as const), which: fc.nat(99) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom('pause' as const, 'resume' as const), type }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('wait' as const), ms: fc.constantFrom(1, 20, 100, 500) }) },
)

/** What became of an event that was committed. */
interface Expected {
  readonly plan: Planned
  readonly id: string
}

class Run {
  readonly #producers: pg.Pool
  readonly #workersPool: pg.Pool
  readonly #outbox = new Outbox()
  readonly #expected: Expected[] = []
  readonly #rolledBack = new Set<string>()
  readonly #records: HistoryRecord[] = []
  readonly #workers: OutboxWorker[] = []
  readonly #attempts = new Map<string, number>()
  readonly #transactions: Promise<void>[] = []
  /** Producers of one key come one after the other: what runs at the same time has no order. */
  readonly #keys = new Map<number, Promise<void>>()
  #runs = 0
  #cuts = 0

  constructor(producers: pg.Pool, workersPool: pg.Pool) {
    this.#producers = producers
    this.#workersPool = workersPool
  }

  async do(given: Command): Promise<void> {
    if (given.do === 'wait') await sleep(given.ms)
    else if (given.do === 'start') {
      if (this.#workers.length < 5) await this.#start(given.types, given.batchSize)
    } else if (given.do === 'enqueue') this.#enqueue(given)
    else if (given.do === 'stop') {
      const [worker] = this.#workers.splice(given.which % Math.max(1, this.#workers.length), 1)
      await worker?.stop({ graceMs: given.graceMs })
    } else if (given.do === 'cut') {
      this.#cuts += 1
      const { rows } = await this.#producers.query<{ pid: number }>(
        `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'worker' ORDER BY pid`,
      )
      const pid = rows[given.which % Math.max(1, rows.length)]?.pid
      await this.#producers.query('SELECT pg_terminate_backend($1)', [pid ?? null])
    } else if (given.do === 'pause')
      await this.#producers.query('INSERT INTO outbox.paused (type) VALUES ($1) ON CONFLICT DO NOTHING', [given.type])
    else await this.#producers.query('DELETE FROM outbox.paused WHERE type = $1', [given.type])
  }

  /** Lets everything come to its end, and tells what was not as promised. */
  async end(): Promise<string[]> {
    await Promise.all(this.#transactions)
    await this.#producers.query('DELETE FROM outbox.paused')
    // The pool may lend it a connection that was just cut.
    for (let tries = 0; tries < 10 && !(await this.#start(['a', 'b'], 10)); tries++) await sleep(50)
    const problems: string[] = []
    const end = performance.now() + 20_000
    const left = async (): Promise<string[]> =>
      (await this.#producers.query<{ t: string }>('SELECT e::text AS t FROM outbox.event e')).rows.map(({ t }) => t)
    while ((await left()).length > 0 && performance.now() < end) await sleep(20)
    const stuck = await left()
    if (stuck.length > 0) {
      const { rows } = await this.#producers.query<{ t: string }>(
        'SELECT c::text AS t FROM outbox.claim c UNION ALL SELECT w::text FROM outbox.worker w',
      )
      problems.push(`stuck: ${stuck.join(' ')}; claims and workers: ${rows.map(({ t }) => t).join(' ')}`)
    }
    await Promise.all(this.#workers.map((worker) => worker.stop({ graceMs: 1000 })))
    return [...problems, ...(await this.#check())]
  }

  #enqueue({ events, commit, holdMs }: Extract<Command, { do: 'enqueue' }>): void {
    const keys = new Set(events.flatMap(({ key }) => (key === undefined ? [] : [key])))
    const before = Promise.all([...keys].map((key) => this.#keys.get(key) ?? Promise.resolve()))
    const transaction = before.then(() => this.#transaction(events, commit, holdMs))
    for (const key of keys) this.#keys.set(key, transaction)
    this.#transactions.push(transaction)
  }

  async #transaction(events: readonly Planned[], commit: boolean, holdMs: number): Promise<void> {
    const client = await this.#producers.connect()
    try {
      await client.query('BEGIN')
      const now = Date.now()
      const ids = await this.#outbox.enqueueMany(
        client,
        events.map(({ type: of, key, plan, delayMs, expired, dedup }) => ({
          type: of,
          payload: plan,
          ...(key === undefined ? {} : { key: `key ${key}` }),
          ...(delayMs === 0 ? {} : { availableAt: new Date(now + delayMs) }),
          ...(expired ? { expiresAt: new Date(now - 60_000) } : {}),
          ...(dedup === undefined ? {} : { dedup: { key: `dedup ${dedup}`, windowMs: 600_000 } }),
        })),
      )
      if (holdMs > 0) await sleep(holdMs)
      await client.query(commit ? 'COMMIT' : 'ROLLBACK')
      for (const [index, id] of ids.entries()) {
        const plan = events[index]
        if (id === undefined || plan === undefined) continue
        if (commit) this.#expected.push({ plan, id: String(id) })
        else this.#rolledBack.add(String(id))
      }
    } catch {
      // Two that wait for each other's dedup key: one of them was rolled back.
      await client.query('ROLLBACK')
    } finally {
      client.release()
    }
  }

  /** False where its first connection was cut. */
  async #start(types: readonly ('a' | 'b')[], batchSize: number): Promise<boolean> {
    /** The attempts that run in this worker, by event. */
    const running = new Map<string, string>()
    const leased = new Set<string>()
    const begin = (id: string): string => {
      const run = `${id}/${(this.#runs += 1)}`
      running.set(id, run)
      this.#records.push({ what: 'begun', event: id, run })
      return run
    }
    const work = async (
      { fails, end, ms }: Plan,
      context: DatabaseContext,
      done: () => Promise<void>,
    ): Promise<Verdict | undefined> => {
      if (ms > 0) await sleep(ms, undefined, { signal: context.signal })
      await done()
      if (context.event.attempt <= fails) throw new Error('as planned')
      return end === 'done' ? undefined : end === 'dead' ? deadLetter('as planned') : discard()
    }
    const handlers: Handlers = {
      a: {
        effect: 'tx',
        needsDb: true,
        maxAttempts: MAX_ATTEMPTS,
        handler: async (plan: Plan, context: DatabaseContext) => {
          const run = begin(String(context.event.id))
          try {
            const repository = await context.getRepository()
            return await work(plan, context, async () => {
              await repository.query('INSERT INTO effect (event) VALUES ($1)', [String(context.event.id)])
            })
          } finally {
            this.#records.push({ what: 'ended', run })
          }
        },
      },
      b: {
        effect: 'lease',
        needsDb: true,
        maxAttempts: MAX_ATTEMPTS,
        handler: async (plan: Plan, context: DatabaseContext) => {
          const id = String(context.event.id)
          const run = begin(id)
          leased.add(run)
          try {
            const verdict = await work(plan, context, () => Promise.resolve())
            if (verdict === undefined) this.#records.push({ what: 'effect', event: id })
            return verdict
          } finally {
            leased.delete(run)
            this.#records.push({ what: 'ended', run })
          }
        },
      },
    }
    const chosen = Object.fromEntries(Object.entries(handlers).filter(([of]) => types.includes(of as 'a' | 'b')))
    const settings = { batchSize, backoffBaseMs: 20, pollInterval: 50, maxCrashes: 100, connectTimeoutMs: 5000 }
    const worker = new OutboxWorker({ pool: this.#workersPool, handlers: chosen, ...settings })
    worker.on('lost', () => {
      for (const run of leased) this.#records.push({ what: 'lost', run })
    })
    worker.on('settled', ({ id, attempt, outcome }) => {
      if (outcome !== 'done' && outcome !== 'dead' && outcome !== 'discarded') return
      this.#attempts.set(String(id), attempt)
      this.#records.push({ what: 'completed', event: String(id), run: running.get(String(id)) ?? 'none', as: outcome })
    })
    try {
      await worker.start()
    } catch {
      return false
    }
    this.#workers.push(worker)
    return true
  }

  async #check(): Promise<string[]> {
    const problems: string[] = []
    for (const record of this.#records)
      if (record.what === 'begun' && !this.#expected.some(({ id }) => id === record.event))
        problems.push(
          `event ${record.event} ran and was ${this.#rolledBack.has(record.event) ? 'rolled back' : 'never enqueued'}`,
        )
    const dedups = this.#expected.flatMap(({ plan }) => (plan.dedup === undefined ? [] : [`${plan.type} ${plan.dedup}`]))
    if (new Set(dedups).size < dedups.length) problems.push(`a dedup key was taken twice: ${dedups.join(', ')}`)
    const effects = await this.#producers.query<{ event: string }>('SELECT event FROM effect')
    const dead = await this.#producers.query<{ id: string; reason: string }>('SELECT id, reason FROM outbox.dead_letter')
    const reasons = new Map(dead.rows.map(({ id, reason }) => [id, reason]))
    const byId = (a: Expected, b: Expected): number => Number(BigInt(a.id) - BigInt(b.id))
    for (const { id, plan } of this.#expected) {
      const { fails, end } = plan.plan
      const attempt = Math.min(fails + 1, MAX_ATTEMPTS)
      const reason = plan.expired ? 'expired' : fails >= MAX_ATTEMPTS ? 'attempts' : end === 'dead' ? 'verdict' : undefined
      if (reasons.get(id) !== reason) problems.push(`event ${id} is a dead letter: ${reasons.get(id)}, expected: ${reason}`)
      const counted = this.#attempts.get(id)
      // An event that loses its connection three times in a row is held to be to blame.
      if (counted !== undefined && !plan.expired && counted !== attempt && this.#cuts < 3)
        problems.push(`event ${id} ended with attempt ${counted}, expected: ${attempt}`)
    }
    const completed = new Set(this.#records.flatMap((record) => (record.what === 'completed' ? [record.event] : [])))
    const inTransactions = effects.rows.map(({ event }) => event)
    const done = new Set([
      ...inTransactions,
      ...this.#records.flatMap((record) => (record.what === 'effect' ? [record.event] : [])),
    ])
    const ran = new Map(this.#records.flatMap((record) => (record.what === 'begun' ? [[record.event, record.run] as const] : [])))
    for (const effect of ['tx', 'lease'] as const) {
      const events = this.#expected.filter(({ plan }) => plan.type === (effect === 'tx' ? 'a' : 'b'))
      const own = new Set(events.map(({ id }) => id))
      const history: HistoryRecord[] = [
        // Keys are followed through both types.
        ...this.#expected.toSorted(byId).map(({ id, plan }) => {
          const key = plan.key === undefined ? undefined : `key ${plan.key}`
          return { what: 'enqueued' as const, event: id, key }
        }),
        ...this.#records,
        ...inTransactions.map((event) => ({ what: 'effect' as const, event })),
        // The answer to the commit was lost with its connection: what it did is there.
        ...this.#expected.flatMap(({ id, plan }): HistoryRecord[] => {
          const as = reasons.has(id) ? 'dead' : done.has(id) ? 'done' : plan.plan.end === 'discard' ? 'discarded' : undefined
          if (completed.has(id) || as === undefined) return []
          return [{ what: 'completed', event: id, run: ran.get(id) ?? 'none', as }]
        }),
      ]
      for (const { event, rule, text } of checkHistory(history, { effect })) if (own.has(event)) problems.push(`${rule}: ${text}`)
    }
    if (problems.length === 0) return []
    return [...new Set(problems), JSON.stringify(this.#records)]
  }
}

describeWith(['postgres'], 'the outbox, against its model', ({ postgres }) => {
  let database: (PostgresAddress & { readonly drop: () => Promise<void> }) | undefined
  const pools: pg.Pool[] = []
  beforeAll(async () => {
    database = await createDatabase(postgres, 'model')
    const { host, port, user, password, database: name } = database
    for (const application of ['producer', 'worker']) {
      const pool = new pg.Pool({ host, port, user, password, database: name, max: 60, application_name: application })
      pool.on('error', () => undefined)
      pools.push(pool)
    }
  })
  afterAll(async () => {
    for (const pool of pools) await pool.end()
    await database?.drop()
  })

  it('keeps every promise, whatever happens in whatever order', { timeout: 60_000 * (1 + proofSize) }, async () => {
    const [producers, workers] = pools
    if (producers === undefined || workers === undefined) throw new Error('there are no pools')
    await migrate(producers)
    await producers.query('CREATE TABLE effect (event text)')
    const property = fc.asyncProperty(fc.array(command, { minLength: 4, maxLength: 30 }), async (commands) => {
      const run = new Run(producers, workers)
      for (const one of commands) await run.do(one)
      const problems = await run.end()
      await producers.query(
        `DELETE FROM outbox.event; DELETE FROM outbox.claim; DELETE FROM outbox.worker; DELETE FROM outbox.dead_letter;
         DELETE FROM outbox.dedup; DELETE FROM effect`,
      )
      expect(problems).toEqual([])
    })
    // Each round has a seed of its own, which is told with the path when it fails.
    const end = performance.now() + 12_000 * proofSize
    while (performance.now() < end) await fc.assert(property, { numRuns: 5, endOnFailure: true })
  })
})
