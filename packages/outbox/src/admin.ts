import { ConfigError, ConflictError, NotFoundError } from '@common-handlers/core'
import { readProgress } from './log-progress.ts'
import { assertMigrated } from './migrate.ts'
import { LANES } from './migrations/001-outbox.ts'
import { type OutboxNames, outboxNames, quoteLiteral } from './names.ts'
import { type ConnectionPool, onBorrowed, type PoolClient, textRows } from './pool.ts'
import { BLOCKED, type OutboxStats, readStats, STATE, statsText, WITH } from './stats.ts'

export interface OutboxAdminOptions {
  readonly pool: ConnectionPool
  /** Default `outbox`. */
  readonly schema?: string | undefined
  /** Time of one statement. Default 30 000. */
  readonly timeoutMs?: number | undefined
}

/** `dead`: a dead letter. `done`: kept in the archive, where the policy keeps anything. */
export type EventState = 'ready' | 'delayed' | 'claimed' | 'suspect' | 'dead' | 'done'

/** An event without what it carries. */
export interface EventSummary {
  readonly id: bigint
  readonly type: string
  readonly state: EventState
  readonly key: string | undefined
  readonly priority: number
  /** Attempts that ended; of a done event the last one too. */
  readonly attempts: number
  readonly crashes: number
  readonly createdAt: Date
  readonly availableAt: Date | undefined
  readonly expiresAt: Date | undefined
  /** When it died or was done. */
  readonly endedAt: Date | undefined
  /** Why it is a dead letter: `attempts`, `verdict`, `invalid`, `expired`, `crash`. */
  readonly reason: string | undefined
  /** Of the last attempt. */
  readonly error: string | undefined
}

export interface EventDetails extends EventSummary {
  readonly payload: unknown
  readonly headers: Readonly<Record<string, string>>
}

export interface ListOptions {
  readonly type?: string | undefined
  /** Default: all but `done`. */
  readonly state?: EventState | undefined
  readonly key?: string | undefined
  /** Default 100, 1000 at most. */
  readonly limit?: number | undefined
  /** The id of the last one of the page before. */
  readonly after?: bigint | undefined
}

/** A key whose first event may not run and bars others. */
export interface BlockedKey {
  readonly key: string
  /** The event that bars the way. */
  readonly id: bigint
  readonly type: string
  /** `retry`: it failed and waits for its next attempt; `parked`: no live worker has a handler for its type. */
  readonly because: 'retry' | 'delayed' | 'suspect' | 'paused' | 'parked'
  readonly until: Date | undefined
  readonly attempts: number
  readonly error: string | undefined
  /** Events behind it. */
  readonly waiting: number
}

/** Which dead letters; what is given must hold together. `all: true` where nothing else is given. */
export interface DeadLetterChoice {
  readonly ids?: readonly bigint[] | undefined
  readonly type?: string | undefined
  readonly reason?: string | undefined
  /** Dead for longer than so many milliseconds. */
  readonly olderThanMs?: number | undefined
  readonly all?: true | undefined
}

export interface ChangeOptions {
  /** Says what would be done and does nothing. */
  readonly dryRun?: boolean | undefined
  readonly signal?: AbortSignal | undefined
}

export interface Changed {
  readonly count: number
  readonly types: Readonly<Record<string, number>>
}

export interface Redriven extends Changed {
  /** The first 100: the dead letter and, unless it is a dry run, the new event. */
  readonly first: readonly { readonly from: bigint; readonly to: bigint | undefined }[]
}

/** What is kept for how long. */
export interface OutboxPolicy {
  /** Days for which done events are kept; undefined: they are deleted when they are done. */
  readonly archiveDays: number | undefined
  /** Days for which dead letters are kept; undefined: until they are redriven or purged. */
  readonly deadLetterDays: number | undefined
}

const BATCH = 1000
const FIRST = 100
const MAX_LIMIT = 1000

/** Looks into an outbox and puts things right. Needs no worker; each call takes a connection of the pool for its time. */
export class OutboxAdmin {
  readonly #pool: ConnectionPool
  readonly #names: OutboxNames
  readonly #timeoutMs: number
  #checked = false

