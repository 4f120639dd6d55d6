export { type TlsOptions, type TrinoConfig, type TrinoConfigInput, trinoConfigSchema, type TrinoOptions } from './config.ts'
export { createExternalCsvTable, type CsvTableOptions, dropTable } from './csv-stage.ts'
export { type TrinoErrorFacts, trinoErrorFacts } from './errors.ts'
export {
  type ColumnDefinition,
  createSchema,
  createTable,
  type CreateTableOptions,
  currentSnapshot,
  type IcebergSnapshot,
  oldestSnapshotAt,
  type RowsOf,
  snapshotByQueryId,
  tableColumns,
  tableIdent,
  type TableName,
  type TrinoQueries,
} from './iceberg.ts'
export { literal, typed, TypedValue, type TrinoParameter } from './literal.ts'
export type { TrinoStats } from './protocol.ts'
export { ident, sql, SqlFragment, type SqlStatement } from './sql.ts'
export type { StatementHandle } from './statement.ts'
export {
  type ArrayQueryOptions,
  type CheckOptions,
  type ExecuteResult,
  type QueryOptions,
  type QueryResult,
  type QueryState,
  type ResultPage,
  type StatementOptions,
  type SubmittedStatement,
  TrinoHandler,
  type TrinoRow,
} from './trino-handler.ts'
export type { TrinoColumn, TrinoValue } from './values.ts'
