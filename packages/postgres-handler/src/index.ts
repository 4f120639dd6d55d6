export type { ColumnDescription, QueryDescription, TableDescription, TableKind, TypeKind } from './catalog.ts'
export { type PoolerMode, type PostgresConfig, type PostgresConfigInput, postgresConfigSchema, type SslMode } from './config.ts'
export type { CopyResult, CopySource } from './copy-in.ts'
export { type CopyBlock, DEFAULT_BLOCK_BYTES } from './copy-reader.ts'
export type { CopySink } from './copy-to.ts'
export type { InsertRow, OnConflict } from './insert-many.ts'
export type { CredentialFunction, CredentialProvider, HeldCredentials, Login } from './credentials.ts'
export type { PgPool, PgPoolClient, PgPoolResult } from './pg-pool.ts'
export type { PoolStatus } from './pool.ts'
export {
  type IsolationLevel,
  type PostgresCheckOptions,
  PostgresHandler,
  type PostgresHandlerOptions,
  type ReadSnapshotOptions,
  type TransactionOptions,
} from './postgres-handler.ts'
export type {
  BatchResult,
  CopyOutOptions,
  ExecuteResult,
  InsertManyOptions,
  Queries,
  ReadOptions,
  Row,
  StatementOptions,
  StreamOptions,
} from './session.ts'
export type { ServerTimeouts } from './settings.ts'
export type { AdvisoryKey, AdvisoryLock, AdvisoryLockOptions } from './advisory-lock.ts'
export type { ListenEvent, ListenOptions } from './listen.ts'
export type { RangesOptions } from './ranges.ts'
export type { ExportedSnapshot, ReadSnapshot, SnapshotFacts } from './snapshot.ts'
export type { Transaction } from './transaction.ts'
export { ident, quoteIdent, quoteLiteral, sql, type SqlIdentifier, type SqlStatement } from './sql.ts'
export type { TypeForms, ValueForm, ValueOptions } from './values.ts'
export type { StandardSchema } from '@common-handlers/core'
