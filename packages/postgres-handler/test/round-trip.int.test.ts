import { describeWith, startPostgres, type PostgresServer } from '@common-handlers/testkit'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { ident, PostgresHandler, sql } from '../src/index.ts'
import { failure, ownDatabase } from './own-database.ts'

/** By type; each value goes out and comes back. */
const literals: Readonly<Record<string, readonly string[]>> = {
  bool: ['true', 'false'],
  int2: ['-32768', '32767'],
  int4: ['-2147483648', '2147483647'],
  int8: ['-9223372036854775808', '9223372036854775807', '9007199254740993'],
  numeric: ['0', '-0.00', '1.10', '1e-30', 'NaN', 'Infinity', '-Infinity', `${'9'.repeat(1000)}.${'1'.repeat(300)}`, '1e131000'],
  'numeric(10,-3)': ['1234567', '-5000'],
  float4: ['0.1', '-0', 'NaN', 'Infinity', '3.4028235e38', '1e-45'],
  float8: ['0.1', '-0', 'NaN', '-Infinity', '1.7976931348623157e308', '5e-324', '0.30000000000000004', '123456789.123456789'],
  money: ['$12,345.67', '-92233720368547758.08'],
  text: ['', 'NULL', '\\N', 'a\tb\nc\r\\d', 'it\'s "quoted"', '\u{1f4a9}\u0301\u200b', ' padded ', '{1,2}', '\x01\x7f'],
  varchar: ['', 'é'],
  'char(5)': ['ab', ''],
  '"char"': ['x', ''],
  name: ['a name'],
  bytea: ['\\x', '\\x00ff5c27', '\\xdeadbeef'],
  date: ['2024-02-29', '0044-03-15 BC', '4713-11-24 BC', '5874897-12-31', 'infinity', '-infinity'],
  time: ['00:00:00', '23:59:59.999999', '24:00:00'],
  timetz: ['04:05:06.789-08', '12:00:00+05:45', '00:00:00+15:59:59'],
  timestamp: [
    '2024-02-29 12:34:56.123456',
    '0044-03-15 00:00:00.000001 BC',
    '294276-12-31 23:59:59.999999',
    'infinity',
    '-infinity',
  ],
  timestamptz: [
    '2024-02-29 12:34:56.123456+02',
    '1883-11-18 12:03:57.5-04:56:02',
    '2024-03-31 01:30:00+00',
    '2024-10-27 01:30:00+00',
    '4714-11-24 00:00:00+00 BC',
    '294276-12-31 23:59:59.999999+00',
    'infinity',
    '-infinity',
  ],
  interval: ['1 year 2 mons -3 days 04:05:06.000007', '-1 mon +1 day -00:00:00.000001', '178000000 years', '0'],
  json: ['{"a": 12345678901234567890, "a": 1.00}', '9007199254740993', '"\\u0061"', ' [ 1 , null ] ', '1e400'],
  jsonb: ['{"b": 9007199254740993.10, "a": [null, "\\""]}', '1e300', '"é"'],
  jsonpath: ['$.a[*] ? (@.b > 1)', 'strict $'],
  uuid: ['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'],
  inet: ['10.1.2.3', '10.1.2.3/8', '::1', '2001:db8::/32'],
  cidr: ['10.0.0.0/8', '2001:db8::/32'],
  macaddr: ['08:00:2b:01:02:03'],
  macaddr8: ['08:00:2b:01:02:03:04:05'],
  bit: ['1'],
  'bit(10)': ['1010101010'],
  varbit: ['', '101'],
  oid: ['4294967295', '0'],
  xid: ['4294967295'],
  xid8: ['18446744073709551615'],
  cid: ['7'],
  tid: ['(4294967295,65535)'],
  pg_lsn: ['FFFFFFFF/FFFFFFFF', '0/0'],
  pg_snapshot: ['10:20:10,14,15'],
  regclass: ['pg_class', '12345678'],
  regtype: ['integer', 'timestamp with time zone'],
  point: ['(1.5,-2)', '(NaN,Infinity)'],
  line: ['{1,2,3}'],
  lseg: ['[(1,2),(3,4)]'],
  box: ['(3,4),(1,2)'],
  path: ['[(1,2),(3,4)]', '((1,2),(3,4))'],
  polygon: ['((0,0),(1,1),(1,0))'],
  circle: ['<(1,2),3.5>'],
  tsvector: ["'a':1A 'it''s':2,3B 'x y'"],
  tsquery: ["'a' & !'b' <2> 'c':*"],
  int4range: ['empty', '[1,5)', '(,5)', '[1,)'],
  int8range: ['[9007199254740993,9007199254740995)'],
  numrange: ['[1.10,2.200]', '(,)'],
  daterange: ['[2024-01-01,infinity)'],
  tsrange: ['["2024-01-01 00:00:00.000001","2024-01-02 00:00:00")'],
  tstzrange: ['["2024-03-31 01:30:00.000001+00",)'],
  int4multirange: ['{}', '{[1,3),[5,7)}'],
  tstzmultirange: ['{["2024-01-01 00:00:00+00","2024-01-02 00:00:00+00")}'],
  'int4[]': ['{}', '{1,NULL,3}', '{{1,2},{3,NULL}}', '[0:1]={7,8}'],
  'text[]': ['{"",NULL,"NULL","a,b","{}","\\"\\\\"}'],
  'bytea[]': ['{"\\\\x00","\\\\xff"}'],
  'timestamptz[]': ['{infinity,"2024-02-29 12:34:56.123456+00"}'],
  'box[]': ['{(3,4),(1,2);(1,1),(0,0)}'],
  'jsonb[]': ['{"{\\"a\\": 1.0}",null}'],
  mood: ['ok', 'very sad, "really"'],
  'mood[]': ['{ok,NULL}'],
  positive: ['1.50'],
  pair: ['(1,)', '(,"a ""b"", \\\\")', '(2,"(3,4)")'],
  'pair[]': ['{"(1,a)",NULL}'],
  hstore: ['"a"=>"1", "b"=>NULL, "c \\""=>""', ''],
  xml: ['<a b="c">é</a>', 'text <b/>'],
}

