import { setTimeout as sleep } from 'node:timers/promises'
import { type CommandContext, formatCount, formatTable } from '@common-handlers/cli'
import { ConfigError } from '@common-handlers/core'
import { type Effect, migrate, Outbox, OutboxWorker } from '@common-handlers/outbox'
import type { OutboxCliConfig } from './config.ts'
import { openPool, type Pool } from './database.ts'

const BATCH = 1000

interface Measured {
  readonly step: string
  readonly events: number
  readonly perSecond: number
  /** Of this process. */
  readonly cpuMicroseconds: number
  /** Of the whole server: true where nobody else writes. */
  readonly walBytes: number
}

/** Enqueues and drains events that do nothing, in a schema of its own. */
export async function bench(context: CommandContext<OutboxCliConfig>): Promise<void> {
  const { config, options, logger, signal, print } = context
  const events = Number(options['events'] ?? 20_000)
  if (!Number.isInteger(events) || events < 1 || events > 10_000_000)
    throw new ConfigError('--events: expected 1 to 10000000', { code: 'CLI_USAGE' })
  const pool = openPool(config, options['url'], logger)
  const schema = `outbox_bench_${process.pid}`
  const progress = context.progress('bench')
  try {
    await migrate(pool, { schema })
    const measured: Measured[] = []
    for (const effect of ['tx', 'lease'] as const) {
      progress.update({ detail: effect })
      measured.push(await measure(pool, `enqueue, ${BATCH} at a time`, events, () => enqueue(pool, schema, events, signal)))
      measured.push(await measure(pool, `drain, ${effect}`, events, () => drain(pool, schema, effect, signal)))
    }
    const rows = measured.map((one) => [
      one.step,
      `${formatCount(one.perSecond)}/s`,
      `${one.cpuMicroseconds.toFixed(1)} µs`,
      `${Math.round(one.walBytes)} B`,
    ])
    print({
      text: formatTable([[`${formatCount(events)} events`, 'rate', 'CPU of this process', 'WAL of the server'], ...rows]),
      json: measured,
    })
  } finally {
    progress.end()
    await pool
      .query(`DROP SCHEMA IF EXISTS ${schema} CASCADE`)
      .catch((error: unknown) => logger.warn({ error }, `the schema ${schema} is still there: drop it`))
    await pool.end()
  }
}

async function measure(pool: Pool, step: string, events: number, work: () => Promise<void>): Promise<Measured> {
  const wal = async (): Promise<number> =>
    Number(
      (await pool.query<{ bytes: string }>(`SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0') AS bytes`)).rows[0]?.bytes,
    )
  const bytes = await wal()
  const cpu = process.cpuUsage()
  const began = performance.now()
  await work()
  const seconds = (performance.now() - began) / 1000
  const { user, system } = process.cpuUsage(cpu)
  return {
    step,
    events,
    perSecond: Math.round(events / seconds),
    cpuMicroseconds: (user + system) / events,
    walBytes: ((await wal()) - bytes) / events,
  }
}

async function enqueue(pool: Pool, schema: string, events: number, signal: AbortSignal): Promise<void> {
  const outbox = new Outbox({ schema })
  const payload = { text: 'x'.repeat(180) }
  for (let n = 0; n < events; n += BATCH) {
    signal.throwIfAborted()
    await outbox.enqueueMany(
      pool,
      Array.from({ length: Math.min(BATCH, events - n) }, () => ({ type: 'bench', payload })),
    )
  }
}

async function drain(pool: Pool, schema: string, effect: Effect, signal: AbortSignal): Promise<void> {
  const handlers = { bench: { effect, handler: () => undefined } }
  await using worker = new OutboxWorker({ pool, schema, handlers, batchSize: 500, maxParallel: 100 })
  await worker.start()
  for (;;) {
    signal.throwIfAborted()
    const { rows } = await pool.query<{ empty: boolean }>(`SELECT NOT EXISTS (SELECT FROM ${schema}.event) AS empty`)
    if (rows[0]?.empty === true) return
    await sleep(20)
  }
}
