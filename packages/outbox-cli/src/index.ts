export { outboxApp } from './app.ts'
export { type OutboxCliConfig, type OutboxCliConfigInput, outboxCliConfigSchema } from './config.ts'
export type { WorkerModule } from './work.ts'