const DEFINITIONS = `CREATE EXTENSION hstore; CREATE TYPE mood AS ENUM ('ok', 'very sad, "really"'); CREATE DOMAIN positive AS numeric CHECK (VALUE > 0);
  CREATE TYPE pair AS (a int, b text)`
const ZONES = ['UTC', 'Asia/Kathmandu', 'America/St_Johns'] as const

function roundTrips(handler: () => PostgresHandler): void {
  const home = process.env['TZ']
  afterAll(() => {
    if (home === undefined) delete process.env['TZ']
    else process.env['TZ'] = home
  })

  it('has at least 140 literals', () => {
    expect(Object.values(literals).flat().length).toBeGreaterThanOrEqual(140)
  })

  it.each(Object.entries(literals))('%s', async (type, texts) => {
    const pg = handler()
    const name = `t ${type}`
    const [original, bound, copied] = [ident(name), ident(`${name} bound`), ident(`${name} copied`)]
    const create = pg.executeScript(
      [original, bound, copied]
        .map(({ quoted }) => `CREATE TABLE ${quoted} (id int PRIMARY KEY, v ${type}, many ${type.replace(/\[\]$/, '')}[])`)
        .join(';'),
    )
    await create
    try {
      for (const [id, text] of texts.entries()) await pg.execute(sql`INSERT INTO ${original} (id, v) SELECT ${id}, ${text}`)
    } catch (error) {
      // A server that was built without libxml.
      expect([type, (error as { context?: { sqlState?: string } }).context?.sqlState]).toEqual(['xml', '0A000'])
      return
    }
    const isArray = type.endsWith('[]')
    await pg.execute(sql`INSERT INTO ${original} VALUES (${texts.length}, ${null}, ${null})`)
    // All of the type in one array, with a NULL among them.
    if (!isArray)
      await pg.execute(sql`UPDATE ${original} SET many = (SELECT array_agg(v ORDER BY id) FROM ${original}) WHERE id = 0`)
    const differences = (other: typeof bound) =>
      pg.getRecords(sql`SELECT a.id, a.v::text AS sent, b.v::text AS back, a.many::text AS sent_many, b.many::text AS back_many
        FROM ${original} AS a FULL JOIN ${other} AS b USING (id) WHERE NOT (a *= b) OR a.id IS NULL OR b.id IS NULL`)
    for (const zone of ZONES) {
      process.env['TZ'] = zone
      await pg.transaction(async (tx) => {
        await tx.execute(`SET LOCAL TimeZone = '${zone}'`)
        await tx.execute(sql`TRUNCATE ${bound}, ${copied}`)
        const rows = await tx.getRows<[number, unknown, string | null]>(sql`SELECT id, v, many FROM ${original} ORDER BY id`)
        const streamed: unknown[] = []
        for await (const row of tx.stream(sql`SELECT id, v, many FROM ${original} ORDER BY id`, [], { batchRows: 2 })) {
          streamed.push(Object.values(row))
        }
        expect(streamed).toEqual(rows)
        for (const [id, v, many] of rows) await tx.execute(sql`INSERT INTO ${bound} VALUES (${id}, ${v}, ${many})`)
        const bytes: Buffer[] = []
        await tx.copyTo(`COPY ${original.quoted} TO STDOUT`, (block) => bytes.push(Buffer.from(block)))
        await tx.copyFrom(`COPY ${copied.quoted} FROM STDIN`, bytes)
      })
      // The image of every value, bit by bit.
      expect(await differences(bound), zone).toEqual([])
      expect(await differences(copied), zone).toEqual([])
      await pg.execute(sql`TRUNCATE ${bound}`)
      const records = await pg.getRecords<{ id: number; v: unknown; many: unknown }>(sql`SELECT * FROM ${original}`)
      expect(await pg.insertMany(`"${name.replaceAll('"', '""')} bound"`, ['id', 'v', 'many'], records)).toBe(texts.length + 1)
      expect(await differences(bound), `${zone} in many rows`).toEqual([])
    }
  })
}