  /** @throws ConfigError `OUTBOX_CONFIG_INVALID` */
  constructor(options: OutboxAdminOptions) {
    this.#pool = options.pool
    this.#names = outboxNames(options.schema ?? 'outbox')
    this.#timeoutMs = options.timeoutMs ?? 30_000
  }

  /** Reads the whole table of events: about half a second for a million. */
  async stats(): Promise<OutboxStats> {
    return this.#transaction(async (client) => {
      const [[text] = []] = await textRows(client, statsText(this.#names))
      return readStats(text ?? '', await readProgress(client, this.#names.schema))
    })
  }

  /** Events and dead letters in the order of their ids, payloads left out. */
  async list(options: ListOptions = {}): Promise<EventSummary[]> {
    const { type, state, key, after = 0n, limit = 100 } = options
    const count = Number.isFinite(limit) ? Math.min(Math.max(1, Math.trunc(limit)), MAX_LIMIT) : 100
    const rows = await this.#rows(
      `${WITH(this.#names)} SELECT ${SUMMARY} FROM (${sources(this.#names, state)
        .map(
          (source) => `(SELECT * FROM (${source}) s WHERE s.id > $1 AND ($2::text IS NULL OR s.type = $2)
            AND ($3::text IS NULL OR s.state = $3)
            AND ($4::text IS NULL OR s.key = $4 AND (s.lane IS NULL OR s.lane = (hashtextextended($4, 0) & ${LANES - 1})))
            ORDER BY s.id LIMIT $5)`,
        )
        .join(' UNION ALL ')}) s ORDER BY s.id LIMIT $5`,
      [after, type ?? null, state ?? null, key ?? null, count],
    )
    return rows.map(readSummary)
  }

  /** One event or dead letter, or one that is kept in the archive. @throws NotFoundError `OUTBOX_EVENT_NOT_FOUND` */
  async show(id: bigint): Promise<EventDetails> {
    const all = [...sources(this.#names, undefined), ...sources(this.#names, 'done')]
    const [row] = await this.#rows(
      `${WITH(this.#names)} SELECT ${SUMMARY}, payload::text, headers::text
        FROM (${all.map((source) => `SELECT * FROM (${source}) s WHERE s.id = $1`).join(' UNION ALL ')}) s LIMIT 1`,
      [id],
    )
    if (row === undefined) throw notFound(id)
    return readDetails(row)
  }

  /** The first 1000 keys that wait for an event that may not run, those with most behind them first. */
  async blockedKeys(): Promise<BlockedKey[]> {
    const { schema } = this.#names
    const rows = await this.#rows(
      `${WITH(this.#names)} SELECT b.key, b.id, b.type, b.because, ${MS('b.available_at')}, b.attempts, b.last_error,
          (SELECT count(*) - 1 FROM ${schema}.event n WHERE n.lane = b.lane AND n.key = b.key)
        FROM (${BLOCKED(this.#names)}) b ORDER BY 8 DESC, b.id LIMIT ${MAX_LIMIT}`,
    )
    return rows.map(([key, id, type, because, until, attempts, error, waiting]) => ({
      key: key ?? '',
      id: BigInt(id ?? 0),
      type: type ?? '',
      because: because as BlockedKey['because'],
      until: date(until),
      attempts: Number(attempts),
      error: error ?? undefined,
      waiting: Number(waiting),
    }))
  }

  /**
   * Dead letters go back as new events, at the end of their keys, with all their attempts before them. In batches of 1000,
   * each a commit of its own; what dies again meanwhile is not taken twice.
   * @throws ConfigError `OUTBOX_NOTHING_CHOSEN`
   */
  async redrive(options: DeadLetterChoice & ChangeOptions): Promise<Redriven> {
    const { schema } = this.#names
    if (options.dryRun === true) {
      const [where, values] = choice(options)
      const first = await this.#rows(
        `SELECT d.id FROM ${schema}.dead_letter d WHERE ${where} ORDER BY d.id LIMIT ${FIRST}`,
        values,
      )
      return { ...(await this.#count(options)), first: first.map(([id]) => ({ from: BigInt(id ?? 0), to: undefined })) }
    }
    const first: { from: bigint; to: bigint }[] = []
    const changed = await this.#inBatches(
      options,
      (taken) => {
        return `WITH gone AS (DELETE FROM ${schema}.dead_letter WHERE id = ANY (array(${taken})) RETURNING *),
        renewed AS (
          SELECT nextval(pg_get_serial_sequence(${quoteLiteral(`${schema}.event`)}, 'id')) AS new_id, g.*
            FROM (SELECT * FROM gone ORDER BY id) g),
        put AS (
          INSERT INTO ${schema}.event (id, type, payload, headers, key, priority, last_error)
            OVERRIDING SYSTEM VALUE SELECT new_id, type, payload, headers, key, priority, error FROM renewed)
        SELECT id, type, new_id FROM renewed ORDER BY id`
      },
      (from, to) => {
        if (first.length < FIRST) first.push({ from, to })
      },
    )
    if (changed.count > 0) await this.#rows(`SELECT ${schema}.wake()`)
    return { ...changed, first }
  }

  /** Dead letters are deleted, in batches of 1000. @throws ConfigError `OUTBOX_NOTHING_CHOSEN` */
  async purge(options: DeadLetterChoice & ChangeOptions): Promise<Changed> {
    if (options.dryRun === true) return this.#count(options)
    const { schema } = this.#names
    return this.#inBatches(
      options,
      (taken) => `WITH gone AS (DELETE FROM ${schema}.dead_letter WHERE id = ANY (array(${taken})) RETURNING id, type)
        SELECT id, type, NULL FROM gone ORDER BY id`,
    )
  }

