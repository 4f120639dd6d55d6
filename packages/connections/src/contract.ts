import type { CallOptions, CheckResult, Closable, CloseOptions, ConfigTree, Logger } from '@common-handlers/core'
import type { z } from 'zod'
import type { IngestedItem, IngestionResult } from './ingestion.ts'

/**
 * What a connector opens: a pool, a client, a session. It is kept and shared, so it finds its way back by itself after the
 * server was gone. Closing it twice is closing it once, and ends the calls under way after `graceMs`.
 */
export interface Connection {
  close(options?: CloseOptions): Promise<void>
}

/** What a connector is given beside its configuration. */
export interface ConnectorContext {
  /** Aborted when nobody waits for the connection any more, or when the caller's time is up. */
  readonly signal: AbortSignal
  readonly logger: Logger
}

/**
 * A protocol: how it is configured, opened, tested and read from. A connector package exports one, named as the protocol
 * is, and says so in its package.json: `"common-handlers": { "protocol": "sqlite" }`.
 */
export interface ConnectorDefinition<
  Protocol extends string = string,
  Input = unknown,
  Config = unknown,
  Opened extends Connection = Connection,
  Query = unknown,
> {
  readonly protocol: Protocol
  /** Of the variables of the environment: `PG` reads `PG_HOST`. */
  readonly prefix: string
  /** What is installed to have it: `@common-handlers/sqlite`. */
  readonly packageName: string
  /** Strict, every key described, secrets made with core's `secret()`. */
  readonly configSchema: z.ZodType<Config, Input>
  /** The short form: the keys that stand in a URL; its `?key=value` are keys already. Without it the protocol has none. */
  fromUrl?(url: URL): ConfigTree
  /** Opens a connection and shows that it works; drivers load here, not before. */
  open(config: Config, context: ConnectorContext): Promise<Opened>
  /** Tries the connection step by step; reports and does not throw, but for an abort. */
  test(config: Config, context: ConnectorContext): Promise<CheckResult>
  /** Reads, an item at a time, in bounded memory. Leaving the loop early lets go of what it holds. */
  fetch(connection: Opened, query: Query, context: ConnectorContext): AsyncIterable<IngestedItem>
}

/** What `fetchData` takes beside the signal and the limit of time. */
export interface FetchOptions extends CallOptions {
  /** The most bytes of content it gathers, so that a large source does not fill the memory. Default 64 MiB. */
  readonly maxBytes?: number | undefined
}

/** A source in use: connect, fetch, close. */
export interface Connector<Query> extends Closable {
  readonly protocol: string
  /** Opens the connection; implied by the first fetch. */
  connect(options?: CallOptions): Promise<void>
  /**
   * Everything the query gives, gathered in memory.
   * @throws CapacityError `CONNECTIONS_RESULT_TOO_LARGE` past `maxBytes`: iterate over {@link items} instead
   */
  fetchData(query: Query, options?: FetchOptions): Promise<IngestionResult>
  /** The same, an item at a time; a limit of time is that of each item. */
  items(query: Query, options?: CallOptions): AsyncIterableIterator<IngestedItem>
}

/** What a caller may write for a definition: its keys (also as references, also in part where other layers give the rest), or a URL. */
export type ConfigArgument<Definition> =
  Definition extends ConnectorDefinition<string, infer Input> ? string | Layered<Input> : never

/** Any key may come from another layer. */
export type Layered<Input> = unknown extends Input ? ConfigTree : { readonly [Key in keyof Input]?: Input[Key] | undefined }

export type ConnectionOf<Definition> =
  Definition extends ConnectorDefinition<string, unknown, unknown, infer Opened> ? Opened : never

export type QueryOf<Definition> =
  Definition extends ConnectorDefinition<string, unknown, unknown, Connection, infer Query> ? Query : never
