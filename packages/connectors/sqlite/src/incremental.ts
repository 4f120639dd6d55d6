import { queryInvalid, watermarkInvalid, watermarkUnusable } from './errors.ts'
import type { SqliteEngine, SqliteParameters, SqliteRow, SqliteValue } from './engine.ts'

/** What to read. */
export type SqliteQuery = SqliteStatementQuery | SqliteTableQuery

/** The rows of a statement, in its own order. */
export interface SqliteStatementQuery {
  readonly sql: string
  readonly parameters?: SqliteParameters | undefined
}

/** The rows of a table or view; with a watermark column those that are new, in the order of that column and then of the key. */
export interface SqliteTableQuery {
  readonly table: string
  /** Default: all. */
  readonly columns?: readonly string[] | undefined
  /** A column that grows: new rows have a higher value than those read before. Rows that have none are not read. */
  readonly watermarkColumn?: string | undefined
  /** What tells rows of one watermark apart. Default: the primary key, or the rowid where there is none. A view has neither. */
  readonly keyColumns?: readonly string[] | undefined
  /** That of the last item of an earlier run: only what comes after it is read. */
  readonly watermark?: string | undefined
}

/** A statement and how to read its rows: the columns that were added to it, and what makes the key and the watermark. */
export interface Extraction {
  readonly sql: string
  readonly parameters: SqliteParameters
  /** Columns of the row's key, in order. */
  readonly key: readonly string[]
  readonly watermarkColumn?: string | undefined
  /** Read for the order alone, and not part of the row. */
  readonly hidden: readonly string[]
}

export async function extraction(engine: SqliteEngine, query: SqliteQuery, signal: AbortSignal): Promise<Extraction> {
  if ('sql' in query) return { sql: query.sql, parameters: query.parameters ?? [], key: [], hidden: [] }
  const { table, columns, watermarkColumn, watermark } = query
  if (watermark !== undefined && watermarkColumn === undefined) throw queryInvalid('a watermark needs its watermarkColumn')
  const key = query.keyColumns ?? (await keyOf(engine, table, signal))
  if (watermarkColumn !== undefined && key.length === 0) {
    throw queryInvalid(`"${table}" has no primary key and no rowid: name the keyColumns that tell its rows apart`)
  }
  const order = [...(watermarkColumn === undefined ? [] : [watermarkColumn]), ...key.filter((name) => name !== watermarkColumn)]
  const hidden = order.filter((name) => columns !== undefined && !columns.includes(name))
  const isRowid = key.length === 1 && key[0] === ROWID
  const named = columns === undefined ? ['*', ...(isRowid ? [ROWID] : [])] : [...columns, ...hidden]
  const conditions = watermarkColumn === undefined ? [] : [`${ident(watermarkColumn)} IS NOT NULL`]
  const after = watermark === undefined ? [] : values(watermark, order.length)
  if (after.length > 0) conditions.push(`(${order.map(ident).join(', ')}) > (${order.map(() => '?').join(', ')})`)
  return {
    sql: [
      `SELECT ${named.map((name) => (name === '*' ? name : `${ident(name)} AS ${ident(name)}`)).join(', ')}`,
      `FROM ${ident(table)}`,
      ...(conditions.length === 0 ? [] : [`WHERE ${conditions.join(' AND ')}`]),
      ...(order.length === 0 ? [] : [`ORDER BY ${order.map(ident).join(', ')}`]),
    ].join(' '),
    parameters: after,
    key,
    watermarkColumn,
    hidden: isRowid && columns === undefined ? [ROWID] : hidden,
  }
}

const ROWID = 'rowid'

/** The columns of the primary key in its order; `rowid` where there is none; nothing for a view. */
async function keyOf(engine: SqliteEngine, table: string, signal: AbortSignal): Promise<readonly string[]> {
  const [kind] = await engine.query('SELECT type, wr FROM pragma_table_list WHERE name = ? COLLATE NOCASE', [table], { signal })
  if (kind === undefined) throw queryInvalid(`there is no table or view "${table}"`)
  if (kind['type'] === 'view') return []
  const columns = await engine.query('SELECT name, pk FROM pragma_table_info(?)', [table], { signal })
  const key = columns.filter(({ pk }) => Number(pk) > 0).toSorted((a, b) => Number(a['pk']) - Number(b['pk']))
  if (key.length > 0) return key.map(({ name }) => String(name))
  if (columns.some(({ name }) => String(name).toLowerCase() === ROWID)) {
    throw queryInvalid(`"${table}" has no primary key and a column of its own named rowid: name the keyColumns`)
  }
  return [ROWID]
}

/** The place of a row in the order, to be given back: `[{"i":"9007199254740993"},"b"]`. */
export function watermarkOf(row: SqliteRow, { watermarkColumn, key }: Extraction): string | undefined {
  if (watermarkColumn === undefined) return undefined
  const order = [watermarkColumn, ...key.filter((name) => name !== watermarkColumn)]
  const place = order.map((name) => {
    const value = row[name]
    if (value === undefined)
      throw queryInvalid(`the column "${name}" is written otherwise in the table: ${Object.keys(row).join(', ')}`)
    // INTEGER and REAL stay apart: 2^53 + 1 is no REAL.
    if (typeof value === 'bigint') return { i: value.toString() }
    if (typeof value === 'string' || Number.isFinite(value)) return value
    throw watermarkUnusable(name)
  })
  return JSON.stringify(place)
}

function values(watermark: string, count: number): SqliteValue[] {
  let place: unknown
  try {
    place = JSON.parse(watermark)
  } catch {
    throw watermarkInvalid('it is not one that an item had')
  }
  if (!Array.isArray(place) || place.length !== count) {
    throw watermarkInvalid(
      `it does not belong to an order of ${count} columns: watermarkColumn and keyColumns must be as they were`,
    )
  }
  return place.map((part: unknown) => {
    if (typeof part === 'string' || typeof part === 'number') return part
    const integer = (part as { readonly i?: unknown } | null)?.i
    if (typeof integer === 'string' && /^-?\d+$/.test(integer)) return BigInt(integer)
    throw watermarkInvalid('it is not one that an item had')
  })
}

/** A name as it is, whatever it holds. */
const ident = (name: string): string => `"${name.replaceAll('"', '""')}"`
