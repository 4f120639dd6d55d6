import { randomBytes } from 'node:crypto'

/** A column of the comparison: its type, and values as SQL expressions that PostgreSQL takes. NULL is among them always. */
export interface TestedColumn {
  readonly name: string
  readonly type: string
  readonly values: readonly string[]
}

const text = (value: string): string =>
  `E'${value.replaceAll('\\', '\\\\').replaceAll("'", "\\'").replaceAll('\n', '\\n').replaceAll('\r', '\\r')}'`

const every = Array.from({ length: 127 }, (_, code) => String.fromCharCode(code + 1)).join('')

/** What texts may hold that has broken a reader of CSV somewhere. */
export const awkwardTexts: readonly string[] = [
  '',
  ' ',
  '  leading and trailing  ',
  '\\N',
  '"\\N"',
  '\\',
  '\\\\n',
  '\\.',
  '"',
  '""',
  `'`,
  'a,b',
  '"quoted", with comma',
  'two\nlines',
  '\n',
  '\r\n',
  'carriage\rreturn',
  'tab\tstop',
  '\u0001',
  '\u0002',
  '\u0002n',
  '\u0002N',
  '\u00022',
  '\u0002\n\u0001\r',
  every,
  'NULL',
  'null',
  '{"json": "\\n \\" \\u0000"}',
  'é ß 漢字 עברית',
  '\u{1F5C3} \u{10FFFF} \u{1F468}\u200D\u{1F469}\u200D\u{1F467}',
  '\uFEFFbyte order mark',
  'nul-free \u007f\u0080\u009f\u00a0\u2028\u2029',
  '%41+%2B',
  '-- drop; /* comment */',
  'x'.repeat(200_000),
]

/** Every type of the issue with its extremes. */
export const testedColumns: readonly TestedColumn[] = [
  { name: 'a_bool', type: 'boolean', values: ['true', 'false'] },
  { name: 'a_int2', type: 'smallint', values: ['-32768', '32767', '0'] },
  { name: 'a_int4', type: 'integer', values: ['-2147483648', '2147483647'] },
  { name: 'a_int8', type: 'bigint', values: ['-9223372036854775808', '9223372036854775807', '9007199254740993'] },
  { name: 'a_decimal', type: 'numeric(12,4)', values: ['0.1000', '-99999999.9999', '99999999.9999', '0'] },
  { name: 'a_decimal38', type: 'numeric(38,10)', values: ["'9999999999999999999999999999.9999999999'", "'-0.0000000001'"] },
  { name: 'a_decimal_nan', type: 'numeric(10,2)', values: ["'NaN'", '1.10'] },
  { name: 'a_decimal_wide', type: 'numeric(50,5)', values: [`'${'9'.repeat(45)}.12345'`] },
  {
    name: 'a_numeric',
    type: 'numeric',
    values: [`'${'1'.repeat(60)}.${'2'.repeat(60)}'`, "'NaN'", "'Infinity'", '1e-100', '1.500'],
  },
  { name: 'a_real', type: 'real', values: ["'NaN'", "'Infinity'", "'-Infinity'", "'3.4028235e38'", "'1e-45'", '0.1', "'-0'"] },
  {
    name: 'a_double',
    type: 'double precision',
    values: ["'NaN'", "'Infinity'", "'-Infinity'", "'1.7976931348623157e308'", "'5e-324'", '0.1', '0.30000000000000004', "'-0'"],
  },
  { name: 'a_text', type: 'text', values: awkwardTexts.map(text) },
  { name: 'a_varchar', type: 'varchar(20)', values: ["''", "'twenty characters ok'"] },
  { name: 'a_char', type: 'char(5)', values: ["'ab'", "''"] },
  { name: 'a_citext', type: 'citext', values: ["'MiXeD Case'"] },
  { name: 'a_enum', type: 'mood', values: ["'sad'", '\'happy, "very"\''] },
  {
    name: 'a_bytea',
    type: 'bytea',
    values: [String.raw`'\x'`, String.raw`'\x00ff5c4e0a0d01022c22'`, `'\\x${randomBytes(1000).toString('hex')}'`],
  },
  { name: 'a_date', type: 'date', values: ["'0001-01-01'", "'9999-12-31'", "'2026-02-28'"] },
  { name: 'a_date_far', type: 'date', values: ["'infinity'", "'-infinity'", "'4713-01-01 BC'", "'5874897-12-31'"] },
  { name: 'a_time', type: 'time', values: ["'00:00:00'", "'23:59:59.999999'", "'10:15:30.5'"] },
  { name: 'a_time_24', type: 'time', values: ["'24:00:00'", "'01:02:03'"] },
  { name: 'a_timetz', type: 'timetz', values: ["'23:59:59.999999-15:59'", "'10:00:00+02'"] },
  {
    name: 'a_timestamp',
    type: 'timestamp',
    values: ["'0001-01-01'", "'9999-12-31 23:59:59.999999'", "'2026-11-21 10:15:30.123456'", "'1969-12-31 23:59:59.999999'"],
  },
  {
    name: 'a_timestamp_far',
    type: 'timestamp',
    values: ["'infinity'", "'-infinity'", "'0044-03-15 10:00:00 BC'", "'200000-01-01'"],
  },
  {
    name: 'a_timestamptz',
    type: 'timestamptz',
    values: [
      "'0001-01-01 00:00:00+00'",
      "'9999-12-31 23:59:59.999999+00'",
      "'2026-11-21 10:15:30.000001+02'",
      "'1969-12-31 23:59:59.999999+00'",
    ],
  },
  { name: 'a_timestamptz_far', type: 'timestamptz', values: ["'infinity'", "'-infinity'", "'4714-11-24 00:00:00+00 BC'"] },
  { name: 'a_interval', type: 'interval', values: ["'1 mon -2 days 03:04:05.000006'", "'178000000 years'", "'-1 us'"] },
  { name: 'a_uuid', type: 'uuid', values: ["'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"] },
  {
    name: 'a_json',
    type: 'json',
    values: [`'{"a":1,  "a":2, "big": 12345678901234567890.10}'`, "'null'", String.raw`'"\u0000 \\ \""'`],
  },
  {
    name: 'a_jsonb',
    type: 'jsonb',
    values: [
      `'{"b": [1, 2, {"c": "two\\nlines, \\"quoted\\""}], "big": 12345678901234567890.10}'`,
      "'null'",
      "'[]'",
      `'"\\ud83d\\uddc3"'`,
    ],
  },
  { name: 'a_inet', type: 'inet', values: ["'192.168.1.5/24'", "'::ffff:1.2.3.4'"] },
  { name: 'a_cidr', type: 'cidr', values: ["'10.0.0.0/8'", "'2001:db8::/32'"] },
  { name: 'a_ints', type: 'integer[]', values: ["'{1,NULL,-3}'", "'{}'", "'[0:1]={1,2}'"] },
  {
    name: 'a_texts',
    type: 'text[]',
    values: [`ARRAY['two' || chr(10) || 'lines', 'with,comma', 'with"quote', '\\N', '', NULL]`],
  },
  { name: 'a_range', type: 'int4range', values: ["'[1,10)'", "'empty'", "'(,)'"] },
  { name: 'a_tsrange', type: 'tstzrange', values: ["'[2026-01-01 00:00:00+00,infinity)'"] },
  { name: 'a_domain', type: 'positive', values: ['1', '2147483647'] },
  { name: 'a_domain_text', type: 'code', values: ["'ABC'"] },
  { name: 'MiXed "Name"', type: 'text', values: ["'a quoted name'"] },
]

