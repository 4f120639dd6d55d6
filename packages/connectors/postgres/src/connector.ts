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
import { type PostgresConfig, type PostgresConfigInput, postgresConfigSchema } from './config.ts'
import type { PostgresEngine } from './engine.ts'
import { type PostgresQuery, postgresSource } from './source.ts'

/** PostgreSQL. */
export const postgres: ConnectorDefinition<'postgres', PostgresConfigInput, PostgresConfig, PostgresEngine, PostgresQuery> = {
  protocol: 'postgres',
  prefix: 'PG',
  packageName: '@common-handlers/postgres',
  configSchema: postgresConfigSchema,
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

/** `postgres://user:password@host:port/database` */
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

/** pg is loaded with the first engine. */
async function createEngine(config: PostgresConfig): Promise<PostgresEngine> {
  const { PostgresEngine } = await import('./engine.ts')
  return new PostgresEngine(config)
}
