import { describeWith } from '@common-handlers/testkit'
import { beforeAll, expect, it } from 'vitest'
import { ident, PostgresHandler, type Queries, sql, type SqlStatement } from '../src/index.ts'
import { failure, ownDatabase } from './own-database.ts'

describeWith(['postgres'], 'snapshots and ranges', ({ postgres }) => {
  const db = ownDatabase(postgres)
  const ROWS = 20_000

  beforeAll(() =>
    db.pg.executeScript(`
      CREATE TABLE plain (id int PRIMARY KEY, n int, name text);
      INSERT INTO plain SELECT i, 0, CASE WHEN i % 10 > 0 THEN md5(i::text) END FROM generate_series(1, ${ROWS}) AS i;
      CREATE TABLE parted (id int, n int, name text) PARTITION BY LIST (n);
      CREATE TABLE parted_0 PARTITION OF parted FOR VALUES IN (0); CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
      CREATE TABLE parted_none PARTITION OF parted DEFAULT;
      INSERT INTO parted SELECT i, (i % 7 = 0)::int, md5(i::text) FROM generate_series(1, ${ROWS}) AS i;
      CREATE TABLE parent (id int, n int, name text); CREATE TABLE child (more text) INHERITS (parent);
      INSERT INTO parent SELECT i, 0, 'parent' FROM generate_series(1, ${ROWS / 2}) AS i;
      INSERT INTO child SELECT i, 0, 'child', repeat('x', 100) FROM generate_series(${ROWS / 2 + 1}, ${ROWS}) AS i;
      CREATE TABLE empty (id int, n int, name text);
      CREATE VIEW seen AS SELECT * FROM plain;
      ANALYZE`),
  )

  /** Writes of every kind, without a pause, until told to stop. */
  function disturb(table: string): () => Promise<number> {
    const stop = new AbortController()
    const working = (async () => {
      let rounds = 0
      for (; !stop.signal.aborted; rounds++) {
        const base = rounds * 50
        await db.pg.batch([
          sql`UPDATE ${ident(table)} SET name = name WHERE id BETWEEN ${base} AND ${base + 200}`,
          sql`DELETE FROM ${ident(table)} WHERE id = ${base + 1}`,
          sql`INSERT INTO ${ident(table)} (id, n, name) SELECT ${ROWS}::int + i, 0, 'new' FROM generate_series(1, 300) AS i ON CONFLICT DO NOTHING`,
        ])
      }
      return rounds
    })()
    return () => {
      stop.abort()
      return working
    }
  }

  const idsOf = async (reader: Queries, table: string, range: SqlStatement): Promise<number[]> =>
    (await reader.getRows<[number]>(sql`SELECT id FROM ${ident(table)} WHERE ${range}`)).map(([id]) => id)

  it.each([
    ['plain', undefined],
    ['parted', undefined],
    ['parent', undefined],
    ['empty', undefined],
    ['plain', 'id'],
    ['plain', 'name'],
    ['parted', 'n'],
    ['seen', 'id'],
    ['empty', 'id'],
  ])('divide %s by %s so that its readers see each row once, while others write', async (table, key) => {
    const writable = table === 'seen' ? 'plain' : table
    const stop = table === 'empty' ? undefined : disturb(writable)
    await new Promise((resolve) => setTimeout(resolve, 30))
    await using snapshot = await db.pg.snapshot()
    const before = await db.pg.readSnapshot((reader) => idsOf(reader, table, sql`true`), { join: snapshot.name })
    const ranges = await db.pg.ranges(table, { parts: 8, key })
    await new Promise((resolve) => setTimeout(resolve, 60))
    const parts = await Promise.all(
      ranges.map((range) => db.pg.readSnapshot((reader) => idsOf(reader, table, range), { join: snapshot.name })),
    )
    await snapshot.close()
    if (stop !== undefined) expect(await stop()).toBeGreaterThan(0)
    const byNumber = (a: number, b: number): number => a - b
    expect(parts.flat().toSorted(byNumber)).toEqual(before.toSorted(byNumber))
    if (table !== 'empty') {
      expect(before.length).toBeGreaterThan(ROWS / 2)
      if (key !== 'n') {
        expect(parts.length).toBe(8)
        for (const part of parts) expect(part.length).toBeLessThan(before.length / 2)
      }
    }
    await db.pg.executeScript(`DELETE FROM ${writable} WHERE id > ${ROWS}`)
  })

  it('read pages without looking at the others', async () => {
    const [, range] = await db.pg.ranges('plain', { parts: 4 })
    const plan = await db.pg.getRows(sql`EXPLAIN SELECT * FROM plain WHERE ${range}`)
    expect(plan.flat().join('\n')).toMatch(/Tid Range Scan/)
    expect((await db.pg.ranges('plain', { parts: 1 })).map(({ text }) => text)).toEqual(['true'])
  })

  it('refuse what has no pages, and what is not there', async () => {
    expect(await failure(db.pg.ranges('seen', { parts: 2 }))).toMatchObject({ code: 'POSTGRES_NO_PAGES' })
    expect(await failure(db.pg.ranges('nowhere', { parts: 2 }))).toMatchObject({ code: 'POSTGRES_TABLE_NOT_FOUND' })
    expect(await failure(db.pg.ranges('plain', { parts: 2, key: 'nothing' }))).toMatchObject({ code: 'POSTGRES_TABLE_NOT_FOUND' })
    expect(await failure(db.pg.ranges('plain', { parts: 0 }))).toMatchObject({ code: 'POSTGRES_VALUE_INVALID' })
  })

  it('say what they see, and others see the same until they are closed', async () => {
    await db.pg.execute('CREATE TABLE later (id int)')
    await db.pg.transaction(async (tx) => {
      const [[own]] = (await tx.getRows('SELECT pg_current_xact_id()::text')) as [[string]]
      // A later one that has ended makes the open one stand in the list.
      await db.pg.execute('INSERT INTO later VALUES (0)')
      await using snapshot = await db.pg.snapshot()
      expect(snapshot).toMatchObject({
        id: `${snapshot.xmin}:${snapshot.xmax}:${snapshot.xip.join(',')}`,
        name: expect.stringMatching(/^[\dA-F-]+$/),
        lsn: expect.stringMatching(/^[\dA-F]+\/[\dA-F]+$/),
      })
      expect(snapshot.xip).toContain(own)
      await db.pg.execute('INSERT INTO later VALUES (1)')
      await using elsewhere = new PostgresHandler(db.options())
      const seen = await elsewhere.readSnapshot(
        async (reader) => {
          const { id, xmin, xmax, xip } = snapshot
          expect(reader.snapshot).toEqual({ id, xmin, xmax, xip, serverVersion: snapshot.serverVersion })
          return reader.getRows('SELECT count(*)::int FROM later')
        },
        { join: snapshot.name },
      )
      expect(seen).toEqual([[1]])
      await snapshot.close()
      await snapshot.close()
      expect(await failure(elsewhere.readSnapshot(() => Promise.resolve(), { join: snapshot.name }))).toMatchObject({
        name: 'NotFoundError',
        code: 'POSTGRES_SNAPSHOT_NOT_FOUND',
      })
    })
    expect(db.pg.poolStatus().total).toBe(db.pg.poolStatus().idle)
  })

  it('do not keep close() waiting when they are forgotten', async () => {
    const pg = new PostgresHandler(db.options())
    await pg.snapshot()
    await pg.close({ graceMs: 50 })
    await expect.poll(() => db.activeBackends()).toBe(0)
  })
})
