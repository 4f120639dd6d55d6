export type { AmqpClient, AmqpConsumeQuery, AmqpQuery } from './client.ts'
export { type AmqpConfig, type AmqpConfigInput, amqpConfigSchema } from './config.ts'
export { amqp, getAmqpClient, testAmqpConnection } from './connector.ts'
