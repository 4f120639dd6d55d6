export { type SqliteConfig, type SqliteConfigInput, sqliteConfigSchema } from './config.ts'
export { getSqliteEngine, sqlite, testSqliteConnection } from './connector.ts'
export { type SqliteEngine, type SqliteParameters, type SqliteRow, type SqliteValue } from './engine.ts'
export { type SqliteQuery, type SqliteStatementQuery, type SqliteTableQuery } from './incremental.ts'
