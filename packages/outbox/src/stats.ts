import type { LogProgress } from './log-progress.ts'
import { type OutboxNames, quoteLiteral } from './names.ts'

/** The outbox at one moment, as one statement saw it. */
export interface OutboxStats extends Watched {
  /** By the clock of the database. */
  readonly at: Date
  readonly types: readonly TypeStats[]
  readonly workers: readonly WorkerStats[]
  /** How far the consumers of the log are. */
  readonly consumers: readonly LogProgress[]
}

/** Events of one type. Each event that is in the outbox counts in one of `ready`, `delayed`, `claimed`, `suspect`. */
export interface TypeStats {
  readonly type: string
  /** May be claimed now, as far as its key lets it. */
  readonly ready: number
  /** Waits for its time: `availableAt`, or the next attempt. */
  readonly delayed: number
  /** A worker has begun it, or may begin it at any moment. */
  readonly claimed: number
  /** Was being worked on when a worker died: runs alone. */
  readonly suspect: number
  /** Of them all: failed at least once. */
  readonly retrying: number
  /** Keys whose first event bars others. See `OutboxAdmin.blockedKeys`. */
  readonly blockedKeys: number
  readonly deadLetters: number
  readonly paused: boolean
  /** Live workers that have a handler for the type. 0: its events are parked until there is one. */
  readonly workers: number
  /** Milliseconds since the oldest event was enqueued that is due or was tried; undefined where there is none. */
  readonly oldestMs: number | undefined
}

export interface WorkerStats {
  readonly id: bigint
  readonly name: string
  readonly presence: 'session' | 'heartbeat'
  /** False: it is dead, and a peer buries it within moments. */
  readonly alive: boolean
  readonly idle: boolean
  readonly startedAt: Date
  readonly types: readonly string[]
  /** Claims that it holds, and the events in them. */
  readonly claims: number
  readonly claimed: number
}

/** What PostgreSQL counts of the table of events, since its statistics were last reset. */
export interface TableStats {
  readonly inserted: number
  readonly deleted: number
  readonly liveTuples: number
  /** Not yet vacuumed. */
  readonly deadTuples: number
}

/** What keeps rows that are gone from being vacuumed: the oldest of its kind. */
export interface Horizon {
  readonly holder: 'session' | 'replication slot' | 'prepared transaction'
  /** Application, slot or transaction. */
  readonly name: string
  readonly pid: number | undefined
  readonly user: string | undefined
  /** `idle in transaction`, `active`. Undefined where the caller may not see it (`pg_read_all_stats` may). */
  readonly state: string | undefined
  /** Transactions that were begun since. */
  readonly transactions: number
  /** Milliseconds since its transaction began, and since its last statement did. */
  readonly ageMs: number | undefined
  readonly statementMs: number | undefined
}

/** Workers with what tells that they live. */
const WORKERS = ({ schema: s, lockClass }: OutboxNames): string => `
  SELECT w.*, CASE w.presence WHEN 'heartbeat' THEN w.beat_at > clock_timestamp() - interval '15 seconds'
      ELSE EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
        AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
        AND l.classid = ${lockClass >>> 0}::oid AND l.objid = w.id::oid) END AS alive
    FROM ${s}.worker w`

const AGE = (time: string): string => `round(extract(epoch FROM clock_timestamp() - ${time}) * 1000)`

