import type { CallOptions } from '@common-handlers/core'
import { trinoErrorFacts } from './errors.ts'
import { checkedType, literal, type TrinoParameter } from './literal.ts'
import { ident } from './sql.ts'

/** A full name. Trino keeps names in lower case. */
export interface TableName {
  readonly catalog: string
  readonly schema: string
  readonly table: string
}

/** The part of a result that is read here. */
export interface RowsOf<Row> {
  readonly rows: readonly Row[]
}

/** What the functions here need of a {@link TrinoHandler}. */
export interface TrinoQueries {
  query<Row extends object>(statement: string, params?: readonly TrinoParameter[], options?: CallOptions): Promise<RowsOf<Row>>
  execute(statement: string, params?: readonly TrinoParameter[], options?: CallOptions): Promise<{ readonly queryId: string }>
}

export interface ColumnDefinition {
  readonly name: string
  /** `bigint`, `decimal(38,2)`, `timestamp(6) with time zone`. */
  readonly type: string
  /** Default true. */
  readonly nullable?: boolean | undefined
  readonly comment?: string | undefined
}

export interface CreateTableOptions extends CallOptions {
  /** Partition transforms as Trino writes them: `['day(happened_at)', 'bucket(id, 16)']`. */
  readonly partitioning?: readonly string[] | undefined
  /** `['happened_at', 'id DESC NULLS FIRST']` */
  readonly sortedBy?: readonly string[] | undefined
  /** Default: the catalog's, PARQUET unless it was changed. */
  readonly format?: 'PARQUET' | 'ORC' | 'AVRO' | undefined
  /** Default: below the schema's. */
  readonly location?: string | undefined
  readonly comment?: string | undefined
  /** Default true: a table that is there is left as it is. False: it is an error. */
  readonly ifNotExists?: boolean | undefined
}

/** One commit of a table. */
export interface IcebergSnapshot {
  readonly snapshotId: bigint
  readonly parentId: bigint | undefined
  /** `append`, `overwrite`, `replace`, `delete`. */
  readonly operation: string
  readonly committedAt: Date
  /** The Trino query that made it; absent for `add_files` and for other engines. */
  readonly queryId: string | undefined
  /** Rows in the data files added. For a MERGE these are the inserted rows and the new versions of the updated ones. */
  readonly addedRecords: bigint
  /** Rows in all data files, deleted and replaced ones included until they are compacted away: not a row count of the table. */
  readonly totalRecords: bigint | undefined
  readonly summary: ReadonlyMap<string, string>
}

/** `"lake"."app"."audit_log"`; with a suffix `"audit_log$snapshots"`. */
export function tableIdent({ catalog, schema, table }: TableName, suffix: '' | '$snapshots' | '$refs' = ''): string {
  return ident(catalog, schema, `${table}${suffix}`).text
}

/** Makes a schema unless it is there. */
export async function createSchema(
  trino: TrinoQueries,
  { catalog, schema }: Pick<TableName, 'catalog' | 'schema'>,
  options: CallOptions & { readonly location?: string | undefined } = {},
): Promise<void> {
  const { location, ...call } = options
  const where = location === undefined ? '' : ` WITH (location = ${literal(location)})`
  await trino.execute(`CREATE SCHEMA IF NOT EXISTS ${ident(catalog, schema).text}${where}`, [], call)
}

/** Makes an Iceberg table. */
export async function createTable(
  trino: TrinoQueries,
  table: TableName,
  columns: readonly ColumnDefinition[],
  options: CreateTableOptions = {},
): Promise<void> {
  const { partitioning = [], sortedBy = [], format, location, comment, ifNotExists = true, ...call } = options
  const definitions = columns.map(columnText)
  const properties = [
    ...(format === undefined ? [] : [`format = ${literal(format)}`]),
    ...(partitioning.length === 0 ? [] : [`partitioning = ${literal(partitioning)}`]),
    ...(sortedBy.length === 0 ? [] : [`sorted_by = ${literal(sortedBy)}`]),
    ...(location === undefined ? [] : [`location = ${literal(location)}`]),
  ]
  const statement = [
    `CREATE TABLE ${ifNotExists ? 'IF NOT EXISTS ' : ''}${tableIdent(table)} (${definitions.join(', ')})`,
    ...(comment === undefined ? [] : [`COMMENT ${literal(comment)}`]),
    ...(properties.length === 0 ? [] : [`WITH (${properties.join(', ')})`]),
  ]
  await trino.execute(statement.join(' '), [], call)
}

/** A column as CREATE TABLE and ADD COLUMN take it. */
export function columnText({ name, type, nullable = true, comment }: ColumnDefinition): string {
  const note = comment === undefined ? '' : ` COMMENT ${literal(comment)}`
  return `${ident(name).text} ${checkedType(type)}${nullable ? '' : ' NOT NULL'}${note}`
}

