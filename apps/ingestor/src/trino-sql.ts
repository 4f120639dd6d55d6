import { ConflictError } from '@common-handlers/core'
import { type Manifest, type ManifestColumn, trinoDecode } from '@common-handlers/dataset'
import { ident, literal, tableIdent, type TableName } from '@common-handlers/trino-handler'
import { keyColumns } from './queue.ts'

/** A column of the target as Trino describes it; names are in lower case. */
export interface TargetColumn {
  readonly name: string
  readonly type: string
  readonly nullable?: boolean | undefined
}

/** Where the raw text of the columns stands, and one more column for what is too much in a row. */
export const EXTRA_COLUMN = '_extra'

/** The columns of the table over the files: numbered, so that no name of the source can be in the way. */
export function rawColumns(manifest: Manifest): string[] {
  return [...manifest.columns.map((_, index) => rawName(index)), EXTRA_COLUMN]
}

const rawName = (index: number): string => `c${index}`

/** The columns of a table that is made for the run. */
export function newColumns(manifest: Manifest): { readonly name: string; readonly type: string }[] {
  return manifest.columns.map((column) => ({ name: column.name, type: column.targets.iceberg.type }))
}

/**
 * The columns as this table can take them. A column that is wider than needed takes the value as it is; one that is
 * text takes PostgreSQL's own spelling. What the table cannot hold exactly is refused before anything runs.
 * @throws ConflictError `INGESTOR_COLUMN_MISSING`, `INGESTOR_COLUMN_TYPE`, `INGESTOR_COLUMN_REQUIRED`
 */
export function fitColumns(manifest: Manifest, table: readonly TargetColumn[], target: string): ManifestColumn[] {
  const byName = new Map(table.map((column) => [column.name, column]))
  const fitted = manifest.columns.map((column) => {
    const existing = byName.get(column.name.toLowerCase())
    if (existing === undefined) throw columnMissing(column, target)
    byName.delete(existing.name)
    const type = normalType(existing.type)
    if (!holds(type, normalType(column.targets.iceberg.type))) throw columnType(column, existing.type, target)
    return { ...column, targets: { ...column.targets, iceberg: { ...column.targets.iceberg, type } } }
  })
  const required = [...byName.values()].find((column) => column.nullable === false)
  if (required !== undefined) {
    throw new ConflictError(
      `${target} has a column "${required.name}" that must not be null, and the run has no such column: make it nullable, or drop it`,
      { code: 'INGESTOR_COLUMN_REQUIRED', context: { column: required.name } },
    )
  }
  return fitted
}

/** Trino compares names without case: two columns that differ by nothing else cannot stand in one table. */
export function assertDistinctNames(manifest: Manifest): void {
  const seen = new Map<string, string>()
  for (const { name } of manifest.columns) {
    const other = seen.get(name.toLowerCase())
    if (other !== undefined) {
      throw new ConflictError(
        `columns "${other}" and "${name}" differ in capitals alone, which Trino does not tell apart: rename one in the extractor (source.query)`,
        { code: 'INGESTOR_COLUMN_NAMES', context: { columns: [other, name] } },
      )
    }
    seen.set(name.toLowerCase(), name)
  }
}

const normalType = (type: string): string =>
  type
    .toLowerCase()
    .replace(/\s*([(,)])\s*/g, '$1')
    .replace(/\s+/g, ' ')
    .replace(/\)(?=\w)/, ') ')

/** Whether a column of type `wide` takes every value of type `narrow` as it is. */
function holds(wide: string, narrow: string): boolean {
  if (wide === narrow || wide === 'varchar') return true
  if (wide === 'bigint') return narrow === 'integer'
  if (wide === 'double') return narrow === 'real'
  const [wideDecimal, narrowDecimal] = [decimalOf(wide), decimalOf(narrow)]
  if (wideDecimal === undefined) return false
  if (narrow === 'integer') return wideDecimal.precision - wideDecimal.scale >= 10
  if (narrow === 'bigint') return wideDecimal.precision - wideDecimal.scale >= 19
  if (narrowDecimal === undefined) return false
  return (
    wideDecimal.scale >= narrowDecimal.scale &&
    wideDecimal.precision - wideDecimal.scale >= narrowDecimal.precision - narrowDecimal.scale
  )
}

