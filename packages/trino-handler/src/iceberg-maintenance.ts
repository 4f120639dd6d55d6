import { type CallOptions, ConfigError } from '@common-handlers/core'
import { type ColumnDefinition, columnText, type TableName, tableIdent, type TrinoQueries } from './iceberg.ts'
import { literal } from './literal.ts'

/** A column as a manifest of `@common-handlers/dataset` has it, by its structure. */
export interface DatasetColumn {
  readonly name: string
  readonly nullable: boolean
  readonly targets: { readonly iceberg: { readonly type: string } }
}

/** The columns of a table for a dataset: `createTable(trino, table, datasetColumns(manifest.columns), { partitioning })`. */
export function datasetColumns(columns: readonly DatasetColumn[]): ColumnDefinition[] {
  return columns.map(({ name, nullable, targets }) => ({ name, type: targets.iceberg.type, nullable }))
}

/** Adds columns at the end, one commit each; those that are there by name stay as they are. New columns are null in the rows there are. */
export async function addColumns(
  trino: TrinoQueries,
  table: TableName,
  columns: readonly ColumnDefinition[],
  options?: CallOptions,
): Promise<void> {
  for (const column of columns) {
    await trino.execute(`ALTER TABLE ${tableIdent(table)} ADD COLUMN IF NOT EXISTS ${columnText(column)}`, [], options)
  }
}

export interface OptimizeOptions extends CallOptions {
  /** Files smaller than this are written anew, together: `128MB`. Default: the connector's, 100MB. */
  readonly fileSizeThreshold?: string | undefined
  /** A condition on partition columns, as SQL: `happened_at >= DATE '2026-11-01'`. Default: the whole table. */
  readonly where?: string | undefined
}

/** Writes small files together and applies deletes: one snapshot, which holds the same rows. */
export async function optimize(trino: TrinoQueries, table: TableName, options: OptimizeOptions = {}): Promise<void> {
  const { fileSizeThreshold, where, ...call } = options
  const parameters = fileSizeThreshold === undefined ? '' : `(file_size_threshold => ${literal(fileSizeThreshold)})`
  await trino.execute(
    `ALTER TABLE ${tableIdent(table)} EXECUTE optimize${parameters}${where === undefined ? '' : ` WHERE ${where}`}`,
    [],
    call,
  )
}

/**
 * Forgets snapshots older than `retention` (`7d`) and deletes the files that only they have. The query ids in them are
 * forgotten too: what was written before can no longer be proved. The catalog refuses less than its
 * `expire_snapshots_min_retention`, 7 days by default.
 */
export async function expireSnapshots(
  trino: TrinoQueries,
  table: TableName,
  retention: string,
  options?: CallOptions,
): Promise<void> {
  await execute(trino, table, 'expire_snapshots', retention, options)
}

/**
 * Deletes files in the table's folder that no snapshot has and that are older than `retention`: what failed writes
 * left. A write that takes longer than that loses its files. The catalog refuses less than its
 * `remove_orphan_files_min_retention`, 7 days by default.
 */
export async function removeOrphanFiles(
  trino: TrinoQueries,
  table: TableName,
  retention: string,
  options?: CallOptions,
): Promise<void> {
  await execute(trino, table, 'remove_orphan_files', retention, options)
}

async function execute(
  trino: TrinoQueries,
  table: TableName,
  procedure: string,
  retention: string,
  options: CallOptions | undefined,
): Promise<void> {
  if (!/^\d+(\.\d+)?(ms|s|m|h|d)$/.test(retention)) {
    throw new ConfigError(`${JSON.stringify(retention)} is not a duration like 7d or 36h`, {
      code: 'TRINO_CONFIG_INVALID',
      context: { retention },
    })
  }
  await trino.execute(
    `ALTER TABLE ${tableIdent(table)} EXECUTE ${procedure}(retention_threshold => ${literal(retention)})`,
    [],
    options,
  )
}
