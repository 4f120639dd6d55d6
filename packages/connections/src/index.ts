// Types are exported as types: the files that load a driver are not loaded for their sake.
export type { Leased } from './cache.ts'
export { type HttpConfig, type HttpConfigInput, httpConfigSchema } from './config.ts'
export {
  type AvailableProtocol,
  type ByProtocol,
  type ConnectionKey,
  type ConnectionOptions,
  type Connections,
  type ConnectionsOptions,
  createConnections,
} from './connections.ts'
export type {
  ConfigArgument,
  Connection,
  ConnectionOf,
  Connector,
  ConnectorContext,
  ConnectorDefinition,
  FetchOptions,
  Layered,
  QueryOf,
} from './contract.ts'
export { addressIn, handlerLife, loginIn, pathIn } from './definition.ts'
export { closeAllConnections, createConnector, doctor, getConnection, testConnection } from './default-connections.ts'
export { type Diagnosis, type DoctorOptions, type DoctorReport, type NamedConnections, readConnections } from './doctor.ts'
export {
  exactJson,
  type IngestedItem,
  ingestedItem,
  ingestedItemSchema,
  ingestionJsonSchema,
  type IngestionResult,
  ingestionResultSchema,
  type ItemFacts,
  type Lineage,
} from './ingestion.ts'
export type { ConfigSources } from './load.ts'
export type { HttpClient, RestRequest, RestResponse, RestStream } from './http/client.ts'
export { http, type HttpDownloadQuery, type HttpFile, type HttpQuery, type HttpRecordsQuery } from './http/connector.ts'
export type { Pagination } from './http/pages.ts'
