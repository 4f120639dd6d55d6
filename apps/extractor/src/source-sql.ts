import { ConfigError } from '@common-handlers/core'
import { exceptionalPredicate, type ManifestSnapshot, type SourceColumn } from '@common-handlers/dataset'
import { quoteIdent, quoteLiteral } from '@common-handlers/postgres-handler'

/** What is read, once the server has been asked what it is. */
export interface Source {
  /** What stands behind FROM: `"app"."audit_log"` or a query in parentheses. */
  readonly from: string
  /** True for tables: their rows carry `xmin`, the transaction that wrote them. */
  readonly hasTransactionIds: boolean
  /** The columns that are written, in the order of the files. */
  readonly columns: readonly SourceColumn[]
  readonly where?: string | undefined
  /** The watermark column with its type as PostgreSQL writes it; it need not be among the written columns. */
  readonly watermark?: { readonly name: string; readonly type: string } | undefined
  /** Columns that order the rows beside the watermark: the key. */
  readonly key: readonly string[]
}

/** What the run before left: rows that are known need not come again. */
export interface Known {
  /** The highest watermark read so far. */
  readonly from: string
  /** The bound below which late rows are not searched for, as an amount that is taken off `from`; absent for none. */
  readonly lookback?: string | undefined
  /** Absent where late rows are not searched for. */
  readonly late?:
    | {
        /** Transactions from here on may have been running when the run before read. */
        readonly xmin: string
        /** Those of them whose rows were read nevertheless. */
        readonly known: readonly string[]
      }
    | undefined
}

const TWO_TO_THE_32 = 4_294_967_296n

/**
 * The transaction that wrote a row, as xid8: `xmin` has 32 bits only, and every row that can be seen was written within
 * the last 2^32 transactions before the snapshot's end.
 */
export function transactionOf(snapshot: Pick<ManifestSnapshot, 'xmax'>): string {
  const now = BigInt(snapshot.xmax)
  return `(${now} - (${(now % TWO_TO_THE_32) + TWO_TO_THE_32} - source.xmin::text::bigint) % ${TWO_TO_THE_32})`
}

/** The rows of a run, as a condition; undefined for all rows. */
export function rowCondition(
  source: Source,
  known: Known | undefined,
  snapshot: Pick<ManifestSnapshot, 'xmax'>,
): string | undefined {
  const conditions = source.where === undefined ? [] : [`(${source.where}\n)`]
  if (known !== undefined) conditions.push(newRows(source, known, snapshot))
  return conditions.length === 0 ? undefined : conditions.join(' AND ')
}

function newRows({ watermark }: Source, { from, lookback, late }: Known, snapshot: Pick<ManifestSnapshot, 'xmax'>): string {
  if (watermark === undefined) throw new Error('an incremental window needs a watermark column')
  const column = `source.${quoteIdent(watermark.name)}`
  const bound = `${quoteLiteral(from)}::${watermark.type}`
  const above = `${column} > ${bound}`
  if (late === undefined) return above
  const transaction = transactionOf(snapshot)
  const known = late.known.length === 0 ? '' : ` AND ${transaction} <> ALL ('{${late.known.join(',')}}'::bigint[])`
  const unseen = `(${above} OR (${transaction} >= ${BigInt(late.xmin)}${known}))`
  // The bound stands alone in front, so that an index on the watermark column can serve it.
  return lookback === undefined ? unseen : `${column} > ${lowerBound(bound, watermark.type, lookback)} AND ${unseen}`
}

/** Numbers are taken off as numbers, times as intervals. */
function lowerBound(bound: string, type: string, lookback: string): string {
  const family = watermarkFamily(type)
  if (family === 'number') {
    if (!/^\d+(\.\d+)?$/.test(lookback)) {
      throw new ConfigError(`source.lookback: "${lookback}" is not a number, but the watermark column is of type ${type}`, {
        code: 'EXTRACTOR_LOOKBACK_INVALID',
      })
    }
    return `(${bound}::numeric - ${lookback})`
  }
  return `(${bound} - interval ${quoteLiteral(lookback)})`
}

/** What can be a watermark: values with an order, a maximum and a difference. */
export function watermarkFamily(type: string): 'number' | 'time' | undefined {
  if (/^(smallint|integer|bigint|oid|numeric(\(.*\))?)$/.test(type)) return 'number'
  if (/^(date|timestamp(\(\d\))? (with|without) time zone)$/.test(type)) return 'time'
  return undefined
}

/** A column as it is written out: `"id"`. */
const written = (column: SourceColumn): string => `source.${quoteIdent(column.name)}`

const fromClause = (source: Source, condition: string | undefined): string =>
  `FROM ${source.from} AS source${condition === undefined ? '' : `\nWHERE ${condition}`}`

