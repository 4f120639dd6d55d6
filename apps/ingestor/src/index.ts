export { ingestorApp } from './app.ts'
export { type IngestorConfig, type IngestorConfigInput, ingestorConfigSchema } from './config.ts'
