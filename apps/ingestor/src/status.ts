import { listRuns, ledgerKey, ledgerPrefix, type Manifest, readManifest } from '@common-handlers/dataset'
import type { ObjectStore } from '@common-handlers/storage'
import { leaseEnded, readEntry } from './claim.ts'
import type { LedgerEntry } from './ledger.ts'

/** A run, and what the ledger has of it. */
export interface RunStatus {
  readonly runId: string
  readonly mode: Manifest['mode']
  /** By the manifest. */
  readonly rows: number
  /** `pending`: nobody has begun. `failed`: the last attempt ended without a commit, and nobody is at it. */
  readonly state: LedgerEntry['state'] | 'pending' | 'failed'
  readonly snapshotId: string | undefined
  readonly entry: LedgerEntry | undefined
}

/** The newest runs, newest first. */
export async function readStatus(
  store: ObjectStore,
  dataset: string,
  ledgerName: string,
  options: { readonly limit: number; readonly signal: AbortSignal },
): Promise<RunStatus[]> {
  const { limit, signal } = options
  const runs = (await listRuns(store, dataset, { signal })).filter((run) => run.committed).toReversed()
  const known = new Set<string>()
  for await (const { key } of store.list(ledgerPrefix(dataset, ledgerName), { signal })) known.add(key)
  const found: RunStatus[] = []
  for (const { runId } of runs.slice(0, limit)) {
    const { mode, totals } = await readManifest(store, dataset, runId, { signal })
    const key = ledgerKey(dataset, ledgerName, runId)
    const entry = known.has(key) ? (await readEntry(store, key, signal))?.entry : undefined
    const snapshotId = entry?.state === 'committed' ? entry.commit.snapshotId : undefined
    found.push({ runId, mode, rows: totals.rows, state: stateOf(entry), snapshotId, entry })
  }
  return found
}

function stateOf(entry: LedgerEntry | undefined): RunStatus['state'] {
  if (entry === undefined) return 'pending'
  return entry.state === 'claimed' && leaseEnded(entry) && entry.problem !== undefined ? 'failed' : entry.state
}

/** Who, until when, or why not: what a person wants to know beside the state. */
export function statusNote(entry: LedgerEntry | undefined): string {
  switch (entry?.state) {
    case 'claimed':
    case 'submitted': {
      const query = entry.state === 'submitted' ? `query ${entry.submission.queryId}; ` : ''
      const holder = leaseEnded(entry)
        ? 'nobody is at it; the next run takes it over'
        : `${entry.owner} until ${entry.leaseUntil}`
      return `${query}${holder}${entry.problem === undefined ? '' : `; ${entry.problem.code}: ${entry.problem.message}`}`
    }
    case 'committed':
      return `${entry.committedAt}${entry.attempt > 1 ? `, attempt ${entry.attempt}` : ''}${entry.assumed === true ? ', assumed' : ''}`
    case 'superseded':
      return `replaced by ${entry.by}`
    default:
      return ''
  }
}