/** Only what holds back this database: sessions of others do not, but for those of standbys, which have none. */
const HORIZON = `
  SELECT * FROM (
    SELECT 'session' AS holder, coalesce(nullif(a.application_name, ''), a.backend_type, 'unknown') AS name, a.pid,
        a.usename::text AS "user", a.state, age(a.backend_xmin)::int8 AS transactions, ${AGE('a.xact_start')} AS "ageMs",
        ${AGE('a.query_start')} AS "statementMs"
      FROM pg_stat_activity a
      WHERE a.backend_xmin IS NOT NULL AND a.pid <> pg_backend_pid() AND (a.datname = current_database() OR a.datname IS NULL)
        AND coalesce(a.backend_type, '') NOT LIKE 'autovacuum%'
    UNION ALL
    SELECT 'replication slot', r.slot_name, r.active_pid, NULL, CASE WHEN r.active THEN 'active' ELSE 'inactive' END,
        age(r.xmin)::int8, NULL, NULL
      FROM pg_replication_slots r WHERE r.xmin IS NOT NULL
    UNION ALL
    SELECT 'prepared transaction', p.gid, NULL, p.owner::text, 'prepared', age(p.transaction)::int8, ${AGE('p.prepared')}, NULL
      FROM pg_prepared_xacts p WHERE p.database = current_database()
  ) held ORDER BY held.transactions DESC, held."ageMs" DESC NULLS LAST LIMIT 1`

const watched = ({ schema: s }: OutboxNames): string => `
    'table', (SELECT json_build_object('inserted', t.n_tup_ins, 'deleted', t.n_tup_del, 'liveTuples', t.n_live_tup, 'deadTuples', t.n_dead_tup)
      FROM pg_stat_all_tables t WHERE t.relid = ${quoteLiteral(`${s}.event`)}::regclass),
    'horizon', (SELECT row_to_json(h) FROM (${HORIZON}) h)`

/** Heads of keys that may not run, with events behind them. `because` says what bars the way. */
export const BLOCKED = ({ schema: s }: OutboxNames): string => `
  SELECT e.*, CASE WHEN e.suspect THEN 'suspect'
      WHEN e.available_at > clock_timestamp() THEN CASE WHEN e.attempts > 0 THEN 'retry' ELSE 'delayed' END
      WHEN EXISTS (SELECT FROM ${s}.paused p WHERE p.type = e.type) THEN 'paused' ELSE 'parked' END AS because
    FROM (
      SELECT e.lane, e.key, min(e.id) AS id FROM ${s}.event e
        WHERE e.lane IS NOT NULL AND (e.suspect OR e.available_at > clock_timestamp()
          OR e.type IN (SELECT p.type FROM ${s}.paused p) OR e.type NOT IN (SELECT unnest(k.types) FROM live k))
        GROUP BY e.lane, e.key
    ) h JOIN ${s}.event e ON e.id = h.id
    WHERE h.id NOT IN (SELECT c.id FROM claimed c)
      AND NOT EXISTS (SELECT FROM ${s}.event p WHERE p.lane = h.lane AND p.key = h.key AND p.id < h.id)
      AND EXISTS (SELECT FROM ${s}.event n WHERE n.lane = h.lane AND n.key = h.key AND n.id > h.id)`

/** What statements of this kind begin with. */
export const WITH = (names: OutboxNames): string => `
  WITH worker AS (${WORKERS(names)}), live AS (SELECT * FROM worker WHERE alive),
  claimed AS (SELECT DISTINCT unnest(c.ids) AS id FROM ${names.schema}.claim c)`

/** Where an event stands. */
export const STATE = `CASE WHEN e.id IN (SELECT c.id FROM claimed c) THEN 'claimed' WHEN e.suspect THEN 'suspect'
  WHEN e.available_at > clock_timestamp() THEN 'delayed' ELSE 'ready' END`

