import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import type { DatabaseContext, Effect, Handlers } from '../src/index.ts'
import { OutboxWorker } from '../src/index.ts'
import { steps } from '../src/steps.ts'

/** What a worker process is to do. It ends when nothing is left to do. */
export interface WorkerJob {
  readonly connection: pg.PoolConfig
  readonly schema?: string
  readonly effect: Effect
  readonly batchSize?: number
  readonly maxCrashes?: number
  readonly txConnections?: number
  /** It kills itself when it passes this step for the so-manieth time. */
  readonly killAt?: { readonly step: string; readonly passing: number }
}

const job = JSON.parse(await text(process.stdin)) as WorkerJob
const { connection, schema = 'outbox', effect, killAt, ...settings } = job
const pool = new pg.Pool({ ...connection, max: 20 })
pool.on('error', () => undefined)
const effects = `"${schema}".effect`

let passed = 0
function pass(step: string): void {
  if (step !== killAt?.step) return
  passed += 1
  if (passed === killAt.passing) process.kill(process.pid, 'SIGKILL')
}
steps.onStep = pass

const handlers: Handlers = {
  /** Writes a row. */
  write: {
    effect,
    needsDb: true,
    handler: async (_: unknown, { event, getRepository }: DatabaseContext) => {
      await using repository = await getRepository()
      pass('before write')
      await repository.query(`INSERT INTO ${effects} (event, attempt) VALUES ($1, $2)`, [String(event.id), event.attempt])
      pass('after write')
    },
  },
  /** Kills its process. */
  killer: {
    effect,
    handler: () => {
      process.kill(process.pid, 'SIGKILL')
      return new Promise<void>(() => undefined)
    },
  },
  /** Says that it runs, and does not end. */
  hang: {
    effect,
    handler: () => {
      process.stdout.write('it hangs\n')
      return new Promise<void>(() => undefined)
    },
  },
}
const worker = new OutboxWorker({ pool, handlers, schema, connectTimeoutMs: 30_000, ...settings })
// The server may be away: whoever started this process starts it again.
await worker.start().catch(() => process.exit(3))
for (;;) {
  const left = await pool.query(`SELECT FROM "${schema}".event LIMIT 1`).catch(() => undefined)
  if (left?.rowCount === 0) break
  await sleep(50)
}
await worker.stop()
await pool.end()
