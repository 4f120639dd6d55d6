import { describeWith } from '@common-handlers/testkit'
import { expect, it } from 'vitest'
import { z } from 'zod'
import { ident, PostgresHandler, sql } from '../src/index.ts'
import { failure, ownDatabase } from './own-database.ts'

describeWith(['postgres'], 'values', ({ postgres }) => {
  const db = ownDatabase(postgres)

  it.each([
    ['true', 'bool', true],
    ['-32768', 'int2', -32768],
    ['2147483647', 'int4', 2147483647],
    ['-9223372036854775808', 'int8', -9223372036854775808n],
    ['9007199254740993', 'int8', 9007199254740993n],
    ['12345678901234567890.1230', 'numeric', '12345678901234567890.1230'],
    ['NaN', 'numeric', 'NaN'],
    ['0.1', 'float4', '0.1'],
    ['1.7976931348623157e308', 'float8', '1.7976931348623157e+308'],
    ['-0', 'float8', '-0'],
    ['2024-02-29 12:34:56.123456+02', 'timestamptz', '2024-02-29 10:34:56.123456+00'],
    ['infinity', 'timestamptz', 'infinity'],
    ['0044-03-15 00:00:00 BC', 'timestamp', '0044-03-15 00:00:00 BC'],
    ['1 year 2 mons -3 days 04:05:06.000007', 'interval', '1 year 2 mons -3 days +04:05:06.000007'],
    ['24:00:00', 'time', '24:00:00'],
    ['{"a": 12345678901234567890, "a": 1.00}', 'json', '{"a": 12345678901234567890, "a": 1.00}'],
    ['{"b":1.00}', 'jsonb', '{"b": 1.00}'],
    ['{1,NULL,9223372036854775807}', 'int8[]', '{1,NULL,9223372036854775807}'],
    ['\\x00ff', 'bytea', '\\x00ff'],
    ['[1,5)', 'int4range', '[1,5)'],
    ['\u{1f4a9} "quoted"\r\n\t\\N', 'text', '\u{1f4a9} "quoted"\r\n\t\\N'],
  ])('%s::%s is read exactly', async (text, type, expected) => {
    // PostgreSQL sees the same value in what is read and, bound, in what was given.
    const [row] = await db.pg.getRecords(`SELECT $1::text::${type} AS value`, [text])
    expect(row).toEqual({ value: expected })
    const [again] = await db.pg.getRecords(`SELECT $1::${type}::text = $2::text::${type}::text AS same`, [expected, text])
    expect(again).toEqual({ same: true })
  })

  it('do not change with the settings of the role, the database or the environment', async () => {
    const [role, name] = ['odd_settings', db.address.database]
    await db.pg.executeScript(`CREATE ROLE ${role} LOGIN PASSWORD 'odd-settings-pw'; GRANT CREATE ON DATABASE ${name} TO ${role};
      ALTER ROLE ${role} SET TimeZone = 'Asia/Tokyo'; ALTER ROLE ${role} SET DateStyle = 'SQL, DMY'; ALTER ROLE ${role} SET IntervalStyle = 'iso_8601';
      ALTER ROLE ${role} SET extra_float_digits = -5; ALTER ROLE ${role} SET bytea_output = 'escape'; ALTER ROLE ${role} SET client_encoding = 'LATIN1'`)
    // pg would follow these.
    const environment = { PGOPTIONS: '-c TimeZone=Asia/Tokyo', PGBINARY: '1', PGSSLMODE: 'require', PGREPLICATION: 'database' }
    Object.assign(process.env, environment)
    try {
      await using pg = new PostgresHandler(db.options({ user: role, password: 'odd-settings-pw' }))
      const values = await pg.getRows(
        `SELECT '2024-01-02 03:04:05+00'::timestamptz, interval '1 day 2 hours', 0.1::float8 + 0.2::float8, '\\x00ff'::bytea, 'é', 7`,
      )
      expect(values).toEqual([['2024-01-02 03:04:05+00', '1 day 02:00:00', '0.30000000000000004', '\\x00ff', 'é', 7]])
    } finally {
      for (const key of Object.keys(environment)) delete process.env[key]
      await db.pg.executeScript(`DROP OWNED BY ${role}; DROP ROLE ${role}`)
    }
  })

  it('of two columns of one name are an error, and both are there as arrays', async () => {
    const query = 'SELECT 1 AS a, 2 AS b, 3 AS a'
    expect(await failure(db.pg.getRecords(query))).toMatchObject({ code: 'POSTGRES_DUPLICATE_COLUMN', where: { column: 'a' } })
    expect(await db.pg.getRows(query)).toEqual([[1, 2, 3]])
  })

  it('keep a column called __proto__', async () => {
    const [row] = await db.pg.getRecords(`SELECT 'x' AS "__proto__", 1 AS a`)
    expect(Object.getOwnPropertyDescriptor(row, '__proto__')?.value).toBe('x')
  })

  it('are bound as what they are', async () => {
    const given = [1n << 62n, null, new Date('2024-01-02T03:04:05.678Z'), Buffer.from([0, 255]), ['a"', null, '\\'], { k: 'é' }]
    const [row] = await db.pg.getRecords(
      'SELECT $1::int8 AS a, $2::text AS b, $3::timestamptz AS c, $4::bytea AS d, $5::text[] AS e, $6::jsonb AS f, $5::text[] = ARRAY[$7, NULL, $8] AS g',
      [...given, 'a"', '\\'],
    )
    expect(row).toEqual({
      a: 4611686018427387904n,
      b: null,
      c: '2024-01-02 03:04:05.678+00',
      d: '\\x00ff',
      e: '{"a\\"",NULL,"\\\\"}',
      f: '{"k": "é"}',
      g: true,
    })
  })

  it('and names reach the server quoted through sql``', async () => {
    const [table, column] = ['odd "table"', 'a; drop']
    await db.pg.execute(sql`CREATE TABLE ${ident('public', table)} (${ident(column)} text)`)
    expect(await db.pg.execute(sql`INSERT INTO ${ident(table)} VALUES (${"'); --"}), (${null})`)).toEqual({
      rowCount: 2,
      command: 'INSERT',
    })
    const where = sql`${ident(column)} = ${"'); --"}`
    expect(await db.pg.getRecords(sql`SELECT ${1}::int AS one, * FROM ${ident(table)} WHERE ${where}`)).toEqual([
      { one: 1, [column]: "'); --" },
    ])
  })

  it('are checked and converted by a schema, and a misfit names row and column', async () => {
    const schema = z.object({ n: z.int().max(2), at: z.string().transform((text) => new Date(text)) })
    const query = `SELECT n, '2024-01-01 00:00:00+00'::timestamptz AS at FROM generate_series(1, $1::int) AS n`
    expect(await db.pg.getRecords(query, [2], { schema })).toEqual(
      [1, 2].map((n) => ({ n, at: new Date('2024-01-01T00:00:00Z') })),
    )
    expect(await failure(db.pg.getRecords(query, [3], { schema }))).toMatchObject({
      code: 'POSTGRES_ROW_INVALID',
      where: { line: 3, column: 'n' },
    })
  })

  it('cannot bring a second statement with them', async () => {
    expect(await failure(db.pg.execute('SELECT 1; SELECT 2'))).toMatchObject({ code: 'POSTGRES_SYNTAX' })
  })
})
