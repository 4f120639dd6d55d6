import { createDatabase, describeWith, type PostgresAddress } from '@common-handlers/testkit'
import pg from 'pg'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { type DatabaseContext, type Effect, type Handlers, migrate, Outbox, OutboxWorker } from '../src/index.ts'
import type { Step } from '../src/steps.ts'
import { until } from './own-outbox.ts'
import { proofSize } from './proof-size.ts'
import { startWorkerProcess } from './worker-process.ts'

type KillPoint = Step | 'before write' | 'after write'

const points: Readonly<Record<'tx' | 'lease', readonly KillPoint[]>> = {
  tx: ['tx claimed', 'before write', 'after write', 'tx handled', 'tx committed'],
  lease: ['lease claimed', 'before write', 'after write', 'lease settling', 'lease settled'],
}
/** At which passing of the point the process dies. */
const passings = Array.from({ length: proofSize }, (_, n) => 1 + ((n + 1) % 3))
const EVENTS = 16

describeWith(['postgres'], 'a worker process that is killed', ({ postgres }) => {
  let database: (PostgresAddress & { readonly drop: () => Promise<void> }) | undefined
  let pool: pg.Pool
  beforeAll(async () => {
    database = await createDatabase(postgres, 'kill')
    const { host, port, user, password, database: name } = database
    pool = new pg.Pool({ host, port, user, password, database: name, max: 60 })
    pool.on('error', () => undefined)
  })
  afterAll(async () => {
    await pool.end()
    await database?.drop()
  })
  const address = (): PostgresAddress => {
    if (database === undefined) throw new Error('asked for before beforeAll')
    return database
  }

  /** A schema of one test's own, with a table for effects. */
  async function ownSchema(schema: string): Promise<void> {
    await migrate(pool, { schema })
    await pool.query(`CREATE TABLE "${schema}".effect (n bigint GENERATED ALWAYS AS IDENTITY, event text, attempt int)`)
  }

  const count = async (schema: string, table: string): Promise<number> =>
    Number((await pool.query<{ n: string }>(`SELECT count(*) AS n FROM "${schema}".${table}`)).rows[0]?.n)

  const cases = (['tx', 'lease'] as const).flatMap((effect) =>
    points[effect].flatMap((step) => passings.map((passing, n) => ({ effect, step, passing, n }))),
  )
  it.concurrent.each(cases)('$effect: dies at "$step", passing $passing ($n)', async ({ effect, step, passing, n }) => {
    const schema = `${effect} ${step} ${n}`
    await ownSchema(schema)
    const outbox = new Outbox({ schema })
    const ids = await outbox.enqueueMany(
      pool,
      Array.from({ length: EVENTS }, (_, index) => ({
        type: 'write',
        payload: index,
        ...(index % 2 === 0 ? { key: `k${index % 3}` } : {}),
      })),
    )
    const process = startWorkerProcess(address(), { schema, effect, batchSize: 4, txConnections: 1, killAt: { step, passing } })
    expect(await process.ended).toBe('SIGKILL')
    // Only what had been committed is gone.
    expect((await count(schema, 'event')) + (await count(schema, 'effect'))).toBeGreaterThanOrEqual(EVENTS)
    const attempts = new Set<number>()
    const insert = `INSERT INTO "${schema}".effect (event, attempt) VALUES ($1, $2)`
    const handler = async (_: unknown, { event, getRepository }: DatabaseContext): Promise<void> => {
      await using repository = await getRepository()
      await repository.query(insert, [String(event.id), event.attempt])
    }
    const handlers: Handlers = { write: { effect, needsDb: true, handler } }
    const worker = new OutboxWorker({ pool, handlers, schema, batchSize: 5, txConnections: 1 })
    worker.on('settled', ({ attempt }) => void attempts.add(attempt))
    await worker.start()
    await until(async () => (await count(schema, 'event')) === 0 && (await count(schema, 'worker')) === 1)
    await worker.stop()
    // The innocent lost no attempt, and nothing is left behind.
    expect([...attempts].filter((attempt) => attempt !== 1)).toEqual([])
    expect([await count(schema, 'dead_letter'), await count(schema, 'claim'), await count(schema, 'worker')]).toEqual([0, 0, 0])
    const { rows } = await pool.query<{ event: string }>(`SELECT event FROM "${schema}".effect ORDER BY n`)
    const effects = rows.map(({ event }) => event)
    expect(new Set(effects)).toEqual(new Set(ids.map(String)))
    if (effect === 'lease') return
    expect(effects).toHaveLength(EVENTS)
    for (const key of [0, 1, 2]) {
      const ofKey = ids.filter((_, index) => index % 2 === 0 && index % 3 === key).map(String)
      expect(effects.filter((event) => ofKey.includes(event))).toEqual(ofKey)
    }
  })

  it.concurrent.each<Effect>(['tx', 'lease'])(
    'finds the event that kills it, and holds nothing against the others: %s',
    async (effect) => {
      const schema = `killer ${effect}`
      await ownSchema(schema)
      const outbox = new Outbox({ schema })
      const killer = { type: 'killer', payload: null, ...(effect === 'tx' ? { key: 'k0' } : {}) }
      const writes = Array.from({ length: 10 }, (_, n) => ({ type: 'write', payload: n, key: `k${n % 3}` }))
      await outbox.enqueueMany(pool, [...writes, killer, ...writes])
      const endings: string[] = []
      while (endings.at(-1) !== '0' && endings.length < 8)
        endings.push(
          await startWorkerProcess(address(), { schema, effect, maxCrashes: 2, batchSize: 20, txConnections: 1 }).ended,
        )
      // In a batch first, then twice alone.
      expect(endings).toEqual(['SIGKILL', 'SIGKILL', 'SIGKILL', '0'])
      const { rows } = await pool.query(`SELECT type, reason, attempts, crashes FROM "${schema}".dead_letter`)
      expect(rows).toEqual([{ type: 'killer', reason: 'crash', attempts: 0, crashes: 2 }])
      const effects = await pool.query<{ event: string; attempt: number }>(`SELECT event, attempt FROM "${schema}".effect`)
      expect(new Set(effects.rows.map(({ event }) => event)).size).toBe(20)
      expect(new Set(effects.rows.map(({ attempt }) => attempt))).toEqual(new Set([1]))
      if (effect === 'tx') expect(effects.rows).toHaveLength(20)
    },
  )

  it.for<Effect>(['tx', 'lease'])('is taken over: %s', async (effect, { annotate }) => {
    const schema = `rescue ${effect}`
    await ownSchema(schema)
    await new Outbox({ schema }).enqueue(pool, { type: 'hang', payload: null })
    const process = startWorkerProcess(address(), { schema, effect })
    await process.says('it hangs')
    let taken = 0
    const handlers: Handlers = { hang: { effect, handler: () => void (taken = performance.now()) } }
    const worker = new OutboxWorker({ pool, handlers, schema })
    await worker.start()
    process.kill()
    const killed = performance.now()
    await until(() => taken > 0, 10_000)
    await worker.stop()
    await annotate(`taken over ${Math.round(taken - killed)} ms after kill -9`)
    expect(taken).toBeGreaterThan(killed)
  })
})
