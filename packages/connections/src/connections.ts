import {
  type CallOptions,
  type CheckResult,
  type CloseOptions,
  type ConfigKey,
  configKeys,
  type ConfigTree,
  environmentName,
  type Explained,
  type LoadedConfig,
  type Logger,
  readConfigFile,
  type ReferenceResolver,
  runCheck,
  silentLogger,
  withDeadline,
} from '@common-handlers/core'
import { ConnectionCache, type Leased } from './cache.ts'
import { environment } from './config.ts'
import { configKey } from './config-key.ts'
import { connectorOf } from './connector.ts'
import type { ConfigArgument, Connection, ConnectionOf, Connector, ConnectorDefinition, QueryOf } from './contract.ts'
import {
  callingProjects,
  findConnectors,
  type FoundConnector,
  installAdvice,
  installCommand,
  knownProtocols,
  loadConnector,
  nearestProject,
} from './discovery.ts'
import { diagnose, type DoctorOptions, type DoctorReport, type NamedConnections } from './doctor.ts'
import { protocolMissing, protocolTwice, unknownProtocol } from './errors.ts'
import { http } from './http/connector.ts'
import { type ConfigSources, loadConnectorConfig } from './load.ts'

const DEFAULT_IDLE_MS = 60_000

export interface ConnectionsOptions<Definition extends ConnectorDefinition = ConnectorDefinition> {
  /** The protocols that may be asked for; `http` is always there. */
  readonly connectors?: readonly Definition[] | undefined
  /**
   * Whose dependencies to look for further connectors in: a folder of that project. `true` for the project of the current
   * folder and that of the started program. Default: none.
   */
  readonly discover?: string | boolean | undefined
  /** Where `<PREFIX>_*` is read. Default: the environment of the process. */
  readonly variables?: Readonly<Record<string, string | undefined>> | undefined
  /** Who reads secret references, by scheme: `vault`. `env` and `file` are there. */
  readonly resolvers?: Readonly<Record<string, ReferenceResolver>> | undefined
  /** How long a connection that nobody uses stays open, in milliseconds. Default 60 000. */
  readonly idleMs?: number | undefined
  /** Silent by default. */
  readonly logger?: Logger | undefined
}

export interface ConnectionOptions extends CallOptions, ConfigSources {
  /** False for a connection of one's own, which ends when it is closed. Default true: the same configuration, the same connection. */
  readonly reuse?: boolean | undefined
}

/** A registered definition of a protocol. */
export type ByProtocol<Definition extends ConnectorDefinition, Protocol> = Extract<Definition, { readonly protocol: Protocol }>

/** A protocol that is here, or could be. */
export interface AvailableProtocol {
  readonly protocol: string
  readonly packageName: string
  /** The command that installs its package; absent where it is here. */
  readonly install?: string | undefined
}

/** A key of a protocol's configuration. */
export interface ConnectionKey extends ConfigKey {
  /** The variable that gives it: `PG_HOST`. */
  readonly environment: string
}

