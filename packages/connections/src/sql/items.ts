import { exactJson, type IngestedItem, ingestedItem } from '../ingestion.ts'
import type { SqlTable } from './dialect.ts'
import { keyNotUnique } from './errors.ts'
import { type Extraction, extraction, type SqlRow, type SqlTongue, type WatermarkValue, watermarkOf } from './extraction.ts'
import type { SqlQuery, SqlTableQuery } from './query.ts'

/** A database to read items from. */
export interface SqlSource<Parameters> extends SqlTongue {
  readonly protocol: string
  /** What items name as their source, without secrets: `sqlite:/data/app.db`. */
  readonly name: string
  /** @throws ConfigError `<PREFIX>_QUERY_INVALID` where there is no such table */
  describe(query: SqlTableQuery, signal: AbortSignal): Promise<SqlTable>
  /** Rows one at a time, in bounded memory. */
  stream(
    sql: string,
    parameters: Parameters | readonly WatermarkValue[] | undefined,
    options: { readonly signal: AbortSignal },
  ): AsyncIterable<SqlRow>
}

/**
 * The rows of a query as items, in bounded memory. Those of a table have its key; with a watermark column they come in the
 * order of that column and the key, and each has a watermark from which a later run goes on.
 */
export async function* sqlItems<Parameters>(
  source: SqlSource<Parameters>,
  query: SqlQuery<Parameters>,
  signal: AbortSignal,
): AsyncGenerator<IngestedItem, void, undefined> {
  const { protocol, prefix } = source
  const plan: Extraction<Parameters | readonly WatermarkValue[] | undefined> =
    'sql' in query
      ? { sql: query.sql, parameters: query.parameters, key: [], order: [], hidden: [] }
      : extraction(source, query, await source.describe(query, signal))
  const name =
    'sql' in query ? source.name : `${source.name}#${query.schema === undefined ? '' : `${query.schema}.`}${query.table}`
  let position = 0
  let last: string | undefined
  for await (const row of source.stream(plan.sql, plan.parameters, { signal })) {
    const watermark = watermarkOf(row, plan.order, prefix)
    // A run that ended between two such rows would lose the second.
    if (watermark !== undefined && watermark === last) throw keyNotUnique(prefix, plan.order)
    last = watermark
    const key = keyOf(row, plan.key)
    yield ingestedItem({
      source: name,
      ...(key === undefined ? {} : { key }),
      data: plan.hidden.length === 0 ? row : without(row, plan.hidden),
      ...(watermark === undefined ? {} : { watermark }),
      lineage: { protocol, query: plan.sql, position: position++ },
    })
  }
}

/** One column as it is, several as a JSON list. */
function keyOf(row: SqlRow, key: readonly string[]): string | undefined {
  const [only, ...more] = key
  if (only === undefined) return undefined
  return more.length === 0 ? String(row[only]) : exactJson(key.map((name) => row[name]))
}

const without = (row: SqlRow, hidden: readonly string[]): SqlRow =>
  Object.fromEntries(Object.entries(row).filter(([name]) => !hidden.includes(name)))
