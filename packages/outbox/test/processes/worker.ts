import { Pool } from 'pg'
import { type DatabaseContext, OutboxWorker } from '../../src/index.ts'

// What a supervisor runs in the tests. An event says what becomes of the process that has it, the first time.

interface Work {
  readonly n: number
  readonly first?: 'hang' | 'die'
  readonly waitMs?: number
}

export function createWorker(): OutboxWorker {
  const { DATABASE: connectionString } = process.env
  if (connectionString === undefined) throw new Error('DATABASE is missing')
  const pool = new Pool({ connectionString, max: 6 })
  pool.on('error', () => undefined)
  const handler = async ({ n, first, waitMs }: Work, { getRepository }: DatabaseContext): Promise<void> => {
    await using repository = await getRepository()
    await repository.query('INSERT INTO effect (n, pid) VALUES ($1, $2)', [n, process.pid])
    if (waitMs !== undefined) await new Promise((resolve) => setTimeout(resolve, waitMs))
    if (first === undefined) return
    const { rowCount } = await pool.query('INSERT INTO seen VALUES ($1) ON CONFLICT DO NOTHING', [n])
    if (rowCount === 0) return
    if (first === 'die') process.kill(process.pid, 'SIGKILL')
    for (;;);
  }
  return new OutboxWorker({
    pool,
    batchSize: 5,
    pollInterval: 100,
    handlers: {
      work: { effect: 'tx', needsDb: true, handler },
      logged: { effect: 'log', consumer: 'c', needsDb: true, handler },
    },
  })
}
