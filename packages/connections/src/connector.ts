import { type CallOptions, type CloseOptions, Lifecycle, type Logger, withDeadline, untilAborted } from '@common-handlers/core'
import type { Leased } from './cache.ts'
import type { Connection, Connector, ConnectorDefinition, FetchOptions } from './contract.ts'
import { itemLate, resultTooLarge } from './errors.ts'
import { type IngestedItem, INGESTION_VERSION, type IngestionResult } from './ingestion.ts'

const DEFAULT_MAX_BYTES = 64 * 1024 * 1024

/** Leases the connection of a connector. */
export type Lease = (signal: AbortSignal) => Promise<Leased<Connection>>

/** A {@link Connector} over a definition: connects once, fetches, gives the connection back when it is closed. */
export function connectorOf(definition: ConnectorDefinition, lease: Lease, logger: Logger): Connector<unknown> {
  const { protocol } = definition
  let connection: Promise<Leased<Connection>> | undefined
  const closing = new AbortController()
  const life = new Lifecycle(`the ${protocol} connector`, 'CONNECTIONS', async () => {
    closing.abort()
    await (await connection?.catch(() => undefined))?.close()
  })

  /** Opened once for all calls; a call that gives up leaves it to the others. */
  const connected = (signal: AbortSignal): Promise<Leased<Connection>> => {
    const opening = (connection ??= lease(closing.signal))
    // What failed is tried again by the next call.
    opening.catch(() => {
      if (connection === opening) connection = undefined
    })
    return untilAborted(opening, signal)
  }

  async function* read(query: unknown, signal: AbortSignal): AsyncGenerator<IngestedItem, void, undefined> {
    yield* definition.fetch(await connected(signal), query, { signal, logger })
  }

  async function* items(query: unknown, options: CallOptions): AsyncGenerator<IngestedItem, void, undefined> {
    const leave = life.hold()
    const late = new AbortController()
    const signal = AbortSignal.any([life.signal, late.signal, ...(options.signal === undefined ? [] : [options.signal])])
    const iterator = read(query, signal)
    try {
      for (;;) {
        signal.throwIfAborted()
        const timer = options.timeoutMs === undefined ? undefined : setTimeout(expire, options.timeoutMs, late, options.timeoutMs)
        const step = await iterator.next().finally(() => clearTimeout(timer))
        if (step.done === true) return
        yield step.value
      }
    } catch (error) {
      signal.throwIfAborted()
      throw error
    } finally {
      await iterator.return()
      leave()
    }
  }

  const expire = (late: AbortController, timeoutMs: number): void => late.abort(itemLate(protocol, timeoutMs))

  return {
    protocol,
    connect: (options = {}) =>
      life.run(options.signal, (signal) =>
        withDeadline({ ...options, signal }, { prefix: 'CONNECTIONS', action: `connecting to ${protocol}` }, async (deadline) => {
          await connected(deadline.signal)
        }),
      ),
    fetchData: (query, options: FetchOptions = {}) =>
      life.run(options.signal, (signal) =>
        withDeadline({ ...options, signal }, { prefix: 'CONNECTIONS', action: `fetching from ${protocol}` }, (deadline) =>
          gather(protocol, read(query, deadline.signal), options.maxBytes ?? DEFAULT_MAX_BYTES),
        ),
      ),
    items: (query, options = {}) => items(query, options),
    close: (options?: CloseOptions) => life.close(options),
    [Symbol.asyncDispose]: () => life.close(),
  }
}

async function gather(protocol: string, read: AsyncIterable<IngestedItem>, maxBytes: number): Promise<IngestionResult> {
  const startedAt = new Date().toISOString()
  const items: IngestedItem[] = []
  let bytes = 0
  let watermark: string | undefined
  for await (const item of read) {
    // What was written elsewhere takes no memory here.
    if (item.data !== undefined) bytes += item.bytes
    if (bytes > maxBytes) throw resultTooLarge(protocol, maxBytes)
    watermark = item.watermark ?? watermark
    items.push(item)
  }
  return {
    version: INGESTION_VERSION,
    protocol,
    items,
    bytes: items.reduce((sum, item) => sum + item.bytes, 0),
    ...(watermark === undefined ? {} : { watermark }),
    startedAt,
    finishedAt: new Date().toISOString(),
  }
}
