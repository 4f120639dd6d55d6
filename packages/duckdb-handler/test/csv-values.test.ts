import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { afterAll, describe, expect, it } from 'vitest'
import { duckdbDecode, encodeField, encodeRow, mapColumn, type SourceColumn } from '@common-handlers/dataset'
import { DuckDbHandler, type DuckDbValue, ident, readCsv } from '@common-handlers/duckdb-handler'

const folder = await mkdtemp(join(tmpdir(), 'duckdb-csv-'))
const db = new DuckDbHandler({ path: ':memory:', threads: 2 })
afterAll(async () => {
  await db.close()
  await rm(folder, { recursive: true })
})

/** What PostgreSQL writes for a value, and what DuckDB gives back for it where that is spelled otherwise. */
type Hard = string | readonly [written: string, read: DuckDbValue]
interface HardColumn {
  readonly type: string
  readonly base?: string
  readonly category?: string
  readonly precision?: number
  readonly scale?: number
  readonly exceptional?: boolean
  readonly values: readonly Hard[]
}

const texts = [
  '',
  ' ',
  ' x ',
  '\\N',
  '"\\N"',
  '\\',
  '\\\\',
  '\\n',
  'a,b',
  '"',
  '""',
  "'",
  'a\nb',
  '\r',
  '\r\n',
  '\n',
  '\u0001',
  '\u0002',
  '\u00022',
  '\u0002N',
  '\u0003\u0008\u001f\u007f',
  'é\u{1F5C3}',
  'NULL',
  'null',
  '\\.',
  'x'.repeat(200_000),
]

