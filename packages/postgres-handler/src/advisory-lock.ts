import { type CallOptions, ConflictError, ConnectionError, DataError } from '@common-handlers/core'
import type { Connection } from './connection.ts'
import { Scope } from './scope.ts'
import { type Queries, queriesIn } from './session.ts'

/**
 * What is locked, known to nobody but those who take the lock: a 64-bit number, two 32-bit numbers, or a name, which the
 * server hashes to 64 bits (hashtextextended). Numbers and pairs of them are different keys (PostgreSQL, "Advisory Locks").
 */
export type AdvisoryKey = bigint | number | string | readonly [number, number]

export interface AdvisoryLockOptions extends CallOptions {
  /** False: do not wait for whoever holds it. Default true. */
  readonly wait?: boolean | undefined
}

/** The connection that holds the lock, and a signal that is aborted when the lock is lost with it, or released. */
export interface AdvisoryLock extends Queries {
  readonly signal: AbortSignal
}

export async function takeLock(
  connection: Connection,
  level: 'session' | 'xact',
  key: AdvisoryKey,
  wait: boolean = true,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { text, values } = keyArguments(key)
  const name = `pg_${wait ? '' : 'try_'}advisory_${level === 'xact' ? 'xact_' : ''}lock`
  const { rows } = await connection.query(`SELECT pg_catalog.${name}(${text})`, values, signal)
  if (!wait && rows[0]?.[0] !== true) {
    throw new ConflictError(`the advisory lock ${String(key)} is held by another session`, {
      code: 'POSTGRES_LOCK_NOT_AVAILABLE',
      retry: 'safe',
      context: { key: String(key) },
    })
  }
}

/** Runs work while the connection holds a lock of its session. */
export async function withLock<T>(
  connection: Connection,
  key: AdvisoryKey,
  wait: boolean | undefined,
  signal: AbortSignal,
  work: (lock: AdvisoryLock) => Promise<T>,
): Promise<T> {
  connection.needSession('an advisory lock that outlives a transaction')
  const lost = new AbortController()
  const joined = AbortSignal.any([signal, lost.signal])
  const forget = connection.onEnd(() => {
    lost.abort(
      new ConnectionError(`the advisory lock ${String(key)} was lost with its connection`, {
        code: 'POSTGRES_LOCK_LOST',
        retry: 'if-idempotent',
      }),
    )
  })
  try {
    await takeLock(connection, 'session', key, wait, signal)
    return await Scope.run(connection, joined, (scope) => work({ ...queriesIn(scope), signal: scope.signal }))
  } finally {
    forget()
    // A cancelled statement may have taken the lock all the same; this connection holds no other.
    await connection.conclude('SELECT pg_catalog.pg_advisory_unlock_all()').catch(() => connection.destroy())
  }
}

function keyArguments(key: AdvisoryKey): { readonly text: string; readonly values: readonly unknown[] } {
  if (typeof key === 'string') return { text: 'pg_catalog.hashtextextended($1, 0)', values: [key] }
  if (typeof key === 'object') return { text: '$1::int4, $2::int4', values: key }
  if (typeof key === 'number' && !Number.isSafeInteger(key)) {
    throw new DataError(`${key} is no key of an advisory lock: give a whole number or a bigint`, {
      code: 'POSTGRES_VALUE_INVALID',
    })
  }
  return { text: '$1::int8', values: [key] }
}
