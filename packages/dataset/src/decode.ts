import type { Dialect, ManifestColumn } from './manifest.ts'
import { doubleQuote } from './sql.ts'

export interface DecodeOptions {
  /** The name of the raw column when it is another: `c0`. */
  readonly raw?: string | undefined
}

/**
 * The session settings of PostgreSQL under which COPY spells values as the decode expressions read them. `SET LOCAL`
 * each of them in the transaction that reads.
 */
export const copySettings: Readonly<Record<string, string>> = {
  client_encoding: 'UTF8',
  DateStyle: 'ISO, YMD',
  TimeZone: 'UTC',
  IntervalStyle: 'postgres',
  bytea_output: 'hex',
  extra_float_digits: '1',
}

/** The Trino types of columns that hold the field's text itself. */
const isText = (type: string): boolean => type === 'varchar' || type === 'VARCHAR' || type === 'JSON'

/**
 * Trino SQL that turns the raw varchar column of an external CSV table (one-row-a-line, `csv_escape = U&'\0001'`) into
 * the value, of the type that the column has in Iceberg. A field that is no value of the type fails the query.
 */
export function trinoDecode(column: ManifestColumn, options: DecodeOptions = {}): string {
  const raw = doubleQuote(options.raw ?? column.name)
  const { type } = column.targets.iceberg
  if (isText(type)) return trinoText(raw)
  const value = `NULLIF(${raw}, '\\N')`
  switch (column.logicalType) {
    case 'binary':
      // Without the prefix it is not COPY's hexadecimal: "?" makes from_hex fail instead of guessing.
      return `from_hex(CASE WHEN substr(${raw}, 1, 2) = '\\x' THEN substr(${raw}, 3) ELSE '?' || ${value} END)`
    case 'timestamptz':
      // COPY ran with TimeZone UTC: every value ends in +00, which Trino's own cast does not read. A value without it would
      // be taken for the time zone of the session.
      return `with_timezone(CAST(CASE WHEN ${raw} LIKE '%+00' THEN substr(${raw}, 1, length(${raw}) - 3) ELSE '?' || ${value} END AS timestamp(6)), 'UTC')`
    default:
      return `CAST(${value} AS ${type})`
  }
}

function trinoText(raw: string): string {
  const two = "U&'\\0002'"
  const steps: [string, string][] = [
    ["U&'\\0002n'", 'chr(10)'],
    ["U&'\\0002r'", 'chr(13)'],
    ["U&'\\00021'", 'chr(1)'],
    ["U&'\\0002N'", "'\\N'"],
    ["U&'\\00022'", 'chr(2)'],
  ]
  const decoded = steps.reduce((expression, [from, to]) => `replace(${expression}, ${from}, ${to})`, raw)
  return `CASE WHEN ${raw} = '\\N' THEN NULL WHEN strpos(${raw}, ${two}) > 0 THEN ${decoded} ELSE ${raw} END`
}

/**
 * DuckDB SQL that turns the raw VARCHAR column of `read_csv(…, all_varchar = true, nullstr = '\N',
 * allow_quoted_nulls = false)` into the value, of the type that the column has in DuckDB.
 */
export function duckdbDecode(
  column: ManifestColumn,
  options: DecodeOptions & { readonly dialect?: Dialect | undefined } = {},
): string {
  const raw = doubleQuote(options.raw ?? column.name)
  const { type } = column.targets.duckdb
  if (isText(type)) {
    const decoded = options.dialect === 'rfc4180' ? raw : duckdbText(raw)
    return type === 'JSON' ? `CAST(${decoded} AS JSON)` : decoded
  }
  if (column.logicalType === 'binary')
    return `unhex(CASE WHEN starts_with(${raw}, '\\x') THEN substr(${raw}, 3) ELSE '?' || ${raw} END)`
  if (['date', 'timestamp', 'timestamptz'].includes(column.logicalType)) return `CAST(${duckdbYears(raw)} AS ${type})`
  return `CAST(${raw} AS ${type})`
}

/** PostgreSQL writes `0044-03-15 10:00:00 BC`, DuckDB reads `0044-03-15 (BC) 10:00:00`; its cast to DATE drops ` BC` without an error. */
function duckdbYears(raw: string): string {
  return `CASE WHEN ends_with(${raw}, ' BC') THEN regexp_replace(${raw}, '^([0-9-]+)(.*) BC$', '\\1 (BC)\\2') ELSE ${raw} END`
}

function duckdbText(raw: string): string {
  const steps: [string, string][] = [
    ["chr(2) || 'n'", 'chr(10)'],
    ["chr(2) || 'r'", 'chr(13)'],
    ["chr(2) || '1'", 'chr(1)'],
    ["chr(2) || 'N'", "'\\N'"],
    ["chr(2) || '2'", 'chr(2)'],
  ]
  const decoded = steps.reduce((expression, [from, to]) => `replace(${expression}, ${from}, ${to})`, raw)
  return `CASE WHEN contains(${raw}, chr(2)) THEN ${decoded} ELSE ${raw} END`
}
