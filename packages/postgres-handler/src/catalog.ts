import { DataError, NotFoundError, PermissionError } from '@common-handlers/core'
import type { Connection } from './connection.ts'
import { quoteIdent } from './sql.ts'

/** How a type is made (pg_type.typtype and, for arrays, how it is subscripted). */
export type TypeKind = 'base' | 'enum' | 'array' | 'range' | 'multirange' | 'composite' | 'domain' | 'pseudo'

/** A column of a table or of a query's result. */
export interface ColumnDescription {
  readonly name: string
  /** As PostgreSQL's format_type() spells it: `numeric(10,2)`, `timestamp with time zone`. Of a domain, its own name. */
  readonly sourceType: string
  readonly typeOid: number
  /** How the type was made. A query's result never shows a domain: the server describes the type it stands on. */
  readonly kind: TypeKind
  /** pg_type.typname of the type; of a domain, of the type at the bottom of it: `int4`, `numeric`, `_text`. */
  readonly baseTypeName: string
  /** pg_type.typcategory of that same type: `A` array, `B` boolean, `C` composite, `D` date and time, `E` enum, `N` number, `R` range, `S` text, `U` user-defined, … */
  readonly category: string
  /** Digits of a `numeric(p,s)`; absent when it has no bound. */
  readonly precision?: number
  /** Digits after the point of a `numeric(p,s)`. May be negative, or greater than the precision (PostgreSQL 15 and later). */
  readonly scale?: number
  /** False only where the table or a domain says NOT NULL; always true for a query, whose joins can make any column null. */
  readonly nullable: boolean
  /** Position in the primary key, from 1. */
  readonly keyPosition?: number
}

export type TableKind = 'table' | 'partitioned table' | 'view' | 'materialized view' | 'foreign table'

export interface TableDescription {
  /** Quoted, with its schema: `"app"."audit_log"`. */
  readonly name: string
  readonly kind: TableKind
  readonly columns: readonly ColumnDescription[]
  /** As the planner reckons it; absent where that is not allowed. */
  readonly estimatedRows?: number
  /** On disk, without indexes, partitions included; 0 for views and foreign tables. */
  readonly bytes: number
}

export interface QueryDescription {
  readonly columns: readonly ColumnDescription[]
  readonly estimatedRows?: number
}

const tableKinds: Readonly<Record<string, TableKind>> = {
  r: 'table',
  p: 'partitioned table',
  v: 'view',
  m: 'materialized view',
  f: 'foreign table',
}

const typeKinds: Readonly<Record<string, TypeKind>> = {
  b: 'base',
  c: 'composite',
  d: 'domain',
  e: 'enum',
  p: 'pseudo',
  r: 'range',
  m: 'multirange',
}

/** Names in this file carry their schema, so that a search_path with other objects of these names changes nothing. */
const FIND_TABLE = `
  SELECT c.oid::text AS oid, n.nspname AS schema, c.relname AS name, c.relkind::text AS kind, c.relpages::text AS pages,
         c.reltuples::text AS tuples,
         (SELECT coalesce(sum(pg_catalog.pg_table_size(part.relid)), 0)
            FROM (SELECT relid FROM pg_catalog.pg_partition_tree(c.oid) UNION SELECT c.oid) AS part)::text AS bytes,
         (pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::int)::text AS current_pages,
         pg_catalog.has_table_privilege(c.oid, 'SELECT') OR coalesce(
           (SELECT bool_and(pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT'))
              FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), false) AS readable,
         pg_catalog.row_security_active(c.oid) AS filtered
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
   WHERE c.oid = pg_catalog.to_regclass($1)`