/** The SELECT whose rows are copied: watermark and key decide the order, so that two runs over the same rows give the same files. */
export function copySelect(source: Source, condition: string | undefined): string {
  const order = [...new Set([...(source.watermark === undefined ? [] : [source.watermark.name]), ...source.key])]
  const orderBy = order.length === 0 ? '' : `\nORDER BY ${order.map((name) => `source.${quoteIdent(name)}`).join(', ')}`
  return `SELECT ${source.columns.map(written).join(', ')}\n${fromClause(source, condition)}${orderBy}`
}

/** Known transactions above this number are not listed: the manifest stays small, and the rows come again instead. */
export const MAX_KNOWN_TRANSACTIONS = 100_000

/** One pass over the rows of the run before they are copied; what it found is read by {@link readProbe}. */
export interface Probe {
  readonly sql: string
  /** What the result's columns `e0`, `e1`, … say of which column. */
  readonly exceptional: readonly { readonly column: string; readonly engine: 'iceberg' | 'duckdb' }[]
}

/** Counts the rows, finds the highest watermark, the transactions worth remembering and the values that not every engine can hold. */
export function probeQuery(source: Source, known: Known | undefined, snapshot: Pick<ManifestSnapshot, 'xmin' | 'xmax'>): Probe {
  const condition = rowCondition(source, known, snapshot)
  const selected = ['count(*)::text AS rows']
  if (source.watermark !== undefined) {
    const highest = `max(source.${quoteIdent(source.watermark.name)})`
    // GREATEST leaves nulls out: without a row the watermark stays where it is.
    const high = known === undefined ? highest : `greatest(${highest}, ${quoteLiteral(known.from)}::${source.watermark.type})`
    selected.push(`(${high})::text AS high`)
  }
  // Where no transaction was running there is none between xmin and xmax, and nothing to remember.
  if (remembersTransactions(source) && snapshot.xmin !== snapshot.xmax) {
    const transaction = transactionOf(snapshot)
    selected.push(
      `(array_agg(DISTINCT ${transaction}) FILTER (WHERE ${transaction} >= ${BigInt(snapshot.xmin)}))::text AS transactions`,
    )
  }
  const exceptional: { column: string; engine: 'iceberg' | 'duckdb' }[] = []
  for (const column of source.columns) {
    for (const engine of ['iceberg', 'duckdb'] as const) {
      const predicate = exceptionalPredicate(column, engine)
      if (predicate === undefined) continue
      selected.push(`coalesce(bool_or(${predicate}), false)::text AS e${exceptional.length}`)
      exceptional.push({ column: column.name, engine })
    }
  }
  return { sql: `SELECT ${selected.join(',\n  ')}\n${fromClause(source, condition)}`, exceptional }
}

/** Late rows can be told from known ones by the transaction that wrote them, where there is a watermark to be late for. */
export function remembersTransactions(source: Pick<Source, 'hasTransactionIds' | 'watermark'>): boolean {
  return source.hasTransactionIds && source.watermark !== undefined
}

export interface ProbeResult {
  readonly rows: number
  /** The highest watermark read so far; undefined while there is none. */
  readonly high: string | undefined
  /** Transactions at or above the snapshot's xmin that wrote one of the rows. */
  readonly transactions: readonly string[]
  readonly exceptional: ReadonlyMap<string, { readonly iceberg: boolean; readonly duckdb: boolean }>
}

/** Reads the one row that a probe gives, whose values are texts as PostgreSQL writes them. */
export function readProbe(probe: Probe, row: Readonly<Record<string, unknown>>): ProbeResult {
  const exceptional = new Map<string, { iceberg: boolean; duckdb: boolean }>()
  for (const [index, { column, engine }] of probe.exceptional.entries()) {
    const found = exceptional.get(column) ?? { iceberg: false, duckdb: false }
    found[engine] = row[`e${index}`] === 'true'
    exceptional.set(column, found)
  }
  const list = row['transactions']
  return {
    rows: Number(row['rows']),
    high: typeof row['high'] === 'string' ? row['high'] : undefined,
    transactions:
      typeof list === 'string'
        ? list
            .slice(1, -1)
            .split(',')
            .filter((id) => id !== '')
        : [],
    exceptional,
  }
}

/** `id,"a ""quoted"" name"`: the line of column names, as COPY … (HEADER) writes it. */
export function headerLine(names: readonly string[]): Buffer {
  const cells = names.map((name) =>
    /[",\r\n]/.test(name) || name === '\\N' || name === '' ? `"${name.replaceAll('"', '""')}"` : name,
  )
  return Buffer.from(`${cells.join(',')}\n`)
}