  /** Its events wait; what a worker has begun goes on. Gives false where it was paused already. */
  async pause(type: string): Promise<boolean> {
    if (type === '') throw new ConfigError('a type is not empty', { code: 'OUTBOX_CONFIG_INVALID' })
    const rows = await this.#rows(
      `INSERT INTO ${this.#names.schema}.paused (type) VALUES ($1) ON CONFLICT DO NOTHING RETURNING type`,
      [type],
    )
    return rows.length > 0
  }

  /** Gives false where it was not paused. */
  async resume(type: string): Promise<boolean> {
    const { schema } = this.#names
    const rows = await this.#rows(
      `WITH gone AS (DELETE FROM ${schema}.paused WHERE type = $1 RETURNING type) SELECT type, ${schema}.wake()::text FROM gone`,
      [type],
    )
    return rows.length > 0
  }

  /**
   * Deletes an event that waits, and gives what it was. Its dedup key stays taken.
   * @throws NotFoundError `OUTBOX_EVENT_NOT_FOUND` @throws ConflictError `OUTBOX_EVENT_CLAIMED`
   */
  async cancel(id: bigint): Promise<EventDetails> {
    const { schema } = this.#names
    return this.#transaction(async (client) => {
      const locked = await textRows(client, `SELECT id FROM ${schema}.event WHERE id = $1 FOR UPDATE SKIP LOCKED`, [id])
      // Behind the lock: a claim that was committed since is visible now.
      const claimed = await textRows(client, `SELECT id FROM ${schema}.claim WHERE $1 = ANY (ids)`, [id])
      const found = await textRows(
        client,
        `${WITH(this.#names)} SELECT ${SUMMARY}, s.payload::text, s.headers::text FROM (${sources(this.#names, 'ready').join('')}) s WHERE s.id = $1`,
        [id],
      )
      const [row] = found
      if (row === undefined) throw notFound(id)
      if (locked.length === 0 || claimed.length > 0)
        throw new ConflictError(`the event ${id} cannot be cancelled: a worker has begun it`, {
          code: 'OUTBOX_EVENT_CLAIMED',
          retry: 'safe',
          context: { id: String(id) },
        })
      await textRows(client, `DELETE FROM ${schema}.event WHERE id = $1`, [id])
      await client.query(`SELECT ${schema}.wake()`)
      return readDetails(row)
    })
  }

  async policy(): Promise<OutboxPolicy> {
    const [[archive, archiveDays, deadLetterDays] = []] = await this.#rows(
      `SELECT archive, archive_days, dead_letter_days FROM ${this.#names.schema}.policy`,
    )
    return {
      archiveDays: archive === 't' ? Number(archiveDays) : undefined,
      deadLetterDays: deadLetterDays === null || deadLetterDays === undefined ? undefined : Number(deadLetterDays),
    }
  }

  /** For all workers of this outbox, from their next commit on. What was kept stays until its days are over. */
  async setPolicy({ archiveDays, deadLetterDays }: OutboxPolicy): Promise<void> {
    for (const days of [archiveDays, deadLetterDays])
      if (days !== undefined && !(Number.isInteger(days) && days >= 1 && days <= 3650))
        throw new ConfigError(`things are kept for 1 to 3650 days, not ${days}`, { code: 'OUTBOX_CONFIG_INVALID' })
    const { schema } = this.#names
    await this.#transaction(async (client) => {
      await textRows(
        client,
        `UPDATE ${schema}.policy SET archive = $1, archive_days = coalesce($2, archive_days), dead_letter_days = $3`,
        [archiveDays !== undefined, archiveDays ?? null, deadLetterDays ?? null],
      )
      await client.query(`SELECT ${schema}.tend_archive()`)
    })
  }

  async #count(options: DeadLetterChoice): Promise<Changed> {
    const [where, values] = choice(options)
    const rows = await this.#rows(
      `SELECT d.type, count(*) FROM ${this.#names.schema}.dead_letter d WHERE ${where} GROUP BY d.type ORDER BY d.type`,
      values,
    )
    const types = Object.fromEntries(rows.map(([type, count]) => [type ?? '', Number(count)]))
    return { count: Object.values(types).reduce((sum, count) => sum + count, 0), types }
  }

  /** Goes through what is chosen now, by id, so that it ends whatever comes meanwhile. */
  async #inBatches(
    options: DeadLetterChoice & ChangeOptions,
    statement: (taken: string) => string,
    each: (from: bigint, to: bigint) => void = () => undefined,
  ): Promise<Changed> {
    const { schema } = this.#names
    const [where, values] = choice(options)
    const types: Record<string, number> = {}
    let count = 0
    const [[last] = []] = await this.#rows(`SELECT coalesce(max(id), 0) FROM ${schema}.dead_letter`)
    let after = '0'
    for (;;) {
      options.signal?.throwIfAborted()
      const place = values.length
      const taken = `SELECT d.id FROM ${schema}.dead_letter d WHERE ${where} AND d.id > $${place + 1} AND d.id <= $${place + 2}
        ORDER BY d.id LIMIT ${BATCH} FOR UPDATE SKIP LOCKED`
      const rows = await this.#rows(statement(taken), [...values, after, last])
      for (const [from, type, to] of rows) {
        types[type ?? ''] = (types[type ?? ''] ?? 0) + 1
        after = from ?? after
        if (to !== null) each(BigInt(from ?? 0), BigInt(to ?? 0))
      }
      count += rows.length
      if (rows.length < BATCH) break
    }
    return { count, types }
  }

  #rows(text: string, values: unknown[] = []): Promise<(string | null)[][]> {
    return this.#transaction((client) => textRows(client, text, values))
  }

  #transaction<T>(work: (client: PoolClient) => Promise<T>): Promise<T> {
    return onBorrowed(this.#pool, this.#timeoutMs, 'the administration of the outbox', async (client) => {
      if (!this.#checked) await assertMigrated(client, this.#names)
      this.#checked = true
      // Only for this transaction: behind a pooler the session is another's next.
      await client.query(`BEGIN; SET LOCAL statement_timeout = ${Math.trunc(this.#timeoutMs)}`)
      const value = await work(client)
      await client.query('COMMIT')
      return value
    })
  }
}

