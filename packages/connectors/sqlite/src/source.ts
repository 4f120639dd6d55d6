import {
  doubleQuoted,
  queryInvalid,
  type SqlQuery,
  type SqlSource,
  type SqlTable,
  type SqlTableQuery,
} from '@common-handlers/connections/sql'
import type { SqliteEngine, SqliteParameters } from './engine.ts'
import { SQLITE } from './errors.ts'

/** What to read: the rows of a statement, or those of a table. */
export type SqliteQuery = SqlQuery<SqliteParameters>

/** A file as a source of items. */
export function sqliteSource(engine: SqliteEngine): SqlSource<SqliteParameters> {
  return {
    protocol: 'sqlite',
    prefix: SQLITE,
    name: `sqlite:${engine.path}`,
    dialect: { quote: doubleQuoted, placeholder: () => '?', rowValues: true },
    describe: (query, signal) => describe(engine, query, signal),
    // A boolean of a watermark is none that SQLite gave: the engine refuses it.
    stream: (sql, parameters, options) => engine.stream(sql, parameters as SqliteParameters | undefined, options),
  }
}

const ROWID = 'rowid'

/** The columns of the primary key in its order; `rowid` where there is none; nothing for a view. */
async function describe(engine: SqliteEngine, query: SqlTableQuery, signal: AbortSignal): Promise<SqlTable> {
  const { table, schema = null } = query
  const ask = (sql: string, parameters: SqliteParameters) => engine.query(sql, parameters, { signal })
  const [kind] = await ask(
    'SELECT type, schema FROM pragma_table_list WHERE name = :table COLLATE NOCASE AND schema = coalesce(:schema, schema) COLLATE NOCASE',
    { table, schema },
  )
  if (kind === undefined) throw queryInvalid(SQLITE, `there is no table or view "${table}"`)
  if (kind['type'] === 'view') return { key: [] }
  const columns = await ask('SELECT name, pk FROM pragma_table_info(?, ?)', [table, kind['schema'] ?? null])
  const key = columns.filter(({ pk }) => Number(pk) > 0).toSorted((a, b) => Number(a['pk']) - Number(b['pk']))
  if (key.length > 0) return { key: key.map(({ name }) => String(name)) }
  // Such a column hides the rowid.
  if (columns.some(({ name }) => String(name).toLowerCase() === ROWID)) return { key: [] }
  return { key: [ROWID], isKeyHidden: true }
}
