// Types are exported as types: the files that load the driver are not loaded for their sake.
export type { MongodbChanges, MongodbClient, MongodbFind } from './client.ts'
export { type MongodbConfig, type MongodbConfigInput, mongodbConfigSchema, type MongodbReadPreference } from './config.ts'
export { getMongodbClient, mongodb, testMongodbConnection } from './connector.ts'
export type { MongodbChangesQuery, MongodbCollectionQuery, MongodbPipelineQuery, MongodbQuery } from './incremental.ts'
export type { MongodbDocument, MongodbValue } from './values.ts'