describeWith(['postgres'], 'a value of type', ({ postgres }) => {
  const db = ownDatabase(postgres)
  beforeAll(() => db.pg.executeScript(DEFINITIONS))
  roundTrips(() => db.pg)

  const forms: readonly (readonly [string, string, string, unknown])[] = [
    ['timestamptz', '2024-02-29 12:34:56.123456+02', 'date', new Date('2024-02-29T10:34:56.123Z')],
    ['timestamptz', '0044-03-15 00:00:00.999999 BC', 'date', new Date('-000043-03-15T00:00:00.999Z')],
    ['timestamptz', '1969-12-31 23:59:59.9996+00', 'date', new Date('1969-12-31T23:59:59.999Z')],
    ['timestamptz', '12024-01-01 00:00:00+00', 'date', new Date('+012024-01-01T00:00:00Z')],
    ['timestamp', '2024-07-01 12:00:00', 'date', new Date('2024-07-01T12:00:00Z')],
    ['date', '0099-07-01', 'date', new Date('0099-07-01T00:00:00Z')],
    ['numeric', '0.1', 'number', 0.1],
    ['numeric', '-Infinity', 'number', -Infinity],
    ['float8', 'NaN', 'number', Number.NaN],
    ['int8', '9007199254740991', 'number', 9007199254740991],
    ['int8', '9007199254740993', 'text', '9007199254740993'],
    ['bool', 't', 'text', 't'],
    ['jsonb', '{"a": [1, null]}', 'json', { a: [1, null] }],
    ['bytea', '\\x00ff', 'bytes', Buffer.from([0, 255])],
    ['text[]', '{a,NULL,"NULL","x,\\"y\\"\\\\",""}', 'array', ['a', null, 'NULL', 'x,"y"\\', '']],
    [
      'int8[]',
      '{{1,2},{3,NULL}}',
      'array',
      [
        [1n, 2n],
        [3n, null],
      ],
    ],
    ['bool[]', '[0:1]={t,f}', 'array', [true, false]],
    ['int4[]', '{}', 'array', []],
  ]
  it.each(forms)('%s %s is given as %s where that is asked for, by type and by column', async (type, text, form, expected) => {
    const statement = `SELECT $1::${type} AS v, $1::${type} AS w`
    expect(await db.pg.getRows(statement, [text], { types: { [type]: form } })).toEqual([[expected, expected]])
    const [row] = await db.pg.getRecords<Record<string, unknown>>(statement, [text], { columns: { v: form as 'text' } })
    expect(row?.['v']).toEqual(expected)
    expect(row?.['w']).toEqual((await db.pg.getRecords(statement, [text]))[0]?.['w'])
  })

  it('an array has its elements in the form of their type', async () => {
    const types = { 'timestamptz[]': 'array', timestamptz: 'date' } as const
    const statement = `SELECT ARRAY[timestamptz '2024-01-01', NULL] AS v`
    expect(await db.pg.getRows(statement, [], { types })).toEqual([[[new Date('2024-01-01T00:00:00Z'), null]]])
    expect(await db.pg.getRows(`SELECT '{ok,NULL}'::mood[] AS v`, [], { columns: { v: 'array' } })).toEqual([[['ok', null]]])
  })

  it.each([
    ['timestamptz', 'infinity', 'date'],
    ['date', '5874897-12-31', 'date'],
    ['int8', '9007199254740993', 'number'],
    ['text', '12 apples', 'number'],
    ['text', 'x', 'json'],
    ['text', '\\xzz', 'bytes'],
    ['text', '{a', 'array'],
  ])('%s %s is an error where it is asked for as %s, naming the column', async (type, text, form) => {
    const asked = db.pg.getRows(`SELECT $1::${type} AS v`, [text], { columns: { v: form as 'text' } })
    expect(await failure(asked)).toMatchObject({ code: 'POSTGRES_VALUE_UNREADABLE', where: { column: 'v' } })
    const missing = db.pg.getRows('SELECT 1 AS v', [], { columns: { w: 'text' } })
    expect(await failure(missing)).toMatchObject({ code: 'POSTGRES_COLUMN_NOT_FOUND', where: { column: 'w' } })
  })
})

describe('on PostgreSQL 18, a value of type', () => {
  let server: PostgresServer | undefined
  let pg: PostgresHandler | undefined
  beforeAll(async () => {
    server = await startPostgres({ binaries: 'embedded' })
    const { host, port, user, password, database } = server
    pg = new PostgresHandler({ host, port, user, password, database })
    await pg.executeScript(DEFINITIONS)
  })
  afterAll(async () => {
    await pg?.close()
    await server?.stop()
  })
  it('is on that server', async () => {
    expect(await pg?.getRows('SHOW server_version_num')).toEqual([[expect.stringMatching(/^18/)]])
  })
  roundTrips(() => pg as PostgresHandler)
})
