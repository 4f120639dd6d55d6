// Types are exported as types: the files that load the driver are not loaded for their sake.
export type { Neo4jChanges, Neo4jClient } from './client.ts'
export { type Neo4jConfig, type Neo4jConfigInput, neo4jConfigSchema } from './config.ts'
export { getNeo4jClient, neo4j, testNeo4jConnection } from './connector.ts'
export type { Neo4jNodesQuery, Neo4jQuery, Neo4jRelationshipsQuery, Neo4jStatementQuery } from './incremental.ts'
export type { Neo4jNode, Neo4jParameters, Neo4jRecord, Neo4jRelationship, Neo4jValue } from './values.ts'
