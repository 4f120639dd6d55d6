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

/** `mssql://user:password@host:port/database` */
function placeOf(url: URL): ConfigTree {
  const given = {
    host: url.hostname.replace(/^\[(.*)\]$/, '$1'),
    database: decodeURIComponent(url.pathname.slice(1)),
    username: decodeURIComponent(url.username),
    password: decodeURIComponent(url.password),
  }
  return {
    ...Object.fromEntries(Object.entries(given).filter(([, value]) => value !== '')),
    ...(url.port === '' ? {} : { port: Number(url.port) }),
  }
}

/** tedious is loaded with the first engine. */
async function createEngine(config: MssqlConfig): Promise<MssqlEngine> {
  const { MssqlEngine } = await import('./engine.ts')
  return new MssqlEngine(config)
}
