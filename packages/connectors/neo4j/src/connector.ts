import {
  type ConfigArgument,
  type ConnectionOptions,
  type ConnectorDefinition,
  getConnection,
  type Leased,
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
    host: url.hostname,
    ...(url.port === '' ? {} : { port: Number(url.port) }),
    ...(url.protocol.startsWith('neo4j') ? { routing: true } : {}),
    ...(/\+s(sc)?:$/.test(url.protocol) ? { tls: true } : {}),
    ...(url.pathname.length > 1 ? { database: decodeURIComponent(url.pathname.slice(1)) } : {}),
    ...(url.username === '' ? {} : { username: decodeURIComponent(url.username), password: decodeURIComponent(url.password) }),
  }),
  open: async (config, { signal }) => {
    const client = await createClient(config)
    try {
      await client.connect({ signal })
    } catch (error) {
      await client.close()
      throw error
    }
    return client
  },
  test: async (config, { signal }) => {
    await using client = await createClient(config)
    return await client.check({ signal })
  },
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
