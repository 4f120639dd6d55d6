import { describeWith } from '@common-handlers/testkit'
import { afterAll, expect, it } from 'vitest'
import { literal, sql, type TrinoParameter, type TrinoValue, TrinoHandler, typed } from '../src/index.ts'

/** SQL, its type, and the value that must be read: the extremes of every type. */
const vectors: readonly (readonly [expression: string, type: string, value: TrinoValue])[] = [
  ['true', 'boolean', true],
  ["TINYINT '-128'", 'tinyint', -128],
  ["SMALLINT '32767'", 'smallint', 32_767],
  ["INTEGER '-2147483648'", 'integer', -2_147_483_648],
  ["BIGINT '9223372036854775807'", 'bigint', 9_223_372_036_854_775_807n],
  ["BIGINT '-9223372036854775808'", 'bigint', -9_223_372_036_854_775_808n],
  ["BIGINT '9007199254740993'", 'bigint', 9_007_199_254_740_993n],
  ["BIGINT '0'", 'bigint', 0n],
  ["REAL '3.4028235E38'", 'real', 3.402_823_5e38],
  ["REAL '0.1'", 'real', 0.1],
  ["REAL 'NaN'", 'real', Number.NaN],
  ["DOUBLE '1.7976931348623157E308'", 'double', Number.MAX_VALUE],
  ["DOUBLE '4.9E-324'", 'double', Number.MIN_VALUE],
  ["DOUBLE '0.1'", 'double', 0.1],
  ["DOUBLE '12345678901234567890'", 'double', Number('12345678901234567890')],
  ["DOUBLE '-0.0'", 'double', -0],
  ['nan()', 'double', Number.NaN],
  ['infinity()', 'double', Infinity],
  ['-infinity()', 'double', -Infinity],
  ["DECIMAL '12345678901234567890123456789012345678'", 'decimal(38, 0)', '12345678901234567890123456789012345678'],
  ["CAST('-0.10' AS decimal(38,38))", 'decimal(38, 38)', `-0.1${'0'.repeat(37)}`],
  ["DECIMAL '1.50'", 'decimal(3, 2)', '1.50'],
  ["CAST('' AS varchar)", 'varchar', ''],
  ["CAST('9007199254740993' AS varchar)", 'varchar', '9007199254740993'],
  [String.raw`CAST('"\9007199254740993\"' AS varchar)`, 'varchar', String.raw`"\9007199254740993\"`],
  ["CAST('ab' AS char(4))", 'char(4)', 'ab  '],
  ["X'00ff10'", 'varbinary', Buffer.from([0, 255, 16])],
  ["X''", 'varbinary', Buffer.alloc(0)],
  ["DATE '-0044-03-15'", 'date', '-0044-03-15'],
  ["DATE '9999-12-31'", 'date', '9999-12-31'],
  ["TIME '23:59:59.999999999999'", 'time(12)', '23:59:59.999999999999'],
  ["TIME '01:02:03.123456-08:30'", 'time(6) with time zone', '01:02:03.123456-08:30'],
  ["TIMESTAMP '2020-01-01 00:00:00'", 'timestamp(0)', '2020-01-01 00:00:00'],
  ["TIMESTAMP '2020-01-01 00:00:00.123456'", 'timestamp(6)', '2020-01-01 00:00:00.123456'],
  ["TIMESTAMP '1969-12-31 23:59:59.999999999999'", 'timestamp(12)', '1969-12-31 23:59:59.999999999999'],
  [
    "TIMESTAMP '2020-07-01 00:00:00.123456 Europe/Berlin'",
    'timestamp(6) with time zone',
    '2020-07-01 00:00:00.123456 Europe/Berlin',
  ],
  [
    "TIMESTAMP '2020-07-01 00:00:00.123456789012 +05:45'",
    'timestamp(12) with time zone',
    '2020-07-01 00:00:00.123456789012 +05:45',
  ],
  ["INTERVAL -'2 03:04:05.678' DAY TO SECOND", 'INTERVAL DAY TO SECOND', '-2 03:04:05.678'],
  ["INTERVAL '1-3' YEAR TO MONTH", 'INTERVAL YEAR TO MONTH', '1-3'],
  ["UUID '12151fd2-7586-11e9-8f9e-2a86e4085a59'", 'uuid', '12151fd2-7586-11e9-8f9e-2a86e4085a59'],
  [`JSON '{"n":9007199254740993123, "d":1.0}'`, 'json', '{"d":1.0,"n":9007199254740993123}'],
  ["IPADDRESS '2001:db8::1'", 'ipaddress', '2001:db8::1'],
  ['CAST(ARRAY[9223372036854775807, NULL] AS array(bigint))', 'array(bigint)', [9_223_372_036_854_775_807n, null]],
  ['CAST(ARRAY[] AS array(varchar))', 'array(varchar)', []],
  ['ARRAY[ARRAY[nan(), 1e0], NULL]', 'array(array(double))', [[Number.NaN, 1], null]],
  [
    "MAP(ARRAY['__proto__', 'b'], ARRAY[1, NULL])",
    'map(varchar(9), integer)',
    new Map([
      ['__proto__', 1],
      ['b', null],
    ]),
  ],
  [
    "MAP(ARRAY[BIGINT '9007199254740993'], ARRAY[X'00'])",
    'map(bigint, varbinary)',
    new Map([[9_007_199_254_740_993n, Buffer.from([0])]]),
  ],
  ['MAP(ARRAY[true], ARRAY[infinity()])', 'map(boolean, double)', new Map([[true, Infinity]])],
  ["MAP(ARRAY[DATE '2020-01-01'], ARRAY[1])", 'map(date, integer)', new Map([['2020-01-01', 1]])],
  [
    "CAST(ROW(9007199254740993, ARRAY[ROW(1, X'ff')], NULL) AS row(a bigint, b array(row(x integer, y varbinary)), c bigint))",
    'row(a bigint, b array(row(x integer, y varbinary)), c bigint)',
    { a: 9_007_199_254_740_993n, b: [{ x: 1, y: Buffer.from([255]) }], c: null },
  ],
  ["ROW(BIGINT '9007199254740993', 'a')", 'row(bigint, varchar(1))', [9_007_199_254_740_993n, 'a']],
  ['CAST(ROW(1, 2) AS row(a bigint, a bigint))', 'row(a bigint, a bigint)', [1n, 2n]],
  ['NULL', 'unknown', null],
  ['CAST(NULL AS bigint)', 'bigint', null],
  ['CAST(NULL AS row(a bigint))', 'row(a bigint)', null],
]

/** Every control character, quotes, backslashes, marks and characters outside the basic plane. */
const awkward = `${Array.from({ length: 32 }, (_, code) => String.fromCharCode(code)).join('')}\u007f\u0085'"\\n\\\\\`?;--/**/\ufeff\u2028\ufffd\u{1d11e}\u{10ffff} `

describeWith(['trino'], 'values', ({ trino: { url, user } }) => {
  const trino = new TrinoHandler({ url, user })
  afterAll(() => trino.close())

  it('reads the extremes of every type exactly, in one row and one by one', async () => {
    const all = await trino.query(`SELECT ${vectors.map(([expression]) => expression).join(', ')}`, [], { rowMode: 'arrays' })
    expect(all.columns.map((column) => column.type)).toEqual(vectors.map(([, type]) => type))
    expect(all.rows).toEqual([vectors.map(([, , value]) => value)])
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
