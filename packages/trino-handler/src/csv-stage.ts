import type { CallOptions } from '@common-handlers/core'
import { type TableName, tableIdent, type TrinoQueries } from './iceberg.ts'
import { ident } from './sql.ts'
import { literal } from './literal.ts'

export interface CsvTableOptions extends CallOptions {
  /** The first line of each file holds names. Default true. */
  readonly header?: boolean | undefined
  /** Default U+0001, a character that the one-row-a-line dialect leaves in no file; Hive's own backslash eats backslashes. */
  readonly escape?: string | undefined
  /** Default `,`. */
  readonly separator?: string | undefined
  /** Default `"`. */
  readonly quote?: string | undefined
}

/**
 * Lays a table over the CSV files of a folder, which Trino then reads in place (gzip and zstd too, by suffix). Every
 * column is varchar, the only type CSV tables have. Objects whose name starts with `_` or `.` are not read; folders
 * below are. The catalog is one of the Hive connector with `hive.non-managed-table-writes-enabled=true`.
 * @param location the folder as the catalog spells it: `s3://bucket/prefix/run=1/`
 */
export async function createExternalCsvTable(
  trino: TrinoQueries,
  table: TableName,
  columns: readonly string[],
  location: string,
  options: CsvTableOptions = {},
): Promise<void> {
  const { header = true, escape = '\u0001', separator, quote, ...call } = options
  const properties = [
    "format = 'CSV'",
    `external_location = ${literal(location)}`,
    `csv_escape = ${literal(escape)}`,
    ...(separator === undefined ? [] : [`csv_separator = ${literal(separator)}`]),
    ...(quote === undefined ? [] : [`csv_quote = ${literal(quote)}`]),
    ...(header ? ['skip_header_line_count = 1'] : []),
  ]
  const names = columns.map((name) => `${ident(name).text} varchar`)
  await trino.execute(`CREATE TABLE ${tableIdent(table)} (${names.join(', ')}) WITH (${properties.join(', ')})`, [], call)
}

/**
 * Drops a table if it is there. The files under an external table stay; those of an Iceberg table are deleted.
 */
export async function dropTable(trino: TrinoQueries, table: TableName, options?: CallOptions): Promise<void> {
  await trino.execute(`DROP TABLE IF EXISTS ${tableIdent(table)}`, [], options)
}
