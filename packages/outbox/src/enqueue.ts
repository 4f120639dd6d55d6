import { ConfigError, DataError, issuePath, type StandardSchema } from '@common-handlers/core'
import { type OutboxNames, outboxNames } from './names.ts'
import { enqueueTraced, type TracerLike } from './tracing.ts'

/** What an event of some type is made of, known to both ends. */
export type EventSchemas = Readonly<Record<string, StandardSchema>>

type PayloadOf<S extends EventSchemas, T extends keyof S> = S[T] extends StandardSchema<infer P> ? P : never

export interface EnqueueOptions {
  /** Events of one key run one after the other, in the order in which they were enqueued. */
  readonly key?: string | undefined
  /** Text values; `traceparent` and `tracestate` link the handler's span to the producer's. */
  readonly headers?: Readonly<Record<string, string>> | undefined
  /** 0 (first) to 9. Default 0. Events with a key go in the order of their key. */
  readonly priority?: number | undefined
  /** Not before. By the clock of the database. */
  readonly availableAt?: Date | undefined
  /** What has not begun by then becomes a dead letter (`expired`). */
  readonly expiresAt?: Date | undefined
  readonly dedup?: { readonly key: string; readonly windowMs: number } | undefined
}

export type NewEvent<S extends EventSchemas = EventSchemas> = {
  [T in keyof S & string]: EnqueueOptions & { readonly type: T; readonly payload: PayloadOf<S, T> }
}[keyof S & string]

/** An event of the log. */
export type LogEvent<S extends EventSchemas = EventSchemas> = {
  [T in keyof S & string]: Pick<EnqueueOptions, 'key' | 'headers'> & { readonly type: T; readonly payload: PayloadOf<S, T> }
}[keyof S & string]

/** The caller's connection, inside its transaction: a client of `pg`, or a transaction of PostgresHandler. */
export type EnqueueInto =
  // oxlint-disable-next-line typescript/no-explicit-any -- as in pg
  | { query(text: string, values?: any[]): Promise<{ readonly rows: any[] }> }
  | { getRows(text: string, values?: readonly unknown[]): Promise<readonly (readonly unknown[])[]> }

export interface OutboxOptions<S extends EventSchemas> {
  /** Default `outbox`. */
  readonly schema?: string | undefined
  /** A schema for each type of event: types that are not among them are refused. Default: any type, any JSON. */
  readonly events?: S | undefined
  /** A tracer of `@opentelemetry/api`: a span for each call, whose `traceparent` the events carry. Default: none. */
  readonly tracer?: TracerLike | undefined
}

/** The producers' end. It holds no connection: each call is part of the caller's transaction. */
export class Outbox<S extends EventSchemas = EventSchemas> {
  readonly #names: OutboxNames
  readonly #events: S | undefined
  readonly #tracer: TracerLike | undefined

  /** @throws ConfigError `OUTBOX_CONFIG_INVALID` */
  constructor(options: OutboxOptions<S> = {}) {
    this.#names = outboxNames(options.schema ?? 'outbox')
    this.#events = options.events
    this.#tracer = options.tracer
  }

  /**
   * One event; it is there when the caller's transaction commits. Gives its id, or undefined where its dedup key was
   * taken within its window.
   * @throws DataError `OUTBOX_PAYLOAD_INVALID` @throws ConfigError `OUTBOX_TYPE_UNKNOWN`
   */
  async enqueue(into: EnqueueInto, event: NewEvent<S>): Promise<bigint | undefined> {
    const [id] = await this.enqueueMany(into, [event])
    return id
  }

