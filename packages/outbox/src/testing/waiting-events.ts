import { outboxNames } from '../names.ts'
import { borrow, type ConnectionPool, textRows } from '../pool.ts'

export interface EnqueuedFilter {
  /** Default `outbox`. */
  readonly schema?: string | undefined
  readonly type?: string | undefined
  readonly key?: string | undefined
}

export interface EnqueuedEvent {
  readonly id: bigint
  readonly type: string
  readonly key: string | undefined
  readonly payload: unknown
  readonly headers: Readonly<Record<string, string>>
  readonly priority: number
  readonly availableAt: Date | undefined
  readonly expiresAt: Date | undefined
  /** Attempts that failed. */
  readonly attempts: number
}

/** The events that wait, in the order of their ids: for assertions on what was enqueued. */
export async function enqueued(pool: ConnectionPool, filter: EnqueuedFilter = {}): Promise<EnqueuedEvent[]> {
  const { schema } = outboxNames(filter.schema ?? 'outbox')
  const rows = await ask(
    pool,
    `SELECT id, type, key, payload, headers, priority, extract(epoch FROM available_at) * 1000,
        extract(epoch FROM expires_at) * 1000, attempts
      FROM ${schema}.event WHERE type = coalesce($1, type) AND ($2::text IS NULL OR key = $2) ORDER BY id`,
    [filter.type ?? null, filter.key ?? null],
  )
  return rows.map(([id, type, key, payload, headers, priority, availableAt, expiresAt, attempts]) => ({
    id: BigInt(id ?? 0),
    type: type ?? '',
    key: key ?? undefined,
    payload: JSON.parse(payload ?? 'null') as unknown,
    headers: JSON.parse(headers ?? '{}') as Record<string, string>,
    priority: Number(priority),
    availableAt: availableAt === null || availableAt === undefined ? undefined : new Date(Number(availableAt)),
    expiresAt: expiresAt === null || expiresAt === undefined ? undefined : new Date(Number(expiresAt)),
    attempts: Number(attempts),
  }))
}

/**
 * Lets so many milliseconds pass for what waits: due times, expiries and dedup windows come closer by so much. Clocks go
 * on as they are, so `createdAt`, time-outs of handlers and the lives of workers know nothing of it.
 */
export async function advance(
  pool: ConnectionPool,
  ms: number,
  options: { readonly schema?: string | undefined } = {},
): Promise<void> {
  const { schema } = outboxNames(options.schema ?? 'outbox')
  await ask(
    pool,
    `WITH passed (by) AS (VALUES ($1::float8 * interval '1 ms')),
      events AS (UPDATE ${schema}.event SET available_at = available_at - by, expires_at = expires_at - by FROM passed
        WHERE available_at IS NOT NULL OR expires_at IS NOT NULL),
      windows AS (UPDATE ${schema}.dedup SET expires_at = expires_at - by FROM passed)
    SELECT ${schema}.wake()::text`,
    [ms],
  )
}

/** One statement on a connection of the pool. */
export async function ask(pool: ConnectionPool, text: string, values: unknown[]): Promise<(string | null)[][]> {
  const client = await borrow(pool, 10_000, 'a test')
  try {
    return await textRows(client, text, values)
  } finally {
    client.release()
  }
}
