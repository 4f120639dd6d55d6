import { type ConnectorContext, exactJson, type IngestedItem, ingestedItem } from '@common-handlers/connections'
import type { CassandraClient, CassandraScannedRow } from './client.ts'
import { watermarkInvalid } from './errors.ts'
import type { CassandraParameter } from './values.ts'

/** What to read. */
export type CassandraQuery = CassandraStatementQuery | CassandraTableQuery

/** The rows of a statement that only reads, in its own order. */
export interface CassandraStatementQuery {
  readonly cql: string
  readonly parameters?: readonly CassandraParameter[] | undefined
}

/** The rows of a table or view, in the order of their tokens. */
export interface CassandraTableQuery {
  readonly table: string
  /** Default: all. */
  readonly columns?: readonly string[] | undefined
  /** That of an item of a run that ended early: the scan goes on after its token. */
  readonly watermark?: string | undefined
}

type Items = AsyncGenerator<IngestedItem, void, undefined>

/** Reads what a query asks for, a row at a time. */
export function fetchItems(client: CassandraClient, query: CassandraQuery, { signal }: ConnectorContext): Items {
  return 'cql' in query ? statement(client, query, signal) : table(client, query, signal)
}

async function* statement(client: CassandraClient, query: CassandraStatementQuery, signal: AbortSignal): Items {
  let position = 0
  for await (const data of client.stream(query.cql, query.parameters, { signal })) {
    yield ingestedItem({
      source: client.url,
      data,
      lineage: { protocol: 'cassandra', query: query.cql, position: position++ },
    })
  }
}

async function* table(client: CassandraClient, query: CassandraTableQuery, signal: AbortSignal): Items {
  const after = query.watermark === undefined ? undefined : tokenOf(query.watermark)
  const source = `${client.url}#${query.table}`
  let position = 0
  // All rows up to this token were given.
  let given = after
  const item = ({ row, key }: CassandraScannedRow): IngestedItem => {
    const [only, ...more] = Object.values(key)
    return ingestedItem({
      source,
      key: more.length > 0 ? exactJson([only, ...more]) : typeof only === 'string' ? only : exactJson(only),
      data: row,
      ...(given === undefined ? {} : { watermark: given.toString() }),
      lineage: { protocol: 'cassandra', query: `scan ${query.table}`, position: position++ },
    })
  }
  // Whether a token is done shows in the row after it.
  let held: CassandraScannedRow | undefined
  for await (const next of client.scan(query.table, { columns: query.columns, after }, { signal })) {
    if (held !== undefined) {
      if (held.token !== next.token) given = held.token
      yield item(held)
    }
    held = next
  }
  if (held === undefined) return
  given = held.token
  yield item(held)
}

function tokenOf(watermark: string): bigint {
  const token = /^-?\d{1,19}$/.test(watermark) ? BigInt(watermark) : undefined
  if (token === undefined || BigInt.asIntN(64, token) !== token) throw watermarkInvalid()
  return token
}
