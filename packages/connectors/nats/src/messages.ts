import { ingestedItem } from '@common-handlers/connections'
import { decodePayload, type PayloadFormat, type StreamItem, undecoded } from '@common-handlers/connections/streams'

/** What is known of a message, whatever driver it came with. */
export interface NatsMessage {
  readonly subject: string
  readonly sequence: number
  readonly data: Uint8Array
  /** When the stream took it, in nanoseconds. */
  readonly timestampNanos: bigint
  readonly headers: readonly (readonly [string, readonly string[]])[]
}

/** A stream, and one of that name that was made anew is another: sequences begin again. */
export const sourceOf = (stream: string, created: string): string => `nats:${stream}@${created}`

/** A message as an item: its key is its sequence in the stream. */
export function toItem(
  message: NatsMessage,
  facts: { readonly stream: string; readonly source: string; readonly format: PayloadFormat; readonly position: number },
): StreamItem {
  const { subject, data, timestampNanos, headers } = message
  const key = String(message.sequence)
  const item = ingestedItem(
    {
      source: facts.source,
      key,
      ...(decodePayload(data, facts.format) ?? undecoded(data)),
      attributes: {
        subject,
        time: isoOf(timestampNanos),
        ...(headers.length === 0 ? {} : { headers: Object.fromEntries(headers.map(([name, values]) => [name, one(values)])) }),
      },
      watermark: `${facts.source}#${key}`,
      lineage: { protocol: 'nats', query: facts.stream, position: facts.position },
    },
    data,
  )
  return { ...item, key, received: data }
}

const one = (values: readonly string[]): string | readonly string[] => (values.length === 1 ? (values[0] ?? '') : values)

/** With all nine digits behind the point. */
function isoOf(nanos: bigint): string {
  const seconds = new Date(Number(nanos / 1_000_000n)).toISOString().slice(0, 19)
  return `${seconds}.${String(nanos % 1_000_000_000n).padStart(9, '0')}Z`
}

/** The sequence after that of a watermark; undefined for one of another stream. */
export function sequenceAfter(watermark: string, source: string): number | undefined {
  const [, from, sequence] = /^(.*)#(\d+)$/.exec(watermark) ?? []
  return from === source ? Number(sequence) + 1 : undefined
}