/** Follows a domain down to what it stands on; the modifier and a NOT NULL may come from any level. */
const TYPES_BELOW = `
  below AS (
    SELECT position, type, modifier, false AS not_null FROM asked
    UNION ALL
    SELECT below.position, t.typbasetype, t.typtypmod, below.not_null OR t.typnotnull
      FROM below JOIN pg_catalog.pg_type t ON t.oid = below.type WHERE t.typtype = 'd'
  )
  SELECT asked.position, asked.name, asked.type::text AS type_oid, pg_catalog.format_type(asked.type, asked.modifier) AS source_type,
         own.typtype::text AS type_kind, EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.typarray = own.oid) AS is_array,
         base.typname AS base_name, base.typcategory::text AS category, below.modifier, below.not_null,
         asked.not_null AS column_not_null, asked.key_position
    FROM asked
    JOIN pg_catalog.pg_type own ON own.oid = asked.type
    JOIN below ON below.position = asked.position
    JOIN pg_catalog.pg_type base ON base.oid = below.type AND base.typtype <> 'd'
   ORDER BY asked.position`

const TABLE_COLUMNS = `
  WITH RECURSIVE asked AS (
    SELECT a.attnum::int AS position, a.attname AS name, a.atttypid AS type, a.atttypmod AS modifier, a.attnotnull AS not_null,
           (SELECT key.position::int FROM pg_catalog.pg_index i, unnest(i.indkey) WITH ORDINALITY AS key (attnum, position)
             WHERE i.indrelid = a.attrelid AND i.indisprimary AND key.attnum = a.attnum AND key.position <= i.indnkeyatts) AS key_position
      FROM pg_catalog.pg_attribute a
     WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped
  ), ${TYPES_BELOW}`

const RESULT_COLUMNS = `
  WITH RECURSIVE asked AS (
    SELECT r.position::int AS position, r.name, r.type, r.modifier, false AS not_null, NULL::int AS key_position
      FROM unnest($1::text[], $2::oid[], $3::int[]) WITH ORDINALITY AS r (name, type, modifier, position)
  ), ${TYPES_BELOW}`

interface TableRow {
  readonly oid: string
  readonly schema: string
  readonly name: string
  readonly kind: string
  readonly pages: string
  readonly tuples: string
  readonly bytes: string
  readonly current_pages: string
  readonly readable: boolean
  readonly filtered: boolean
}

interface ColumnRow {
  readonly name: string
  readonly type_oid: string
  readonly source_type: string
  readonly type_kind: string
  readonly is_array: boolean
  readonly base_name: string
  readonly category: string
  readonly modifier: number
  readonly not_null: boolean
  readonly column_not_null: boolean
  readonly key_position: number | null
}

async function rowsOf<T>(
  connection: Connection,
  text: string,
  values: readonly unknown[],
  signal: AbortSignal | undefined,
): Promise<T[]> {
  const { fields, rows } = await connection.query(text, values, signal)
  return rows.map((row) => Object.fromEntries(fields.map((field, index) => [field.name, row[index]])) as T)
}

async function findTable(
  connection: Connection,
  name: string,
  signal: AbortSignal | undefined,
): Promise<TableRow & { readonly quoted: string }> {
  const [row] = await rowsOf<TableRow>(connection, FIND_TABLE, [name], signal)
  if (row === undefined) {
    throw new NotFoundError(`there is no table or view ${name}, or its schema is not in the search_path`, {
      code: 'POSTGRES_TABLE_NOT_FOUND',
      context: { table: name },
    })
  }
  if (tableKinds[row.kind] === undefined) {
    throw new DataError(`${name} is not a table or a view`, { code: 'POSTGRES_NOT_A_TABLE', context: { table: name } })
  }
  return { ...row, quoted: `${quoteIdent(row.schema)}.${quoteIdent(row.name)}` }
}

/** @throws NotFoundError `POSTGRES_TABLE_NOT_FOUND` */
export async function describeTable(
  connection: Connection,
  name: string,
  signal: AbortSignal | undefined,
): Promise<TableDescription> {
  const table = await findTable(connection, name, signal)
  const columns = (await rowsOf<ColumnRow>(connection, TABLE_COLUMNS, [table.oid], signal)).map(toColumn)
  const estimatedRows = await estimateTable(connection, table, signal)
  return {
    name: table.quoted,
    kind: tableKinds[table.kind] ?? 'table',
    columns,
    ...(estimatedRows === undefined ? {} : { estimatedRows }),
    bytes: Number(table.bytes),
  }
}

