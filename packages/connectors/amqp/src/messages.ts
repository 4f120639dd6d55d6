import { exactJson, ingestedItem } from '@common-handlers/connections'
import { contentKey, decodePayload, type PayloadFormat, type StreamItem, undecoded } from '@common-handlers/connections/streams'

/** What is known of a message, whatever driver it came with. */
export interface AmqpMessage {
  readonly exchange: string
  readonly routingKey: string
  readonly redelivered: boolean
  readonly content: Uint8Array
  /** Without those that are not set. */
  readonly properties: Readonly<Record<string, unknown>>
}

export interface MessageFacts {
  readonly queue: string
  readonly format: PayloadFormat
  readonly position: number
}

/** Undefined for a payload that is not of its format. */
export function toItem(message: AmqpMessage, facts: MessageFacts): StreamItem | undefined {
  const payload = decodePayload(message.content, facts.format)
  return payload && item(message, facts, payload)
}

/** A message as its bytes. */
export const toBytesItem = (message: AmqpMessage, facts: MessageFacts): StreamItem =>
  item(message, facts, undecoded(message.content))

function item(
  { exchange, routingKey, redelivered, content, properties }: AmqpMessage,
  { queue, position }: MessageFacts,
  payload: { readonly data: unknown; readonly mediaType: string },
): StreamItem {
  const { messageId } = properties
  const hasId = typeof messageId === 'string' && messageId !== ''
  // Without an id the whole of the message is what it is known by.
  const key = hasId ? messageId : contentKey(exchange, routingKey, exactJson(properties), content)
  const made = ingestedItem(
    {
      source: `amqp:${queue}`,
      key,
      ...payload,
      attributes: { exchange, routingKey, ...properties },
      lineage: { protocol: 'amqp', query: queue, position },
    },
    content,
  )
  return { ...made, key, received: content, first: !hasId && !redelivered }
}
