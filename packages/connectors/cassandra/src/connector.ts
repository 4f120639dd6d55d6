import {
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
import type { CheckResult } from '@common-handlers/core'
import type { CassandraClient } from './client.ts'
import { type CassandraConfig, type CassandraConfigInput, cassandraConfigSchema } from './config.ts'
import type { CassandraQuery } from './items.ts'

/** Cassandra. */
export const cassandra: ConnectorDefinition<'cassandra', CassandraConfigInput, CassandraConfig, CassandraClient, CassandraQuery> =
  {
    protocol: 'cassandra',
    prefix: 'CASSANDRA',
    packageName: '@common-handlers/cassandra',
    configSchema: cassandraConfigSchema,
    fromUrl: (url) => ({
      hosts: [url.host],
      ...pathIn(url, 'keyspace'),
      ...loginIn(url),
    }),
    ...handlerLife(createClient),
    fetch: async function* (client, query, context) {
      const { fetchItems } = await import('./items.ts')
      yield* fetchItems(client, query, context)
    },
  }

/** A client for a keyspace; the same configuration gives the same client, and `close()` gives it back. */
export function getCassandraClient(
  config?: ConfigArgument<typeof cassandra>,
  options?: ConnectionOptions,
): Promise<Leased<CassandraClient>> {
  return getConnection(cassandra, config, options)
}

/** Tries a connection step by step: host, port, certificate, login, version, rights, latency. */
export function testCassandraConnection(
  config?: ConfigArgument<typeof cassandra>,
  options?: Parameters<typeof testConnection>[2],
): Promise<CheckResult> {
  return testConnection(cassandra, config, options)
}

/** The driver is loaded with the first client. */
async function createClient(config: CassandraConfig): Promise<CassandraClient> {
  const { CassandraClient } = await import('./client.ts')
  return new CassandraClient(config)
}
