import { outboxNames } from './names.ts'
import { type ConnectionPool, onBorrowed, type PoolClient, textRows } from './pool.ts'

/** How far a consumer of the log is. */
export interface LogProgress {
  readonly name: string
  readonly types: readonly string[]
  /** Events that it has not had, of all types; 100 000 stands for that many or more. */
  readonly lagEvents: number
  /** Age of the oldest of them. */
  readonly lagSeconds: number
  /** Of them, those that wait until transactions are over which may still write before them. */
  readonly fencedEvents: number
  /** The server process whose transaction that is; `prepared`: a prepared one. Undefined where nothing waits for it. */
  readonly heldBackBy: number | 'prepared' | undefined
  /** Failed attempts of the event that it stands at. */
  readonly attempts: number
  readonly retryAt: Date | undefined
  readonly lastError: string | undefined
  readonly movedAt: Date | undefined
}

/** How far each consumer of the log is, by name. @throws ConnectionError `OUTBOX_CONNECTION_FAILED` */
export async function logProgress(
  pool: ConnectionPool,
  options: { readonly schema?: string | undefined } = {},
): Promise<LogProgress[]> {
  const { schema } = outboxNames(options.schema ?? 'outbox')
  return await onBorrowed(pool, 5000, 'the progress of the log', (client) => readProgress(client, schema))
}

/** The same on a connection. */
export async function readProgress(client: PoolClient, schema: string): Promise<LogProgress[]> {
  const rows = await textRows(client, `SELECT * FROM ${schema}.log_progress()`)
  return rows.map(([name, types, lag, seconds, fenced, holder, attempts, retryAt, error, movedAt]) => ({
    name: name ?? '',
    types: JSON.parse(types ?? '[]') as string[],
    lagEvents: Number(lag),
    lagSeconds: Number(seconds),
    fencedEvents: Number(fenced),
    heldBackBy: holder === 'prepared' ? holder : holder === null || holder === undefined ? undefined : Number(holder),
    attempts: Number(attempts),
    retryAt: dateOf(retryAt),
    lastError: error ?? undefined,
    movedAt: dateOf(movedAt),
  }))
}

const dateOf = (ms: string | null | undefined): Date | undefined =>
  ms === null || ms === undefined ? undefined : new Date(Number(ms))
