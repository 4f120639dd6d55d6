import type { Logger } from '@common-handlers/core'
import { describeWith, startPostgres } from '@common-handlers/testkit'
import pg from 'pg'
import { expect, it } from 'vitest'
import { type HandlerContext, migrate, Outbox, OutboxAdmin } from '../src/index.ts'
import { type Bloat, bloatOf, Maintenance, type MaintenanceOptions } from '../src/maintenance.ts'
import { outboxNames } from '../src/names.ts'
import { ownOutbox, until } from './own-outbox.ts'

describeWith(['postgres'], 'the maintenance of an outbox', ({ postgres }) => {
  const own = ownOutbox(postgres)
  const admin = (): OutboxAdmin => new OutboxAdmin({ pool: own.pool })

  const maintenance = (more: Partial<MaintenanceOptions> = {}) => {
    const lines: string[] = []
    const bloats: Bloat[] = []
    const write = (_: object, message = ''): void => void lines.push(message)
    const log: Logger = { trace: write, debug: write, info: write, warn: write, error: write, child: () => log }
    const one = new Maintenance({
      pool: own.pool,
      names: outboxNames('outbox'),
      connectTimeoutMs: 5000,
      everyMs: 60_000,
      log,
      onBloat: (bloat) => bloats.push(bloat),
      ...more,
    })
    return { lines, bloats, round: () => one.round() }
  }
  const newRound = async (): Promise<void> => void (await own.pool.query(`UPDATE outbox.policy SET tended_at = '-infinity'`))

  it('is done by one of the workers in each round', async () => {
    await newRound()
    await own.pool.query(
      `INSERT INTO outbox.dedup SELECT 'a', n::text, n, now() - interval '1 s' FROM generate_series(1, 12000) n`,
    )
    const all = Array.from({ length: 5 }, () => maintenance())
    await Promise.all(all.map(({ round }) => round()))
    expect(all.flatMap(({ lines }) => lines)).toEqual(['deleted 12000 dedup keys that are out of date'])
    await own.pool.query(
      `INSERT INTO outbox.dedup VALUES ('a', 'old', 1, now() - interval '1 s'), ('a', 'new', 2, now() + interval '1 h')`,
    )
    const next = maintenance()
    await next.round()
    expect(next.lines).toEqual([])
    await newRound()
    await next.round()
    expect(await own.one('SELECT array_agg(key) FROM outbox.dedup')).toEqual(['new'])
  })

  it('is done by a worker that runs', async () => {
    await newRound()
    await own.pool.query(`INSERT INTO outbox.dedup VALUES ('a', 'gone', 1, now() - interval '1 s')`)
    await own.worker({ maintenanceMs: 100, handlers: { a: () => undefined } }).start()
    const left = (): Promise<number> => own.one(`SELECT count(*)::int FROM outbox.dedup WHERE key = 'gone'`)
    await until(async () => (await left()) === 0)
    expect(await left()).toBe(0)
  })

  it('keeps dead letters for as long as the policy says, by default for ever', async () => {
    const put = `INSERT INTO outbox.dead_letter (id, created_at, died_at, attempts, crashes, priority, reason, type, payload)
      SELECT n, now(), now() - n * interval '1 day' + interval '1 hour', 1, 0, 0, 'attempts', 'a', '1' FROM generate_series(1, 10) n`
    await own.pool.query(put)
    await newRound()
    await maintenance().round()
    expect(await own.one('SELECT count(*)::int FROM outbox.dead_letter')).toBe(10)
    await admin().setPolicy({ archiveDays: undefined, deadLetterDays: 3 })
    expect(await admin().policy()).toEqual({ archiveDays: undefined, deadLetterDays: 3 })
    await newRound()
    await maintenance().round()
    expect(await own.one('SELECT array_agg(id::int ORDER BY id) FROM outbox.dead_letter')).toEqual([1, 2, 3])
    await admin().setPolicy({ archiveDays: undefined, deadLetterDays: undefined })
  })

  it.each(['tx', 'lease'] as const)('keeps done events of %s by the day, where the policy says so', async (effect) => {
    const outbox = new Outbox()
    const worker = own.worker({
      backoffBaseMs: 1,
      handlers: {
        a: {
          effect,
          handler: ({ fail }: { fail?: true }, { event }: HandlerContext) => {
            if (fail === true && event.attempt === 1) throw new Error('once')
          },
        },
      },
    })
    await worker.start()
    const put = async (payload: unknown) =>
      (await outbox.enqueue(own.pool, { type: 'a', payload, key: 'k', headers: { h: '1' } })) ?? 0n
    const empty = async (): Promise<boolean> => (await own.one<number>('SELECT count(*)::int FROM outbox.event')) === 0
    await put({})
    await until(empty)
    expect(await own.one('SELECT count(*)::int FROM outbox.archive')).toBe(0)
    await admin().setPolicy({ archiveDays: 2, deadLetterDays: undefined })
    const id = await put({ fail: true })
    await until(empty)
    expect(await admin().show(id)).toMatchObject({
      state: 'done',
      attempts: 2,
      key: 'k',
      payload: { fail: true },
      headers: { h: '1' },
    })
    expect((await admin().list({ state: 'done' })).map((event) => event.id)).toEqual([id])
    const inDefault = 'SELECT count(*)::int FROM outbox.archive_default'
    expect(await own.one(inDefault)).toBe(0)
    await admin().setPolicy({ archiveDays: undefined, deadLetterDays: undefined })
    await put({})
    await until(empty)
    expect(await own.one('SELECT count(*)::int FROM outbox.archive')).toBe(1)
    await own.pool.query('TRUNCATE outbox.archive')
  })

  it('makes partitions ahead, drops those that are over, and takes in what came before its partition', async () => {
    await own.pool.query('TRUNCATE outbox.archive')
    const partitions = (): Promise<string[]> =>
      own.one(
        `SELECT coalesce(array_agg((to_date(right(relname, 8), 'YYYYMMDD') - (now() AT TIME ZONE 'UTC')::date)::text ORDER BY 1), '{}')
          FROM pg_class WHERE relname ~ '^archive_[0-9]{8}$'`,
      )
    await own.pool.query(
      `DO $$ DECLARE p name; BEGIN FOR p IN SELECT relname FROM pg_class WHERE relname ~ '^archive_[0-9]{8}$' LOOP EXECUTE format('DROP TABLE outbox.%I', p); END LOOP; END $$`,
    )
    // Nobody looked after the archive for a while.
    await own.pool.query('UPDATE outbox.policy SET archive = true, archive_days = 2')
    await own.put('a', [1, 2])
    await own.pool.query(`SELECT outbox.finish(array(SELECT id FROM outbox.event), NULL)`)
    expect(await own.one('SELECT count(*)::int FROM outbox.archive_default')).toBe(2)
    await newRound()
    await maintenance().round()
    expect(await partitions()).toEqual(['0', '1', '2'])
    expect(await own.one('SELECT count(*)::int FROM outbox.archive_default')).toBe(0)
    expect(await own.one('SELECT count(*)::int FROM outbox.archive')).toBe(2)
    // Days go by: what is older than two days goes.
    await own.pool.query(
      `DO $$ DECLARE d date; BEGIN FOR d IN SELECT (now() AT TIME ZONE 'UTC')::date - n FROM generate_series(1, 4) n LOOP
        EXECUTE format('CREATE TABLE outbox.archive_%s PARTITION OF outbox.archive FOR VALUES FROM (%L) TO (%L)',
          to_char(d, 'YYYYMMDD'), d::text || ' 00:00+00', (d + 1)::text || ' 00:00+00'); END LOOP; END $$`,
    )
    await newRound()
    const round = maintenance()
    await round.round()
    expect((await partitions()).toSorted()).toEqual(['-1', '-2', '0', '1', '2'])
    expect(round.lines.filter((line) => line.startsWith('archive: dropped'))).toHaveLength(2)
    await admin().setPolicy({ archiveDays: undefined, deadLetterDays: undefined })
    await own.pool.query('TRUNCATE outbox.archive')
  })

  it('needs no right to make tables', async () => {
    const role = `worker_${process.pid}`
    await own.pool.query(`CREATE ROLE ${role} LOGIN PASSWORD 'weak'; GRANT USAGE ON SCHEMA outbox TO ${role};
      GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA outbox TO ${role}; GRANT USAGE ON ALL SEQUENCES IN SCHEMA outbox TO ${role}`)
    const { host, port, database } = own.address
    const pool = new pg.Pool({ host, port, database, user: role, password: 'weak', max: 5 })
    try {
      await new OutboxAdmin({ pool }).setPolicy({ archiveDays: 1, deadLetterDays: 1 })
      await newRound()
      const round = maintenance({ pool })
      await round.round()
      expect(round.lines).toEqual([])
      const worker = own.worker({ pool, handlers: { a: () => undefined, b: { effect: 'tx', handler: () => undefined } } })
      await worker.start()
      await new Outbox().enqueueMany(
        pool,
        ['a', 'b'].map((type) => ({ type, payload: 1 })),
      )
      await until(async () => (await own.one<number>('SELECT count(*)::int FROM outbox.archive')) === 2)
      await worker.stop()
    } finally {
      await pool.end()
      await admin().setPolicy({ archiveDays: undefined, deadLetterDays: undefined })
      await own.pool.query(`TRUNCATE outbox.archive; DROP OWNED BY ${role}; DROP ROLE ${role}`)
    }
  })

  it('names who keeps rows from being vacuumed, and never what they asked for', async () => {
    const { host, port, user, password, database } = own.address
    const holder = new pg.Client({ host, port, user, password, database, application_name: 'forgotten report' })
    await holder.connect()
    const [{ pid } = { pid: 0 }] = (await holder.query<{ pid: number }>('SELECT pg_backend_pid() AS pid')).rows
    await holder.query('BEGIN ISOLATION LEVEL REPEATABLE READ')
    await holder.query(`SELECT 'a secret of a customer'`)
    await own.put(
      'a',
      Array.from({ length: 500 }, (_, n) => n),
    )
    await own.pool.query(`SELECT outbox.finish(array(SELECT id FROM outbox.event), NULL)`)
    const dead = 'SELECT n_dead_tup::int FROM pg_stat_all_tables WHERE relid = $1::regclass'
    await until(async () => {
      await own.pool.query('SELECT pg_stat_force_next_flush()')
      return (await own.one<number>(dead, ['outbox.event'])) >= 500
    })
    await newRound()
    const lenient = maintenance({ deadTuples: 100, heldMs: 3_600_000 })
    await lenient.round()
    expect(lenient.bloats).toEqual([])
    await newRound()
    const strict = maintenance({ deadTuples: 100, heldMs: 0 })
    await strict.round()
    expect(strict.bloats).toEqual([
      expect.objectContaining({
        deadTuples: expect.any(Number),
        holder: expect.objectContaining({ holder: 'session', name: 'forgotten report', pid, state: 'idle in transaction' }),
      }),
    ])
    const [line = ''] = strict.lines
    expect(line).toContain(`"forgotten report"`)
    expect(line).toContain(`pid ${pid}`)
    expect(line).toContain('idle in transaction')
    expect(line).toContain('its last statement began')
    expect(JSON.stringify([strict.lines, strict.bloats])).not.toContain('secret')
    expect((await admin().stats()).horizon).toMatchObject({ name: 'forgotten report', pid })
    await holder.end()
    await newRound()
    const after = maintenance({ deadTuples: 0, heldMs: 0 })
    await after.round()
    expect(after.bloats.map(({ holder: found }) => found.pid)).not.toContain(pid)
  })

  it('names a prepared transaction that nobody ends', async () => {
    await using server = await startPostgres({ settings: { max_prepared_transactions: '2' } })
    const { host, port, user, password, database } = server
    const pool = new pg.Pool({ host, port, user, password, database, max: 2 })
    try {
      await migrate(pool)
      const client = await pool.connect()
      await client.query(`BEGIN; CREATE TABLE t (); PREPARE TRANSACTION 'order 7 of a broker'`)
      client.release()
      const { horizon, table } = await new OutboxAdmin({ pool }).stats()
      expect(horizon).toMatchObject({ holder: 'prepared transaction', name: 'order 7 of a broker', user, pid: undefined })
      const bloat = bloatOf({ horizon, table: { ...table, deadTuples: 100_000 } }, { heldMs: 0 })
      expect(bloat?.message).toContain('the prepared transaction "order 7 of a broker" holds an old snapshot')
      expect(bloat?.message).toContain('commit it or roll it back')
      await pool.query(`ROLLBACK PREPARED 'order 7 of a broker'`)
      expect((await new OutboxAdmin({ pool }).stats()).horizon).toBeUndefined()
    } finally {
      await pool.end()
    }
  })
})
