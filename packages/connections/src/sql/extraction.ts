import type { SqlDialect, SqlTable } from './dialect.ts'
import { queryInvalid, watermarkInvalid, watermarkUnusable } from './errors.ts'
import type { SqlTableQuery } from './query.ts'

/** A row by column name, its values as the database has them. */
export type SqlRow = Readonly<Record<string, unknown>>

/** What a place in an order is made of. */
export type WatermarkValue = string | number | bigint | boolean

/** A statement and how to read its rows: the columns that were added to it, and what makes the key and the watermark. */
export interface Extraction<Parameters = readonly WatermarkValue[]> {
  readonly sql: string
  readonly parameters: Parameters
  /** Columns of the row's key, in order. */
  readonly key: readonly string[]
  /** The columns that a watermark is made of; empty without one. */
  readonly order: readonly string[]
  /** Read for the order alone, and not part of the row. */
  readonly hidden: readonly string[]
}

/** The SQL of a database: how it is written, and the prefix of the codes of its errors. */
export interface SqlTongue {
  readonly dialect: SqlDialect
  readonly prefix: string
}

/** The statement that gives the rows of a table which come after a watermark, in an order that no tie leaves open. */
export function extraction({ dialect, prefix }: SqlTongue, query: SqlTableQuery, described: SqlTable): Extraction {
  const { table, schema, columns, watermarkColumn, watermark } = query
  if (watermark !== undefined && watermarkColumn === undefined) {
    throw queryInvalid(prefix, 'a watermark needs its watermarkColumn')
  }
  const key = query.keyColumns ?? described.key
  if (watermarkColumn !== undefined && key.length === 0) {
    throw queryInvalid(prefix, `"${table}" has no primary key: name the keyColumns that tell its rows apart`)
  }
  const ordered = [...(watermarkColumn === undefined ? [] : [watermarkColumn]), ...key.filter((name) => name !== watermarkColumn)]
  const isKeyHidden = described.isKeyHidden === true && query.keyColumns === undefined
  const all = described.columns?.map(({ name }) => name) ?? ['*']
  const hidden = columns === undefined ? (isKeyHidden ? key : []) : ordered.filter((name) => !columns.includes(name))
  const { quote } = dialect
  const column = (name: string) => described.columns?.find((one) => one.name === name)
  const parameters: WatermarkValue[] = []
  const values = watermark === undefined ? [] : placeOf(watermark, ordered.length, prefix)
  const bound = (index: number): string => {
    const placeholder = dialect.placeholder(parameters.push(values[index] ?? ''))
    return column(ordered[index] ?? '')?.compared?.(placeholder) ?? placeholder
  }
  const conditions = [
    ...(watermarkColumn === undefined ? [] : [`${quote(watermarkColumn)} IS NOT NULL`]),
    ...(values.length === 0 ? [] : [after(ordered.map(quote), bound, dialect.rowValues)]),
  ]
  const selected = [...(columns ?? all), ...hidden].map((name) =>
    name === '*' && described.columns === undefined ? name : `${column(name)?.read ?? quote(name)} AS ${quote(name)}`,
  )
  const place = `${schema === undefined ? '' : `${quote(schema)}.`}${quote(table)}`
  return {
    sql: [
      `SELECT ${selected.join(', ')} FROM ${place}`,
      ...(conditions.length === 0 ? [] : [`WHERE ${conditions.join(' AND ')}`]),
      ...(ordered.length === 0 ? [] : [`ORDER BY ${ordered.map((name) => `${place}.${quote(name)}`).join(', ')}`]),
    ].join(' '),
    parameters,
    key,
    order: watermarkColumn === undefined ? [] : ordered,
    hidden,
  }
}

/** What comes after a place in an order of several columns. */
function after(order: readonly string[], bound: (index: number) => string, rowValues: boolean): string {
  const all = order.map((_, index) => index)
  if (rowValues) return `(${order.join(', ')}) > (${all.map(bound).join(', ')})`
  const [first = ''] = order
  // The first condition says nothing new: with it an index on the first column is of use.
  const floor = `${first} >= ${bound(0)}`
  const ways = all.map((last) => {
    const same = all.slice(0, last).map((index) => `${order[index]} = ${bound(index)}`)
    return [...same, `${order[last]} > ${bound(last)}`].join(' AND ')
  })
  return `${floor} AND (${ways.join(' OR ')})`
}

/** The place of a row in the order, to be given back: `[{"i":"9007199254740993"},"b"]`. */
export function watermarkOf(row: SqlRow, order: readonly string[], prefix: string): string | undefined {
  if (order.length === 0) return undefined
  const place = order.map((name) => {
    const value = row[name]
    if (value === undefined) {
      throw queryInvalid(prefix, `the column "${name}" is written otherwise in the table: ${Object.keys(row).join(', ')}`)
    }
    // Integers and other numbers stay apart: 2^53 + 1 is no double.
    if (typeof value === 'bigint') return { i: value.toString() }
    if (typeof value === 'string' || typeof value === 'boolean' || Number.isFinite(value)) return value
    throw watermarkUnusable(prefix, name)
  })
  return JSON.stringify(place)
}

function placeOf(watermark: string, count: number, prefix: string): WatermarkValue[] {
  let place: unknown
  try {
    place = JSON.parse(watermark)
  } catch {
    throw watermarkInvalid(prefix, 'it is not one that an item had')
  }
  if (!Array.isArray(place) || place.length !== count) {
    throw watermarkInvalid(
      prefix,
      `it does not belong to an order of ${count} columns: watermarkColumn and keyColumns must be as they were`,
    )
  }
  return place.map((part: unknown) => {
    if (typeof part === 'string' || typeof part === 'number' || typeof part === 'boolean') return part
    const integer = (part as { readonly i?: unknown } | null)?.i
    if (typeof integer === 'string' && /^-?\d+$/.test(integer)) return BigInt(integer)
    throw watermarkInvalid(prefix, 'it is not one that an item had')
  })
}