/** The columns of a table in their order; undefined when the table, its schema or its catalog is not there. */
export async function tableColumns(
  trino: TrinoQueries,
  table: TableName,
  options?: CallOptions,
): Promise<Required<Omit<ColumnDefinition, 'comment'>>[] | undefined> {
  // DESCRIBE opens the table itself and fails when it cannot; information_schema leaves such a table out without a word.
  const described = await unlessMissing(() =>
    trino.query<{ Column: string; Type: string }>(`DESCRIBE ${tableIdent(table)}`, [], options),
  )
  if (described === undefined) return undefined
  const { rows } = await trino.query<{ column_name: string; is_nullable: string }>(
    `SELECT column_name, is_nullable FROM ${ident(table.catalog, 'information_schema', 'columns').text} WHERE table_schema = ? AND table_name = ?`,
    [table.schema.toLowerCase(), table.table.toLowerCase()],
    options,
  )
  const required = new Set(rows.filter((row) => row.is_nullable === 'NO').map((row) => row.column_name))
  return described.rows.map((row) => ({ name: row.Column, type: row.Type, nullable: !required.has(row.Column) }))
}

interface SnapshotRow {
  readonly snapshot_id: bigint
  readonly parent_id: bigint | null
  readonly operation: string
  readonly committed_at: string
  readonly summary: Map<string, string>
}

const SNAPSHOT_COLUMNS = `snapshot_id, parent_id, operation, to_iso8601(committed_at AT TIME ZONE 'UTC') AS committed_at, summary`

/**
 * The snapshot that a query made: the proof that it was applied. INSERT, MERGE, UPDATE, DELETE, CREATE TABLE and
 * CREATE OR REPLACE TABLE … AS leave their id. Undefined when there is none: the query was not applied; or it was an
 * INSERT or MERGE that changed no row, which makes no snapshot; or the snapshot has expired (compare
 * {@link oldestSnapshotAt}).
 */
export async function snapshotByQueryId(
  trino: TrinoQueries,
  table: TableName,
  queryId: string,
  options?: CallOptions,
): Promise<IcebergSnapshot | undefined> {
  const { rows } = await trino.query<SnapshotRow>(
    `SELECT ${SNAPSHOT_COLUMNS} FROM ${tableIdent(table, '$snapshots')} WHERE element_at(summary, 'trino_query_id') = ?
     ORDER BY committed_at DESC, snapshot_id LIMIT 1`,
    [queryId],
    options,
  )
  return rows[0] === undefined ? undefined : snapshotOf(rows[0])
}

/** The snapshot that a reader of the table sees now; undefined while the table has none. */
export async function currentSnapshot(
  trino: TrinoQueries,
  table: TableName,
  options?: CallOptions,
): Promise<IcebergSnapshot | undefined> {
  const { rows } = await trino.query<SnapshotRow>(
    `SELECT ${SNAPSHOT_COLUMNS} FROM ${tableIdent(table, '$snapshots')}
     WHERE snapshot_id IN (SELECT snapshot_id FROM ${tableIdent(table, '$refs')} WHERE name = 'main')`,
    [],
    options,
  )
  return rows[0] === undefined ? undefined : snapshotOf(rows[0])
}

/** When the oldest snapshot that is kept was made. A query older than this can no longer be looked up. */
export async function oldestSnapshotAt(trino: TrinoQueries, table: TableName, options?: CallOptions): Promise<Date | undefined> {
  const { rows } = await trino.query<{ oldest: string | null }>(
    `SELECT to_iso8601(min(committed_at) AT TIME ZONE 'UTC') AS oldest FROM ${tableIdent(table, '$snapshots')}`,
    [],
    options,
  )
  const oldest = rows[0]?.oldest ?? undefined
  return oldest === undefined ? undefined : new Date(oldest)
}

function snapshotOf(row: SnapshotRow): IcebergSnapshot {
  const count = (key: string): bigint | undefined => {
    const digits = row.summary.get(key)
    return digits === undefined ? undefined : BigInt(digits)
  }
  return {
    snapshotId: row.snapshot_id,
    parentId: row.parent_id ?? undefined,
    operation: row.operation,
    committedAt: new Date(row.committed_at),
    queryId: row.summary.get('trino_query_id'),
    addedRecords: count('added-records') ?? 0n,
    totalRecords: count('total-records'),
    summary: row.summary,
  }
}

const MISSING = new Set(['TABLE_NOT_FOUND', 'SCHEMA_NOT_FOUND', 'CATALOG_NOT_FOUND'])

async function unlessMissing<T>(work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work()
  } catch (error) {
    if (MISSING.has(trinoErrorFacts(error)?.errorName ?? '')) return undefined
    throw error
  }
}
