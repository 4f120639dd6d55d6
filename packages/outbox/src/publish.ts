import { createHmac } from 'node:crypto'
import {
  ConnectionError,
  HandlerError,
  NotFoundError,
  OperationTimeoutError,
  parseRetryAfter,
  RemoteError,
  Secret,
} from '@common-handlers/core'
import {
  deadLetter,
  type HandlerContext,
  type HandlerSettings,
  type PlainHandlerDefinition,
  type ReceivedEvent,
  retryAfter,
} from './handler.ts'

// Handlers that pass events on. A message can arrive more than once (the worker dies between the broker's answer and its
// own commit): each carries the same id every time, where the other side looks for it.

export interface PublishOptions extends Omit<HandlerSettings<unknown>, 'effect' | 'schema'> {
  /** Before the event's id in ids of messages. Default `outbox`; choose another one where two outboxes publish to one place. */
  readonly source?: string | undefined
}

/** What is published of an event. */
export interface Message {
  /** The same at each attempt: `outbox-42`. */
  readonly id: string
  readonly event: ReceivedEvent
  readonly payload: unknown
  /** The payload as JSON. */
  readonly body: string
}

/** A handler of one's own making: `send` resolves when the other side has the message for good. */
export function publish(
  send: (message: Message, signal: AbortSignal) => unknown,
  options: PublishOptions = {},
): PlainHandlerDefinition<unknown> {
  const { source = 'outbox', ...settings } = options
  return {
    ...settings,
    effect: 'lease',
    handler: async (payload: unknown, { event, signal }: HandlerContext) => {
      const result = await send({ id: `${source}-${event.id}`, event, payload, body: JSON.stringify(payload) }, signal)
      return isVerdict(result) ? result : undefined
    },
  }
}

/** Text from an event: the same for all, or made of each. */
export type PerEvent = string | ((event: ReceivedEvent, payload: unknown) => string)

const of = (value: PerEvent, { event, payload }: Message): string => (typeof value === 'string' ? value : value(event, payload))

export interface KafkaMessage {
  readonly topic: string
  readonly key?: string
  readonly value: string
  readonly headers: Record<string, string>
}

/**
 * A producer with the call of `@platformatic/kafka` (serializers for strings). With another client, say how it sends:
 * `{ send: ({ messages: [{ topic, ...message }] }) => producer.send({ topic, acks: -1, messages: [message] }) }`.
 */
export interface KafkaProducer {
  send(request: { messages: KafkaMessage[]; acks: number }): Promise<unknown>
}

/** To Kafka, acknowledged by all replicas in sync; the event's key is the message's. The header `message-id` tells duplicates. */
export function toKafka(
  producer: KafkaProducer,
  options: PublishOptions & { readonly topic: PerEvent },
): PlainHandlerDefinition<unknown> {
  const { topic, ...settings } = options
  return publish(async (message) => {
    const { id, event, body } = message
    const headers = { ...event.headers, 'message-id': id, 'event-type': event.type }
    await producer.send({
      messages: [{ topic: of(topic, message), ...(event.key === undefined ? {} : { key: event.key }), value: body, headers }],
      acks: -1,
    })
  }, settings)
}

/** A JetStream client of `@nats-io/jetstream`. */
export interface JetStream {
  publish(subject: string, payload: string, options: { msgID: string; timeout?: number }): Promise<unknown>
}

/** To a JetStream, acknowledged by the stream, which drops duplicates of a message within its `duplicate_window`. */
export function toJetStream(
  jetStream: JetStream,
  options: PublishOptions & { readonly subject: PerEvent },
): PlainHandlerDefinition<unknown> {
  const { subject, ...settings } = options
  return publish(async (message) => {
    await jetStream.publish(of(subject, message), message.body, { msgID: message.id })
  }, settings)
}

/** A confirm channel of `amqplib`. */
export interface ConfirmChannel {
  publish(
    exchange: string,
    routingKey: string,
    content: Buffer,
    options: {
      persistent: boolean
      mandatory: boolean
      messageId: string
      type: string
      contentType: string
      timestamp: number
      headers: Record<string, string>
    },
    confirm: (error: Error | null) => void,
  ): boolean
  on(event: 'return', listener: (message: { readonly properties: { readonly messageId?: string } }) => void): unknown
}

/**
 * To AMQP 0-9-1: persistent, confirmed by the broker, with `messageId` and `type`. A message that no queue takes comes
 * back, and is a failed attempt.
 */
