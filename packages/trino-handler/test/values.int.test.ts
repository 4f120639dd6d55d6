import { describeWith } from '@common-handlers/testkit'
import { afterAll, expect, it } from 'vitest'
import { z } from 'zod'
import {
  asDate,
  asJson,
  asNumber,
  literal,
  sql,
  type TrinoParameter,
  type TrinoValue,
  TrinoHandler,
  typed,
} from '../src/index.ts'
import { nested, vectors } from './vectors.ts'

/** Every control character, quotes, backslashes, marks and characters outside the basic plane. */
const awkward = `${Array.from({ length: 32 }, (_, code) => String.fromCharCode(code)).join('')}\u007f\u0085'"\\n\\\\\`?;--/**/\ufeff\u2028\ufffd\u{1d11e}\u{10ffff} `

describeWith(['trino'], 'values', ({ trino: { url, user } }) => {
  const trino = new TrinoHandler({ url, user })
  afterAll(() => trino.close())

  it('reads the extremes of every type exactly, in one row and one by one', async () => {
    const all = await trino.query(`SELECT ${vectors.map(([expression]) => expression).join(', ')}`, [], { rowMode: 'arrays' })
    expect(all.columns.map((column) => column.type)).toEqual(vectors.map(([, type]) => type))
    expect(all.rows).toEqual([vectors.map(([, , value]) => value)])
    for (const [expression, type, value] of nested) {
      const one = await trino.query(`SELECT ${expression} AS x`)
      expect([one.columns[0]?.type, one.rows]).toEqual([type, [{ x: value }]])
    }
    for (const [expression, , value] of vectors.filter(([, type]) => /bigint|double/.test(type))) {
      expect((await trino.query(`SELECT ${expression} AS x`)).rows).toEqual([{ x: value }])
    }
  })

  it('reads exact values on every page of a large result', async () => {
    const base = 9_007_199_254_740_993n
    const statement = sql`SELECT n + ${base} AS big, CAST(n AS varchar) || '"9007199254740993\\' AS text, n + 0.5e0 AS d
      FROM UNNEST(sequence(1, 5000)) AS a(m) CROSS JOIN UNNEST(sequence(m * 10, m * 10 + 9)) AS b(n)`
    let rows = 0
    for await (const row of trino.stream<{ big: bigint; text: string; d: number }>(statement)) {
      const n = Number(row.big - base)
      if (row.text !== `${n}"9007199254740993\\` || row.d !== n + 0.5) throw new Error(`row ${n}: ${row.text} ${row.d}`)
      rows++
    }
    expect(rows).toBe(50_000)
  })

  it('binds every kind of parameter so that the server sees the same value', async () => {
    const parameters: readonly (readonly [TrinoParameter, string, TrinoValue])[] = [
      [null, 'unknown', null],
      [true, 'boolean', true],
      [-5, 'integer', -5],
      [2 ** 40, 'bigint', 2n ** 40n],
      [0.1, 'double', 0.1],
      [5e-324, 'double', 5e-324],
      [1e300, 'double', 1e300],
      [-0, 'double', -0],
      [Number.NaN, 'double', Number.NaN],
      [-Infinity, 'double', -Infinity],
      [-(2n ** 63n), 'bigint', -(2n ** 63n)],
      [10n ** 37n, 'decimal(38, 0)', `1${'0'.repeat(37)}`],
      [awkward, `varchar(${Array.from(awkward).length})`, awkward],
      [new Date('2020-02-29T12:34:56.789Z'), 'timestamp(3) with time zone', '2020-02-29 12:34:56.789 UTC'],
      [new Date('+012345-01-01T00:00:00.123Z'), 'timestamp(3) with time zone', '+12345-01-01 00:00:00.123 UTC'],
      [new Date('-000043-03-15T00:00:00Z'), 'timestamp(3) with time zone', '-0043-03-15 00:00:00.000 UTC'],
      [Buffer.from([0, 39, 255]), 'varbinary', Buffer.from([0, 39, 255])],
      [[1n, null], 'array(bigint)', [1n, null]],
      [new Map([['a', 1n]]), 'map(varchar(1), bigint)', new Map([['a', 1n]])],
      [typed('decimal(38,2)', '0.10'), 'decimal(38, 2)', '0.10'],
      [
        typed('timestamp(12) with time zone', '2020-01-01 00:00:00.123456789012 Europe/Berlin'),
        'timestamp(12) with time zone',
        '2020-01-01 00:00:00.123456789012 Europe/Berlin',
      ],
      [typed('time(6) with time zone', '01:02:03.123456+08:30'), 'time(6) with time zone', '01:02:03.123456+08:30'],
      [typed('json', `{"it's":[1,"\\""]}`), 'json', `{"it's":[1,"\\""]}`],
      [typed('uuid', '12151fd2-7586-11e9-8f9e-2a86e4085a59'), 'uuid', '12151fd2-7586-11e9-8f9e-2a86e4085a59'],
      [typed('interval day to second', '-2 03:04:05.678'), 'INTERVAL DAY TO SECOND', '-2 03:04:05.678'],
      [typed('interval year to month', '-1-3'), 'INTERVAL YEAR TO MONTH', '-1-3'],
      [typed('row(a bigint, "b c" varchar)', null), 'row(a bigint, "b c" varchar)', null],
    ]
    const values = parameters.map(([parameter]) => parameter)
    const bound = await trino.query(`SELECT ${values.map(() => '?').join(', ')}`, values, { rowMode: 'arrays' })
    expect(bound.columns.map((column) => column.type)).toEqual(parameters.map(([, type]) => type))
    expect(bound.rows).toEqual([parameters.map(([, , value]) => value)])
    const pasted = await trino.query(`SELECT ${values.map(literal).join(', ')}`, [], { rowMode: 'arrays' })
    expect(pasted.rows).toEqual(bound.rows)
  })

  it('never takes a value for SQL', async () => {
    const hostile = "x' OR 1=1 --"
    const { rows } = await trino.query(sql`SELECT count(*) AS n FROM tpch.tiny.nation WHERE name = ${hostile}`)
    expect(rows).toEqual([{ n: 0n }])
    await expect(trino.query("SELECT '?'", [1])).rejects.toMatchObject({ code: 'TRINO_INVALID_PARAMETER_USAGE' })
  })

  it('gives other values on request, by type at any depth and by column', async () => {
    const text = `SELECT BIGINT '5' AS n, ARRAY[BIGINT '6'] AS list, DECIMAL '1.50' AS d, JSON '{"a":[1]}' AS j,
      TIMESTAMP '2020-07-01 00:00:00.123456' AS t, TIMESTAMP '2020-07-01 00:00:00.123 Europe/Berlin' AS z, DATE '-0001-03-04' AS day, 'x' AS v`
    const types = { bigint: asNumber, json: asJson, timestamp: asDate, 'timestamp with time zone': asDate, date: asDate }
    const columns = { d: asNumber, v: (value: unknown, type: string) => `${String(value)}:${type}` }
    const { rows } = await trino.query(text, [], { types, columns })
    expect(rows).toEqual([
      {
        n: 5,
        list: [6],
        d: 1.5,
        j: { a: [1] },
        t: new Date('2020-07-01T00:00:00.123Z'),
        z: new Date('2020-06-30T22:00:00.123Z'),
        day: new Date('-000001-03-04T00:00:00Z'),
        v: 'x:varchar(1)',
      },
    ])
    const big = "SELECT BIGINT '9007199254740993' AS n"
    await expect(trino.query(big, [], { types: { bigint: asNumber } })).rejects.toMatchObject({
      code: 'TRINO_VALUE_NOT_REPRESENTABLE',
    })
    await expect(trino.query(big, [], { columns: { m: asNumber } })).rejects.toMatchObject({ code: 'TRINO_COLUMN_UNKNOWN' })
  })

  it('makes rows what a schema makes of them, and names row and column of what does not fit', async () => {
    const schema = z.object({ n: z.bigint().max(14_990n).transform(Number), name: z.string() })
    const text = `SELECT orderkey AS n, clerk AS name FROM tpch.tiny.orders ORDER BY orderkey LIMIT ?`
    const { rows } = await trino.query(text, [2], { schema })
    const [first] = rows
    expect(first?.n satisfies number | undefined).toBe(1)
    const streamed: unknown[] = []
    for await (const row of trino.stream(text, [2], { schema })) streamed.push(row)
    expect(streamed).toEqual(rows)
    const fit = await trino.query<{ n: bigint }>('SELECT count(*) AS n FROM tpch.tiny.orders WHERE orderkey <= 14990')
    await expect(trino.query(text, [15_000], { schema })).rejects.toMatchObject({
      code: 'TRINO_ROW_INVALID',
      where: { line: Number(fit.rows[0]?.n) + 1, column: 'n' },
    })
  })

  it('refuses to lose a column, and gives both as arrays', async () => {
    await expect(trino.query('SELECT 1 AS a, 2 AS a')).rejects.toMatchObject({
      code: 'TRINO_DUPLICATE_COLUMN',
      where: { column: 'a' },
    })
    expect((await trino.query('SELECT 1 AS a, 2 AS a', [], { rowMode: 'arrays' })).rows).toEqual([[1, 2]])
  })

  it('has UTC as its zone unless told otherwise', async () => {
    expect((await trino.query('SELECT current_timezone() AS z')).rows).toEqual([{ z: 'UTC' }])
    await using berlin = new TrinoHandler({ url, user, timeZone: 'Europe/Berlin' })
    expect((await berlin.query('SELECT current_timezone() AS z')).rows).toEqual([{ z: 'Europe/Berlin' }])
  })
})
