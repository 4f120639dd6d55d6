import { type CallOptions, HandlerError, retry, type RetryPolicy } from '@common-handlers/core'
import { type AdvisoryKey, type AdvisoryLockOptions, takeLock } from './advisory-lock.ts'
import type { Connection } from './connection.ts'
import { type Queries, queriesOfTransaction, withinTransaction } from './session.ts'

/** The queries of a transaction; all run on its connection, one after the other. */
export interface Transaction extends Queries {
  /**
   * Runs work that can fail on its own: what it did is undone when it rejects, and the transaction goes on. Savepoints are
   * nested through the transaction that the work is given.
   */
  savepoint<T>(work: (transaction: Transaction) => Promise<T>, options?: CallOptions): Promise<T>
  /**
   * Takes an advisory lock that the end of the transaction releases.
   * @throws ConflictError `POSTGRES_LOCK_NOT_AVAILABLE` with `wait: false`, where somebody else holds it
   */
  advisoryLock(key: AdvisoryKey, options?: AdvisoryLockOptions): Promise<void>
}

export function transactionOn(connection: Connection, signal: AbortSignal): Transaction {
  const queries = queriesOfTransaction(connection, signal)
  return {
    ...queries,
    savepoint: (work, options) =>
      withinTransaction(signal, 'the savepoint', options, (inner) => savepoint(connection, inner, work)),
    advisoryLock: (key, options) =>
      withinTransaction(signal, 'taking the lock', options, (inner) => takeLock(connection, 'xact', key, options?.wait, inner)),
  }
}

async function savepoint<T>(
  connection: Connection,
  signal: AbortSignal,
  work: (transaction: Transaction) => Promise<T>,
): Promise<T> {
  const name = `savepoint_${connection.nextNumber()}`
  await connection.query(`SAVEPOINT ${name}`, [], signal)
  try {
    const result = await work(transactionOn(connection, signal))
    // Where a statement has failed and its error was swallowed, this fails too.
    await connection.query(`RELEASE SAVEPOINT ${name}`, [], signal)
    return result
  } catch (error) {
    // Where even this fails the transaction cannot go on, and its next statement says so.
    const undo = [`ROLLBACK TO SAVEPOINT ${name}`, `RELEASE SAVEPOINT ${name}`].map((text) => ({ text, values: [] }))
    await connection.batch(undo, { as: 'arrays' }, undefined).catch(() => undefined)
    throw error
  }
}

const CONFLICTS = new Set(['POSTGRES_SERIALIZATION_FAILED', 'POSTGRES_DEADLOCK'])

/** Runs a transaction again when it has lost against another one, as often as the policy says; with any other error once. */
export async function retryConflicts<T>(
  policy: Partial<RetryPolicy> | undefined,
  signal: AbortSignal,
  onRetry: (error: HandlerError, next: { readonly attempt: number; readonly delayMs: number }) => void,
  run: () => Promise<T>,
): Promise<T> {
  if (policy === undefined) return await run()
  const outcome = await retry<{ readonly value: T } | { readonly error: unknown }>(
    async () => {
      try {
        return { value: await run() }
      } catch (error) {
        if (HandlerError.is(error) && CONFLICTS.has(error.code)) throw error
        return { error }
      }
    },
    { policy, signal, onRetry },
  )
  if ('error' in outcome) throw outcome.error
  return outcome.value
}
