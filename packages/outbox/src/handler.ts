import type { StandardSchema } from '@common-handlers/core'
import type { OutboxRepository } from './repository.ts'

/** An event as its handler sees it. */
export interface ReceivedEvent {
  /** Position in the outbox: of two events, the one that was enqueued later has the greater id. */
  readonly id: bigint
  readonly type: string
  /** Events of one key run one after the other, in the order of their ids. */
  readonly key: string | undefined
  readonly headers: Readonly<Record<string, string>>
  /** Which attempt this is; 1 is the first. */
  readonly attempt: number
  readonly createdAt: Date
}

/** What a handler gets besides the payload. */
export interface HandlerContext {
  readonly event: ReceivedEvent
  /** Aborted when the time-out of the handler has passed, the worker stops, or the event was taken over by another worker. */
  readonly signal: AbortSignal
}

/** What a handler with `needsDb` gets besides the payload. */
export interface DatabaseContext extends HandlerContext {
  /**
   * The database, for as long as the handler runs. With `effect: 'tx'` it is the transaction in which the event is
   * completed; else a connection of the worker's pool, or one of its own.
   * @throws OperationTimeoutError `OUTBOX_CONNECT_TIMEOUT`
   * @throws ConflictError `OUTBOX_HANDLER_ENDED` once the handler has ended
   */
  getRepository(): Promise<OutboxRepository>
}

/** What a handler may return in place of nothing. */
export interface Verdict {
  readonly verdict: 'retry' | 'discard' | 'dead'
  readonly delayMs?: number
  readonly reason?: string
}

/** The event is tried again after so many milliseconds; the attempt counts. */
export function retryAfter(delayMs: number, reason?: string): Verdict {
  return { verdict: 'retry', delayMs, ...(reason === undefined ? {} : { reason }) }
}

/** The event is of no use any more: it is deleted. */
export function discard(reason?: string): Verdict {
  return { verdict: 'discard', ...(reason === undefined ? {} : { reason }) }
}

/** The event becomes a dead letter at once. */
export function deadLetter(reason: string): Verdict {
  return { verdict: 'dead', reason }
}

// oxlint-disable-next-line typescript/no-invalid-void-type -- a handler that returns nothing is done
export type HandlerResult = void | Verdict | Promise<void | Verdict>

/** The guarantee that a handler has. */
export type Effect =
  /** What it writes to the database and the completion of the event are one commit: exactly once. */
  | 'tx'
  /** For calls to the outside: at least once; what a worker does that was given up does not count. */
  | 'lease'
  /** Events of the log, which every consumer reads for itself, one after the other. What it writes is as with `tx`. */
  | 'log'

export interface HandlerSettings<P> {
  /** Checks and converts the payload before the handler runs; what does not fit becomes a dead letter. */
  readonly schema?: StandardSchema<P> | undefined
  /** Default `lease`. */
  readonly effect?: Effect | undefined
  /** With `effect: 'log'`: on whose behalf it reads. Handlers of one consumer share its position, in all workers. */
  readonly consumer?: string | undefined
  /**
   * With `effect: 'log'`: where a consumer that is new begins. Default `beginning`: with the oldest event that is kept;
   * `end`: with what is committed after its worker has started.
   */
  readonly start?: 'beginning' | 'end' | undefined
  /** Events of this type that run at a time in one worker. Default: as many as the worker's `maxParallel`. */
  readonly concurrency?: number | undefined
  /** Starts of this type in one second and one worker. Default: no limit. */
  readonly ratePerSecond?: number | undefined
  /** After it the signal is aborted and the attempt has failed. Default 60 000. */
  readonly timeoutMs?: number | undefined
  /** Attempts before the event becomes a dead letter. Default: the worker's `maxAttempts`. */
  readonly maxAttempts?: number | undefined
}

export interface PlainHandlerDefinition<P> extends HandlerSettings<P> {
  readonly needsDb?: false | undefined
  readonly handler: (payload: P, context: HandlerContext) => HandlerResult
}

export interface DatabaseHandlerDefinition<P> extends HandlerSettings<P> {
  readonly needsDb: true
  /**
   * With `effect: 'lease'`: true takes a connection of the worker's pool, false opens one for this run of the handler,
   * for long work. Default: the worker's `useConnectionPool`.
   */
  readonly usePool?: boolean | undefined
  /** Time to get a connection, 2–5 s are sound. Default 5000. */
  readonly connectTimeoutMs?: number | undefined
  /** Time of one statement, 5–10 s are sound. Default: the worker's. */
  readonly queryTimeoutMs?: number | undefined
  readonly handler: (payload: P, context: DatabaseContext) => HandlerResult
}

export type HandlerDefinition<P> = PlainHandlerDefinition<P> | DatabaseHandlerDefinition<P>

/** Told apart from a definition by a property that it never has, so that TypeScript knows the parameters of `handler`. */
interface NoDefinition {
  readonly needsDb?: never
}

/** A function gets the payload and nothing else. */
// oxlint-disable-next-line typescript/no-explicit-any -- each handler has a payload of its own
export type AnyHandler = (((payload: any) => HandlerResult) & NoDefinition) | HandlerDefinition<any>

/** By type of event. A type has one handler, or several with `effect: 'log'`, each for a consumer of its own. */
export type Handlers = Readonly<Record<string, AnyHandler | (readonly AnyHandler[] & NoDefinition)>>

/** A handler with all its settings. */
export interface BoundHandler {
  readonly type: string
  readonly effect: Effect
  /** Empty where the effect is not `log`. */
  readonly consumer: string
  readonly start: 'beginning' | 'end'
  readonly schema: StandardSchema | undefined
  readonly concurrency: number
  readonly ratePerSecond: number
  readonly timeoutMs: number
  readonly maxAttempts: number
  readonly needsDb: boolean
  readonly usePool: boolean
  readonly connectTimeoutMs: number
  readonly queryTimeoutMs: number
  /** It gets the payload alone. */
  readonly bare: boolean
  readonly handler: (payload: unknown, context?: DatabaseContext) => HandlerResult
}

export interface HandlerDefaults {
  readonly maxParallel: number
  readonly maxAttempts: number
  readonly useConnectionPool: boolean
  readonly queryTimeoutMs: number
}

export function bindHandler(type: string, given: AnyHandler, defaults: HandlerDefaults): BoundHandler {
  const definition = typeof given === 'function' ? { handler: given } : given
  const database = definition.needsDb === true ? definition : undefined
  return {
    type,
    bare: typeof given === 'function',
    schema: definition.schema,
    effect: definition.effect ?? 'lease',
    consumer: definition.consumer ?? '',
    start: definition.start ?? 'beginning',
    concurrency: Math.min(definition.concurrency ?? defaults.maxParallel, defaults.maxParallel),
    ratePerSecond: definition.ratePerSecond ?? Infinity,
    timeoutMs: definition.timeoutMs ?? 60_000,
    maxAttempts: definition.maxAttempts ?? defaults.maxAttempts,
    needsDb: database !== undefined,
    usePool: database?.usePool ?? defaults.useConnectionPool,
    connectTimeoutMs: database?.connectTimeoutMs ?? 5000,
    queryTimeoutMs: database?.queryTimeoutMs ?? defaults.queryTimeoutMs,
    handler: definition.handler as BoundHandler['handler'],
  }
}