/** Types and a table `values` whose rows hold each value of each column once, and NULL. */
export function createValues(columns: readonly TestedColumn[] = testedColumns): string {
  const quote = (name: string): string => `"${name.replaceAll('"', '""')}"`
  const most = Math.max(...columns.map((column) => column.values.length)) + 1
  const rows = Array.from({ length: most }, (_, row) => [String(row), ...columns.map(({ values }) => values[row] ?? 'NULL')])
  return `
    CREATE EXTENSION citext;
    CREATE TYPE mood AS ENUM ('sad', 'happy, "very"');
    CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
    CREATE DOMAIN code AS varchar(3);
    CREATE TABLE "values" (id bigint PRIMARY KEY, ${columns.map(({ name, type }) => `${quote(name)} ${type}`).join(', ')});
    ${rows.map((row) => `INSERT INTO "values" VALUES (${row.join(', ')});`).join('\n')}`
}

/**
 * A value read back from an engine, in PostgreSQL's own spelling of it. Dates, times and decimals must come as
 * text; a text may come as its bytes.
 */
export function inPostgresText(value: unknown, type: string): string | null {
  if (value === null || value === undefined) return null
  if (value instanceof Uint8Array)
    return type === 'bytea' ? `\\x${Buffer.from(value).toString('hex')}` : Buffer.from(value).toString('utf8')
  if (typeof value === 'boolean') return value ? 't' : 'f'
  if (typeof value === 'number' || typeof value === 'bigint') return Object.is(value, -0) ? '-0' : String(value)
  if (typeof value !== 'string') throw new Error(`${type}: ${JSON.stringify(value)} is not text`)
  return value
}

/** Two spellings of one value: trailing zeros of a fraction, and the zone of an instant. */
export function canonical(value: string | null, type: string): string | null {
  if (value === null) return null
  if (type === 'real' || type === 'double precision') {
    const number = type === 'real' ? Math.fround(Number(value)) : Number(value)
    return Object.is(number, -0) ? '-0' : String(number)
  }
  // DuckDB writes the era before the time of day.
  if (/^(date|timestamp|timestamptz)$/.test(type) && value.includes(' (BC)')) return `${value.replace(' (BC)', '')} BC`
  if (/^(time|timestamp|timestamptz)$/.test(type))
    return value
      .replace(/ ?(UTC|\+00(:00)?)$/, '+00')
      .replace(/(\.\d*?)0+(?=\+00|$)/, '$1')
      .replace(/\.(?=\+00|$)/, '')
  return value
}
