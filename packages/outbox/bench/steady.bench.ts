// Whether the rate holds while a snapshot is held and nothing can be vacuumed.
//   node --conditions=@common-handlers/source bench/steady.bench.ts [rounds]
import { createDatabase, startPostgres } from '@common-handlers/testkit'
import pg from 'pg'
import { type Effect, migrate, OutboxWorker } from '../src/index.ts'

const rounds = Number(process.argv[2] ?? 10)
const each = 10_000

await using server = await startPostgres({
  settings: { fsync: 'on', shared_buffers: '256MB', max_wal_size: '4GB', checkpoint_timeout: '1h' },
})

async function withOutbox(work: (pool: pg.Pool) => Promise<void>): Promise<void> {
  const database = await createDatabase(server, 'bench')
  const pool = new pg.Pool({ connectionString: database.url, max: 20 })
  // The database is dropped while connections of the pool are still being closed.
  pool.on('error', () => undefined)
  await migrate(pool)
  await work(pool)
  await pool.end()
  await database.drop()
}

for (const effect of ['tx', 'lease'] as const satisfies readonly Effect[]) {
  for (const snapshot of ['held', 'analyzed while empty'] as const) {
    await withOutbox(async (pool) => {
      const holder = await pool.connect()
      let seen = 0
      let emptied = Promise.withResolvers<void>()
      const handler = (): void => {
        if (++seen === each) emptied.resolve()
      }
      await using worker = new OutboxWorker({
        pool,
        batchSize: 500,
        maxParallel: 24,
        handlers: { many: { effect, handler } },
      })
      if (snapshot === 'held') {
        await holder.query('BEGIN ISOLATION LEVEL REPEATABLE READ')
        await holder.query('SELECT count(*) FROM outbox.event')
      }
      const fill = (): Promise<unknown> =>
        pool.query(
          `WITH filled AS (
             INSERT INTO outbox.event (type, payload)
               SELECT 'many', json_build_object('n', g, 'text', repeat('x', 180)) FROM generate_series(1, $1) g RETURNING id)
           SELECT outbox.wake() FROM (SELECT count(*) FROM filled) counted`,
          [each],
        )
      await worker.start()
      const rates: number[] = []
      for (let round = 0; round < rounds; round++) {
        if (snapshot !== 'held') await pool.query('VACUUM ANALYZE outbox.event')
        seen = 0
        emptied = Promise.withResolvers()
        await fill()
        const began = performance.now()
        await emptied.promise
        rates.push((each / (performance.now() - began)) * 1000)
      }
      if (snapshot === 'held') await holder.query('COMMIT')
      holder.release()
      const share = (rates.at(-1) ?? 0) / (rates[0] ?? 1)
      console.log(
        `${effect}, ${snapshot}: ${rates.map((rate) => Math.round(rate / 1000)).join(' ')} thousand/s; the last round ${share.toFixed(2)} times the first`,
      )
    })
  }
}
