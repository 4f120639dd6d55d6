import { describeWith } from '@common-handlers/testkit'
import { beforeAll, beforeEach, expect, it } from 'vitest'
import { failure, ownDatabase } from './own-database.ts'

describeWith(['postgres'], 'many rows', ({ postgres }) => {
  const db = ownDatabase(postgres)
  beforeAll(() =>
    db.pg
      .executeScript(`CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a int, b text); CREATE DOMAIN positive AS int CHECK (VALUE > 0);
      CREATE TABLE "Many" (id bigint PRIMARY KEY, t text, v varchar(3), c char(3), bits bit(3), n numeric(10,2), at timestamptz, j jsonb,
        b bytea, tags text[], grid int[], m mood, p pair, d positive, f float8, flag bool DEFAULT true)`),
  )
  beforeEach(() => db.pg.execute('TRUNCATE "Many"'))

  const row = {
    id: 9007199254740993n,
    t: 'a "quoted"\\ {text}, NULL\n\u{1f4a9}',
    v: 'abc',
    c: 'ab',
    bits: '101',
    n: '12345678.90',
    at: new Date('2026-01-02T03:04:05.678Z'),
    j: { a: [1, null, '"'] },
    b: Buffer.from([0, 255, 92]),
    tags: ['x', null, 'NULL', '', 'a,b'],
    grid: [
      [1, 2],
      [3, null],
    ],
    m: 'ok',
    p: '(1,"a b")',
    d: 5,
    f: -0,
  }
  const columns = Object.keys(row) as (keyof typeof row)[]

  it('of every type are inserted as they are, in one array a column', async () => {
    expect(
      await db.pg.insertMany('"Many"', columns, [row, { ...row, id: 2, t: '', tags: [], b: Buffer.alloc(0), n: null }]),
    ).toBe(2)
    const [first, second] = await db.pg.getRecords('SELECT * FROM "Many" ORDER BY id DESC')
    expect(first).toEqual({
      ...row,
      c: 'ab ',
      at: '2026-01-02 03:04:05.678+00',
      j: '{"a": [1, null, "\\""]}',
      b: '\\x00ff5c',
      tags: '{x,NULL,"NULL","","a,b"}',
      grid: '{{1,2},{3,NULL}}',
      f: '-0',
      flag: true,
    })
    expect(second).toMatchObject({ id: 2n, t: '', tags: '{}', b: '\\x', n: null })
  })

  it('come from an async iterable in statements of their own, all of them or none', async () => {
    const rows = async function* (bad: number): AsyncGenerator<{ id: number; t: string }> {
      for (let id = 0; id < 45_000; id++) yield { id: id === bad ? 0 : id, t: `row ${id}` }
    }
    expect(await failure(db.pg.insertMany('"Many"', ['id', 't'], rows(44_000)))).toMatchObject({
      code: 'POSTGRES_ALREADY_EXISTS',
    })
    expect(await db.pg.getRows('SELECT count(*)::int FROM "Many"')).toEqual([[0]])
    expect(await db.pg.insertMany('"Many"', ['id', 't'], rows(-1))).toBe(45_000)
    expect(await db.pg.getRows(`SELECT count(*)::int, sum(id)::text FROM "Many" WHERE t = 'row ' || id`)).toEqual([
      [45_000, '1012477500'],
    ])
    expect(await db.pg.insertMany('"Many"', ['id', 't'], [])).toBe(0)
  })

  it('leave or update what is there already', async () => {
    const [old, fresh] = [
      [{ id: 1, t: 'old' }],
      [
        { id: 1, t: 'new' },
        { id: 2, t: 'new' },
      ],
    ]
    await db.pg.insertMany('"Many"', ['id', 't'], old)
    const shown = () => db.pg.getRows('SELECT id, t FROM "Many" ORDER BY id')
    expect(await db.pg.insertMany('"Many"', ['id', 't'], fresh, { onConflict: { key: ['id'], action: 'skip' } })).toBe(1)
    expect(await shown()).toEqual([
      [1n, 'old'],
      [2n, 'new'],
    ])
    expect(await db.pg.insertMany('"Many"', ['id', 't'], fresh, { onConflict: { key: ['id'], action: 'update' } })).toBe(2)
    expect(await shown()).toEqual([
      [1n, 'new'],
      [2n, 'new'],
    ])
  })

  it('that cannot be inserted name row and column, and a text that is too long is not cut', async () => {
    const missing = [
      { id: 1, t: 'a' },
      { id: 2, t: undefined },
    ]
    expect(await failure(db.pg.insertMany('"Many"', ['id', 't'], missing))).toMatchObject({
      code: 'POSTGRES_VALUE_INVALID',
      where: { line: 2, column: 't' },
    })
    for (const bad of [{ v: 'abcd' }, { c: 'abcd' }, { bits: '1010' }, { d: 0 }, { m: 'glad' }, { n: '123456789' }]) {
      const [column] = Object.keys(bad) as [string]
      const error = await failure(db.pg.insertMany('"Many"', ['id', column], [{ id: 1, ...bad }]))
      expect(error, column).toMatchObject({ name: 'DataError' })
    }
    expect(await failure(db.pg.insertMany('nowhere', ['id'], []))).toMatchObject({ code: 'POSTGRES_TABLE_NOT_FOUND' })
    expect(await failure(db.pg.insertMany('"Many"', ['nothing'], []))).toMatchObject({ code: 'POSTGRES_COLUMN_NOT_FOUND' })
    expect(await db.pg.getRows('SELECT count(*)::int FROM "Many"')).toEqual([[0]])
  })
})
