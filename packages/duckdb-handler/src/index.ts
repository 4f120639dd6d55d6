export { type DuckDbConfig, type DuckDbConfigInput, duckDbConfigSchema } from './config.ts'
export type { DuckDbColumn, DuckDbValue, Row as DuckDbRow } from './driver.ts'
export {
  DuckDbHandler,
  type DuckDbHandlerOptions,
  type DuckDbRecord,
  type DuckDbSession,
  type QueryResult,
} from './duckdb-handler.ts'
export { type DuckDbInput, ident, literal, readCsv, type ReadCsvOptions } from './sql.ts'
