import { ConfigError, type Logger, silentLogger } from '@common-handlers/core'
import { Cron } from 'croner'
import { Alarm } from './alarm.ts'
import { Outbox } from './enqueue.ts'
import { assertMigrated } from './migrate.ts'
import { type OutboxNames, outboxNames } from './names.ts'
import { type ConnectionPool, onBorrowed, type PoolClient, textRows } from './pool.ts'

/** An event that comes by the clock. */
export interface Schedule {
  /** One name is one schedule, in all workers of the outbox. */
  readonly name: string
  /** Five fields from minutes to weekdays, or six with seconds first; `L`, `W`, `#` and names as croner has them. */
  readonly cron: string
  /**
   * IANA name. A fixed time (`30 2 * * *`) that a change of the clock skips fires right after it, one that comes twice fires
   * once; a pattern like `0 * * * *` fires each hour that there is. Default `UTC`.
   */
  readonly timezone?: string | undefined
  readonly type: string
  /** Default null. The time for which it fired is in the header `scheduled-at`. */
  readonly payload?: unknown
  /**
   * What happens to times that passed while no worker ran, or more than a minute ago: none of them fires, one event for
   * the last of them, or one for each. Default `once`.
   */
  readonly missed?: 'skip' | 'once' | 'all' | undefined
}

export interface ScheduleContext {
  readonly pool: ConnectionPool
  /** Default `outbox`. */
  readonly schema?: string | undefined
  /** Default 5000. */
  readonly connectTimeoutMs?: number | undefined
  /** Default: silent. */
  readonly logger?: Logger | undefined
}

/** Behind its time by more than this, a run was missed. */
const GRACE_MS = 60_000
/** A clock may be set and a schedule changed meanwhile. */
const LOOK_MS = 10_000
const ERROR_PAUSE_MS = 1000
/** Events of one transaction. */
const MAX_RUNS = 1000
const DEDUP_MS = 86_400_000

interface Planned {
  readonly name: string
  readonly cron: Cron
  readonly type: string
  readonly payload: string
  readonly missed: string
  readonly doneTo: number
  readonly now: number
}

/**
 * Enqueues events by the clock of the database, for a worker (its option `schedules`) or by itself. Of all that have
 * started the same schedule one enqueues each of its times: the event and the note that it is there are one commit.
 */
export class Schedules {
  readonly #schedules: readonly Schedule[]
  readonly #alarm = new Alarm()
  #context: (ScheduleContext & { readonly names: OutboxNames; readonly log: Logger }) | undefined
  #stopping = false
  #running: Promise<void> | undefined

  /** Does no work. @throws ConfigError `OUTBOX_SCHEDULE_INVALID` */
  constructor(schedules: readonly Schedule[]) {
    const names = new Set<string>()
    for (const { name, cron, timezone } of schedules) {
      if (name === '' || names.has(name))
        throw new ConfigError(`schedules: each has a name of its own, ${JSON.stringify(name)} is not one`, {
          code: 'OUTBOX_SCHEDULE_INVALID',
        })
      names.add(name)
      parse(name, cron, timezone ?? 'UTC')
    }
    this.#schedules = schedules
  }

