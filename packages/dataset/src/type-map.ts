import { doubleQuote } from './sql.ts'
import type { LogicalType, ManifestColumn, TargetType } from './manifest.ts'

/** A column as PostgreSQL's catalog describes it; what `describeTable` of postgres-handler gives. */
export interface SourceColumn {
  readonly name: string
  /** format_type(atttypid, atttypmod): `numeric(10,2)`, `app.mood[]`. Of a domain, the domain's own name. */
  readonly sourceType: string
  /** pg_type.typname of the type; of a domain, of the type it stands on: `int4`, `numeric`, `_text`. */
  readonly baseTypeName: string
  /** pg_type.typcategory of that type: `A` array, `C` composite, `E` enum, `R` range and multirange, `N`, `S`, … */
  readonly category: string
  /** Of a `numeric(p,s)`; absent when it has no bound. */
  readonly precision?: number | undefined
  /** Of a `numeric(p,s)`; PostgreSQL 15 and later allow it to be negative or greater than the precision. */
  readonly scale?: number | undefined
  readonly nullable: boolean
  /** Position in the primary key, from 1. */
  readonly keyPosition?: number | undefined
}

export type Engine = 'iceberg' | 'duckdb'

/** What is known of a column beyond its type. */
export interface MapOptions {
  /**
   * Whether the column holds values for which {@link exceptionalPredicate} is true, by engine. One boolean stands for
   * both. Not knowing is not the same as false: ask the server, or the load of such a value fails.
   */
  readonly exceptional?: boolean | { readonly iceberg: boolean; readonly duckdb: boolean } | undefined
  /** True to keep the column as text in every target, whatever its type. */
  readonly text?: boolean | undefined
}

interface Mapping {
  readonly logicalType: LogicalType
  readonly precision?: number
  readonly scale?: number
  readonly iceberg: TargetType
  readonly duckdb: TargetType
  /** Why an exceptional value does not fit, by engine; absent where every value fits. */
  readonly exceptional?: { readonly iceberg: string; readonly duckdb?: string }
}

const native = (type: string): TargetType => ({ type })
const ICEBERG_TEXT = 'varchar'
const DUCKDB_TEXT = 'VARCHAR'
const text: Mapping = { logicalType: 'text', iceberg: native(ICEBERG_TEXT), duckdb: native(DUCKDB_TEXT) }
const both = (reason: string): Mapping => ({
  logicalType: 'text',
  iceberg: { type: ICEBERG_TEXT, textBecause: reason },
  duckdb: { type: DUCKDB_TEXT, textBecause: reason },
})
const simple = (logicalType: LogicalType, iceberg: string, duckdb: string): Mapping => ({
  logicalType,
  iceberg: native(iceberg),
  duckdb: native(duckdb),
})

const OUTSIDE_YEARS = 'holds infinity or years outside of 0001–9999'

const byTypeName: Readonly<Record<string, Mapping>> = {
  bool: simple('boolean', 'boolean', 'BOOLEAN'),
  // Iceberg has no 16-bit integer.
  int2: simple('int16', 'integer', 'SMALLINT'),
  int4: simple('int32', 'integer', 'INTEGER'),
  int8: simple('int64', 'bigint', 'BIGINT'),
  // Unsigned, 32 bits.
  oid: simple('int64', 'bigint', 'BIGINT'),
  float4: simple('float32', 'real', 'FLOAT'),
  float8: simple('float64', 'double', 'DOUBLE'),
  text,
  varchar: text,
  bpchar: text,
  char: text,
  name: text,
  citext: text,
  bytea: simple('binary', 'varbinary', 'BLOB'),
  uuid: simple('uuid', 'uuid', 'UUID'),
  json: {
    logicalType: 'json',
    iceberg: { type: ICEBERG_TEXT, textBecause: 'Iceberg has no JSON type' },
    duckdb: { type: DUCKDB_TEXT, textBecause: 'json allows documents that DuckDB refuses to parse' },
  },
  jsonb: {
    logicalType: 'json',
    iceberg: { type: ICEBERG_TEXT, textBecause: 'Iceberg has no JSON type' },
    duckdb: native('JSON'),
  },
  date: { ...simple('date', 'date', 'DATE'), exceptional: { iceberg: OUTSIDE_YEARS } },
  time: { ...simple('time', 'time(6)', 'TIME'), exceptional: { iceberg: 'holds 24:00:00' } },
  timestamp: {
    ...simple('timestamp', 'timestamp(6)', 'TIMESTAMP'),
    exceptional: { iceberg: OUTSIDE_YEARS, duckdb: 'holds times after the year 199999' },
  },
  timestamptz: {
    ...simple('timestamptz', 'timestamp(6) with time zone', 'TIMESTAMP WITH TIME ZONE'),
    exceptional: { iceberg: OUTSIDE_YEARS, duckdb: 'holds times after the year 199999' },
  },
  timetz: both('a time with its own offset has no exact type'),
  interval: both('months, days and microseconds together have no exact type'),
  money: both('an amount in the currency of the server has no exact type'),
  inet: both('network addresses have no type'),
  cidr: both('network addresses have no type'),
  macaddr: both('hardware addresses have no type'),
  macaddr8: both('hardware addresses have no type'),
  xml: both('XML has no type'),
  bit: both('bit strings have no type'),
  varbit: both('bit strings have no type'),
}