/** As the planner does it: the density found by the last ANALYZE over the pages there are now. */
async function estimateTable(
  connection: Connection,
  table: TableRow & { readonly quoted: string },
  signal: AbortSignal | undefined,
): Promise<number | undefined> {
  const [pages, tuples, currentPages] = [Number(table.pages), Number(table.tuples), Number(table.current_pages)]
  if ((table.kind === 'r' || table.kind === 'm') && pages > 0 && tuples >= 0) return Math.round((tuples / pages) * currentPages)
  return table.readable ? await estimateRows(connection, `SELECT * FROM ${table.quoted}`, signal) : undefined
}

/** Describes a query by preparing it; it is not run. @throws DataError `POSTGRES_NO_COLUMNS` where it returns no rows */
export async function describeQuery(
  connection: Connection,
  query: string,
  signal: AbortSignal | undefined,
): Promise<QueryDescription> {
  const fields = await connection.describe(query, signal)
  if (fields.length === 0) {
    throw new DataError('the statement returns no columns', { code: 'POSTGRES_NO_COLUMNS' })
  }
  const asked = [
    fields.map((field) => field.name),
    fields.map((field) => field.dataTypeID),
    fields.map((field) => field.dataTypeModifier),
  ]
  const columns = (await rowsOf<ColumnRow>(connection, RESULT_COLUMNS, asked, signal)).map(toColumn)
  const estimatedRows = /^\s*(?:select|with|values|table)\b/i.test(query)
    ? await estimateRows(connection, query, signal)
    : undefined
  return { columns, ...(estimatedRows === undefined ? {} : { estimatedRows }) }
}

/** How many rows the planner expects; the query is not run. */
export async function estimateRows(connection: Connection, query: string, signal: AbortSignal | undefined): Promise<number> {
  const { rows } = await connection.query(`EXPLAIN (FORMAT JSON) ${query}`, [], signal)
  const plan: unknown = JSON.parse(String(rows[0]?.[0]))
  const found = (plan as readonly [{ readonly Plan?: { readonly 'Plan Rows'?: number } }])[0]?.Plan?.['Plan Rows']
  if (found === undefined) throw new DataError('EXPLAIN gave no row estimate', { code: 'POSTGRES_NO_ESTIMATE' })
  return found
}

/**
 * What can be said of a table that may be read. A schema that may not be used is the server's own error.
 * @throws NotFoundError, PermissionError naming the GRANT that is missing
 */
export async function checkReadable(connection: Connection, name: string, signal: AbortSignal | undefined): Promise<string> {
  const table = await findTable(connection, name, signal)
  if (!table.readable) {
    const grant = `GRANT SELECT ON ${table.quoted} TO ${quoteIdent(connection.user)}`
    throw new PermissionError(`${connection.user} may not read ${table.quoted}; an owner can run: ${grant}`, {
      code: 'POSTGRES_PERMISSION_DENIED',
      context: { table: table.quoted },
    })
  }
  return `${tableKinds[table.kind]} ${table.quoted}${table.filtered ? ', row-level security is active: only some rows may be visible' : ''}`
}

function toColumn(row: ColumnRow): ColumnDescription {
  // numeric's modifier: precision and an 11-bit signed scale, moved by 4 (PostgreSQL, src/backend/utils/adt/numeric.c).
  const modifier = row.base_name === 'numeric' && row.modifier >= 4 ? row.modifier - 4 : undefined
  return {
    name: row.name,
    sourceType: row.source_type,
    typeOid: Number(row.type_oid),
    kind: row.is_array ? 'array' : (typeKinds[row.type_kind] ?? 'base'),
    baseTypeName: row.base_name,
    category: row.category,
    ...(modifier === undefined ? {} : { precision: (modifier >> 16) & 0xffff, scale: ((modifier & 0x7ff) ^ 1024) - 1024 }),
    nullable: !row.column_not_null && !row.not_null,
    ...(row.key_position === null ? {} : { keyPosition: row.key_position }),
  }
}