export const statsText = (names: OutboxNames): string => {
  const { schema: s } = names
  return `${WITH(names)},
  blocked AS (SELECT b.type, count(*) AS n FROM (${BLOCKED(names)}) b GROUP BY b.type),
  counted AS (
    SELECT e.type, count(*) FILTER (WHERE e.state = 'ready') AS ready, count(*) FILTER (WHERE e.state = 'delayed') AS delayed,
        count(*) FILTER (WHERE e.state = 'claimed') AS claimed, count(*) FILTER (WHERE e.state = 'suspect') AS suspect,
        count(*) FILTER (WHERE e.attempts > 0) AS retrying,
        min(e.created_at) FILTER (WHERE e.state <> 'delayed' OR e.attempts > 0) AS oldest
      FROM (SELECT e.type, e.attempts, e.created_at, ${STATE} AS state FROM ${s}.event e) e GROUP BY e.type),
  dead AS (SELECT d.type, count(*) AS n FROM ${s}.dead_letter d GROUP BY d.type),
  known AS (SELECT t.type, count(*) AS n FROM live w, unnest(w.types) t (type) GROUP BY t.type),
  type AS (SELECT c.type FROM counted c UNION SELECT d.type FROM dead d UNION SELECT p.type FROM ${s}.paused p UNION SELECT k.type FROM known k)
  SELECT json_build_object(
    'at', round(extract(epoch FROM clock_timestamp()) * 1000),
    'types', (SELECT coalesce(json_agg(json_build_object(
        'type', t.type, 'ready', coalesce(c.ready, 0), 'delayed', coalesce(c.delayed, 0), 'claimed', coalesce(c.claimed, 0),
        'suspect', coalesce(c.suspect, 0), 'retrying', coalesce(c.retrying, 0), 'blockedKeys', coalesce(b.n, 0),
        'deadLetters', coalesce(d.n, 0), 'paused', EXISTS (SELECT FROM ${s}.paused p WHERE p.type = t.type),
        'workers', coalesce(k.n, 0), 'oldestMs', ${AGE('c.oldest')}) ORDER BY t.type), '[]')
      FROM type t LEFT JOIN counted c USING (type) LEFT JOIN dead d USING (type) LEFT JOIN known k USING (type)
        LEFT JOIN blocked b USING (type)),
    'workers', (SELECT coalesce(json_agg(json_build_object(
        'id', w.id::text, 'name', w.name, 'presence', w.presence, 'alive', w.alive, 'idle', w.idle,
        'startedAt', round(extract(epoch FROM w.started_at) * 1000), 'types', w.types,
        'claims', (SELECT count(*) FROM ${s}.claim c WHERE c.worker_id = w.id),
        'claimed', (SELECT count(*) FROM ${s}.event e WHERE e.id IN (SELECT unnest(c.ids) FROM ${s}.claim c WHERE c.worker_id = w.id))
      ) ORDER BY w.id), '[]') FROM worker w),
    ${watched(names)})::text`
}

/** How the table of events is kept small. */
export interface Watched {
  readonly table: TableStats
  /** What holds back vacuum most; undefined where nothing does. */
  readonly horizon: Horizon | undefined
}

export const watchText = (names: OutboxNames): string => `SELECT json_build_object(${watched(names)})::text`

export function readWatched(text: string): Watched {
  return asWatched(JSON.parse(text) as WireWatched)
}

interface WireWatched {
  readonly table: TableStats | null
  readonly horizon: { readonly [K in keyof Horizon]: Horizon[K] | null } | null
}

interface Wire extends WireWatched {
  readonly at: number
  readonly types: readonly (Omit<TypeStats, 'oldestMs'> & { readonly oldestMs: number | null })[]
  readonly workers: readonly (Omit<WorkerStats, 'id' | 'startedAt'> & { readonly id: string; readonly startedAt: number })[]
}

export function readStats(text: string, consumers: readonly LogProgress[]): OutboxStats {
  const wire = JSON.parse(text) as Wire
  return {
    at: new Date(wire.at),
    types: wire.types.map((type) => ({ ...type, oldestMs: type.oldestMs ?? undefined })),
    workers: wire.workers.map((worker) => ({ ...worker, id: BigInt(worker.id), startedAt: new Date(worker.startedAt) })),
    consumers,
    ...asWatched(wire),
  }
}

function asWatched({ table, horizon }: WireWatched): Watched {
  return {
    table: table ?? { inserted: 0, deleted: 0, liveTuples: 0, deadTuples: 0 },
    horizon:
      horizon === null
        ? undefined
        : {
            holder: horizon.holder ?? 'session',
            name: horizon.name ?? '',
            transactions: horizon.transactions ?? 0,
            pid: horizon.pid ?? undefined,
            user: horizon.user ?? undefined,
            state: horizon.state ?? undefined,
            ageMs: horizon.ageMs ?? undefined,
            statementMs: horizon.statementMs ?? undefined,
          },
  }
}