const byCategory: Readonly<Record<string, Mapping>> = {
  A: both('arrays are kept in the spelling of PostgreSQL'),
  C: both('composites are kept in the spelling of PostgreSQL'),
  R: both('ranges are kept in the spelling of PostgreSQL'),
  G: both('geometries are kept in the spelling of PostgreSQL'),
  E: text,
}

const MAX_DIGITS = 38

/** Every `numeric(p,s)` that fits into 38 digits has a decimal: one with a negative scale as an integer, one with more digits behind the point than in all as a fraction. */
function numeric(precision: number | undefined, scale: number | undefined): Mapping {
  if (precision === undefined) return both('a numeric without a bound may have any number of digits')
  const behind = Math.max(scale ?? 0, 0)
  const digits = Math.max(precision - Math.min(scale ?? 0, 0), behind)
  if (digits > MAX_DIGITS) return both(`decimals end at ${MAX_DIGITS} digits, this column has ${digits}`)
  return {
    ...simple('decimal', `decimal(${digits},${behind})`, `DECIMAL(${digits},${behind})`),
    precision: digits,
    scale: behind,
    exceptional: { iceberg: 'holds NaN', duckdb: 'holds NaN' },
  }
}

function mappingOf({ baseTypeName, category, precision, scale }: SourceColumn): Mapping {
  if (baseTypeName === 'numeric') return numeric(precision, scale)
  const byName = Object.hasOwn(byTypeName, baseTypeName) ? byTypeName[baseTypeName] : undefined
  return byName ?? byCategory[category] ?? both('this type has no counterpart')
}

/** Says what a column becomes in each target. What a target cannot hold exactly becomes text there, with the reason. */
export function mapColumn(column: SourceColumn, options: MapOptions = {}): ManifestColumn {
  const mapping = mappingOf(column)
  const asked = typeof options.exceptional === 'object' ? options.exceptional : undefined
  const exceptional = mapping.exceptional !== undefined && (asked?.iceberg ?? options.exceptional === true)
  const inDuckdb = mapping.exceptional !== undefined && (asked?.duckdb ?? options.exceptional === true)
  const target = (engine: Engine, type: string): TargetType => {
    if (options.text === true && mapping[engine].type !== type) return { type, textBecause: 'asked for by the configuration' }
    const reason = (engine === 'iceberg' ? exceptional : inDuckdb) ? mapping.exceptional?.[engine] : undefined
    return reason === undefined ? mapping[engine] : { type, textBecause: reason }
  }
  return {
    name: column.name,
    sourceType: column.sourceType,
    logicalType: mapping.logicalType,
    ...(mapping.precision === undefined ? {} : { precision: mapping.precision, scale: mapping.scale }),
    nullable: column.nullable,
    ...(column.keyPosition === undefined ? {} : { keyPosition: column.keyPosition }),
    ...(exceptional || inDuckdb ? { exceptional: true } : {}),
    targets: { iceberg: target('iceberg', ICEBERG_TEXT), duckdb: target('duckdb', DUCKDB_TEXT) },
  }
}

/**
 * A PostgreSQL expression that is true for a value which the column's type in the engine cannot hold; undefined when
 * there is no such value. Ask once for all columns, in the snapshot that is read:
 * `SELECT coalesce(bool_or(<predicate>), false), … FROM …`.
 */
export function exceptionalPredicate(column: SourceColumn, engine: Engine = 'iceberg'): string | undefined {
  if (mappingOf(column).exceptional?.[engine] === undefined) return undefined
  const name = doubleQuote(column.name)
  switch (column.baseTypeName) {
    case 'numeric':
      return `${name} = 'NaN'::numeric`
    case 'time':
      return `${name} = '24:00:00'::time`
    case 'date':
      return `(${name} < '0001-01-01'::date OR ${name} > '9999-12-31'::date)`
    default:
      return engine === 'iceberg' ? outsideYears(name, column.baseTypeName) : beyondDuckdb(name, column.baseTypeName)
  }
}

const zone = (type: string): string => (type === 'timestamptz' ? '+00' : '')

function outsideYears(name: string, type: string): string {
  return `(${name} < '0001-01-01 00:00:00${zone(type)}'::${type} OR ${name} >= '10000-01-01 00:00:00${zone(type)}'::${type})`
}

/**
 * DuckDB has infinities and years before Christ of its own. Its TIMESTAMP ends in the year 294247, before PostgreSQL's;
 * its TIMESTAMPTZ goes through milliseconds in a double and is off by some past the year 287396, without an error.
 */
function beyondDuckdb(name: string, type: string): string {
  return `(${name} >= '200000-01-01 00:00:00${zone(type)}'::${type} AND ${name} <> 'infinity'::${type})`
}