const MS = (time: string): string => `(extract(epoch FROM ${time}) * 1000)::text`

const SUMMARY = `s.id, s.type, s.state, s.key, s.priority, s.attempts, s.crashes, ${MS('s.created_at')}, ${MS('s.available_at')},
  ${MS('s.expires_at')}, ${MS('s.ended_at')}, s.reason, s.error`

/** Where events in this state are, in columns that all have. */
function sources({ schema: s }: OutboxNames, state: EventState | undefined): string[] {
  const events = `SELECT e.id, e.type, ${STATE} AS state, e.key, e.lane, e.priority, e.attempts, e.crashes, e.created_at,
    e.available_at, e.expires_at, NULL::timestamptz AS ended_at, NULL AS reason, e.last_error AS error, e.payload, e.headers
    FROM ${s}.event e`
  const dead = `SELECT d.id, d.type, 'dead' AS state, d.key, NULL::smallint AS lane, d.priority, d.attempts, d.crashes, d.created_at,
    NULL::timestamptz AS available_at, NULL::timestamptz AS expires_at, d.died_at AS ended_at, d.reason, d.error, d.payload, d.headers
    FROM ${s}.dead_letter d`
  const done = `SELECT a.id, a.type, 'done' AS state, a.key, NULL::smallint AS lane, a.priority, a.attempts, 0::smallint AS crashes,
    a.created_at, NULL::timestamptz AS available_at, NULL::timestamptz AS expires_at, a.done_at AS ended_at, NULL AS reason,
    NULL AS error, a.payload, a.headers FROM ${s}.archive a`
  if (state === undefined) return [events, dead]
  return state === 'dead' ? [dead] : state === 'done' ? [done] : [events]
}

