import { describeWith, liveMemory } from '@common-handlers/testkit'
import { expect, it } from 'vitest'
import { z } from 'zod'
import { ident, PostgresHandler, sql } from '../src/index.ts'
import { failure, ownDatabase } from './own-database.ts'

describeWith(['postgres'], 'a stream of rows', ({ postgres }) => {
  const db = ownDatabase(postgres)
  const numbers = `SELECT n FROM generate_series(1, $1::int) AS n`

  async function all<T>(rows: AsyncIterable<T>): Promise<T[]> {
    const found: T[] = []
    for await (const row of rows) found.push(row)
    return found
  }

  it.each([0, 1, 15, 16, 17, 271, 272, 273, 25_000])('gives each of %i rows once, in order', async (count) => {
    const rows = await all(db.pg.stream<{ n: number }>(numbers, [count]))
    expect(rows.map((row) => row.n)).toEqual(Array.from({ length: count }, (_, index) => index + 1))
    expect(await db.activeBackends()).toBe(0)
  })

  it('that is left lets go of its connection and undoes what its query did', async () => {
    await using pg = new PostgresHandler(db.options({ pool: { max: 1 } }))
    await pg.execute('CREATE TABLE left_early (n int)')
    for (let round = 0; round < 20; round++) {
      let seen = 0
      for await (const _ of pg.stream('INSERT INTO left_early SELECT generate_series(1, 5000) RETURNING n', [], {
        batchRows: 10,
      })) {
        if (++seen > round * 7) break
      }
      // One connection is all there is: this would wait for ever for one that was not given back.
      expect(await pg.getRecords('SELECT count(*)::int AS n FROM left_early')).toEqual([{ n: 0 }])
    }
    expect((await all(pg.stream('INSERT INTO left_early VALUES (1) RETURNING n'))).length).toBe(1)
    expect(await pg.getRecords('SELECT count(*)::int AS n FROM left_early')).toEqual([{ n: 1 }])
    expect(await db.activeBackends()).toBe(0)
    expect(pg.poolStatus().total).toBe(1)
  })

  it('that is left while the server works on the next rows does not wait for them', async () => {
    // The second fetch would take a minute.
    const slow = `SELECT CASE WHEN n > 150 THEN pg_sleep(60)::text END FROM generate_series(1, 1000) AS n`
    for await (const _ of db.pg.stream(slow)) break
    expect(await db.activeBackends()).toBe(0)
  })

  it('can be read in a transaction between other statements, and beside another', async () => {
    await db.pg.execute('CREATE TABLE doubled (n int)')
    await db.pg.transaction(async (tx) => {
      const others = tx.stream<{ n: number }>(numbers, [500], { batchRows: 7 })[Symbol.asyncIterator]()
      for await (const { n } of tx.stream<{ n: number }>(numbers, [300], { batchRows: 10 })) {
        await tx.execute(sql`INSERT INTO doubled VALUES (${n * 2})`)
        expect((await others.next()).value).toEqual({ n })
      }
      await others.return?.()
      expect(await tx.getRecords('SELECT count(*)::int AS open FROM pg_cursors WHERE name <> $1', [''])).toEqual([{ open: 0 }])
    })
    expect(await db.pg.getRecords('SELECT count(*)::int AS n, sum(n)::int AS sum FROM doubled')).toEqual([
      { n: 300, sum: 90_300 },
    ])
  })

  it('is checked by a schema, and a misfit names its row', async () => {
    const schema = z.object({ n: z.int().max(2_500) })
    const seen: number[] = []
    const reading = (async () => {
      for await (const row of db.pg.stream(numbers, [5_000], { schema })) seen.push(row.n)
    })()
    expect(await failure(reading)).toMatchObject({ code: 'POSTGRES_ROW_INVALID', where: { line: 2_501, column: 'n' } })
    // Rows are checked as many at a time as they are fetched.
    expect(seen.length).toBeGreaterThan(1_000)
    expect(await db.activeBackends()).toBe(0)
  })

  it('ends with the error of a later row, an abort or a time-out, and nothing stays active', async () => {
    const failing = all(db.pg.stream('SELECT 1 / (3000 - n) AS q FROM generate_series(1, 5000) AS n'))
    expect(await failure(failing)).toMatchObject({ name: 'DataError', context: { sqlState: '22012' } })
    const abort = new AbortController()
    const aborted = (async () => {
      for await (const _ of db.pg.stream(numbers, [10_000_000], { signal: abort.signal })) abort.abort(new Error('stop'))
    })()
    expect((await failure(aborted)).message).toBe('stop')
    const late = all(db.pg.stream('SELECT pg_sleep(60)', [], { timeoutMs: 50 }))
    expect(await failure(late)).toMatchObject({ code: 'POSTGRES_TIMEOUT' })
    expect(await db.activeBackends()).toBe(0)
    expect(await db.pg.getRecords('SELECT 1 AS one')).toEqual([{ one: 1 }])
  })

  it('lets go of its query in a transaction that goes on, whatever ended it', async () => {
    await db.pg.execute('CREATE TABLE let_go AS SELECT generate_series(1, 5000) AS n')
    await db.pg.transaction(async (tx) => {
      const open = async (): Promise<unknown> =>
        (await tx.getRecords(`SELECT count(*)::int AS open FROM pg_cursors WHERE name <> ''`))[0]
      expect(await failure(all(tx.stream('SELECT n, n FROM let_go')))).toMatchObject({ code: 'POSTGRES_DUPLICATE_COLUMN' })
      expect(await open()).toEqual({ open: 0 })
      const unreadable = tx.stream(`SELECT n, 'infinity'::date AS d FROM let_go`, [], { types: { date: 'date' } })
      expect(await failure(all(unreadable))).toMatchObject({ code: 'POSTGRES_VALUE_UNREADABLE' })
      expect(await open()).toEqual({ open: 0 })
      const slow = (async () => {
        for await (const _ of tx.stream('SELECT n FROM let_go', [], { batchRows: 5, timeoutMs: 200 }))
          await new Promise((resolve) => setTimeout(resolve, 60))
      })()
      expect(await failure(slow)).toMatchObject({ code: 'POSTGRES_TIMEOUT' })
      expect(await open()).toEqual({ open: 0 })
      await tx.execute('DROP TABLE let_go')
    })
  })

  it.each([0, -1, 1.5, Number.NaN, Infinity])('refuses to fetch %d rows at a time', async (batchRows) => {
    expect(await failure(all(db.pg.stream(numbers, [10], { batchRows })))).toMatchObject({
      code: 'POSTGRES_VALUE_INVALID',
      message: `batchRows is a number of rows, 1 or more, not ${batchRows}`,
    })
    expect(await db.pg.getRecords('SELECT 1 AS one')).toEqual([{ one: 1 }])
  })

  it('keeps nothing of a row in memory but what is kept of it', async () => {
    const wide = `SELECT md5(n::text)::uuid::text AS id, repeat('x', 3000) AS payload FROM generate_series(1, 20000) AS n`
    const before = (await liveMemory()).heapUsed
    const ids: string[] = []
    for await (const { id } of db.pg.stream<{ id: string }>(wide)) ids.push(id)
    // 20,000 rows have 60 MB.
    expect((await liveMemory()).heapUsed - before).toBeLessThan(20e6)
    expect(new Set(ids).size).toBe(20_000)
  })

  it('fetches fewer rows where they are long', async () => {
    const table = ident('long_rows')
    await db.pg.execute(sql`CREATE TABLE ${table} AS SELECT repeat('x', 300000) AS x FROM generate_series(1, 1000)`)
    // 1000 of them at a time would be 300 MB, and as much again for the next 1000.
    const before = process.memoryUsage().rss
    let most = 0
    let rows = 0
    for await (const row of db.pg.stream<{ x: string }>(sql`SELECT * FROM ${table}`)) {
      rows += row.x.length === 300_000 ? 1 : 0
      most = Math.max(most, process.memoryUsage().rss - before)
    }
    expect(rows).toBe(1_000)
    expect(most).toBeLessThan(250e6)
    await db.pg.execute(sql`DROP TABLE ${table}`)
  })
})
