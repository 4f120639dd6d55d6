import {
  queryInvalid,
  type SqlColumn,
  type SqlDialect,
  type SqlQuery,
  type SqlSource,
  type SqlTable,
  type SqlTableQuery,
} from '@common-handlers/connections/sql'
import type { MssqlEngine } from './engine.ts'
import { MSSQL } from './errors.ts'
import type { MssqlParameter, MssqlRow } from './values.ts'

/** What to read: the rows of a statement (`@p1` for a parameter), or those of a table. */
export type MssqlQuery = SqlQuery<readonly MssqlParameter[]>

/** T-SQL: names in brackets, `@p1`, and no row values to compare. */
export const dialect: SqlDialect = {
  quote: (name) => `[${name.replaceAll(']', ']]')}]`,
  placeholder: (position) => `@p${position}`,
  rowValues: false,
}

/** A database as a source of items. */
export function mssqlSource(engine: MssqlEngine): SqlSource<readonly MssqlParameter[]> {
  return {
    protocol: 'mssql',
    prefix: MSSQL,
    name: engine.source,
    dialect,
    describe: (query, signal) => describe(engine, query, signal),
    stream: (sql, parameters, options) => engine.stream(sql, parameters, options),
  }
}

const CATALOG = `
SELECT c.name, t.name AS type, CONVERT(int, c.max_length) AS length, CONVERT(int, c.precision) AS precision, CONVERT(int, c.scale) AS scale,
       c.collation_name AS collation, CONVERT(int, k.key_ordinal) AS position
  FROM sys.columns c
  LEFT JOIN sys.types t ON t.user_type_id = c.system_type_id
  LEFT JOIN sys.indexes i ON i.object_id = c.object_id AND i.is_primary_key = 1
  LEFT JOIN sys.index_columns k ON k.object_id = c.object_id AND k.index_id = i.index_id AND k.column_id = c.column_id
 WHERE c.object_id = OBJECT_ID(@p1)
 ORDER BY c.column_id`

async function describe(engine: MssqlEngine, query: SqlTableQuery, signal: AbortSignal): Promise<SqlTable> {
  const name = `${query.schema === undefined ? '' : `${dialect.quote(query.schema)}.`}${dialect.quote(query.table)}`
  const columns = await engine.query(CATALOG, [name], { signal })
  if (columns.length === 0) throw queryInvalid(MSSQL, `there is no table or view ${name}`)
  return tableOf(columns)
}

/** What the catalog says of a table. */
export function tableOf(columns: readonly MssqlRow[]): SqlTable {
  const key = columns
    .filter(({ position }) => Number(position) > 0)
    .toSorted((a, b) => Number(a['position']) - Number(b['position']))
  return { key: key.map(({ name }) => String(name)), columns: columns.map(columnOf) }
}

/** The driver rounds some types, which are read as text; and a text is no value of most types, so it is made one before it is compared. */
function columnOf(column: MssqlRow): SqlColumn {
  const name = String(column['name'])
  const type = column['type'] === null ? '' : String(column['type'])
  const quoted = dialect.quote(name)
  const [length, precision, scale] = [Number(column['length']), Number(column['precision']), Number(column['scale'])]
  const converted = (into: string, style = '') => ({ compared: (given: string) => `CONVERT(${into}, ${given}${style})` })
  const characters = (count: number): string => (length === -1 ? 'max' : String(count))
  // Of the column's code page, not that of the database.
  const collated = (into: string) => ({
    compared: (given: string) => `CONVERT(${into}, ${given} COLLATE ${String(column['collation'])})`,
  })
  switch (type) {
    case 'decimal':
    case 'numeric':
      return { name, read: `CONVERT(varchar(41), ${quoted})`, ...converted(`decimal(${precision}, ${scale})`) }
    case 'money':
    case 'smallmoney':
      return { name, read: `CONVERT(varchar(30), ${quoted}, 2)`, ...converted('money') }
    // rowversion: eight bytes that count.
    case 'timestamp':
      return { name, read: `CONVERT(bigint, ${quoted})`, ...converted('binary(8)') }
    case 'sql_variant':
      return { name, read: `CONVERT(nvarchar(4000), ${quoted})` }
    case 'datetime2':
    case 'datetimeoffset':
    case 'time':
      return { name, ...converted(`${type}(${scale})`, ', 121') }
    case 'date':
    case 'datetime':
    case 'smalldatetime':
      return { name, ...converted(type, ', 121') }
    case 'uniqueidentifier':
      return { name, ...converted(type) }
    case 'char':
    case 'varchar':
      return { name, ...collated(`${type}(${characters(length)})`) }
    case 'nchar':
    case 'nvarchar':
      return { name, ...collated(`${type}(${characters(length / 2)})`) }
    default:
      return { name }
  }
}