/** Connections by protocol; see {@link createConnections}. */
export interface Connections<Definition extends ConnectorDefinition> extends AsyncDisposable {
  /** The protocols that may be asked for, in alphabetical order. */
  readonly protocols: readonly string[]
  /** Open connections, idle ones included. */
  readonly size: number
  /** A connection, shared with whoever asks with the same configuration; `close()` gives it back. */
  getConnection<Protocol extends Definition['protocol']>(
    protocol: Protocol,
    config?: ConfigArgument<ByProtocol<Definition, Protocol>>,
    options?: ConnectionOptions,
  ): Promise<Leased<ConnectionOf<ByProtocol<Definition, Protocol>>>>
  /** Tries a connection of its own, step by step. What fails is in the answer; only an unknown protocol, an abort and the end of its time throw. */
  testConnection<Protocol extends Definition['protocol']>(
    protocol: Protocol,
    config?: ConfigArgument<ByProtocol<Definition, Protocol>>,
    options?: CallOptions & ConfigSources,
  ): Promise<CheckResult>
  /** A source to fetch from. The protocol stands among the keys, or in the file of the options. */
  createConnector<Protocol extends Definition['protocol']>(
    config: { readonly protocol: Protocol } & Exclude<ConfigArgument<ByProtocol<Definition, Protocol>>, string>,
    options?: ConnectionOptions,
  ): Promise<Connector<QueryOf<ByProtocol<Definition, Protocol>>>>
  createConnector(config: ConfigTree, options: ConnectionOptions & { readonly file: string }): Promise<Connector<unknown>>
  /** Which layer gave each key, with secrets hidden. */
  explain<Protocol extends Definition['protocol']>(
    protocol: Protocol,
    config?: ConfigArgument<ByProtocol<Definition, Protocol>>,
    sources?: ConfigSources,
  ): Promise<Explained[]>
  /** Every key that a protocol knows. */
  keys(protocol: Definition['protocol']): Promise<readonly ConnectionKey[]>
  /** Tries connections by name, several at a time, each as `testConnection` does. What fails is in the report; only an abort throws. */
  doctor(connections: NamedConnections, options?: DoctorOptions): Promise<DoctorReport>
  /** The protocols that are here and those that can be installed. Nothing is imported. */
  available(): readonly AvailableProtocol[]
  /** Closes every connection and waits for that. The next call opens anew. */
  closeAllConnections(options?: CloseOptions): Promise<void>
}

/** Connections by protocol, typed by the connectors given. Nothing is opened, and no driver loaded, before it is asked for. */
export function createConnections<const Definition extends ConnectorDefinition = typeof http>(
  options: ConnectionsOptions<Definition> = {},
): Connections<Definition | typeof http> {
  return new ConnectionRegistry(options) as unknown as Connections<Definition | typeof http>
}

/** {@link Connections} without the types by protocol: what the default functions use. */
export class ConnectionRegistry {
  readonly #given: ReadonlyMap<string, ConnectorDefinition>
  readonly #options: ConnectionsOptions
  readonly #logger: Logger
  readonly #cache: ConnectionCache

  constructor(options: ConnectionsOptions = {}) {
    const given = new Map<string, ConnectorDefinition>()
    for (const definition of options.connectors ?? []) {
      if (given.has(definition.protocol)) throw protocolTwice(definition.protocol)
      given.set(definition.protocol, definition)
    }
    this.#given = given.has(http.protocol) ? given : given.set(http.protocol, http)
    this.#options = options
    this.#logger = options.logger ?? silentLogger
    this.#cache = new ConnectionCache(options.idleMs ?? DEFAULT_IDLE_MS, this.#logger)
  }

