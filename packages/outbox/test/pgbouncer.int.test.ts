import {
  createDatabase,
  describeWith,
  type PgBouncerServer,
  type PostgresAddress,
  startPgBouncer,
} from '@common-handlers/testkit'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest'
import { type DatabaseContext, type Effect, type Handlers, migrate, Outbox, OutboxWorker } from '../src/index.ts'
import { until } from './own-outbox.ts'
import { startWorkerProcess } from './worker-process.ts'

describeWith(['postgres'], 'behind PgBouncer in transaction mode', ({ postgres }) => {
  let database: PostgresAddress & { readonly drop: () => Promise<void> }
  let bouncer: PgBouncerServer
  let pool: pg.Pool
  let direct: pg.Pool
  const workers: OutboxWorker[] = []
  const poolOf = ({ host, port, user, password, database: name }: PostgresAddress): pg.Pool =>
    new pg.Pool({ host, port, user, password, database: name, max: 20 })
  beforeAll(async () => {
    database = await createDatabase(postgres, 'bouncer')
    bouncer = await startPgBouncer(database, { settings: { default_pool_size: '8', max_client_conn: '100' } })
    pool = poolOf(bouncer)
    direct = poolOf(database)
    for (const one of [pool, direct]) one.on('error', () => undefined)
    await migrate(pool)
    await pool.query('CREATE TABLE outbox.effect (n bigint GENERATED ALWAYS AS IDENTITY, event text, attempt int)')
  })
  afterEach(async () => {
    await Promise.all(workers.splice(0).map((worker) => worker.stop({ graceMs: 0 })))
    await direct.query('DELETE FROM outbox.event; DELETE FROM outbox.claim; DELETE FROM outbox.worker; DELETE FROM outbox.effect')
  })
  afterAll(async () => {
    await pool.end()
    await direct.end()
    await bouncer.stop()
    await database.drop()
  })
  const started = async (handlers: Handlers): Promise<OutboxWorker> => {
    const worker = new OutboxWorker({ pool, handlers, pollInterval: 100 })
    workers.push(worker)
    await worker.start()
    return worker
  }
  const count = async (table: string): Promise<number> =>
    Number((await direct.query<{ n: string }>(`SELECT count(*) AS n FROM outbox.${table}`)).rows[0]?.n)

  it('limits statements of a leased handler in its transactions, and those of nobody else', async () => {
    const limits: unknown[] = []
    const limit = `SELECT current_setting('statement_timeout') AS limit`
    const handler = async (_: unknown, { getRepository }: DatabaseContext): Promise<void> => {
      await using repository = await getRepository()
      limits.push(...(await repository.transaction(() => repository.query<{ limit: string }>(limit))).rows)
      limits.push(...(await repository.query(limit)).rows)
    }
    await started({ limited: { needsDb: true, queryTimeoutMs: 1234, handler } })
    await new Outbox().enqueue(pool, { type: 'limited', payload: 1 })
    await until(async () => (await count('event')) === 0)
    expect(limits).toEqual([{ limit: '1234ms' }, { limit: '0' }])
    const all = await Promise.all(Array.from({ length: 20 }, () => pool.query(limit)))
    expect(all.flatMap(({ rows }) => rows)).toEqual(Array.from({ length: 20 }, () => ({ limit: '0' })))
  })

  it('reads the log in order, one worker at a time', async () => {
    const handler = async (_: unknown, { event, getRepository }: DatabaseContext): Promise<void> => {
      await using repository = await getRepository()
      await repository.query('INSERT INTO outbox.effect (event) VALUES ($1)', [String(event.id)])
    }
    await Promise.all([1, 2].map(() => started({ a: { effect: 'log', consumer: 'c', needsDb: true, handler } })))
    const ids = await new Outbox().appendMany(
      pool,
      Array.from({ length: 500 }, (_, n) => ({ type: 'a', payload: n })),
    )
    await until(async () => (await count('effect')) >= 500)
    const { rows } = await direct.query<{ event: string }>('SELECT event FROM outbox.effect ORDER BY n')
    expect(rows.map(({ event }) => event)).toEqual(ids.map(String))
  })

  it.each<Effect>(['tx', 'lease'])('works by heartbeats, in the order of each key: %s', async (effect) => {
    const handler = async (_: unknown, { event, getRepository }: DatabaseContext): Promise<void> => {
      await using repository = await getRepository()
      await repository.query('INSERT INTO outbox.effect (event) VALUES ($1)', [String(event.id)])
    }
    const found = await Promise.all([1, 2].map(() => started({ a: { effect, needsDb: true, handler } })))
    expect(found.map(({ status }) => status.presence)).toEqual(['heartbeat', 'heartbeat'])
    const events = Array.from({ length: 200 }, (_, n) => ({
      type: 'a',
      payload: n,
      ...(n % 2 === 0 ? { key: `k${n % 6}` } : {}),
    }))
    const ids = await new Outbox().enqueueMany(pool, events)
    await until(async () => (await count('event')) === 0)
    const { rows } = await direct.query<{ event: string }>('SELECT event FROM outbox.effect ORDER BY n')
    const effects = rows.map(({ event }) => event)
    expect(effects).toHaveLength(200)
    for (const key of new Set(events.flatMap((event) => event.key ?? []))) {
      const ofKey = new Set(ids.filter((_, index) => events[index]?.key === key).map(String))
      expect(effects.filter((event) => ofKey.has(event))).toEqual([...ofKey])
    }
  })

  it.each<Effect>(['tx', 'lease'])('frees what a worker held whose heart stopped, and only that: %s', async (effect) => {
    await new Outbox().enqueue(pool, { type: 'hang', payload: null })
    const process = startWorkerProcess(bouncer, { effect })
    await process.says('it hangs')
    process.kill()
    await process.ended
    let taken = 0
    const worker = await started({ hang: { effect, handler: () => void (taken += 1) } })
    // As its peers do, which wait longer for a heart beat.
    const rescue = async (limit: string): Promise<number> =>
      Number((await direct.query<{ n: string }>('SELECT outbox.rescue(0, $1, 3) AS n', [limit])).rows[0]?.n)
    expect(await rescue('1 minute')).toBe(0)
    expect(taken).toBe(0)
    await until(async () => (await rescue('4 seconds')) === 1)
    await until(() => taken === 1)
    await until(async () => (await count('event')) === 0)
    expect([worker.status.presence, await count('worker')]).toEqual(['heartbeat', 1])
  })
})
