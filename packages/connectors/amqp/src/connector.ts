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
import { toIngestedItems } from '@common-handlers/connections/streams'
import type { CheckResult, Logger } from '@common-handlers/core'
import type { AmqpClient, AmqpQuery } from './client.ts'
import { type AmqpConfig, type AmqpConfigInput, amqpConfigSchema } from './config.ts'

/** Queues of an AMQP 0-9-1 server. */
export const amqp: ConnectorDefinition<'amqp', AmqpConfigInput, AmqpConfig, AmqpClient, AmqpQuery> = {
  protocol: 'amqp',
  prefix: 'AMQP',
  packageName: '@common-handlers/amqp',
  configSchema: amqpConfigSchema,
  fromUrl: (url) => ({
    ...addressIn(url),
    // `amqp://host/` names the virtual host with the empty name, which is none here (https://www.rabbitmq.com/docs/uri-spec).
    ...pathIn(url, 'vhost'),
    ...(url.protocol === 'amqps:' ? { tls: true } : {}),
    ...loginIn(url),
  }),
  ...handlerLife(createClient, (config) => ({ ...config, attempts: 1 })),
  fetch: (client, query, { signal }) => toIngestedItems(client.read(query, { signal })),
}

/** A client for a server; the same configuration gives the same client, and `close()` gives it back. */
export function getAmqpClient(config?: ConfigArgument<typeof amqp>, options?: ConnectionOptions): Promise<Leased<AmqpClient>> {
  return getConnection(amqp, config, options)
}

/** Tries to find the server and to log in. */
export function testAmqpConnection(
  config?: ConfigArgument<typeof amqp>,
  options?: Parameters<typeof testConnection>[2],
): Promise<CheckResult> {
  return testConnection(amqp, config, options)
}

/** The driver is loaded with the first client. */
async function createClient(config: AmqpConfig, logger: Logger): Promise<AmqpClient> {
  const { AmqpClient } = await import('./client.ts')
  return new AmqpClient(config, logger)
}
