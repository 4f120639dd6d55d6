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
import { type MssqlConfig, type MssqlConfigInput, mssqlConfigSchema } from './config.ts'
import type { MssqlEngine } from './engine.ts'
import { MSSQL } from './errors.ts'
import { type MssqlQuery, mssqlSource } from './source.ts'

/** SQL Server. */
export const mssql: ConnectorDefinition<'mssql', MssqlConfigInput, MssqlConfig, MssqlEngine, MssqlQuery> = {
  protocol: 'mssql',
  prefix: MSSQL,
  packageName: '@common-handlers/mssql',
  configSchema: mssqlConfigSchema,
  // `mssql://user:password@host:port/database`
  fromUrl: (url) => ({ ...addressIn(url), ...pathIn(url, 'database'), ...loginIn(url) }),
  ...handlerLife(createEngine),
  fetch: (engine, query, { signal }) => sqlItems(mssqlSource(engine), query, signal),
}

/** A pool for a database; the same configuration gives the same pool, and `close()` gives it back. */
export function getMssqlEngine(config?: ConfigArgument<typeof mssql>, options?: ConnectionOptions): Promise<Leased<MssqlEngine>> {
  return getConnection(mssql, config, options)
}

/** Looks for the server, reaches it, logs in and reads. */
export function testMssqlConnection(
  config?: ConfigArgument<typeof mssql>,
  options?: Parameters<typeof testConnection>[2],
): Promise<CheckResult> {
  return testConnection(mssql, config, options)
}

/** tedious is loaded with the first engine. */
async function createEngine(config: MssqlConfig): Promise<MssqlEngine> {
  const { MssqlEngine } = await import('./engine.ts')
  return new MssqlEngine(config)
}
