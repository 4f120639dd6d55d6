import { OperationTimeoutError } from '@common-handlers/core'
import type { PoolClient, PoolQuery, PoolResult } from './pool.ts'

/** An answer that has come may not have been read yet, by a program that was busy. */
const READ_MS = 100

/**
 * Watches a connection on loan whose other end may be gone without a word: a firewall that forgot it, a host that lost its
 * power. TCP alone waits for many minutes. `onSilent` is called when a statement has got no answer and no other one was
 * answered for so long. Gives what ends the watch; that comes before the connection is given back.
 */
export function watchSilence(client: PoolClient, silenceMs: number, onSilent: () => void): () => void {
  const { query } = client
  const own = Object.hasOwn(client, 'query')
  let unanswered = 0
  let heardAt = 0
  let timer: NodeJS.Timeout | undefined
  const heard = (): void => {
    unanswered -= 1
    heardAt = performance.now()
  }
  const look = (late: boolean): void => {
    timer = undefined
    const left = heardAt + silenceMs - performance.now()
    if (unanswered === 0) return
    if (left > 0) timer = setTimeout(look, left, false)
    else if (late) onSilent()
    else timer = setTimeout(look, READ_MS, true)
  }
  client.query = (asked: PoolQuery | string, values?: unknown[]): Promise<PoolResult> => {
    if (unanswered++ === 0) heardAt = performance.now()
    timer ??= setTimeout(look, silenceMs, false)
    // One of the two forms, as it came.
    const answer = query.call(client, asked as string, values)
    answer.then(heard, heard)
    return answer
  }
  return () => {
    clearTimeout(timer)
    if (own) client.query = query
    else Reflect.deleteProperty(client, 'query')
  }
}

export function connectionSilent(silenceMs: number): OperationTimeoutError {
  return new OperationTimeoutError(`a connection is given up: the server has not answered for ${Math.round(silenceMs)} ms`, {
    code: 'OUTBOX_CONNECTION_SILENT',
    retry: 'if-idempotent',
  })
}