function decimalOf(type: string): { readonly precision: number; readonly scale: number } | undefined {
  const [, precision, scale] = /^decimal\((\d+),(\d+)\)$/.exec(type) ?? []
  return precision === undefined || scale === undefined ? undefined : { precision: Number(precision), scale: Number(scale) }
}

function columnMissing(column: ManifestColumn, target: string): ConflictError {
  const { type } = column.targets.iceberg
  return new ConflictError(
    `${target} has no column "${column.name}", which the run has: ALTER TABLE ${target} ADD COLUMN ${ident(column.name)} ${type}`,
    { code: 'INGESTOR_COLUMN_MISSING', context: { column: column.name, type } },
  )
}

function columnType(column: ManifestColumn, existing: string, target: string): ConflictError {
  const { type, textBecause } = column.targets.iceberg
  const why = column.exceptional === true && textBecause !== undefined ? ` (the column ${textBecause})` : ''
  return new ConflictError(
    `column "${column.name}" of ${target} is ${existing}, which cannot hold this run's ${type}${why} exactly: ` +
      'extract in full and load with write: replace, which makes the column anew, or load into another table',
    { code: 'INGESTOR_COLUMN_TYPE', context: { column: column.name, existing, needed: type } },
  )
}

/**
 * Reads the rows from the table over the files, decoded. A row with too few fields has no text in its last column, one
 * with too many has some in the extra column; either ends the statement, and so does a value that is none of its type.
 */
export function selectRows(columns: readonly ManifestColumn[], stage: TableName): string {
  const list = columns.map((column, index) => `${trinoDecode(column, { raw: rawName(index) })} AS ${ident(column.name)}`)
  const last = ident(rawName(columns.length - 1))
  const broken = `CAST(${literal(BROKEN_ROW)} || "$path" AS boolean)`
  return `SELECT ${list.join(', ')} FROM ${tableIdent(stage)} WHERE CASE WHEN ${ident(EXTRA_COLUMN)} IS NULL AND ${last} IS NOT NULL THEN true ELSE ${broken} END`
}

/** Stands in Trino's message when a row has too few or too many fields, before the path of its file. */
export const BROKEN_ROW = 'row with too few or too many fields in '

export function appendStatement(target: TableName, columns: readonly ManifestColumn[], rows: string): string {
  return `INSERT INTO ${tableIdent(target)} (${names(columns)}) ${rows}`
}

export function replaceStatement(
  target: TableName,
  rows: string,
  layout: { readonly partitioning: readonly string[]; readonly sortedBy: readonly string[] },
): string {
  const properties = [
    ...(layout.partitioning.length === 0 ? [] : [`partitioning = ${literal(layout.partitioning)}`]),
    ...(layout.sortedBy.length === 0 ? [] : [`sorted_by = ${literal(layout.sortedBy)}`]),
  ]
  const options = properties.length === 0 ? '' : ` WITH (${properties.join(', ')})`
  return `CREATE OR REPLACE TABLE ${tableIdent(target)}${options} AS ${rows}`
}

export function mergeStatement(target: TableName, columns: readonly ManifestColumn[], rows: string, manifest: Manifest): string {
  const keys = keyColumns(manifest)
  const others = columns.filter((column) => !keys.includes(column.name))
  // A table of keys alone is written anew all the same: each row of the run is counted as added.
  const updated = others.length > 0 ? others : columns
  return [
    `MERGE INTO ${tableIdent(target)} AS t USING (${rows}) AS s`,
    `ON ${keys.map((key) => `t.${ident(key)} = s.${ident(key)}`).join(' AND ')}`,
    `WHEN MATCHED THEN UPDATE SET ${updated.map(({ name }) => `${ident(name)} = s.${ident(name)}`).join(', ')}`,
    `WHEN NOT MATCHED THEN INSERT (${names(columns)}) VALUES (${columns.map(({ name }) => `s.${ident(name)}`).join(', ')})`,
  ].join(' ')
}

const names = (columns: readonly ManifestColumn[]): string => columns.map(({ name }) => ident(name).text).join(', ')
