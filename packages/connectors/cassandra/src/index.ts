// Types are exported as types: the files that load the driver are not loaded for their sake.
export type { CassandraClient, CassandraScan, CassandraScannedRow } from './client.ts'
export { type CassandraConfig, type CassandraConfigInput, cassandraConfigSchema, type CassandraConsistency } from './config.ts'
export { cassandra, getCassandraClient, testCassandraConnection } from './connector.ts'
export type { CassandraQuery, CassandraStatementQuery, CassandraTableQuery } from './items.ts'
export type { CassandraParameter, CassandraRow, CassandraValue } from './values.ts'
