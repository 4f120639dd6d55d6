export type { NatsClient, NatsConsumeQuery, NatsQuery, NatsSelection } from './client.ts'
export { type NatsConfig, type NatsConfigInput, natsConfigSchema } from './config.ts'
export { getNatsClient, nats, testNatsConnection } from './connector.ts'
