import { HandlerError, NotFoundError } from '@common-handlers/core'
import type { Connection } from './connection.ts'
import type { Queries } from './session.ts'
import { quoteLiteral } from './sql.ts'

/** What a snapshot sees, and where in the write-ahead log it was taken. */
export interface SnapshotFacts {
  /** pg_current_snapshot(): `xmin:xmax:xip_list`. */
  readonly id: string
  /** Every transaction below it has ended. */
  readonly xmin: string
  /** No transaction from here on is seen. */
  readonly xmax: string
  /** Transactions between the two that were running. */
  readonly xip: readonly string[]
  /** Write-ahead log position; absent on a standby, and where the snapshot was taken by another connection. */
  readonly lsn?: string
  /** `15.13 (Debian 15.13-0+deb12u1)` */
  readonly serverVersion: string
}

/** One REPEATABLE READ, READ ONLY transaction: every query in it sees the same rows. */
export interface ReadSnapshot extends Queries {
  readonly snapshot: SnapshotFacts
}

/** A snapshot that other connections can join as long as it is open. It holds a connection. */
export interface ExportedSnapshot extends SnapshotFacts, AsyncDisposable {
  /** For `readSnapshot(work, { join: name })`, here or in another process: `00000003-0000001B-1` (pg_export_snapshot). */
  readonly name: string
  close(): Promise<void>
}

const FACTS = `
  SELECT s::text, pg_catalog.pg_snapshot_xmin(s)::text, pg_catalog.pg_snapshot_xmax(s)::text,
         CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL ELSE pg_catalog.pg_current_wal_lsn()::text END
    FROM pg_catalog.pg_current_snapshot() AS s`

export async function snapshotFacts(connection: Connection, joined: boolean, signal: AbortSignal): Promise<SnapshotFacts> {
  const { rows } = await connection.query(FACTS, [], signal)
  const [id, xmin, xmax, lsn] = (rows[0] ?? []) as readonly (string | null)[]
  const text = id ?? ''
  return {
    id: text,
    xmin: xmin ?? '',
    xmax: xmax ?? '',
    xip: (text.split(':')[2] ?? '').split(',').filter((transaction) => transaction !== ''),
    ...(lsn === null || lsn === undefined || joined ? {} : { lsn }),
    serverVersion: connection.serverVersion,
  }
}

export async function exportSnapshot(
  connection: Connection,
  signal: AbortSignal,
): Promise<SnapshotFacts & { readonly name: string }> {
  const facts = await snapshotFacts(connection, false, signal)
  const { rows } = await connection.query('SELECT pg_catalog.pg_export_snapshot()', [], signal)
  return { ...facts, name: String(rows[0]?.[0]) }
}

/** Before the first query of a transaction. @throws NotFoundError `POSTGRES_SNAPSHOT_NOT_FOUND` */
export async function joinSnapshot(connection: Connection, name: string, signal: AbortSignal): Promise<void> {
  try {
    await connection.query(`SET TRANSACTION SNAPSHOT ${quoteLiteral(name)}`, [], signal)
  } catch (error) {
    // 22023 until PostgreSQL 16, 42704 since.
    if (!HandlerError.is(error) || !['22023', '42704'].includes(String(error.context['sqlState']))) throw error
    throw new NotFoundError(`there is no snapshot ${name}: it ends with the transaction that exported it`, {
      code: 'POSTGRES_SNAPSHOT_NOT_FOUND',
      context: { snapshot: name },
      cause: error,
    })
  }
}
