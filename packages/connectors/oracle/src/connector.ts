import {
  type ConfigArgument,
  type ConnectionOptions,
  type ConnectorDefinition,
  getConnection,
  type Leased,
  testConnection,
} from '@common-handlers/connections'
import { sqlItems } from '@common-handlers/connections/sql'
import type { CheckResult, ConfigTree } from '@common-handlers/core'
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
  fromUrl: placeOf,
  open: async (config, { signal }) => {
    const engine = await createEngine(config)
    try {
      await engine.connect({ signal })
    } catch (error) {
      await engine.close()
      throw error
    }
    return engine
  },
  test: async (config, { signal }) => {
    await using engine = await createEngine(config)
    return await engine.check({ signal })
  },
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

/** `oracle://user:password@host:port/service` */
function placeOf(url: URL): ConfigTree {
  const given = {
    host: url.hostname.replace(/^\[(.*)\]$/, '$1'),
    serviceName: decodeURIComponent(url.pathname.slice(1)),
    username: decodeURIComponent(url.username),
    password: decodeURIComponent(url.password),
  }
  return {
    ...Object.fromEntries(Object.entries(given).filter(([, value]) => value !== '')),
    ...(url.port === '' ? {} : { port: Number(url.port) }),
  }
}

/** oracledb is loaded with the first engine. */
async function createEngine(config: OracleConfig): Promise<OracleEngine> {
  const { OracleEngine } = await import('./engine.ts')
  return new OracleEngine(config)
}