export function toAmqp(
  channel: ConfirmChannel,
  options: PublishOptions & { readonly exchange: PerEvent; readonly routingKey: PerEvent },
): PlainHandlerDefinition<unknown> {
  const { exchange, routingKey, ...settings } = options
  const waiting = new Map<string, (error: Error) => void>()
  // The broker sends it back before it confirms it.
  channel.on('return', ({ properties: { messageId = '' } }) =>
    waiting.get(messageId)?.(
      new NotFoundError('no queue is bound that takes the message', {
        code: 'OUTBOX_UNROUTABLE',
        retry: 'never',
        context: { messageId },
      }),
    ),
  )
  return publish(async (message) => {
    const { id, event, body } = message
    await new Promise<void>((resolve, reject) => {
      const properties = {
        persistent: true,
        mandatory: true,
        messageId: id,
        type: event.type,
        contentType: 'application/json',
        timestamp: Math.trunc(event.createdAt.getTime() / 1000),
        headers: { ...event.headers },
      }
      waiting.set(id, reject)
      channel.publish(of(exchange, message), of(routingKey, message), Buffer.from(body), properties, (error) =>
        error === null ? resolve() : reject(error),
      )
    }).finally(() => waiting.delete(id))
  }, settings)
}

export interface WebhookOptions extends PublishOptions {
  readonly url: PerEvent
  /** Of the receiver: `whsec_` and base64, or any text. Signs as Standard Webhooks does. */
  readonly secret?: string | Secret | undefined
  readonly headers?: Readonly<Record<string, string>> | undefined
  /** Default 15 000. */
  readonly requestTimeoutMs?: number | undefined
}

/**
 * To a webhook, by POST, with `webhook-id`, `webhook-timestamp` and `webhook-signature` of https://www.standardwebhooks.com
 * (HMAC-SHA256 over `id.timestamp.body`). 2xx is success; 410 makes a dead letter; 429 and 503 are tried again after what
 * `Retry-After` asks for; everything else as any failure. Redirects are not followed.
 */
export function toWebhook(options: WebhookOptions): PlainHandlerDefinition<unknown> {
  const { url, secret, headers, requestTimeoutMs = 15_000, ...settings } = options
  const key = secret === undefined ? undefined : signingKey(secret)
  return publish(async (message, signal) => {
    const target = of(url, message)
    const timestamp = String(Math.trunc(Date.now() / 1000))
    const signed = `${message.id}.${timestamp}.${message.body}`
    const signature =
      key === undefined ? {} : { 'webhook-signature': `v1,${createHmac('sha256', key()).update(signed).digest('base64')}` }
    const limit = AbortSignal.timeout(requestTimeoutMs)
    let answer: Response
    try {
      answer = await fetch(target, {
        method: 'POST',
        body: message.body,
        redirect: 'manual',
        signal: AbortSignal.any([signal, limit]),
        headers: {
          ...message.event.headers,
          ...headers,
          'content-type': 'application/json',
          'webhook-id': message.id,
          'webhook-timestamp': timestamp,
          ...signature,
        },
      })
      await answer.arrayBuffer()
    } catch (error) {
      signal.throwIfAborted()
      const { host } = new URL(target)
      if (limit.aborted)
        throw new OperationTimeoutError(`${host} did not answer within ${requestTimeoutMs} ms`, {
          code: 'OUTBOX_WEBHOOK_TIMEOUT',
          retry: 'if-idempotent',
        })
      throw new ConnectionError(`${host}: ${reasonOf(error)}`, {
        code: 'OUTBOX_WEBHOOK_FAILED',
        retry: 'if-idempotent',
        cause: error,
      })
    }
    if (answer.ok) return undefined
    if (answer.status === 410) return deadLetter('the webhook is gone (410)')
    const after = parseRetryAfter(answer.headers.get('retry-after'))
    const reason = `the webhook answered ${answer.status}`
    if (after !== undefined && (answer.status === 429 || answer.status === 503)) return retryAfter(after, reason)
    throw new RemoteError(reason, { code: 'OUTBOX_WEBHOOK_REFUSED', retry: 'if-idempotent', serverCode: String(answer.status) })
  }, settings)
}

/** Anything that stores objects: S3Handler, and the stores of `@common-handlers/storage`. */
export interface PutObject {
  put(key: string, body: string, options?: { contentType?: string; signal?: AbortSignal }): Promise<unknown>
}

/** An object for each event. Default key: `<type>/<day>/<id>.json`; writing it twice is writing it once. */
export function toObjectStore(
  store: PutObject,
  options: PublishOptions & { readonly key?: PerEvent } = {},
): PlainHandlerDefinition<unknown> {
  const { key = ({ type, createdAt, id }) => `${type}/${createdAt.toISOString().slice(0, 10)}/${id}.json`, ...settings } = options
  return publish(async (message, signal) => {
    await store.put(of(key, message), message.body, { contentType: 'application/json', signal })
  }, settings)
}

function signingKey(secret: string | Secret): () => Buffer {
  const held = typeof secret === 'string' ? new Secret(secret) : secret
  return () => {
    const text = held.expose()
    return text.startsWith('whsec_') ? Buffer.from(text.slice('whsec_'.length), 'base64') : Buffer.from(text)
  }
}

function isVerdict(value: unknown): value is ReturnType<typeof retryAfter> {
  return typeof value === 'object' && value !== null && 'verdict' in value
}

/** fetch says `fetch failed` and hides why. */
function reasonOf(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error
  if (HandlerError.is(cause)) return cause.message
  const code = cause instanceof Error && 'code' in cause ? String(cause.code) : undefined
  return code ?? (cause instanceof Error ? cause.message : String(cause))
}
