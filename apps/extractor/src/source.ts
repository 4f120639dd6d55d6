import { ConfigError } from '@common-handlers/core'
import type { SourceColumn } from '@common-handlers/dataset'
import { type ColumnDescription, quoteIdent, type Queries } from '@common-handlers/postgres-handler'
import type { SourceConfig } from './config.ts'
import type { Source } from './source-sql.ts'
import { watermarkColumn } from './window.ts'

/** What is read, as the server describes it. */
export interface DescribedSource extends Source {
  /** For the manifest: the quoted name of the table, or the query. */
  readonly origin: { readonly table: string } | { readonly query: string }
  /** Of the whole table or query, as the planner reckons it. */
  readonly estimatedRows?: number | undefined
}

/**
 * Asks the server what the configured source is.
 * @throws ConfigError `EXTRACTOR_COLUMN_MISSING`, `EXTRACTOR_COLUMN_TWICE`, `EXTRACTOR_WATERMARK_TYPE`; NotFoundError for a missing table
 */
export async function describeSource(
  database: Pick<Queries, 'describeTable' | 'describeQuery'>,
  config: SourceConfig,
): Promise<DescribedSource> {
  const found = config.table === undefined ? await ofQuery(database, config.query ?? '') : await ofTable(database, config.table)
  const { columns: all, ...rest } = found
  const known = new Map(all.map((column) => [column.name, column]))
  if (known.size < all.length) throw twice(all)
  const find = (name: string, setting: string): ColumnDescription => {
    const column = known.get(name)
    if (column === undefined) throw missing(name, setting, all)
    return column
  }
  for (const name of config.text) find(name, 'source.text')
  const chosen = config.columns === undefined ? all : [...new Set(config.columns)].map((name) => find(name, 'source.columns'))
  const key = config.key ?? primaryKey(all)
  for (const name of key) find(name, 'source.key')
  return {
    ...rest,
    columns: withKey(chosen, key, config.key !== undefined),
    key,
    where: config.where,
    watermark: config.watermark === undefined ? undefined : watermarkColumn(config.watermark, all),
  }
}

type Found = Pick<DescribedSource, 'from' | 'origin' | 'hasTransactionIds' | 'estimatedRows'> & {
  readonly columns: readonly ColumnDescription[]
}

async function ofTable(database: Pick<Queries, 'describeTable'>, name: string): Promise<Found> {
  const { name: quoted, kind, columns, estimatedRows } = await database.describeTable(name)
  // A materialized view has transaction ids too, but every refresh writes all of its rows anew.
  const hasTransactionIds = kind === 'table' || kind === 'partitioned table'
  return { from: quoted, origin: { table: quoted }, hasTransactionIds, estimatedRows, columns }
}

async function ofQuery(database: Pick<Queries, 'describeQuery'>, text: string): Promise<Found> {
  const query = text.replace(/[\s;]+$/, '')
  const { columns, estimatedRows } = await database.describeQuery(query)
  return { from: `(\n${query}\n)`, origin: { query }, hasTransactionIds: false, estimatedRows, columns }
}

function primaryKey(columns: readonly ColumnDescription[]): string[] {
  return columns
    .filter((column) => column.keyPosition !== undefined)
    .toSorted((a, b) => (a.keyPosition ?? 0) - (b.keyPosition ?? 0))
    .map((column) => column.name)
}

/** A key counts only when all of it is written out; one that was asked for has to be. */
function withKey(columns: readonly ColumnDescription[], key: readonly string[], asked: boolean): SourceColumn[] {
  const left = key.find((name) => !columns.some((column) => column.name === name))
  if (left !== undefined && asked) {
    throw new ConfigError(`source.key: column "${left}" is not among source.columns, and a key must be written out`, {
      code: 'EXTRACTOR_COLUMN_MISSING',
      context: { column: left },
    })
  }
  return columns.map(({ keyPosition: _, ...column }) => {
    const position = left === undefined ? key.indexOf(column.name) + 1 : 0
    return position === 0 ? column : { ...column, keyPosition: position }
  })
}

function missing(name: string, setting: string, columns: readonly ColumnDescription[]): ConfigError {
  return new ConfigError(
    `${setting}: the source has no column ${quoteIdent(name)}; it has: ${columns.map((column) => column.name).join(', ')}`,
    {
      code: 'EXTRACTOR_COLUMN_MISSING',
      context: { column: name },
    },
  )
}

function twice(columns: readonly ColumnDescription[]): ConfigError {
  const names = columns.map((column) => column.name)
  const name = names.find((candidate, at) => names.indexOf(candidate) !== at) ?? ''
  return new ConfigError(`source.query: two columns are named "${name}"; give one of them another name with AS`, {
    code: 'EXTRACTOR_COLUMN_TWICE',
    context: { column: name },
  })
}