  /** Many events in one statement, in their order; ids in the same order, undefined for what was a duplicate. */
  enqueueMany(into: EnqueueInto, events: readonly NewEvent<S>[]): Promise<(bigint | undefined)[]> {
    return enqueueTraced(this.#tracer, events, (traced) => this.#enqueue(into, traced))
  }

  async #enqueue(into: EnqueueInto, events: readonly NewEvent<S>[]): Promise<(bigint | undefined)[]> {
    if (events.length === 0) return []
    const made = await Promise.all(events.map((event, index) => this.#check(event, index)))
    const values = [
      made.map(({ type }) => type),
      made.map(({ payload }) => payload),
      made.map(({ headers }) => headers),
      made.map(({ key }) => key),
      made.map(({ priority }) => priority),
      made.map(({ availableAt }) => availableAt),
      made.map(({ expiresAt }) => expiresAt),
      made.map(({ dedup }) => dedup?.key ?? null),
      made.map(({ dedup }) => (dedup === undefined ? null : `${dedup.windowMs} milliseconds`)),
    ]
    const { schema } = this.#names
    const text = `SELECT id::text FROM ${schema}.enqueue_many($1::text[], $2::json[], $3::json[], $4::text[], $5::smallint[],
      $6::timestamptz[], $7::timestamptz[], $8::text[], $9::interval[]) WITH ORDINALITY AS e (id, place) ORDER BY place`
    const ids = await firstColumn(into, text, values)
    return ids.map((id) => (id === null || id === undefined ? undefined : BigInt(id as string)))
  }

  /**
   * One event to the log, where each consumer (`effect: 'log'`) reads it for itself; it is there when the caller's
   * transaction commits. Gives its id.
   * @throws DataError `OUTBOX_PAYLOAD_INVALID` @throws ConfigError `OUTBOX_TYPE_UNKNOWN`
   */
  async append(into: EnqueueInto, event: LogEvent<S>): Promise<bigint> {
    const [id] = await this.appendMany(into, [event])
    return id ?? 0n
  }

  /** Many events to the log in one statement, in their order. */
  async appendMany(into: EnqueueInto, events: readonly LogEvent<S>[]): Promise<bigint[]> {
    if (events.length === 0) return []
    const made = await Promise.all(events.map((event, index) => this.#check(event, index)))
    const values = [
      made.map(({ type }) => type),
      made.map(({ payload }) => payload),
      made.map(({ headers }) => headers),
      made.map(({ key }) => key),
    ]
    const text = `SELECT id::text FROM ${this.#names.schema}.append_many($1::text[], $2::json[], $3::json[], $4::text[])
      WITH ORDINALITY AS e (id, place) ORDER BY place`
    const ids = await firstColumn(into, text, values)
    return ids.map((id) => BigInt(id as string))
  }

  async #check(event: NewEvent<S>, index: number): Promise<Checked> {
    const place = `event ${index + 1}, ${JSON.stringify(event.type)}`
    const schema = this.#events?.[event.type]
    if (this.#events !== undefined && schema === undefined)
      throw new ConfigError(`${place}: no such type; there is ${Object.keys(this.#events).join(', ')}`, {
        code: 'OUTBOX_TYPE_UNKNOWN',
      })
    const checked = await schema?.['~standard'].validate(event.payload)
    if (checked?.issues !== undefined) {
      const issues = checked.issues.map((issue) => `${issuePath(issue) || 'payload'}: ${issue.message}`).join('; ')
      throw new DataError(`${place}: ${issues}`, { code: 'OUTBOX_PAYLOAD_INVALID', context: { place } })
    }
    // The caller's own value travels, not what the schema made of it: the handler's end converts it.
    const payload = JSON.stringify(event.payload) as string | undefined
    if (payload === undefined)
      throw new DataError(`${place}: a payload is JSON`, { code: 'OUTBOX_PAYLOAD_INVALID', context: { place } })
    const { type, key, priority, availableAt, expiresAt, dedup, headers } = event
    return {
      type,
      payload,
      headers: headers === undefined ? null : JSON.stringify(headers),
      key: key ?? null,
      priority: priority ?? 0,
      availableAt: availableAt?.toISOString() ?? null,
      expiresAt: expiresAt?.toISOString() ?? null,
      dedup,
    }
  }
}

interface Checked {
  readonly type: string
  readonly payload: string
  readonly headers: string | null
  readonly key: string | null
  readonly priority: number
  readonly availableAt: string | null
  readonly expiresAt: string | null
  readonly dedup: EnqueueOptions['dedup']
}

/** The first column of each row. */
export async function firstColumn(into: EnqueueInto, text: string, values: unknown[]): Promise<unknown[]> {
  if ('getRows' in into) return (await into.getRows(text, values)).map(([value]) => value)
  const { rows } = await into.query(text, values)
  return (rows as object[]).map((row) => Object.values(row)[0] as unknown)
}
