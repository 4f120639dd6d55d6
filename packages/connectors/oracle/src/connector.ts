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
import { type OracleConfig, type OracleConfigInput, oracleConfigSchema } from './config.ts'
import type { OracleEngine } from './engine.ts'
import { ORACLE } from './errors.ts'
import { type OracleQuery, oracleSource } from './source.ts'

/** Oracle Database. */
export const oracle: ConnectorDefinition<'oracle', OracleConfigInput, OracleConfig, OracleEngine, OracleQuery> = {
  protocol: 'oracle',
  prefix: ORACLE,
  packageName: '@common-handlers/oracle',
  configSchema: oracleConfigSchema,
  // `oracle://user:password@host:port/service`
  fromUrl: (url) => ({ ...addressIn(url), ...pathIn(url, 'serviceName'), ...loginIn(url) }),
  ...handlerLife(createEngine),
  fetch: (engine, query, { signal }) => sqlItems(oracleSource(engine), query, signal),
}

/** A pool for a database; the same configuration gives the same pool, and `close()` gives it back. */
export function getOracleEngine(
  config?: ConfigArgument<typeof oracle>,
  options?: ConnectionOptions,
): Promise<Leased<OracleEngine>> {
  return getConnection(oracle, config, options)
}

/** Looks for the server, reaches it, logs in and reads. */
export function testOracleConnection(
  config?: ConfigArgument<typeof oracle>,
  options?: Parameters<typeof testConnection>[2],
): Promise<CheckResult> {
  return testConnection(oracle, config, options)
}

/** oracledb is loaded with the first engine. */
async function createEngine(config: OracleConfig): Promise<OracleEngine> {
  const { OracleEngine } = await import('./engine.ts')
  return new OracleEngine(config)
}
