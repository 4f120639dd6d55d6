import { setTimeout as sleep } from 'node:timers/promises'
import { OperationTimeoutError } from '@common-handlers/core'
import { outboxNames } from '../names.ts'
import { OutboxWorker, type OutboxWorkerOptions } from '../worker.ts'
import { ask } from './waiting-events.ts'

export interface RunOptions extends OutboxWorkerOptions {
  /** Default 30 000. */
  readonly timeoutMs?: number | undefined
}

/** How many attempts ended in which way. */
export interface RunResult {
  readonly done: number
  /** Attempts that failed, and whose events are due again later. */
  readonly retry: number
  readonly dead: number
  readonly discarded: number
  /** Events that still wait: they are not yet due, come after one that is not, are paused, or are of other types. */
  readonly waiting: number
}

/**
 * Runs a worker until nothing is left that it could do now, and stops it. What is retried later is left waiting: let time
 * pass with {@link advance}, and run again.
 * @throws OperationTimeoutError `OUTBOX_NOT_EMPTY`
 */
export async function runUntilEmpty(options: RunOptions): Promise<RunResult> {
  const { timeoutMs = 30_000, ...rest } = options
  const { schema } = outboxNames(options.schema ?? 'outbox')
  const counts = { done: 0, retry: 0, dead: 0, discarded: 0, released: 0 }
  const worker = new OutboxWorker(rest)
  worker.on('settled', ({ outcome }) => (counts[outcome] += 1))
  const ready = `(e.available_at IS NULL OR e.available_at <= clock_timestamp()) AND e.type = ANY ($1)
    AND e.type NOT IN (SELECT type FROM ${schema}.paused)`
  const text = `SELECT count(*), count(*) FILTER (WHERE ${ready} AND (e.key IS NULL OR NOT EXISTS (
      SELECT FROM (SELECT * FROM ${schema}.event p WHERE p.lane = e.lane AND p.key = e.key AND p.id < e.id) p
        WHERE NOT (${ready.replaceAll('e.', 'p.')}))))
    FROM ${schema}.event e`
  const types = Object.keys(options.handlers)
  const end = performance.now() + timeoutMs
  await worker.start()
  try {
    for (;;) {
      const [[waiting, left] = []] = await ask(options.pool, text, [types])
      if (left === '0') {
        await worker.stop()
        const { done, retry, dead, discarded } = counts
        return { done, retry, dead, discarded, waiting: Number(waiting) }
      }
      if (performance.now() > end)
        throw new OperationTimeoutError(`after ${timeoutMs} ms ${left} events are still to be done`, { code: 'OUTBOX_NOT_EMPTY' })
      await sleep(10)
    }
  } finally {
    await worker.stop({ graceMs: 0 })
  }
}
