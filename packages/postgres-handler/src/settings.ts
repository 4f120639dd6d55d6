import type { PostgresConfig } from './config.ts'

/** Limits that the server itself keeps, in milliseconds; 0 is none. */
export interface ServerTimeouts {
  /** A statement is cancelled after so long, COPY included (statement_timeout). */
  readonly statementTimeoutMs?: number | undefined
  /** A statement that waits for a lock gives up after so long (lock_timeout). */
  readonly lockTimeoutMs?: number | undefined
  /** A transaction in which nothing runs is ended after so long, with its connection (idle_in_transaction_session_timeout). */
  readonly idleInTransactionTimeoutMs?: number | undefined
}

type Settings = readonly (readonly [name: string, value: string])[]

/** Everything that decides how a value is read and written as text. */
const exactText: Settings = [
  ['TimeZone', 'UTC'],
  ['DateStyle', 'ISO,MDY'],
  ['IntervalStyle', 'postgres'],
  ['extra_float_digits', '1'],
  ['bytea_output', 'hex'],
  ['standard_conforming_strings', 'on'],
]

const timeouts = (limits: ServerTimeouts): Settings =>
  (
    [
      ['statement_timeout', limits.statementTimeoutMs],
      ['lock_timeout', limits.lockTimeoutMs],
      ['idle_in_transaction_session_timeout', limits.idleInTransactionTimeoutMs],
    ] as const
  ).flatMap(([name, limit]) => (limit === undefined ? [] : [[name, String(Math.trunc(limit))] as const]))

/** What a session of this configuration has set; a limit of 0 is left as the server has it. */
function sessionSettings(config: PostgresConfig): Settings {
  const { statementTimeoutMs, lockTimeoutMs, idleInTransactionTimeoutMs } = config
  const given = Object.entries({ statementTimeoutMs, lockTimeoutMs, idleInTransactionTimeoutMs }).filter(([, limit]) => limit > 0)
  return [...exactText, ...timeouts(Object.fromEntries(given))]
}

/** As the startup packet takes them. */
export const asStartupOptions = (config: PostgresConfig): string =>
  sessionSettings(config)
    .map(([name, value]) => `-c ${name}=${value}`)
    .join(' ')

const setLocal = (settings: Settings): string[] => settings.map(([name, value]) => `SET LOCAL ${name} = '${value}'`)

/** For one transaction. */
export const asSetLocal = (limits: ServerTimeouts): string[] => setLocal(timeouts(limits))

/** What stands for a session's settings where there is no session: behind a pooler that lends a server for one transaction. */
export interface TransactionSettings {
  /** After BEGIN. None of them takes a snapshot. */
  readonly inTransaction: readonly string[]
  /** Before a statement on its own, in one round trip with it. SET LOCAL there would put a warning into the server's log. */
  readonly beforeStatement: string
}

export function transactionSettings(config: PostgresConfig): TransactionSettings {
  const settings = sessionSettings(config)
  return {
    inTransaction: setLocal(settings),
    beforeStatement: `SELECT ${settings.map(([name, value]) => `pg_catalog.set_config('${name}', '${value}', true)`).join(' || ')}`,
  }
}
