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
import type { MongodbClient } from './client.ts'
import { type MongodbConfig, type MongodbConfigInput, mongodbConfigSchema } from './config.ts'
import type { MongodbQuery } from './incremental.ts'

/** MongoDB. */
export const mongodb: ConnectorDefinition<'mongodb', MongodbConfigInput, MongodbConfig, MongodbClient, MongodbQuery> = {
  protocol: 'mongodb',
  prefix: 'MONGODB',
  packageName: '@common-handlers/mongodb',
  configSchema: mongodbConfigSchema,
  fromUrl: (url) => ({
    hosts: [url.host],
    ...(url.protocol === 'mongodb+srv:' ? { srv: true, tls: true } : {}),
    ...pathIn(url, 'database'),
    ...loginIn(url),
  }),
  ...handlerLife(createClient),
  fetch: async function* (client, query, context) {
    const { fetchItems } = await import('./items.ts')
    yield* fetchItems(client, query, context)
  },
}

/** A client for a database; the same configuration gives the same client, and `close()` gives it back. */
export function getMongodbClient(
  config?: ConfigArgument<typeof mongodb>,
  options?: ConnectionOptions,
): Promise<Leased<MongodbClient>> {
  return getConnection(mongodb, config, options)
}

/** Tries a connection step by step: host, port, certificate, login, version, rights, latency. */
export function testMongodbConnection(
  config?: ConfigArgument<typeof mongodb>,
  options?: Parameters<typeof testConnection>[2],
): Promise<CheckResult> {
  return testConnection(mongodb, config, options)
}

/** The driver is loaded with the first client. */
async function createClient(config: MongodbConfig): Promise<MongodbClient> {
  const { MongodbClient } = await import('./client.ts')
  return new MongodbClient(config)
}
