import type { Logger } from '@common-handlers/core'
import type { OutboxNames } from './names.ts'
import { borrow, type ConnectionPool, type PoolClient, textRows } from './pool.ts'
import { type Horizon, readWatched, type Watched, watchText } from './stats.ts'

export interface MaintenanceOptions {
  readonly pool: ConnectionPool
  readonly names: OutboxNames
  readonly connectTimeoutMs: number
  readonly everyMs: number
  readonly log: Logger
  readonly onBloat: (bloat: Bloat) => void
  /** What every consumer of the log has read is kept for so long. Default a day. */
  readonly logRetentionMs?: number | undefined
  /** Dead rows that are not worth a word. Default 100 000. */
  readonly deadTuples?: number | undefined
  /** Whoever holds them back for less is let be. Default 60 000. */
  readonly heldMs?: number | undefined
}

/** Rows that are gone and cannot be vacuumed, since somebody holds an old snapshot. */
export interface Bloat {
  readonly deadTuples: number
  readonly holder: Horizon
  /** Says who it is and what helps. */
  readonly message: string
}

const DAY_MS = 86_400_000
const BATCH = 5000
/** Whoever lost a connection is told by the statement that fails; without a listener it would end the process. */
const deaf = (): void => undefined
/** What one round deletes of one kind at most: the next one goes on. */
const MAX_BATCHES = 200

/**
 * What one of the workers does in each round for all of them. Whoever moves the time of the last round has the round: no
 * lock is held meanwhile, and it does no harm if two rounds overlap.
 */
export class Maintenance {
  readonly #options: MaintenanceOptions
  #timer: NodeJS.Timeout | undefined
  #round: Promise<void> = Promise.resolve()
  #stopped = false

  constructor(options: MaintenanceOptions) {
    this.#options = options
  }

  start(): void {
    if (this.#stopped) return
    this.#timer = setTimeout(() => {
      this.#round = this.round().then(() => this.start())
    }, this.#options.everyMs)
  }

  async stop(): Promise<void> {
    this.#stopped = true
    clearTimeout(this.#timer)
    await this.#round
  }

  /** One round, if no other worker has it. Never rejects: what fails is logged, and done in a later round. */
  async round(): Promise<void> {
    const { pool, connectTimeoutMs, log, everyMs, names } = this.#options
    let client: PoolClient | undefined
    const failures: unknown[] = []
    const attempt = async (work: () => Promise<void>): Promise<void> => {
      if (this.#stopped) return
      try {
        await work()
      } catch (error) {
        failures.push(error)
        log.warn({ err: error }, 'a part of the maintenance of the outbox failed, and is done in a later round')
      }
    }
    await attempt(async () => {
      client = await borrow(pool, connectTimeoutMs, 'the maintenance')
      client.on('error', deaf)
      const lent = client
      const taken = await textRows(
        lent,
        `UPDATE ${names.schema}.policy SET tended_at = clock_timestamp()
          WHERE tended_at NOT BETWEEN clock_timestamp() - $1::float8 * interval '1 ms' AND clock_timestamp() RETURNING one`,
        [everyMs * 0.9],
      )
      if (taken.length === 0) return
      await attempt(() => this.#sweep(lent, 'dedup keys', 'dedup', 'expires_at', `expires_at <= clock_timestamp()`))
      await attempt(() => this.#sweep(lent, 'messages of the inbox', 'inbox', 'expires_at', `expires_at <= clock_timestamp()`))
      await attempt(async () => {
        const { logRetentionMs = DAY_MS } = this.#options
        await textRows(lent, `SELECT ${names.schema}.turn_log($1::float8 * interval '1 ms')`, [logRetentionMs])
      })
      await attempt(() =>
        this.#sweep(
          lent,
          'dead letters',
          'dead_letter',
          'died_at',
          `died_at < clock_timestamp() - (SELECT p.dead_letter_days FROM ${names.schema}.policy p) * interval '1 day'`,
        ),
      )
      await attempt(async () => {
        const [[told] = []] = await textRows(lent, `SELECT array_to_json(${names.schema}.tend_archive())::text`)
        for (const message of JSON.parse(told ?? '[]') as string[]) log.info({}, `archive: ${message}`)
      })
      await attempt(() => this.#watch(lent))
    })
    if (failures.length === 0) client?.off('error', deaf)
    client?.release(failures.length > 0)
  }

  async #sweep(client: PoolClient, what: string, table: string, order: string, condition: string): Promise<void> {
    const { names, log } = this.#options
    let count = 0
    for (let batch = 0; batch < MAX_BATCHES && !this.#stopped; batch++) {
      const [[swept] = []] = await textRows(
        client,
        `WITH gone AS (DELETE FROM ${names.schema}.${table} WHERE ctid = ANY (array(
            SELECT ctid FROM ${names.schema}.${table} WHERE ${condition} ORDER BY ${order} LIMIT ${BATCH} FOR UPDATE SKIP LOCKED))
          RETURNING 1) SELECT count(*)::text FROM gone`,
      )
      count += Number(swept)
      if (Number(swept) < BATCH) break
    }
    if (count > 0) log.info({ count }, `deleted ${count} ${what} that are out of date`)
  }

  async #watch(client: PoolClient): Promise<void> {
    const { names, log, onBloat } = this.#options
    const [[text] = []] = await textRows(client, watchText(names))
    const bloat = bloatOf(readWatched(text ?? ''), this.#options)
    if (bloat === undefined) return
    log.warn({ deadTuples: bloat.deadTuples, holder: bloat.holder }, bloat.message)
    onBloat(bloat)
  }
}

/** Undefined where there is nothing to say. */
export function bloatOf(
  { table, horizon }: Watched,
  { deadTuples = 100_000, heldMs = 60_000 }: Pick<MaintenanceOptions, 'deadTuples' | 'heldMs'>,
): Bloat | undefined {
  if (horizon === undefined || table.deadTuples < deadTuples) return undefined
  // A slot says no time: how far it is behind must tell.
  if (horizon.ageMs === undefined ? horizon.transactions < 1000 : horizon.ageMs < heldMs) return undefined
  return {
    deadTuples: table.deadTuples,
    holder: horizon,
    message: `${table.deadTuples} rows of the outbox that are gone cannot be vacuumed: ${describeHorizon(horizon)}`,
  }
}

const HELP: Readonly<Record<Horizon['holder'], (horizon: Horizon) => string>> = {
  session: ({ pid }) => `end it with pg_terminate_backend(${pid ?? 'its pid'}), or set idle_in_transaction_session_timeout`,
  'replication slot': () => 'let its consumer catch up, or drop it with pg_drop_replication_slot',
  'prepared transaction': () => 'commit it or roll it back',
}

function describeHorizon(horizon: Horizon): string {
  const { holder, name, pid, user, state, ageMs, statementMs, transactions } = horizon
  const facts = [
    ...(pid === undefined ? [] : [`pid ${pid}`]),
    ...(user === undefined ? [] : [`user ${user}`]),
    ...(state === undefined ? [] : [state]),
    ...(ageMs === undefined ? [] : [`for ${seconds(ageMs)}`]),
    ...(statementMs === undefined ? [] : [`its last statement began ${seconds(statementMs)} ago`]),
    `${transactions} transactions behind`,
  ]
  return `the ${holder} ${JSON.stringify(name)} holds an old snapshot (${facts.join(', ')}); ${HELP[holder](horizon)}`
}

const seconds = (ms: number): string => `${Math.round(ms / 1000)} s`
