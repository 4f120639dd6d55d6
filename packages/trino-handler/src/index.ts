export type { StandardSchema } from '@common-handlers/core'
export type { AttachedStatement } from './attached.ts'
export {
  type Encoding,
  type SpoolingOptions,
  type TlsOptions,
  type TrinoConfig,
  type TrinoConfigInput,
  trinoConfigSchema,
} from './config.ts'
export { asDate, asJson, asNumber, type Conversion, type Conversions } from './convert.ts'
export type { CredentialFunction, CredentialProvider, HeldLogin, TrinoLogin } from './credentials.ts'
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
export {
  addColumns,
  type DatasetColumn,
  datasetColumns,
  expireSnapshots,
  optimize,
  type OptimizeOptions,
  removeOrphanFiles,
} from './iceberg-maintenance.ts'
export { literal, typed, TypedValue, type TrinoParameter } from './literal.ts'
export type { TrinoStats } from './protocol.ts'
export type { QueryState } from './query-info.ts'
export type { TransactionOptions, TrinoSession } from './session.ts'
export type { SessionOptions } from './session-state.ts'
export { ident, sql, SqlFragment, type SqlStatement } from './sql.ts'
export type { StatementHandle } from './statement.ts'
export type {
  ArrayQueryOptions,
  ExecuteResult,
  QueryOptions,
  QueryResult,
  ResultPage,
  SchemaQueryOptions,
  StatementOptions,
  SubmittedStatement,
  TrinoRow,
} from './statements.ts'
export { type CheckOptions, type ServerOptions, type TransportOptions, TrinoHandler, type TrinoOptions } from './trino-handler.ts'
export type { TrinoTransport } from './transport.ts'
export { fromTrinoClient, fromTrinoClientOptions, type TrinoClient, type TrinoClientOptions } from './trino-client.ts'
export type { TrinoColumn, TrinoValue } from './values.ts'
