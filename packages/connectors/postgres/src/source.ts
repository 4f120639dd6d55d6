import {
  doubleQuoted,
  queryInvalid,
  type SqlQuery,
  type SqlSource,
  type SqlTable,
  type SqlTableQuery,
} from '@common-handlers/connections/sql'
import type { PostgresEngine } from './engine.ts'
import { POSTGRES } from './errors.ts'
import type { PostgresInput } from './values.ts'

/** What to read: the rows of a statement (`$1` for a parameter), or those of a table. */
export type PostgresQuery = SqlQuery<readonly PostgresInput[]>

/** A database as a source of items. */
export function postgresSource(engine: PostgresEngine): SqlSource<readonly PostgresInput[]> {
  return {
    protocol: 'postgres',
    prefix: POSTGRES,
    name: engine.source,
    dialect: { quote: doubleQuoted, placeholder: (position) => `$${position}`, rowValues: true },
    describe: (query, signal) => describe(engine, query, signal),
    stream: (sql, parameters, options) => engine.stream(sql, parameters, options),
  }
}

/** A table's name for SQL. */
export const tableName = ({ schema, table }: { readonly schema?: string | undefined; readonly table: string }): string =>
  `${schema === undefined ? '' : `${doubleQuoted(schema)}.`}${doubleQuoted(table)}`

/** The columns of the primary key in its order; none for a view. */
async function describe(engine: PostgresEngine, query: SqlTableQuery, signal: AbortSignal): Promise<SqlTable> {
  const columns = await engine.query(
    `SELECT a.attname AS name
       FROM (SELECT pg_catalog.to_regclass($1) AS oid) t
       LEFT JOIN pg_catalog.pg_index i ON i.indrelid = t.oid AND i.indisprimary
       LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
      WHERE t.oid IS NOT NULL
      ORDER BY array_position(i.indkey::int2[], a.attnum)`,
    [tableName(query)],
    { signal },
  )
  if (columns.length === 0) throw queryInvalid(POSTGRES, `there is no table or view ${tableName(query)}`)
  return { key: columns.flatMap(({ name }) => (name === null ? [] : [String(name)])) }
}
