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
import type { KafkaClient, KafkaQuery } from './client.ts'
import { type KafkaConfig, type KafkaConfigInput, kafkaConfigSchema } from './config.ts'

/** Topics of a Kafka cluster. */
export const kafka: ConnectorDefinition<'kafka', KafkaConfigInput, KafkaConfig, KafkaClient, KafkaQuery> = {
  protocol: 'kafka',
  prefix: 'KAFKA',
  packageName: '@common-handlers/kafka',
  configSchema: kafkaConfigSchema,
  fromUrl: (url) => ({
    brokers: [url.host],
    ...(url.protocol === 'kafkas:' ? { tls: true } : {}),
    ...loginIn(url),
  }),
  ...handlerLife(createClient, (config) => ({ ...config, attempts: 1 })),
  fetch: (client, query, { signal }) => toIngestedItems(client.read(query, { signal })),
}

/** A client for a cluster; the same configuration gives the same client, and `close()` gives it back. */
export function getKafkaClient(config?: ConfigArgument<typeof kafka>, options?: ConnectionOptions): Promise<Leased<KafkaClient>> {
  return getConnection(kafka, config, options)
}

/** Tries to find a broker, to log in, and to learn of the cluster. */
export function testKafkaConnection(
  config?: ConfigArgument<typeof kafka>,
  options?: Parameters<typeof testConnection>[2],
): Promise<CheckResult> {
  return testConnection(kafka, config, options)
}

/** The driver is loaded with the first client. */
async function createClient(config: KafkaConfig, logger: Logger): Promise<KafkaClient> {
  const { KafkaClient } = await import('./client.ts')
  return new KafkaClient(config, logger)
}