const columns: Record<string, HardColumn> = {
  int2: {
    type: 'smallint',
    values: [
      ['-32768', -32768],
      ['32767', 32767],
    ],
  },
  int4: {
    type: 'integer',
    values: [
      ['-2147483648', -2147483648],
      ['2147483647', 2147483647],
    ],
  },
  int8: {
    type: 'bigint',
    values: [
      ['-9223372036854775808', -9223372036854775808n],
      ['9007199254740993', 9007199254740993n],
    ],
  },
  oid: { type: 'oid', values: [['4294967295', 4294967295n]] },
  numeric: {
    type: 'numeric(38,10)',
    precision: 38,
    scale: 10,
    values: ['9999999999999999999999999999.9999999999', '-0.0000000001', '1.5000000000'],
  },
  negative_scale: { type: 'numeric(3,-2)', base: 'numeric', precision: 3, scale: -2, values: ['99900', '-100'] },
  more_scale: { type: 'numeric(2,4)', base: 'numeric', precision: 2, scale: 4, values: ['0.0099', '-0.0001'] },
  unbounded: { type: 'numeric', base: 'numeric', values: ['NaN', 'Infinity', '1.10', `${'9'.repeat(80)}.${'1'.repeat(60)}`] },
  wide: { type: 'numeric(39,2)', base: 'numeric', precision: 39, scale: 2, values: [`${'9'.repeat(37)}.99`] },
  nan: { type: 'numeric(10,2)', base: 'numeric', precision: 10, scale: 2, exceptional: true, values: ['NaN', '1.50'] },
  float4: {
    type: 'real',
    values: [
      ['NaN', NaN],
      ['Infinity', Infinity],
      ['-Infinity', -Infinity],
      ['3.4028235e+38', Math.fround(3.4028235e38)],
      ['1e-45', Math.fround(1e-45)],
      ['-0', -0],
    ],
  },
  float8: {
    type: 'double precision',
    values: [
      ['NaN', NaN],
      ['-Infinity', -Infinity],
      ['1.7976931348623157e+308', Number.MAX_VALUE],
      ['5e-324', 5e-324],
      ['0.1', 0.1],
      ['-0', -0],
    ],
  },
  bool: {
    type: 'boolean',
    values: [
      ['t', true],
      ['f', false],
    ],
  },
  text: { type: 'text', values: texts },
  bpchar: { type: 'character(5)', values: ['a    ', '     '] },
  mood: { type: 'app.mood', category: 'E', values: ['so, so', "it's"] },
  bytea: {
    type: 'bytea',
    values: [
      ['\\x', Buffer.alloc(0)],
      ['\\x00ff5c4e0a22', Buffer.from('00ff5c4e0a22', 'hex')],
    ],
  },
  uuid: { type: 'uuid', values: ['00000000-0000-0000-0000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff'] },
  json: { type: 'json', values: ['{"a": "\\ud800"}', ' {"b":1,\n"b":1e400} '] },
  jsonb: { type: 'jsonb', values: ['{"a": "x\\n\\"y\\"", "n": 12345678901234567890123.10}', 'null', '"\\\\N"'] },
  date: {
    type: 'date',
    exceptional: true,
    values: [['4713-01-01 BC', '4713-01-01 (BC)'], '0001-01-01', '9999-12-31', '5874897-12-31', 'infinity', '-infinity'],
  },
  time: { type: 'time without time zone', exceptional: true, values: ['00:00:00', '23:59:59.999999', '24:00:00'] },
  timestamp: {
    type: 'timestamp without time zone',
    exceptional: true,
    values: [
      ['0044-03-15 10:00:00.000001 BC', '0044-03-15 (BC) 10:00:00.000001'],
      '0001-01-01 00:00:00',
      '2026-11-21 10:15:30.123457',
      '199999-12-31 23:59:59.999999',
      'infinity',
      '-infinity',
    ],
  },
  timestamptz: {
    type: 'timestamp with time zone',
    exceptional: true,
    values: [
      ['4713-01-01 00:00:00.000001+00 BC', '4713-01-01 (BC) 00:00:00.000001+00'],
      '0001-01-01 00:00:00+00',
      '2026-11-21 10:15:30.123457+00',
      '9999-12-31 23:59:59.999999+00',
      '199999-12-31 23:59:59.999999+00',
      'infinity',
      '-infinity',
    ],
  },
  far: { type: 'timestamp with time zone', base: 'timestamptz', exceptional: true, values: ['294276-12-31 23:59:59.999999+00'] },
  timetz: { type: 'time with time zone', values: ['24:00:00-15:59:59'] },
  interval: { type: 'interval', values: ['-178000000 years', '1 mon -2 days +03:04:05.000006'] },
  inet: { type: 'inet', values: ['::ffff:1.2.3.0/120'] },
  tags: { type: 'text[]', base: '_text', category: 'A', values: ['{"a\nb","\\\\N",NULL,""}', '{}'] },
  range: { type: 'tstzrange', category: 'R', values: ['["2026-01-01 00:00:00+00",)', 'empty'] },
  pair: { type: 'app.pair', category: 'C', values: ['(1,"a ""b""")'] },
  money: { type: 'money', values: ['$1,000.50'] },
  xml: { type: 'xml', values: ['<a b="c">\n</a>'] },
  bit: { type: 'bit(3)', values: ['101'] },
  other: { type: 'app.other', category: 'U', values: ['any, thing'] },
}

const sources = Object.entries(columns).map(([name, { type, base, category = 'X', precision, scale }]): SourceColumn => ({
  name: `a "${name}"`,
  sourceType: type,
  baseTypeName: base ?? name,
  category,
  precision,
  scale,
  nullable: true,
}))

