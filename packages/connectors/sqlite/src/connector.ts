import {
  type ConfigArgument,
  type ConnectionOptions,
  type ConnectorDefinition,
  getConnection,
  handlerLife,
  type Leased,
  testConnection,
} from '@common-handlers/connections'
import { sqlItems } from '@common-handlers/connections/sql'
import type { CheckResult } from '@common-handlers/core'
import { type SqliteConfig, type SqliteConfigInput, sqliteConfigSchema } from './config.ts'
import type { SqliteEngine } from './engine.ts'
import { SQLITE } from './errors.ts'
import { type SqliteQuery, sqliteSource } from './source.ts'

/** SQLite files. */
export const sqlite: ConnectorDefinition<'sqlite', SqliteConfigInput, SqliteConfig, SqliteEngine, SqliteQuery> = {
  protocol: 'sqlite',
  prefix: SQLITE,
  packageName: '@common-handlers/sqlite',
  configSchema: sqliteConfigSchema,
  fromUrl: (url) => ({ databasePath: decodeURIComponent(url.pathname) }),
  ...handlerLife(createEngine),
  fetch: (engine, query, { signal }) => sqlItems(sqliteSource(engine), query, signal),
}

/** An engine for a file; the same configuration gives the same engine, and `close()` gives it back. */
export function getSqliteEngine(
  config?: ConfigArgument<typeof sqlite>,
  options?: ConnectionOptions,
): Promise<Leased<SqliteEngine>> {
  return getConnection(sqlite, config, options)
}

/** Tries to open a file and to read from it. */
export function testSqliteConnection(
  config?: ConfigArgument<typeof sqlite>,
  options?: Parameters<typeof testConnection>[2],
): Promise<CheckResult> {
  return testConnection(sqlite, config, options)
}

/** SQLite is loaded with the first engine. */
async function createEngine(config: SqliteConfig): Promise<SqliteEngine> {
  const { SqliteEngine } = await import('./engine.ts')
  return new SqliteEngine(config)
}
