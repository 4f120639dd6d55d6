import type { CallOptions, CheckResult, CloseOptions, ConfigTree } from '@common-handlers/core'
import type { Leased } from './cache.ts'
import { type ConnectionOptions, ConnectionRegistry } from './connections.ts'
import type { ConfigArgument, Connection, ConnectionOf, Connector, ConnectorDefinition } from './contract.ts'
import type { HttpClient } from './http/client.ts'
import type { http } from './http/connector.ts'
import type { DoctorOptions, DoctorReport, NamedConnections } from './doctor.ts'
import type { ConfigSources } from './load.ts'

// One for the process: what is asked for twice, in whatever part of a program, is opened once.
const connections = new ConnectionRegistry({ discover: true })

/**
 * A connection by protocol, from the connectors that the calling project depends on, or by a connector's definition, then
 * typed by it. The same configuration gives the same connection; `close()` gives it back.
 */
export function getConnection<Definition extends ConnectorDefinition>(
  definition: Definition,
  config?: ConfigArgument<Definition>,
  options?: ConnectionOptions,
): Promise<Leased<ConnectionOf<Definition>>>
export function getConnection(
  protocol: 'http',
  config?: ConfigArgument<typeof http>,
  options?: ConnectionOptions,
): Promise<Leased<HttpClient>>
export function getConnection(
  protocol: string,
  config?: string | ConfigTree,
  options?: ConnectionOptions,
): Promise<Leased<Connection>>
export function getConnection(
  protocol: string | ConnectorDefinition,
  config?: string | ConfigTree,
  options?: ConnectionOptions,
): Promise<Leased<Connection>> {
  return connections.getConnection(protocol, config, options)
}

/** Tries a connection step by step: its configuration, then what the connector tries. */
export function testConnection<Definition extends ConnectorDefinition>(
  protocol: string | Definition,
  config?: NoInfer<ConfigArgument<Definition>>,
  options?: CallOptions & ConfigSources,
): Promise<CheckResult> {
  return connections.testConnection(protocol, config, options)
}

/** Tries connections by name, several at a time. What fails is in the report; only an abort throws. */
export function doctor(named: NamedConnections, options?: DoctorOptions): Promise<DoctorReport> {
  return connections.doctor(named, options)
}

/** A source to fetch from: `protocol` among the keys or in the file, and the keys of that protocol. */
export function createConnector(config: ConfigTree, options?: ConnectionOptions): Promise<Connector<unknown>> {
  return connections.createConnector(config, options)
}

/** Closes every connection that the functions of this package opened, and waits for that. */
export function closeAllConnections(options?: CloseOptions): Promise<void> {
  return connections.closeAllConnections(options)
}
