import {
  addressIn,
  type ConfigArgument,
  type ConnectionOptions,
  type ConnectorDefinition,
  getConnection,
  handlerLife,
  type Leased,
  loginIn,
  pathIn,
  testConnection,
} from '@common-handlers/connections'
import { sqlItems } from '@common-handlers/connections/sql'
import type { CheckResult } from '@common-handlers/core'
import { type PostgresConfig, type PostgresConfigInput, postgresConfigSchema } from './config.ts'
import type { PostgresEngine } from './engine.ts'
import { type PostgresQuery, postgresSource } from './source.ts'

/** PostgreSQL. */
export const postgres: ConnectorDefinition<'postgres', PostgresConfigInput, PostgresConfig, PostgresEngine, PostgresQuery> = {
  protocol: 'postgres',
  prefix: 'PG',
  packageName: '@common-handlers/postgres',
  configSchema: postgresConfigSchema,
  // `postgres://user:password@host:port/database`
  fromUrl: (url) => ({ ...addressIn(url), ...pathIn(url, 'database'), ...loginIn(url) }),
  ...handlerLife(createEngine),
  fetch: (engine, query, { signal }) => sqlItems(postgresSource(engine), query, signal),
}

/** A pool for a database; the same configuration gives the same pool, and `close()` gives it back. */
export function getPostgresEngine(
  config?: ConfigArgument<typeof postgres>,
  options?: ConnectionOptions,
): Promise<Leased<PostgresEngine>> {
  return getConnection(postgres, config, options)
}

/** Looks for the server, reaches it, logs in and reads. */
export function testPostgresConnection(
  config?: ConfigArgument<typeof postgres>,
  options?: Parameters<typeof testConnection>[2],
): Promise<CheckResult> {
  return testConnection(postgres, config, options)
}

/** pg is loaded with the first engine. */
async function createEngine(config: PostgresConfig): Promise<PostgresEngine> {
  const { PostgresEngine } = await import('./engine.ts')
  return new PostgresEngine(config)
}
