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
import type { CheckResult } from '@common-handlers/core'
import type { Neo4jClient } from './client.ts'
import { type Neo4jConfig, type Neo4jConfigInput, neo4jConfigSchema } from './config.ts'
import type { Neo4jQuery } from './incremental.ts'

/** Neo4j. */
export const neo4j: ConnectorDefinition<'neo4j', Neo4jConfigInput, Neo4jConfig, Neo4jClient, Neo4jQuery> = {
  protocol: 'neo4j',
  prefix: 'NEO4J',
  packageName: '@common-handlers/neo4j',
  configSchema: neo4jConfigSchema,
  fromUrl: (url) => ({
    ...addressIn(url),
    ...(url.protocol.startsWith('neo4j') ? { routing: true } : {}),
    ...(/\+s(sc)?:$/.test(url.protocol) ? { tls: true } : {}),
    ...pathIn(url, 'database'),
    ...loginIn(url),
  }),
  ...handlerLife(createClient),
  fetch: async function* (client, query, context) {
    const { fetchItems } = await import('./items.ts')
    yield* fetchItems(client, query, context)
  },
}

/** A client for a server; the same configuration gives the same client, and `close()` gives it back. */
export function getNeo4jClient(config?: ConfigArgument<typeof neo4j>, options?: ConnectionOptions): Promise<Leased<Neo4jClient>> {
  return getConnection(neo4j, config, options)
}

/** Tries a connection step by step: host, port, certificate, login, version, rights, latency. */
export function testNeo4jConnection(
  config?: ConfigArgument<typeof neo4j>,
  options?: Parameters<typeof testConnection>[2],
): Promise<CheckResult> {
  return testConnection(neo4j, config, options)
}

/** The driver is loaded with the first client. */
async function createClient(config: Neo4jConfig): Promise<Neo4jClient> {
  const { Neo4jClient } = await import('./client.ts')
  return new Neo4jClient(config)
}