  /**
   * Writes the schedules down and begins. One that is new or has another pattern than before fires from now on.
   * @throws ConfigError `OUTBOX_SCHEMA_MISSING` @throws ConnectionError `OUTBOX_CONNECTION_FAILED`
   */
  async start(context: ScheduleContext): Promise<void> {
    if (this.#running !== undefined) return
    const names = outboxNames(context.schema ?? 'outbox')
    this.#context = { ...context, names, log: context.logger ?? silentLogger }
    await this.#lent(async (client) => {
      await assertMigrated(client, names)
      await textRows(
        client,
        `INSERT INTO ${names.schema}.schedule AS s (name, cron, timezone, type, payload, missed)
          SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::json[], $6::text[])
          ON CONFLICT (name) DO UPDATE SET cron = excluded.cron, timezone = excluded.timezone, type = excluded.type,
            payload = excluded.payload, missed = excluded.missed,
            done_to = CASE WHEN (s.cron, s.timezone) = (excluded.cron, excluded.timezone) THEN s.done_to ELSE clock_timestamp() END
          WHERE (s.cron, s.timezone, s.type, s.payload::text, s.missed)
            <> (excluded.cron, excluded.timezone, excluded.type, excluded.payload::text, excluded.missed)`,
        [
          this.#schedules.map(({ name }) => name),
          this.#schedules.map(({ cron }) => cron),
          this.#schedules.map(({ timezone }) => timezone ?? 'UTC'),
          this.#schedules.map(({ type }) => type),
          this.#schedules.map(({ payload }) => JSON.stringify(payload ?? null)),
          this.#schedules.map(({ missed }) => missed ?? 'once'),
        ],
      )
    })
    this.#running = this.#run()
  }

  /** Waits for the transaction that is under way. */
  async stop(): Promise<void> {
    this.#stopping = true
    this.#alarm.ring()
    await this.#running
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  async #run(): Promise<void> {
    while (!this.#stopping) {
      let waitMs: number
      try {
        waitMs = await this.#lent((client) => this.#round(client))
      } catch (error) {
        this.#context?.log.warn({ err: error }, 'the schedules were not looked at, and are a moment later')
        waitMs = ERROR_PAUSE_MS
      }
      if (waitMs > 0) await this.#alarm.sleep(waitMs)
    }
  }

  /** Fires what is due. Gives how long there is nothing to do. */
  async #round(client: PoolClient): Promise<number> {
    let waitMs = LOOK_MS
    for (const { name } of this.#schedules) {
      if (this.#stopping) break
      const planned = await this.#plan(client, name, '')
      const next = planned?.cron.nextRun(new Date(planned.doneTo))
      if (planned === undefined || next === null || next === undefined) continue
      if (next.getTime() > planned.now) waitMs = Math.min(waitMs, next.getTime() - planned.now)
      else waitMs = Math.min(waitMs, await this.#fire(client, name))
    }
    return waitMs
  }

  async #fire(client: PoolClient, name: string): Promise<number> {
    const { names, log } = this.#settled()
    await client.query('BEGIN ISOLATION LEVEL READ COMMITTED')
    try {
      const planned = await this.#plan(client, name, 'FOR UPDATE SKIP LOCKED')
      const { runs, doneTo } = planned === undefined ? { runs: [], doneTo: 0 } : due(planned)
      if (planned !== undefined) {
        const { type, payload } = planned
        const outbox = new Outbox({ schema: this.#settled().schema })
        await outbox.enqueueMany(
          client,
          runs.map((run) => ({
            type,
            payload: JSON.parse(payload) as unknown,
            headers: { schedule: name, 'scheduled-at': run.toISOString() },
            dedup: { key: `${name} ${run.toISOString()}`, windowMs: DEDUP_MS },
          })),
        )
        await textRows(
          client,
          `UPDATE ${names.schema}.schedule SET done_to = greatest(done_to, $2::timestamptz), fired_at = coalesce($3, fired_at) WHERE name = $1`,
          [name, new Date(doneTo).toISOString(), runs.at(-1)?.toISOString() ?? null],
        )
      }
      await client.query('COMMIT')
      if (runs.length > 0) log.info({ schedule: name, events: runs.length }, `the schedule ${name} has fired`)
      // Another one is at it, or there is more of it.
      return planned === undefined ? 100 : 0
    } catch (error) {
      await client.query('ROLLBACK').catch(() => undefined)
      throw error
    }
  }

  async #plan(client: PoolClient, name: string, lock: string): Promise<Planned | undefined> {
    const [row] = await textRows(
      client,
      `SELECT cron, timezone, type, payload::text, missed, extract(epoch FROM done_to) * 1000, extract(epoch FROM clock_timestamp()) * 1000
        FROM ${this.#settled().names.schema}.schedule WHERE name = $1 ${lock}`,
      [name],
    )
    if (row === undefined) return undefined
    const [cron, timezone, type, payload, missed, doneTo, now] = row.map((value) => value ?? '')
    return {
      name,
      cron: parse(name, cron ?? '', timezone ?? ''),
      type: type ?? '',
      payload: payload ?? '',
      missed: missed ?? '',
      doneTo: Number(doneTo),
      now: Number(now),
    }
  }

  #lent<T>(work: (client: PoolClient) => Promise<T>): Promise<T> {
    const { pool, connectTimeoutMs } = this.#settled()
    return onBorrowed(pool, connectTimeoutMs ?? 5000, 'the schedules', work)
  }

  #settled(): ScheduleContext & { readonly names: OutboxNames; readonly log: Logger } {
    if (this.#context === undefined) throw new Error('the schedules have not been started')
    return this.#context
  }
}

/** The next times of a schedule, so many of them. @throws ConfigError `OUTBOX_SCHEDULE_INVALID` */
export function nextRuns(schedule: Pick<Schedule, 'cron' | 'timezone'>, after: Date, count: number): Date[] {
  const cron = parse('', schedule.cron, schedule.timezone ?? 'UTC')
  return cron.nextRuns(count, after)
}

/** The times that fire now, and up to when all are settled then. */
function due({ cron, missed, doneTo, now }: Planned): { readonly runs: readonly Date[]; readonly doneTo: number } {
  const edge = Math.max(doneTo, now - GRACE_MS)
  const runs: Date[] = []
  if (missed === 'all') {
    for (const run of between(cron, doneTo, now)) {
      runs.push(run)
      if (runs.length === MAX_RUNS) return { runs, doneTo: run.getTime() }
    }
    return { runs, doneTo: now }
  }
  if (missed === 'once' && edge > doneTo) {
    // Whole seconds, and the reference itself does not count.
    const [last] = cron.previousRuns(1, new Date(edge + 1000))
    if (last !== undefined && last.getTime() > doneTo) runs.push(last)
  }
  for (const run of between(cron, edge, now)) runs.push(run)
  return { runs, doneTo: now }
}

function* between(cron: Cron, from: number, to: number): Generator<Date> {
  for (let run = cron.nextRun(new Date(from)); run !== null && run.getTime() <= to; run = cron.nextRun(run)) yield run
}

function parse(name: string, cron: string, timezone: string): Cron {
  try {
    const parsed = new Cron(cron, { timezone, mode: '5-or-6-parts' })
    // The name of the time zone is looked at when it is used.
    if (parsed.nextRun() === null) throw new Error('it never comes')
    return parsed
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error)
    throw new ConfigError(`the schedule ${name} is not valid: ${message}`, { code: 'OUTBOX_SCHEDULE_INVALID', cause: error })
  }
}
