export type { KafkaClient, KafkaConsumeQuery, KafkaQuery } from './client.ts'
export { type KafkaConfig, type KafkaConfigInput, kafkaConfigSchema, type KafkaMechanism } from './config.ts'
export { getKafkaClient, kafka, testKafkaConnection } from './connector.ts'
