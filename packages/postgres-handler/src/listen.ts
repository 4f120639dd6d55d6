import { ConnectionError, DataError, HandlerError, retryDelay, sleep, onAbort } from '@common-handlers/core'
import type { Connection } from './connection.ts'
import type { StreamOnConnection } from './session.ts'
import { quoteIdent } from './sql.ts'

export type ListenEvent =
  /** From now on nothing is missed. `gap` says that notifications may have been before: read again what they are about. */
  | { readonly kind: 'listening'; readonly gap: boolean }
  | { readonly kind: 'notification'; readonly channel: string; readonly payload: string; readonly processId: number }

export interface ListenOptions {
  /** Ends the listening; the loop throws its reason. */
  readonly signal?: AbortSignal | undefined
  /** Notifications that wait for the loop at most; the rest is dropped, and told as a gap. Default 10 000. */
  readonly maxWaiting?: number | undefined
  /** How often the connection is tried, in milliseconds: one that was cut without a word brings nothing. Default 30 000. */
  readonly heartbeatMs?: number | undefined
}

const RECONNECT = { attempts: Infinity, budgetMs: Infinity, baseDelayMs: 100, maxDelayMs: 5_000 }
const HEARTBEAT_LIMIT_MS = 5_000

/** Listens on one connection after the other, until it is left, aborted, or refused for good. */
export async function* listen(
  stream: StreamOnConnection,
  channels: readonly string[],
  options: ListenOptions,
): AsyncGenerator<ListenEvent, void, undefined> {
  if (channels.length === 0) throw new DataError('listen needs a channel', { code: 'POSTGRES_VALUE_INVALID' })
  const { signal } = options
  let listened = false
  for (let failures = 1; ; failures++) {
    try {
      for await (const event of stream({ signal }, (connection, inner) =>
        listenOn(connection, channels, options, listened, inner),
      )) {
        failures = 1
        listened = true
        yield event
      }
      return
    } catch (error) {
      signal?.throwIfAborted()
      if (!HandlerError.is(error) || error.retry === 'never') throw error
      // Once it has listened it goes on also where the server, or the pool, is full for a while.
      if (error.outcome !== 'connection' && !(listened && error.retry === 'safe')) throw error
      await sleep(retryDelay(failures, RECONNECT), signal)
    }
  }
}

async function* listenOn(
  connection: Connection,
  channels: readonly string[],
  { maxWaiting = 10_000, heartbeatMs = 30_000 }: ListenOptions,
  again: boolean,
  signal: AbortSignal,
): AsyncGenerator<ListenEvent, void, undefined> {
  connection.needSession('LISTEN')
  let waiting: ListenEvent[] = []
  let dropped = false
  let ended = false
  let wake: (() => void) | undefined
  const offs = [
    connection.onNotification(({ channel, payload = '', processId }) => {
      if (waiting.length < maxWaiting) waiting.push({ kind: 'notification', channel, payload, processId })
      else dropped = true
      wake?.()
    }),
    connection.onEnd(() => {
      ended = true
      wake?.()
    }),
    onAbort(signal, () => wake?.()),
  ]
  const heartbeat = setInterval(() => {
    connection.query('SELECT 1', [], AbortSignal.timeout(HEARTBEAT_LIMIT_MS)).catch(() => connection.destroy())
  }, heartbeatMs)
  try {
    const statements = channels.map((channel) => ({ text: `LISTEN ${quoteIdent(channel)}`, values: [] }))
    await connection.batch(statements, { as: 'arrays' }, signal)
    yield { kind: 'listening', gap: again }
    for (;;) {
      signal.throwIfAborted()
      const now = waiting
      waiting = []
      yield* now
      if (waiting.length > 0) continue
      if (dropped) {
        dropped = false
        yield { kind: 'listening', gap: true }
      } else if (ended) {
        throw new ConnectionError('the connection that listened was lost', { code: 'POSTGRES_CONNECTION_LOST', retry: 'safe' })
      } else {
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
    }
  } finally {
    clearInterval(heartbeat)
    for (const off of offs) off()
    if (!ended) await connection.conclude('UNLISTEN *').catch(() => connection.destroy())
  }
}
