export { type SqliteConfig, type SqliteConfigInput, sqliteConfigSchema } from './config.ts'
export { getSqliteEngine, sqlite, testSqliteConnection } from './connector.ts'
export type { SqliteEngine, SqliteParameters, SqliteRow, SqliteValue } from './engine.ts'
export type { SqliteQuery } from './source.ts'