describe('hard values through a CSV of the one-row-a-line dialect', () => {
  for (const [index, [name, { type, values, exceptional }]] of Object.entries(columns).entries()) {
    it(`${type}${name === 'far' ? ' past the year 199999' : ''} is exact, and NULL is NULL`, async () => {
      const source = sources[index]
      if (source === undefined) throw new Error('no such column')
      // "far" is what the server was asked for with the predicate for DuckDB.
      const asked = exceptional !== true ? undefined : { iceberg: true, duckdb: name === 'far' || name === 'nan' }
      const column = mapColumn(source, { exceptional: asked })
      const written = [null, ...values.map((value) => (typeof value === 'string' ? value : value[0])), null]
      const file = join(folder, `${name}.csv`)
      await writeFile(
        file,
        `id,${encodeField(column.name)}\n${written.map((value, id) => encodeRow([String(id), value])).join('')}`,
      )
      const from = readCsv([file], ['id', column.name])
      const table = ident(`t ${name}`)
      await db.execute(`CREATE TABLE ${table} AS SELECT CAST(id AS BIGINT) AS id, ${duckdbDecode(column)} AS v FROM ${from}`)
      const { rows, columns: types } = await db.query(`SELECT v FROM ${table} ORDER BY id`)
      expect(rows.map((row) => row['v'])).toEqual([
        null,
        ...values.map((value) => (typeof value === 'string' ? value : value[1])),
        null,
      ])
      expect(types[0]?.type).toBe(column.targets.duckdb.type)
    })
  }

  it('reads a table of one column, its empty text included', async () => {
    const file = join(folder, 'single.csv')
    await writeFile(file, `c\n${texts.map((text) => encodeRow([text])).join('')}\\N\n`)
    const column = mapColumn({ name: 'c', sourceType: 'text', baseTypeName: 'text', category: 'S', nullable: true })
    const { rows } = await db.query(`SELECT ${duckdbDecode(column)} AS c FROM ${readCsv([file], ['c'])}`)
    expect(rows.map((row) => row['c'])).toEqual([...texts, null])
  })

  it('keeps U+FEFF at the beginning of a text, which the driver leaves out when it reads one', async () => {
    const file = join(folder, 'mark.csv')
    await writeFile(file, 'n,x\n1,\uFEFFa\n')
    const { rows } = await db.query(`SELECT x, encode(x) AS bytes FROM ${readCsv([file], ['n', 'x'])}`)
    expect(rows).toEqual([{ x: 'a', bytes: Buffer.from('\uFEFFa') }])
  })

  it('reads many files of many gzip members and zstd frames, the header of each left out', async () => {
    const parts = ['n,x\n1,a\n', '2,b\n', '3,c\n'].map((part) => Buffer.from(part))
    const files = [join(folder, 'members [1].csv.gz'), join(folder, 'frames.csv.zst')]
    await writeFile(files[0] ?? '', Buffer.concat(parts.map((part) => gzipSync(part))))
    await writeFile(files[1] ?? '', Buffer.concat(parts.map((part) => zstdCompressSync(part))))
    const { rows } = await db.query(`SELECT n || x AS nx FROM ${readCsv(files, ['n', 'x'])} ORDER BY 1`)
    expect(rows.map((row) => row['nx'])).toEqual(['1a', '1a', '2b', '2b', '3c', '3c'])
  })

  it('names file and line of a row that is broken, and shows nothing of the row', async () => {
    const good = join(folder, 'good.csv')
    const bad = join(folder, 'bad.csv')
    await writeFile(good, 'n,x\n1,a\n')
    for (const row of ['confidential', '2,"confidential', '2,confidential,3', '2,"confidential"x']) {
      await writeFile(bad, `n,x\n1,a\n${row}\n3,c\n`)
      const failed = await db.query(`SELECT * FROM ${readCsv([good, bad], ['n', 'x'])}`).catch((error: unknown) => error)
      expect(failed).toMatchObject({ code: 'DUCKDB_CSV_BROKEN', outcome: 'data', where: { file: bad, line: 3 } })
      expect(JSON.stringify(failed)).not.toContain('confidential')
    }
  })

  it('takes rows of megabytes, up to the limit it was given', async () => {
    const file = join(folder, 'long.csv')
    await writeFile(file, `n,x\n1,${'y'.repeat(5_000_000)}\n`)
    const { rows } = await db.query(`SELECT length(x) AS n FROM ${readCsv([file], ['n', 'x'])}`)
    expect(rows).toEqual([{ n: 5_000_000n }])
    const short = db.query(`SELECT length(x) AS n FROM ${readCsv([file], ['n', 'x'], { maxRowBytes: 1_000_000 })}`)
    await expect(short).rejects.toMatchObject({ code: 'DUCKDB_CSV_BROKEN', where: { line: 2 } })
    expect(((await short.catch((error: unknown) => error)) as Error).message.length).toBeLessThan(1000)
  })
})
