import {
  type ConfigArgument,
  type ConnectionOptions,
  type ConnectorDefinition,
  getConnection,
  handlerLife,
  type Leased,
  loginIn,
  testConnection,
} from '@common-handlers/connections'
import { toIngestedItems } from '@common-handlers/connections/streams'
import type { CheckResult, Logger } from '@common-handlers/core'
import type { NatsClient, NatsQuery } from './client.ts'
import { type NatsConfig, type NatsConfigInput, natsConfigSchema } from './config.ts'

/** Streams of NATS JetStream. */
export const nats: ConnectorDefinition<'nats', NatsConfigInput, NatsConfig, NatsClient, NatsQuery> = {
  protocol: 'nats',
  prefix: 'NATS',
  packageName: '@common-handlers/nats',
  configSchema: natsConfigSchema,
  fromUrl: (url) => ({
    servers: [url.host],
    ...(url.protocol === 'tls:' ? { tls: true } : {}),
    ...loginIn(url),
  }),
  ...handlerLife(createClient, (config) => ({ ...config, attempts: 1 })),
  fetch: (client, query, { signal }) => toIngestedItems(client.read(query, { signal })),
}

/** A client for a cluster; the same configuration gives the same client, and `close()` gives it back. */
export function getNatsClient(config?: ConfigArgument<typeof nats>, options?: ConnectionOptions): Promise<Leased<NatsClient>> {
  return getConnection(nats, config, options)
}

/** Tries to find the servers, to log in, and to reach JetStream. */
export function testNatsConnection(
  config?: ConfigArgument<typeof nats>,
  options?: Parameters<typeof testConnection>[2],
): Promise<CheckResult> {
  return testConnection(nats, config, options)
}

/** The driver is loaded with the first client. */
async function createClient(config: NatsConfig, logger: Logger): Promise<NatsClient> {
  const { NatsClient } = await import('./client.ts')
  return new NatsClient(config, logger)
}
