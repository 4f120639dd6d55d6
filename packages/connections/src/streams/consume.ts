import {
  HandlerError,
  type Logger,
  defaultRetryPolicy,
  retry,
  retryDelay,
  type RetryPolicy,
  sleep,
  untilAborted,
} from '@common-handlers/core'
import type { BatchLimits, Consumed, Sink, StreamItem } from './contract.ts'

const DEFAULT_ROWS = 10_000

/** A message and what acknowledges it. */
export interface Delivery<Handle> {
  readonly item: StreamItem
  readonly handle: Handle
}

/** One reading of a broker, as a connector offers it to {@link consumeBatches}. */
export interface Subscription<Handle> {
  /** Messages as they come. It throws when the connection is lost; its end is the end of the reading. */
  readonly deliveries: AsyncIterator<Delivery<Handle>, void, undefined>
  /** Tells the broker that these, in the order of their arrival, are safe; resolves when it has heard it. */
  acknowledge(handles: readonly Handle[]): Promise<void>
  /** The most messages that the broker gives out before it is told that some are safe: a batch of more would wait in vain. */
  readonly maxRows?: number | undefined
  /** Ends the reading. What was not acknowledged is the broker's again. */
  close(): Promise<void>
}

export interface ConsumeBatchesOptions extends BatchLimits {
  /** Ends the reading: a batch that is being written is finished and acknowledged, any other is given back. */
  readonly signal: AbortSignal
  /** How often and how long a broker that is gone is looked for. */
  readonly policy: Partial<RetryPolicy>
  readonly logger: Logger
}

/**
 * Reads messages in batches: gathers one, has the sink write it, acknowledges it. Nothing is acknowledged that was not
 * written. When the connection is lost it is made again, and the broker delivers again what was not acknowledged; the
 * sink drops what it has. Resolves when the signal ends it; rejects when the broker or the sink fails for good.
 */
export async function consumeBatches<Handle>(
  subscribe: (signal: AbortSignal) => Promise<Subscription<Handle>>,
  sink: Sink,
  options: ConsumeBatchesOptions,
): Promise<Consumed> {
  const { signal, logger } = options
  const policy = { ...defaultRetryPolicy, ...options.policy }
  const done = { batches: 0, messages: 0 }
  /** Readings in a row that ended soon and brought no batch. */
  let fruitless = 0
  while (!signal.aborted) {
    const before = done.batches
    let began = Infinity
    try {
      // To read again is always right: what was not acknowledged comes again.
      const subscription = await retry(() => subscribe(signal), {
        policy,
        signal,
        idempotent: true,
        onRetry: (error, next) => logger.warn({ error, ...next }, 'no connection'),
      })
      began = performance.now()
      try {
        await readBatches(subscription, sink, options, done)
        break
      } finally {
        await subscription.close()
      }
    } catch (error) {
      if (signal.aborted) {
        if (error !== signal.reason) logger.warn({ error }, 'the batch under way was given back')
        break
      }
      const isFruitful = done.batches > before || performance.now() - began > policy.budgetMs
      fruitless = isFruitful ? 1 : fruitless + 1
      if (!HandlerError.is(error) || error.retry === 'never' || fruitless >= policy.attempts) throw error
      logger.warn({ error }, 'reading again')
      await sleep(retryDelay(fruitless, policy), signal).catch(() => undefined)
    }
  }
  return done
}

async function readBatches<Handle>(
  subscription: Subscription<Handle>,
  sink: Sink,
  options: ConsumeBatchesOptions,
  done: { batches: number; messages: number },
): Promise<void> {
  const next = reader(subscription.deliveries)
  const rows = Math.min(options.rows ?? DEFAULT_ROWS, subscription.maxRows ?? Infinity)
  for (;;) {
    const batch = await gather(next, { ...options, rows })
    if (batch.length === 0) return
    // The signal does not come between: the batch under way is finished.
    await sink.write(batch.map(({ item }) => item))
    await subscription.acknowledge(batch.map(({ handle }) => handle))
    done.batches += 1
    done.messages += batch.length
  }
}

interface Reader<Handle> {
  /** The next step, asked for once however often it is waited for. */
  peek(): Promise<IteratorResult<Delivery<Handle>, void>>
  take(): void
}

function reader<Handle>(deliveries: AsyncIterator<Delivery<Handle>, void, undefined>): Reader<Handle> {
  let pending: Promise<IteratorResult<Delivery<Handle>, void>> | undefined
  return {
    peek: () => {
      if (pending === undefined) {
        pending = deliveries.next()
        // It may fail while nobody waits for it.
        pending.catch(() => undefined)
      }
      return pending
    },
    take: () => (pending = undefined),
  }
}

/** The messages of one batch; none when the signal or the end came first. */
async function gather<Handle>(
  next: Reader<Handle>,
  { signal, rows = DEFAULT_ROWS, bytes = 16 * 1024 * 1024, ms = 10_000 }: ConsumeBatchesOptions,
): Promise<readonly Delivery<Handle>[]> {
  const batch: Delivery<Handle>[] = []
  const late = new AbortController()
  const both = AbortSignal.any([signal, late.signal])
  let timer: NodeJS.Timeout | undefined
  let size = 0
  try {
    while (batch.length < rows && size < bytes) {
      const step = await untilAborted(next.peek(), both)
      if (step.done === true) break
      next.take()
      batch.push(step.value)
      size += step.value.item.bytes
      timer ??= setTimeout(() => late.abort(), ms)
    }
  } catch (error) {
    if (error !== both.reason) throw error
  } finally {
    clearTimeout(timer)
  }
  return signal.aborted ? [] : batch
}
