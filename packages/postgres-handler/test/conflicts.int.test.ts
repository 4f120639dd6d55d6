import { describeWith } from '@common-handlers/testkit'
import { beforeAll, beforeEach, expect, it } from 'vitest'
import { PostgresHandler, sql } from '../src/index.ts'
import { failure, ownDatabase } from './own-database.ts'

describeWith(['postgres'], 'work beside others', ({ postgres }) => {
  const db = ownDatabase(postgres)
  const values = async (): Promise<unknown[]> => (await db.pg.getRows('SELECT n FROM counters ORDER BY id')).map(([n]) => n)

  beforeAll(() => db.pg.execute('CREATE TABLE counters (id int PRIMARY KEY, n int NOT NULL)'))
  beforeEach(async () => {
    await db.pg.execute('TRUNCATE counters')
    await db.pg.execute('INSERT INTO counters VALUES (1, 0), (2, 0)')
  })

  it('is run again where it lost against another transaction, only when that is asked for', async () => {
    let runs = 0
    /** All have read before the first of them writes: one wins. */
    const addAtOnce = (retry?: { attempts: number; baseDelayMs: number }): Promise<PromiseSettledResult<void>[]> => {
      const all = Promise.withResolvers<void>()
      let read = 0
      const add = (): Promise<void> =>
        db.pg.transaction(
          async (tx) => {
            runs++
            const [row] = await tx.getRecords<{ n: number }>('SELECT n FROM counters WHERE id = 1')
            if (++read === 8) all.resolve()
            await all.promise
            await tx.execute(sql`UPDATE counters SET n = ${(row?.n ?? 0) + 1} WHERE id = 1`)
          },
          { isolation: 'serializable', retry },
        )
      return Promise.allSettled(Array.from({ length: 8 }, add))
    }
    const again = await addAtOnce({ attempts: 50, baseDelayMs: 5 })
    expect(again.map(({ status }) => status)).toEqual(again.map(() => 'fulfilled'))
    expect((await values())[0]).toBe(8)
    expect(runs).toBeGreaterThanOrEqual(15)
    const once = await addAtOnce()
    const lost = once.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason.code] : []))
    expect(lost).toEqual(Array.from({ length: 7 }, () => 'POSTGRES_SERIALIZATION_FAILED'))
    expect((await values())[0]).toBe(9)
  })

  it('is run again after a deadlock, and not after any other error', async () => {
    const both = (first: number, second: number): Promise<void> =>
      db.pg.transaction(
        async (tx) => {
          await tx.execute(sql`UPDATE counters SET n = n + 1 WHERE id = ${first}`)
          await tx.execute('SELECT pg_sleep(0.1)')
          await tx.execute(sql`UPDATE counters SET n = n + 1 WHERE id = ${second}`)
        },
        { retry: { attempts: 5 } },
      )
    await Promise.all([both(1, 2), both(2, 1)])
    expect(await values()).toEqual([2, 2])
    let runs = 0
    const failing = db.pg.transaction(
      async (tx) => {
        runs++
        await tx.execute('INSERT INTO counters VALUES (1, 1)')
      },
      { retry: { attempts: 5 } },
    )
    expect(await failure(failing)).toMatchObject({ code: 'POSTGRES_ALREADY_EXISTS' })
    expect(runs).toBe(1)
  })

  it('undoes what failed since a savepoint, at any depth', async () => {
    const result = await db.pg.transaction(async (tx) => {
      const set = (id: number, n: number) => sql`UPDATE counters SET n = ${n} WHERE id = ${id}`
      await tx.execute(set(1, 1))
      expect(await failure(tx.savepoint((inner) => inner.execute('INSERT INTO counters VALUES (1, 0)')))).toMatchObject({
        code: 'POSTGRES_ALREADY_EXISTS',
      })
      await tx.savepoint(async (inner) => {
        await inner.execute(set(2, 2))
        const reason = new Error('changed my mind')
        const undone = inner.savepoint(async (deep) => {
          await deep.execute(set(2, 3))
          throw reason
        })
        expect(await failure(undone)).toBe(reason)
      })
      const swallowed = tx.savepoint(async (inner) => {
        await inner.execute(set(1, 99))
        await inner.execute('SELECT 1 / 0').catch(() => undefined)
      })
      expect(await failure(swallowed)).toMatchObject({ code: 'POSTGRES_TRANSACTION_FAILED' })
      expect(await failure(tx.savepoint((inner) => inner.execute('SELECT pg_sleep(60)'), { timeoutMs: 50 }))).toMatchObject({
        code: 'POSTGRES_TIMEOUT',
      })
      return 'whole'
    })
    expect([result, await values()]).toEqual(['whole', [1, 2]])
  })

  it('sends a batch in one round trip, all of it or nothing, and names the statement that failed', async () => {
    const results = await db.pg.batch([
      sql`UPDATE counters SET n = ${5} WHERE id = ${1} RETURNING id, n`,
      'SELECT count(*) AS all FROM counters',
      'DELETE FROM counters WHERE id = 2',
      '',
    ])
    expect(results).toEqual([
      { records: [{ id: 1, n: 5 }], rowCount: 1, command: 'UPDATE' },
      { records: [{ all: 2n }], rowCount: 1, command: 'SELECT' },
      { records: [], rowCount: 1, command: 'DELETE' },
      { records: [], rowCount: 0, command: '' },
    ])
    const broken = db.pg.batch([sql`UPDATE counters SET n = ${7}`, sql`SELECT ${1}::int / ${0}::int`, 'DELETE FROM counters'])
    const error = await failure(broken)
    expect(error).toMatchObject({
      name: 'DataError',
      context: { place: 'statement 2 of 3', statement: 'SELECT $1::int / $2::int' },
    })
    expect(error.message).toContain('statement 2 of 3')
    expect(await values()).toEqual([5])
    expect(await db.pg.batch([])).toEqual([])
    const many = await db.pg.batch(Array.from({ length: 2_000 }, (_, n) => sql`SELECT ${n}::int AS n, repeat('x', 1000) AS x`))
    expect(many.map(({ records }) => records[0]?.['n'])).toEqual([...many.keys()])
  })

  it('holds an advisory lock by number, pair or name, and lets go of it however it ends', async () => {
    await using other = new PostgresHandler(db.options())
    for (const key of [1n << 40n, 7, 'nightly', [1, 2]] as const) {
      let inside = 0
      const enter = async (pg: PostgresHandler): Promise<void> =>
        pg.withAdvisoryLock(key, async (lock) => {
          expect(++inside).toBe(1)
          await lock.execute('SELECT pg_sleep(0.01)')
          inside--
        })
      await Promise.all([enter(db.pg), enter(other), enter(db.pg)])
      await db.pg.withAdvisoryLock(key, async () => {
        const tried = other.withAdvisoryLock(key, () => Promise.resolve(), { wait: false })
        expect(await failure(tried)).toMatchObject({ name: 'ConflictError', code: 'POSTGRES_LOCK_NOT_AVAILABLE', retry: 'safe' })
        expect(await failure(other.withAdvisoryLock(key, () => Promise.resolve(), { timeoutMs: 50 }))).toMatchObject({
          code: 'POSTGRES_TIMEOUT',
        })
      })
      const reason = new Error('failed under the lock')
      expect(await failure(db.pg.withAdvisoryLock(key, () => Promise.reject(reason)))).toBe(reason)
      expect(await other.withAdvisoryLock(key, () => Promise.resolve('mine'), { wait: false })).toBe('mine')
      await db.pg.transaction(async (tx) => {
        await tx.advisoryLock(key)
        expect(await failure(other.transaction((theirs) => theirs.advisoryLock(key, { wait: false })))).toMatchObject({
          code: 'POSTGRES_LOCK_NOT_AVAILABLE',
        })
      })
      await other.transaction((theirs) => theirs.advisoryLock(key, { wait: false }))
    }
    const left = `SELECT count(*)::int FROM pg_locks JOIN pg_database d ON d.oid = database WHERE locktype = 'advisory' AND datname = current_database()`
    expect(await db.pg.getRows(left)).toEqual([[0]])
  })

  it('is told when its lock is lost with the connection', async () => {
    await using victim = new PostgresHandler(db.options())
    let told: unknown
    const working = victim.withAdvisoryLock('leader', async (lock) => {
      const [[pid]] = (await lock.getRows('SELECT pg_backend_pid()')) as [[number]]
      await db.pg.execute('SELECT pg_terminate_backend($1)', [pid])
      await new Promise((resolve) => lock.signal.addEventListener('abort', resolve, { once: true }))
      told = lock.signal.reason
      return 'went on'
    })
    expect(await failure(working)).toMatchObject({ name: 'ConnectionError', code: 'POSTGRES_LOCK_LOST', retry: 'if-idempotent' })
    expect(told).toMatchObject({ code: 'POSTGRES_LOCK_LOST' })
  })
})
