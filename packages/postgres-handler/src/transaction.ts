import { type CallOptions, HandlerError, retry, type RetryPolicy } from '@common-handlers/core'
import { type AdvisoryKey, type AdvisoryLockOptions, takeLock } from './advisory-lock.ts'
import type { Connection } from './connection.ts'
import { Scope } from './scope.ts'
import { type Queries, queriesIn } from './session.ts'

/** The queries of a transaction; all run on its connection, one after the other. */
export interface Transaction extends Queries {
  /**
   * Runs work that can fail on its own: what it did is undone when it rejects, and the transaction goes on. Meanwhile only
   * the transaction that the work is given can be used, also for savepoints inside this one.
   */
  savepoint<T>(work: (transaction: Transaction) => Promise<T>, options?: CallOptions): Promise<T>
  /**
   * Takes an advisory lock that the end of the transaction releases.
   * @throws ConflictError `POSTGRES_LOCK_NOT_AVAILABLE` with `wait: false`, where somebody else holds it
   */
  advisoryLock(key: AdvisoryKey, options?: AdvisoryLockOptions): Promise<void>
}

export function transactionIn(scope: Scope): Transaction {
  const { connection } = scope
  return {
    ...queriesIn(scope),
    savepoint: (work, options) =>
      scope.call('the savepoint', options, (signal) => savepoint(connection, signal, work), 'a savepoint is open'),
    advisoryLock: (key, options) =>
      scope.call('taking the lock', options, (signal) => takeLock(connection, 'xact', key, options?.wait, signal)),
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
    const result = await Scope.run(connection, signal, (scope) => work(transactionIn(scope)))
    // Where a statement has failed and its error was swallowed, this fails too.
    await connection.query(`RELEASE SAVEPOINT ${name}`, [], signal)
    return result
  } catch (error) {
    // Where even this fails the transaction cannot go on, and its next statement says so.
    await connection.conclude(`ROLLBACK TO SAVEPOINT ${name}; RELEASE SAVEPOINT ${name}`).catch(() => undefined)
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
