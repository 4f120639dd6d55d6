import { setTimeout as sleep } from 'node:timers/promises'
import { describeWith } from '@common-handlers/testkit'
import { expect, it } from 'vitest'
import { PostgresHandler, type Queries } from '../src/index.ts'
import { failure, ownDatabase, readAll } from './own-database.ts'

describeWith(['postgres'], 'cancellation', ({ postgres }) => {
  const db = ownDatabase(postgres)

  it('leaves no active backend and no lost connection after 200 aborted queries', async () => {
    await using pg = new PostgresHandler(db.options({ pool: { max: 8, waitTimeoutMs: 0 } }))
    const reason = new Error('not wanted any more')
    const outcomes = await Promise.all(
      Array.from({ length: 200 }, async (_, index) => {
        const abort = new AbortController()
        setTimeout(() => abort.abort(reason), index % 40)
        // Aborted while it waits for a connection, on its way to the server, while it runs, and a few just as they end.
        const seconds = index % 5 === 0 ? 0.02 : 30
        return await pg.getRecords('SELECT pg_sleep($1::float8)', [seconds], { signal: abort.signal }).then(
          () => 'done',
          (error: unknown) => error,
        )
      }),
    )
    expect(outcomes.filter((outcome) => outcome !== reason && outcome !== 'done')).toEqual([])
    expect(outcomes.filter((outcome) => outcome === reason).length).toBeGreaterThanOrEqual(160)
    expect(await db.activeBackends()).toBe(0)
    // Each connection is still good, and no late cancel request hits the next statement.
    const sums = await Promise.all(
      Array.from({ length: 50 }, (_, n) => pg.getRecords('SELECT sum(i)::int AS s FROM generate_series(1, $1::int) AS i', [n])),
    )
    expect(sums.map(([row]) => row?.['s'] ?? 0)).toEqual(Array.from({ length: 50 }, (_, n) => (n * (n + 1)) / 2))
    expect(pg.poolStatus().total).toBeLessThanOrEqual(8)
  })

  it('leaves none after 100 COPYs left or aborted at any point', async () => {
    await using pg = new PostgresHandler(db.options({ pool: { max: 4, waitTimeoutMs: 0 } }))
    await Promise.all(
      Array.from({ length: 100 }, async (_, index) => {
        const abort = new AbortController()
        if (index % 2 === 0) setTimeout(() => abort.abort(new Error('stop')), index)
        const copy = pg.copyOut(`COPY (SELECT generate_series(1, 1000000), repeat('y', 100)) TO STDOUT`, { signal: abort.signal })
        let blocks = 0
        try {
          for await (const block of copy) if (block.rows > 0 && ++blocks > index % 5) break
        } catch (error) {
          expect((error as Error).message).toBe('stop')
        }
      }),
    )
    expect(await db.activeBackends()).toBe(0)
    expect((await pg.getRecords('SELECT 1 AS one'))[0]).toEqual({ one: 1 })
  })

  it('leaves every connection as it was, whatever is aborted at whatever point', async () => {
    await using pg = new PostgresHandler(db.options({ pool: { max: 3, waitTimeoutMs: 0 } }))
    await pg.executeScript(
      'CREATE TABLE target (a int, b text); CREATE TABLE origin AS SELECT i AS a, repeat($$b$$, 200) AS b FROM generate_series(1, 20000) AS i',
    )
    const slowly = async function* <T>(items: Iterable<T>): AsyncGenerator<T> {
      for (const item of items) {
        yield item
        await sleep(1)
      }
    }
    const lines = Array.from({ length: 300 }, (_, i) => `${i}\t${'x'.repeat(2_000)}\n`)
    const objects = lines.map((b, a) => ({ a, b }))
    type Call = (queries: Queries, signal: AbortSignal) => Promise<unknown>
    const calls: readonly Call[] = [
      (queries, signal) => queries.copyFrom('COPY target FROM STDIN', slowly(lines), { signal }),
      (queries, signal) => queries.copyTo('COPY origin TO STDOUT', () => sleep(2), { signal, blockBytes: 50_000 }),
      (queries, signal) => queries.insertMany('target', ['a', 'b'], slowly(objects), { signal }),
      (queries, signal) => queries.batch(['SELECT pg_sleep(0.02)', 'SELECT * FROM origin', 'SELECT pg_sleep(0.05)'], { signal }),
      (queries, signal) => queries.getRows('SELECT * FROM origin', [], { signal }),
      async (queries, signal) => {
        for await (const row of queries.stream('SELECT * FROM origin', [], { signal })) if (row['a'] === 5_000) await sleep(10)
      },
      async (queries, signal) => {
        for await (const block of queries.copyOut('COPY origin TO STDOUT', { signal })) block.release()
      },
    ]
    const within: readonly ((call: Call, signal: AbortSignal) => Promise<unknown>)[] = [
      (call, signal) => call(pg, signal),
      (call, signal) => pg.transaction((transaction) => call(transaction, signal)),
      (call, signal) => pg.transaction((transaction) => call(transaction, never), { signal }),
      (call, signal) =>
        pg.transaction((transaction) => transaction.savepoint((inner) => call(inner, signal)).catch(() => undefined)),
      (call, signal) => pg.readSnapshot((reader) => call(reader, signal)),
      (call, signal) => pg.withAdvisoryLock('any', (lock) => call(lock, never), { signal }),
    ]
    const reason = new Error('stop')
    const never = new AbortController().signal
    const plan = Array.from({ length: 2 }).flatMap((_, round) =>
      within.flatMap((way, w) => calls.map((call, c) => ({ way, call, afterMs: (round * 13 + w * 5 + c * 3) % 97 }))),
    )
    const outcomes: unknown[] = []
    const lane = async (): Promise<void> => {
      for (let next = plan.pop(); next !== undefined; next = plan.pop()) {
        const { way, call, afterMs } = next
        const abort = new AbortController()
        const timer = setTimeout(() => abort.abort(reason), afterMs)
        outcomes.push(
          await way(call, abort.signal).then(
            () => undefined,
            (error: unknown) => error,
          ),
        )
        clearTimeout(timer)
      }
    }
    await Promise.all([lane(), lane(), lane()])
    // A snapshot takes no rows.
    const others = outcomes.filter((outcome) => outcome !== undefined && outcome !== reason)
    expect(others.filter((other) => (other as { code?: string }).code !== 'POSTGRES_READ_ONLY')).toEqual([])
    expect(outcomes).toContain(reason)
    expect(await db.activeBackends()).toBe(0)
    const status = pg.poolStatus()
    expect([status.busy, status.waiting, status.connecting]).toEqual([0, 0, 0])
    for (let n = 0; n < 20; n++)
      expect(await Promise.all([1, 2, 3].map((i) => pg.getRows('SELECT $1::int', [i])))).toEqual([[[1]], [[2]], [[3]]])
  })

  it('ends a call by its time-out, and the statement with it', async () => {
    const error = await failure(db.pg.execute('SELECT pg_sleep(60)', [], { timeoutMs: 50 }))
    expect(error).toMatchObject({ name: 'OperationTimeoutError', code: 'POSTGRES_TIMEOUT', retry: 'if-idempotent' })
    expect(await db.activeBackends()).toBe(0)
  })

  it('tells the limit of the server from that of the call', async () => {
    await using pg = new PostgresHandler(db.options({ statementTimeoutMs: 50 }))
    const error = await failure(pg.execute('SELECT pg_sleep(60)'))
    expect(error).toMatchObject({
      name: 'OperationTimeoutError',
      code: 'POSTGRES_STATEMENT_CANCELLED',
      context: { sqlState: '57014' },
    })
    expect(error.message).toContain('statement timeout')
    // A long read may be longer.
    await pg.readSnapshot((reader) => reader.execute('SELECT pg_sleep(0.2)'), { statementTimeoutMs: 0 })
  })

  it('does not wait for a lock longer than it is told to', async () => {
    await db.pg.execute('CREATE TABLE locked (a int)')
    await db.pg.transaction(async (transaction) => {
      await transaction.execute('LOCK TABLE locked')
      expect(await failure(db.pg.getRecords('SELECT * FROM locked', [], { timeoutMs: 50 }))).toMatchObject({
        code: 'POSTGRES_TIMEOUT',
      })
      expect(
        await db.pg.getRecords(`SELECT count(*)::int AS n FROM pg_locks WHERE NOT granted AND relation = 'locked'::regclass`),
      ).toEqual([{ n: 0 }])
    })
  })

  it('gives up waiting for a connection, which then goes to the next caller', async () => {
    await using pg = new PostgresHandler(db.options({ pool: { max: 1 }, connectTimeoutMs: 5_000 }))
    const slow = pg.execute('SELECT pg_sleep(0.3)')
    expect(await failure(pg.execute('SELECT 1', [], { timeoutMs: 50 }))).toMatchObject({ code: 'POSTGRES_TIMEOUT' })
    await slow
    expect(await pg.getRecords('SELECT 1 AS one')).toEqual([{ one: 1 }])
  })

  it('says that the pool is exhausted when no connection becomes free', async () => {
    await using pg = new PostgresHandler(db.options({ pool: { max: 1, waitTimeoutMs: 100 } }))
    await pg.transaction(async () => {
      expect(await failure(pg.execute('SELECT 1'))).toMatchObject({
        name: 'CapacityError',
        code: 'POSTGRES_POOL_EXHAUSTED',
        retry: 'safe',
      })
    })
  })

  it('comes with close(), when the grace has passed', async () => {
    const pg = new PostgresHandler(db.options())
    const running = failure(pg.execute('SELECT pg_sleep(60)'))
    const reading = pg.copyOut(`COPY (SELECT generate_series(1, 10000000), repeat('x', 1000)) TO STDOUT`)[Symbol.asyncIterator]()
    await reading.next()
    // The COPY is begun and forgotten.
    await pg.close({ graceMs: 100 })
    expect(await running).toMatchObject({ code: 'POSTGRES_CLOSED' })
    expect(await failure(pg.execute('SELECT 1'))).toMatchObject({ code: 'POSTGRES_CLOSED', retry: 'never' })
    expect(await failure(readAll(pg.copyOut('COPY (SELECT 1) TO STDOUT')))).toMatchObject({ code: 'POSTGRES_CLOSED' })
    await expect.poll(() => db.activeBackends()).toBe(0)
    await pg.close()
  })
})