  get protocols(): readonly string[] {
    return [...new Set([...this.#given.keys(), ...this.#found().map(({ protocol }) => protocol)])].toSorted()
  }

  get size(): number {
    return this.#cache.size
  }

  async getConnection(
    protocol: string | ConnectorDefinition,
    config: string | ConfigTree = {},
    options: ConnectionOptions = {},
  ): Promise<Leased<Connection>> {
    const definition = await this.#definition(protocol)
    const what = { prefix: 'CONNECTIONS', action: `connecting to ${definition.protocol}` }
    return withDeadline(options, what, async ({ signal }) => {
      const { value } = await this.#load(definition, config, options)
      return this.#lease(definition, value, options.reuse, signal)
    })
  }

  async testConnection(
    protocol: string | ConnectorDefinition,
    config: string | ConfigTree = {},
    options: CallOptions & ConfigSources = {},
  ): Promise<CheckResult> {
    const definition = await this.#definition(protocol)
    const what = { prefix: 'CONNECTIONS', action: `testing ${definition.protocol}` }
    return withDeadline(options, what, async ({ signal }) => {
      let loaded: LoadedConfig<unknown> | undefined
      const read = async (): Promise<undefined> => {
        loaded = await this.#load(definition, config, options)
      }
      const first = await runCheck(definition.protocol, [{ name: 'read the configuration', run: read }], signal)
      if (loaded === undefined) return first
      const rest = await definition.test(loaded.value, { signal, logger: this.#logger })
      return { ...rest, durationMs: first.durationMs + rest.durationMs, steps: [...first.steps, ...rest.steps] }
    })
  }

  async createConnector(config: ConfigTree, options: ConnectionOptions = {}): Promise<Connector<unknown>> {
    const named =
      config['protocol'] ?? (options.file === undefined ? undefined : (await readConfigFile(options.file))['protocol'])
    if (typeof named !== 'string' || named === '') throw protocolMissing(this.protocols)
    const definition = await this.#definition(named)
    const { value } = await this.#load(definition, config, options)
    return connectorOf(definition, (signal) => this.#lease(definition, value, options.reuse, signal), this.#logger)
  }

  async explain(
    protocol: string | ConnectorDefinition,
    config: string | ConfigTree = {},
    sources: ConfigSources = {},
  ): Promise<Explained[]> {
    return (await this.#load(await this.#definition(protocol), config, sources)).explain()
  }

  async keys(protocol: string): Promise<readonly ConnectionKey[]> {
    const { configSchema, prefix } = await this.#definition(protocol)
    return configKeys(configSchema).map((key) => ({ ...key, environment: environmentName(prefix, key.path) }))
  }

  doctor(connections: NamedConnections, options: DoctorOptions = {}): Promise<DoctorReport> {
    return diagnose(connections, options, this.protocols, (protocol, config, how) => this.testConnection(protocol, config, how))
  }

  available(): readonly AvailableProtocol[] {
    const here = new Map([...this.#given.values(), ...this.#found()].map(({ protocol, packageName }) => [protocol, packageName]))
    const [project] = this.#projects()
    const absent = knownProtocols().filter((protocol) => !here.has(protocol))
    return [
      ...[...here]
        .map(([protocol, packageName]) => ({ protocol, packageName }))
        .toSorted((a, b) => (a.protocol < b.protocol ? -1 : 1)),
      ...absent.map((protocol) => ({
        protocol,
        packageName: `@common-handlers/${protocol}`,
        install: installCommand(protocol, project),
      })),
    ]
  }

  closeAllConnections(options?: CloseOptions): Promise<void> {
    return this.#cache.closeAll(options)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.closeAllConnections()
  }

  #lease(
    definition: ConnectorDefinition,
    config: unknown,
    reuse: boolean | undefined,
    signal: AbortSignal,
  ): Promise<Leased<Connection>> {
    const { protocol } = definition
    const key = reuse === false ? undefined : configKey(protocol, config)
    const open = (opening: AbortSignal): Promise<Connection> => definition.open(config, { signal: opening, logger: this.#logger })
    return this.#cache.lease(protocol, key, open, signal)
  }

  #load(definition: ConnectorDefinition, config: string | ConfigTree, sources: ConfigSources): Promise<LoadedConfig<unknown>> {
    const { variables = environment(), resolvers = {} } = this.#options
    return loadConnectorConfig(definition, config, sources, { variables, resolvers })
  }

  async #definition(protocol: string | ConnectorDefinition): Promise<ConnectorDefinition> {
    if (typeof protocol !== 'string') return protocol
    const given = this.#given.get(protocol)
    if (given !== undefined) return given
    const found = this.#found().find((one) => one.protocol === protocol)
    if (found !== undefined) return loadConnector(found)
    throw unknownProtocol(protocol, this.protocols, installAdvice(protocol, this.#projects()[0]))
  }

  /** Looked up each time that it is needed, so that what was installed meanwhile is there. */
  #found(): FoundConnector[] {
    const { discover } = this.#options
    return discover === undefined || discover === false ? [] : this.#projects().flatMap(findConnectors)
  }

  #projects(): string[] {
    const { discover } = this.#options
    if (typeof discover !== 'string') return callingProjects()
    const project = nearestProject(discover)
    return project === undefined ? [] : [project]
  }
}
