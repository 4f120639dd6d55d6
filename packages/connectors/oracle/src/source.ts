import {
  doubleQuoted,
  queryInvalid,
  type SqlColumn,
  type SqlDialect,
  type SqlQuery,
  type SqlSource,
  type SqlTable,
  type SqlTableQuery,
} from '@common-handlers/connections/sql'
import type { OracleEngine } from './engine.ts'
import { ORACLE } from './errors.ts'
import type { OracleParameter, OracleRow } from './values.ts'

/** What to read: the rows of a statement (`:1` for a parameter), or those of a table, whose name is in capitals unless it was made in quotes. */
export type OracleQuery = SqlQuery<readonly OracleParameter[]>

/** Names in double quotes, `:1`, and no row values to compare by size. */
export const dialect: SqlDialect = { quote: doubleQuoted, placeholder: (position) => `:${position}`, rowValues: false }

/** A database as a source of items. */
export function oracleSource(engine: OracleEngine): SqlSource<readonly OracleParameter[]> {
  return {
    protocol: 'oracle',
    prefix: ORACLE,
    name: engine.source,
    dialect,
    describe: (query, signal) => describe(engine, query, signal),
    stream: (sql, parameters, options) => engine.stream(sql, parameters, options),
  }
}

const CATALOG = `
SELECT c.column_name AS "name", c.data_type AS "type", k.position AS "position"
  FROM all_tab_columns c
  LEFT JOIN (SELECT p.owner, p.table_name, u.column_name, u.position
               FROM all_constraints p JOIN all_cons_columns u ON u.owner = p.owner AND u.constraint_name = p.constraint_name
              WHERE p.constraint_type = 'P') k
    ON k.owner = c.owner AND k.table_name = c.table_name AND k.column_name = c.column_name
 WHERE c.owner = COALESCE(:1, SYS_CONTEXT('USERENV', 'CURRENT_SCHEMA')) AND c.table_name = :2
 ORDER BY c.column_id`

async function describe(engine: OracleEngine, query: SqlTableQuery, signal: AbortSignal): Promise<SqlTable> {
  const columns = await engine.query(CATALOG, [query.schema ?? null, query.table], { signal })
  if (columns.length === 0) {
    throw queryInvalid(ORACLE, `there is no table or view "${query.table}" (a name in capitals, unless it was made in quotes)`)
  }
  return tableOf(columns)
}

/** What the catalog says of a table. */
export function tableOf(columns: readonly OracleRow[]): SqlTable {
  const key = columns
    .filter(({ position }) => Number(position) > 0)
    .toSorted((a, b) => Number(a['position']) - Number(b['position']))
  return {
    key: key.map(({ name }) => String(name)),
    columns: columns.map(({ name, type }) => columnOf(String(name), String(type))),
  }
}

const DATE = `'YYYY-MM-DD HH24:MI:SS'`
const TIMESTAMP = `'YYYY-MM-DD HH24:MI:SS.FF9'`
const ZONED = `'YYYY-MM-DD HH24:MI:SS.FF9 TZH:TZM'`

/** Dates are read as text, for the driver's have milliseconds and the zone of the process; and made dates again to be compared. */
function columnOf(name: string, type: string): SqlColumn {
  const quoted = doubleQuoted(name)
  if (type === 'DATE') return { name, read: `TO_CHAR(${quoted}, ${DATE})`, compared: (given) => `TO_DATE(${given}, ${DATE})` }
  if (/^TIMESTAMP\(\d\)$/.test(type)) {
    return { name, read: `TO_CHAR(${quoted}, ${TIMESTAMP})`, compared: (given) => `TO_TIMESTAMP(${given}, ${TIMESTAMP})` }
  }
  if (/^TIMESTAMP\(\d\) WITH (?:LOCAL )?TIME ZONE$/.test(type)) {
    // A local one is shown in the zone of the session, which is UTC.
    return { name, read: `TO_CHAR(${utc(quoted, type)}, ${ZONED})`, compared: (given) => `TO_TIMESTAMP_TZ(${given}, ${ZONED})` }
  }
  if (type === 'NUMBER' || type === 'FLOAT') return { name, compared: (given) => `TO_NUMBER(${given})` }
  if (type === 'JSON') return { name, read: `JSON_SERIALIZE(${quoted} RETURNING CLOB)` }
  if (type.startsWith('INTERVAL')) return { name, read: `TO_CHAR(${quoted})` }
  return { name }
}

const utc = (quoted: string, type: string): string =>
  type.includes('LOCAL') ? `CAST(${quoted} AS TIMESTAMP(9) WITH TIME ZONE)` : quoted
