import { ingestedItem } from '@common-handlers/connections'
import { decodePayload, type PayloadFormat, type StreamItem, undecoded } from '@common-handlers/connections/streams'

/** What is known of a message, whatever driver call it came with. */
export interface KafkaMessage {
  readonly partition: number
  readonly offset: bigint
  readonly key: Uint8Array | null
  /** Null in a tombstone: whatever had this key is gone. */
  readonly value: Uint8Array | null
  readonly headers: readonly (readonly [Uint8Array | null, Uint8Array | null])[]
  /** Milliseconds since 1970. */
  readonly timestamp: bigint
}

export interface MessageFacts {
  readonly topic: string
  readonly topicId: string
  readonly format: PayloadFormat
  readonly position: number
  readonly watermark?: string | undefined
}

/** A topic, and one of that name that was made anew is another: offsets begin again. */
export const sourceOf = (topic: string, topicId: string): string => `kafka:${topic}@${topicId}`

/** A message as an item: its key is `partition/offset`. */
export function toItem(message: KafkaMessage, facts: MessageFacts): StreamItem {
  const { partition, offset, key: messageKey, timestamp, headers } = message
  const { topic, topicId, format, position, watermark } = facts
  const key = `${partition}/${offset}`
  // A copy: what the driver gives is a part of all that came with it.
  const value = message.value === null ? null : new Uint8Array(message.value)
  const payload =
    value === null ? { data: null, mediaType: 'application/json' } : (decodePayload(value, format) ?? undecoded(value))
  const made = ingestedItem(
    {
      source: sourceOf(topic, topicId),
      key,
      ...payload,
      attributes: {
        topic,
        partition,
        key: readable(messageKey),
        time: new Date(Number(timestamp)).toISOString(),
        ...(value === null ? { tombstone: true } : {}),
        ...(headers.length === 0 ? {} : { headers: headersOf(headers) }),
      },
      ...(watermark === undefined ? {} : { watermark }),
      lineage: { protocol: 'kafka', query: topic, position },
    },
    value ?? new Uint8Array(),
  )
  return { ...made, key, received: value }
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** A text where the bytes are one, otherwise `{ base64 }`. */
function readable(bytes: Uint8Array | null): string | { readonly base64: string } | null {
  if (bytes === null) return null
  try {
    return utf8.decode(bytes)
  } catch {
    return { base64: Buffer.from(bytes).toString('base64') }
  }
}

/** In their order; a name may stand there twice. */
const headersOf = (headers: KafkaMessage['headers']): unknown[] =>
  headers.map(([name, value]) => [readable(name), readable(value)])

/** Where the next read of each partition begins. */
export type NextOffsets = ReadonlyMap<number, bigint>

export const watermarkOf = (source: string, next: NextOffsets): string =>
  `${source}#${JSON.stringify(Object.fromEntries([...next].map(([partition, offset]) => [partition, offset.toString()])))}`

/** Undefined for one that is not of this topic. */
export function parseWatermark(watermark: string, source: string): Map<number, bigint> | undefined {
  const [, from, text = ''] = /^([^#]*)#(\{.*\})$/.exec(watermark) ?? []
  if (from !== source) return undefined
  try {
    const entries = Object.entries(JSON.parse(text) as Record<string, string>)
    return new Map(entries.map(([partition, offset]) => [Number(partition), BigInt(offset)]))
  } catch {
    return undefined
  }
}