function readSummary(row: readonly (string | null)[]): EventSummary {
  const [id, type, state, key, priority, attempts, crashes, createdAt, availableAt, expiresAt, endedAt, reason, error] = row
  return {
    id: BigInt(id ?? 0),
    type: type ?? '',
    state: state as EventState,
    key: key ?? undefined,
    priority: Number(priority),
    attempts: Number(attempts),
    crashes: Number(crashes),
    createdAt: new Date(Number(createdAt)),
    availableAt: date(availableAt),
    expiresAt: date(expiresAt),
    endedAt: date(endedAt),
    reason: reason ?? undefined,
    error: error ?? undefined,
  }
}

/** A summary with payload and headers behind it. */
function readDetails(row: readonly (string | null)[]): EventDetails {
  const [payload, headers] = row.slice(-2)
  return {
    ...readSummary(row),
    payload: JSON.parse(payload ?? 'null') as unknown,
    headers: (JSON.parse(headers ?? 'null') as Record<string, string> | null) ?? {},
  }
}

function date(ms: string | null | undefined): Date | undefined {
  return ms === null || ms === undefined ? undefined : new Date(Number(ms))
}

/** A condition on `dead_letter d`, with its values. */
function choice({ ids, type, reason, olderThanMs, all }: DeadLetterChoice): [string, unknown[]] {
  const values: unknown[] = []
  const conditions: string[] = []
  const add = (condition: (place: string) => string, value: unknown): void => {
    if (value === undefined) return
    values.push(value)
    conditions.push(condition(`$${values.length}`))
  }
  add((place) => `d.id = ANY (${place}::bigint[])`, ids)
  add((place) => `d.type = ${place}`, type)
  add((place) => `d.reason = ${place}`, reason)
  add((place) => `d.died_at < clock_timestamp() - ${place}::float8 * interval '1 ms'`, olderThanMs)
  if (conditions.length === 0) {
    if (all !== true)
      throw new ConfigError('which dead letters? Choose by ids, type, reason or age, or say all: true', {
        code: 'OUTBOX_NOTHING_CHOSEN',
      })
    conditions.push('true')
  }
  return [conditions.join(' AND '), values]
}

function notFound(id: bigint): NotFoundError {
  return new NotFoundError(`there is no event ${id}`, { code: 'OUTBOX_EVENT_NOT_FOUND', context: { id: String(id) } })
}
