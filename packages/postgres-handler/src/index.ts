export type { ColumnDescription, QueryDescription, TableDescription, TableKind, TypeKind } from './catalog.ts'
export { type PostgresConfig, type PostgresConfigInput, postgresConfigSchema, type SslMode } from './config.ts'
export { type CopyBlock, DEFAULT_BLOCK_BYTES } from './copy-reader.ts'
export {
  type IsolationLevel,
  type PoolStatus,
  type PostgresCheckOptions,
  PostgresHandler,
  type PostgresHandlerOptions,
  type ReadSnapshot,
  type ReadSnapshotOptions,
  type SnapshotFacts,
  type Transaction,
  type TransactionOptions,
} from './postgres-handler.ts'
export type { CopyOutOptions, ExecuteResult, Queries, ReadOptions, Row } from './session.ts'
export { ident, quoteIdent, quoteLiteral, sql, type SqlIdentifier, type SqlStatement } from './sql.ts'
export type { StandardSchema } from '@common-handlers/core'
