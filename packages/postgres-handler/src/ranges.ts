import { DataError, NotFoundError } from '@common-handlers/core'
import type { Connection } from './connection.ts'
import { quoteIdent, quoteLiteral, sql, type SqlStatement } from './sql.ts'

export interface RangesOptions {
  /** How many ranges are wanted. There may be fewer. */
  readonly parts: number
  /** A column to divide by, with an index at best. Default: the pages of the table, which need no index. */
  readonly key?: string | undefined
}

/** The pages of a table and of every table below it, partitions and children. */
const PAGES = `
  WITH RECURSIVE part AS (
    SELECT pg_catalog.to_regclass($1)::oid AS oid
    UNION SELECT i.inhrelid FROM part JOIN pg_catalog.pg_inherits i ON i.inhparent = part.oid
  )
  SELECT c.relkind::text, (pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::int)::int
    FROM part JOIN pg_catalog.pg_class c ON c.oid = part.oid`

const KEY = `
  SELECT n.nspname, c.relname, c.relkind::text, pg_catalog.format_type(a.atttypid, -1), c.reltuples::float8::text
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attname = $2
   WHERE c.oid = pg_catalog.to_regclass($1)`

/** Rows that a division by key looks at. */
const SAMPLE_ROWS = 100_000

/**
 * Conditions that divide a table: each row fits exactly one. They hold for one snapshot, for a changed row moves to
 * another page, and may get another key.
 */
export async function divide(
  connection: Connection,
  table: string,
  { parts, key }: RangesOptions,
  signal: AbortSignal,
): Promise<SqlStatement[]> {
  if (!Number.isSafeInteger(parts) || parts < 1) {
    throw new DataError(`ranges need a number of parts, not ${parts}`, { code: 'POSTGRES_VALUE_INVALID' })
  }
  const [column, bounds] =
    key === undefined
      ? ['ctid', await pageBounds(connection, table, parts, signal)]
      : await keyBounds(connection, table, key, parts, signal)
  if (bounds.length === 0) return [condition('true')]
  return Array.from({ length: bounds.length + 1 }, (_, index) => {
    const [from, to] = [bounds[index - 1], bounds[index]]
    // NULL is in the first range; a ctid is never null, and OR would keep the planner from a TID range scan.
    if (from === undefined) return condition(key === undefined ? `${column} < ${to}` : `(${column} < ${to} OR ${column} IS NULL)`)
    return condition(`${column} >= ${from}${to === undefined ? '' : ` AND ${column} < ${to}`}`)
  })
}

/** A statement without values, to be put into another one by sql``. */
const condition = (text: string): SqlStatement => sql([text] as unknown as TemplateStringsArray)

/**
 * Pages are divided so that the ranges have about as many, all partitions together. The last range is open, for a table
 * may have grown since.
 */
async function pageBounds(connection: Connection, table: string, parts: number, signal: AbortSignal): Promise<string[]> {
  const rows = (await connection.query(PAGES, [table], signal)).rows as readonly (readonly [string, number])[]
  if (rows.length === 0) throw noTable(table)
  const odd = rows.find(([kind]) => !['r', 'p', 'm'].includes(kind))
  if (odd !== undefined) {
    throw new DataError(`${table} is not made of pages alone: give a key to divide it by`, {
      code: 'POSTGRES_NO_PAGES',
      context: { table },
    })
  }
  const sizes = rows.map(([, pages]) => pages)
  const below = (page: number): number => sizes.reduce((sum, size) => sum + Math.min(size, page), 0)
  const largest = Math.max(...sizes)
  const total = below(largest)
  const bounds = new Set<number>()
  for (let part = 1; part < parts; part++) {
    let [low, high] = [0, largest]
    while (low < high) {
      const middle = Math.floor((low + high) / 2)
      if (below(middle) * parts < total * part) low = middle + 1
      else high = middle
    }
    if (low > 0 && low < largest) bounds.add(low)
  }
  return [...bounds].map((page) => `'(${page},0)'::tid`)
}

/** Bounds between which a sample of the table has as many rows each. */
async function keyBounds(
  connection: Connection,
  table: string,
  key: string,
  parts: number,
  signal: AbortSignal,
): Promise<[string, string[]]> {
  const { rows } = await connection.query(KEY, [table, key], signal)
  const [schema, name, kind, type, estimate] = (rows[0] ?? []) as readonly string[]
  if (schema === undefined || name === undefined) throw noTable(table, key)
  const [column, quoted] = [quoteIdent(key), `${quoteIdent(schema)}.${quoteIdent(name)}`]
  const share = (100 * SAMPLE_ROWS) / Math.max(1, Number(estimate))
  const sample = kind === 'r' && Number(estimate) > SAMPLE_ROWS ? ` TABLESAMPLE SYSTEM (${share.toFixed(6)})` : ''
  const fractions = Array.from({ length: parts - 1 }, (_, index) => (index + 1) / parts)
  const text = `SELECT DISTINCT bound FROM pg_catalog.unnest((SELECT percentile_disc($1::float8[]) WITHIN GROUP (ORDER BY ${column})
    FROM ${quoted}${sample})) AS bound WHERE bound IS NOT NULL ORDER BY bound`
  const found =
    fractions.length === 0 ? [] : (await connection.query(`SELECT bound::text FROM (${text}) AS b`, [fractions], signal)).rows
  return [column, found.map(([bound]) => `${quoteLiteral(String(bound))}::${type}`)]
}

const noTable = (table: string, key?: string): NotFoundError =>
  new NotFoundError(
    `there is no table ${table}${key === undefined ? '' : ` with a column "${key}"`}, or its schema is not in the search_path`,
    {
      code: 'POSTGRES_TABLE_NOT_FOUND',
      context: { table, ...(key === undefined ? {} : { column: key }) },
    },
  )
