import type { IngestedItem } from '../ingestion.ts'

/** A message as it is handed to a sink. `source` and `key` together tell it from every other message, whoever reads it and how often. */
export interface StreamItem extends IngestedItem {
  readonly key: string
  /** The payload byte by byte, of which `data` was made; null where there was none, as in a tombstone of Kafka. */
  readonly received: Uint8Array | null
  /** True when the broker says that it has given this message to nobody before: no sink can have it yet. */
  readonly first?: boolean | undefined
}

/** Where messages go. `Lake` of `@common-handlers/lake` is one. */
export interface Sink {
  /**
   * Makes the items durable, all of them or none, and drops those that an earlier write had. When it resolves they are
   * safe, and the broker is told; when it rejects it must be possible to write the same items again.
   */
  write(items: readonly StreamItem[]): Promise<unknown>
}

/** When a batch is closed: by what comes first. */
export interface BatchLimits {
  /** Default 10 000. */
  readonly rows?: number | undefined
  /** Of the payloads. Default 16 MiB. */
  readonly bytes?: number | undefined
  /** After its first message, in milliseconds. Default 10 000. */
  readonly ms?: number | undefined
}

/** What `consume` has done when it ends. */
export interface Consumed {
  readonly batches: number
  /** Messages written and acknowledged, those included that the sink had already. */
  readonly messages: number
}

/** Messages as plain items, for `fetchData`: the payload as it came is only for a sink. */
export async function* toIngestedItems(messages: AsyncIterable<StreamItem>): AsyncGenerator<IngestedItem, void, undefined> {
  for await (const { received: _received, first: _first, ...item } of messages) yield item
}
