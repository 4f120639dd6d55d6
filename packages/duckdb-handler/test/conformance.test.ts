import { handlerConformance } from '@common-handlers/testkit'
import { DuckDbHandler, type DuckDbHandlerOptions } from '../src/index.ts'

handlerConformance('DuckDbHandler', {
  prefix: 'DUCKDB',
  create: (options: DuckDbHandlerOptions) => new DuckDbHandler(options),
  options: { path: ':memory:' },
  call: (duckdb, options) => duckdb.query('SELECT 1', [], options),
})
