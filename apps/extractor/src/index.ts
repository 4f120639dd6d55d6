export { extractorApp } from './app.ts'
export {
  type ExtractorConfig,
  type ExtractorConfigInput,
  extractorConfigSchema,
  type OutputConfig,
  type SourceConfig,
} from './config.ts'
