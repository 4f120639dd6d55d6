import { setTimeout as sleep } from 'node:timers/promises'
import { describeWith, type PostgresServer, startPostgres } from '@common-handlers/testkit'
import pg from 'pg'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { type Effect, migrate } from '../src/index.ts'
import { proofSize } from './proof-size.ts'
import { startWorkerProcess, type WorkerProcess } from './worker-process.ts'

const EVENTS = 4000 * proofSize
const PROCESSES = 3
const KILLS = Math.min(2 + proofSize, 12)

describeWith(['postgres'], 'worker processes that are killed, on a server that crashes', () => {
  let server: PostgresServer
  let pool: pg.Pool
  beforeAll(async () => {
    server = await startPostgres({ settings: { fsync: 'on' } })
    const { host, port, user, password, database } = server
    pool = new pg.Pool({ host, port, user, password, database, max: 5 })
    pool.on('error', () => undefined)
  })
  afterAll(async () => {
    await pool.end()
    await server.stop()
  })

  /** One value; asks again while the server is away. */
  async function ask(text: string): Promise<number> {
    for (;;) {
      const answer = await pool.query<{ n: string }>(text).catch(() => undefined)
      if (answer !== undefined) return Number(answer.rows[0]?.n)
      await sleep(100)
    }
  }

  const cases: readonly (readonly [Effect, string])[] = [
    ['tx', ''],
    ['tx', 'UNIQUE'],
    ['lease', ''],
  ]
  it.for(cases)(
    'do all of %s, and in transactions nothing twice %s',
    { timeout: 60_000 + EVENTS * 5 },
    async ([effect, unique], test) => {
      const schema = `storm ${effect} ${unique}`
      await migrate(pool, { schema })
      await pool.query(
        `CREATE TABLE "${schema}".effect (n bigint GENERATED ALWAYS AS IDENTITY, event text ${unique}, attempt int)`,
      )
      let total = 0
      const enqueue = async (): Promise<void> => {
        await pool.query(
          `INSERT INTO "${schema}".event (type, payload, key)
             SELECT 'write', to_json(n), CASE WHEN n % 4 = 0 THEN 'key ' || n % 100 END FROM generate_series($1::int, $2::int) n`,
          [total + 1, total + EVENTS],
        )
        total += EVENTS
      }
      await enqueue()
      const began = performance.now()
      const left = (): Promise<number> => ask(`SELECT count(*) AS n FROM "${schema}".event`)
      const over = new AbortController()
      const processes: WorkerProcess[] = []
      /** Starts it again whenever it has ended. */
      const keepUp = async (place: number): Promise<void> => {
        while (!over.signal.aborted) {
          const process = startWorkerProcess(server, { schema, effect })
          processes[place] = process
          await process.ended
        }
      }
      const kept = Array.from({ length: PROCESSES }, (_, place) => keepUp(place))
      let kills = 0
      let restarted = false
      try {
        for (;;) {
          const rest = await left()
          const calm = kills === KILLS && restarted
          if (rest === 0 && calm) break
          // There is work as long as there is something to disturb.
          if (!calm && rest < EVENTS / 2) await enqueue()
          if (rest < total && kills < KILLS) {
            processes[kills % PROCESSES]?.kill()
            kills += 1
          } else if (rest < total && !restarted) {
            restarted = true
            await server.restart()
          }
          await sleep(calm ? 50 : (proofSize * 200) / KILLS)
        }
      } finally {
        over.abort()
        for (const process of processes) process.kill()
        await Promise.all(kept)
      }
      const seconds = (performance.now() - began) / 1000
      await test.annotate(`${total} events in ${seconds.toFixed(1)} s, through ${kills} kills and a crash of the server`)
      expect(await ask(`SELECT count(*) AS n FROM "${schema}".dead_letter`)).toBe(0)
      expect(await ask(`SELECT count(DISTINCT event) AS n FROM "${schema}".effect`)).toBe(total)
      // Under leases a handler's own statement may fail with the server, which is an attempt.
      if (effect === 'lease') return
      expect(await ask(`SELECT count(*) AS n FROM "${schema}".effect`)).toBe(total)
      expect(await ask(`SELECT max(attempt) AS n FROM "${schema}".effect`)).toBe(1)
    },
  )
})
