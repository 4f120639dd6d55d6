import { createDatabase, type PostgresAddress } from '@common-handlers/testkit'
import pg from 'pg'
import { afterAll, afterEach, beforeAll } from 'vitest'
import { migrate, OutboxWorker, type OutboxWorkerOptions } from '../src/index.ts'

/** A database with an outbox of this file's own, for the tests of one suite. */
export interface OwnOutbox {
  readonly pool: pg.Pool
  readonly address: PostgresAddress
  /** A worker that is stopped at the end of the test. It is not started. */
  worker(options: Omit<OutboxWorkerOptions, 'pool'> & { readonly pool?: OutboxWorkerOptions['pool'] }): OutboxWorker
  /** A connection of the pool that is given back at the end of the test, whatever became of its transaction. */
  connect(): Promise<pg.PoolClient>
  /** One value of one row. */
  one<T = unknown>(text: string, values?: unknown[]): Promise<T>
  /** Enqueues plain events, in one statement. */
  put(type: string, payloads: readonly unknown[], more?: { readonly key?: (index: number) => string }): Promise<void>
}

export function ownOutbox(server: PostgresAddress, max = 30): OwnOutbox {
  let database: Awaited<ReturnType<typeof createDatabase>> | undefined
  let pool: pg.Pool | undefined
  const workers: OutboxWorker[] = []
  const taken = new Map<pg.PoolClient, pg.PoolClient['release']>()
  const ready = <T>(value: T | undefined): T => {
    if (value === undefined) throw new Error('asked for before beforeAll')
    return value
  }
  beforeAll(async () => {
    database = await createDatabase(server, 'outbox')
    const { host, port, user, password, database: name } = database
    pool = new pg.Pool({ host, port, user, password, database: name, max })
    pool.on('error', () => undefined)
    await migrate(pool)
  })
  afterEach(async () => {
    // A test that failed left its transaction open: its locks would hold up all that come after it.
    for (const release of taken.values()) release(true)
    taken.clear()
    await Promise.all(workers.splice(0).map((worker) => worker.stop({ graceMs: 0 })))
    await pool?.query(
      ['event', 'claim', 'worker', 'dead_letter', 'paused'].map((table) => `DELETE FROM outbox.${table}`).join(';'),
    )
  })
  afterAll(async () => {
    // A test that failed may have kept a connection, for which this would wait without end.
    await Promise.race([pool?.end(), new Promise((resolve) => setTimeout(resolve, 5000).unref())])
    await database?.drop()
  })
  return {
    async connect() {
      const client = await ready(pool).connect()
      const release = client.release.bind(client)
      // Its server process may be ended by the test, or with the database.
      client.on('error', () => undefined)
      taken.set(client, release)
      client.release = (error) => {
        taken.delete(client)
        release(error)
      }
      return client
    },
    get pool() {
      return ready(pool)
    },
    get address() {
      return ready(database)
    },
    worker(options) {
      const worker = new OutboxWorker({ pool: ready(pool), ...options })
      workers.push(worker)
      return worker
    },
    async one<T>(text: string, values: unknown[] = []) {
      const { rows } = await ready(pool).query<unknown[]>({ text, values, rowMode: 'array' })
      return rows[0]?.[0] as T
    },
    async put(type, payloads, more) {
      await ready(pool).query(
        `INSERT INTO outbox.event (type, payload, key) SELECT $1, p, k FROM unnest($2::json[], $3::text[]) WITH ORDINALITY u (p, k, n) ORDER BY n`,
        [type, payloads.map((payload) => JSON.stringify(payload)), payloads.map((_, index) => more?.key?.(index) ?? null)],
      )
    },
  }
}

/** How many sessions of the database wait for a lock. */
export const WAITING =
  "SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

/** Waits for a condition that the database tells, 20 seconds at most. */
export async function until(condition: () => boolean | Promise<boolean>, timeoutMs = 20_000): Promise<void> {
  const end = performance.now() + timeoutMs
  while (!(await condition())) {
    if (performance.now() > end) throw new Error('it did not come true')
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}
