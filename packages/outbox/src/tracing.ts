import type { PendingEvent } from './pending.ts'
import type { Outcome, RunContext } from './run.ts'
import { runHandler } from './run.ts'

// OpenTelemetry by its shape: a tracer of `@opentelemetry/api` 1.x fits as it is.

export interface SpanContextLike {
  readonly traceId: string
  readonly spanId: string
  readonly traceFlags: number
}

export interface SpanLike {
  spanContext(): SpanContextLike
  setAttribute(key: string, value: string | number | boolean): unknown
  setStatus(status: { code: number; message?: string }): unknown
  end(): void
}

export interface SpanOptionsLike {
  kind?: number
  attributes?: Record<string, string | number | boolean>
  links?: { context: SpanContextLike & { isRemote?: boolean } }[]
}

export interface TracerLike {
  startActiveSpan<T>(name: string, options: SpanOptionsLike, work: (span: SpanLike) => T): T
}

/** SpanKind and SpanStatusCode of OpenTelemetry. */
const PRODUCER = 3
const CONSUMER = 4
const ERROR = 2

/** A span around an attempt; it is the active one while the handler runs. Its link leads to the producer's. */
export function runTraced(tracer: TracerLike, event: PendingEvent, context: RunContext): Promise<Outcome> {
  const { type, id, attempt, headers, key } = event
  const producer = parseTraceparent(headers['traceparent'])
  const options: SpanOptionsLike = {
    kind: CONSUMER,
    attributes: {
      'messaging.system': 'outbox',
      'messaging.operation.type': 'process',
      'messaging.destination.name': type,
      'messaging.message.id': String(id),
      'outbox.attempt': attempt,
      'outbox.effect': context.handler.effect,
      ...(key === undefined ? {} : { 'outbox.key': key }),
    },
    links: producer === undefined ? [] : [{ context: producer }],
  }
  return tracer.startActiveSpan(`process ${type}`, options, async (span) => {
    const outcome = await runHandler(event, context)
    span.setAttribute('outbox.outcome', outcome.verdict)
    if (outcome.verdict === 'retry' || outcome.verdict === 'dead')
      span.setStatus({ code: ERROR, ...(outcome.error === undefined ? {} : { message: outcome.error }) })
    span.end()
    return outcome
  })
}

interface Traceable {
  readonly type: string
  readonly headers?: Readonly<Record<string, string>> | undefined
}

/** A span around what enqueues; events without a `traceparent` of their own get that of the span. */
export async function enqueueTraced<E extends Traceable, T>(
  tracer: TracerLike | undefined,
  events: readonly E[],
  work: (events: readonly E[]) => Promise<T>,
): Promise<T> {
  if (tracer === undefined || events.length === 0) return work(events)
  const types = events.map(({ type }) => type)
  const [first = ''] = types
  const options: SpanOptionsLike = {
    kind: PRODUCER,
    attributes: {
      'messaging.system': 'outbox',
      'messaging.operation.type': 'send',
      'messaging.batch.message_count': types.length,
      ...(types.every((type) => type === first) ? { 'messaging.destination.name': first } : {}),
    },
  }
  return await tracer.startActiveSpan(types.length === 1 ? `send ${first}` : 'send', options, async (span) => {
    try {
      const traceparent = formatTraceparent(span.spanContext())
      const told =
        traceparent === undefined ? events : events.map((event) => ({ ...event, headers: { traceparent, ...event.headers } }))
      return await work(told)
    } catch (error) {
      span.setStatus({ code: ERROR, ...(error instanceof Error ? { message: error.message } : {}) })
      throw error
    } finally {
      span.end()
    }
  })
}

/** https://www.w3.org/TR/trace-context/#traceparent-header */
function parseTraceparent(header: string | undefined): (SpanContextLike & { isRemote: true }) | undefined {
  const [, version, traceId, spanId, flags] =
    /^([\da-f]{2})-([\da-f]{32})-([\da-f]{16})-([\da-f]{2})(?:-.*)?$/.exec(header?.trim() ?? '') ?? []
  if (version === undefined || version === 'ff' || traceId === undefined || spanId === undefined || flags === undefined)
    return undefined
  if (!isValid(traceId) || !isValid(spanId)) return undefined
  return { traceId, spanId, traceFlags: Number.parseInt(flags, 16), isRemote: true }
}

/** Undefined for a tracer that does nothing: its ids are zeros. */
function formatTraceparent({ traceId, spanId, traceFlags }: SpanContextLike): string | undefined {
  if (!isValid(traceId) || !isValid(spanId)) return undefined
  return `00-${traceId}-${spanId}-${(traceFlags & 0xff).toString(16).padStart(2, '0')}`
}

const isValid = (id: string): boolean => /[^0]/.test(id)
