import { ConfigError, ConflictError, type Logger, NotFoundError } from '@common-handlers/core'
import { ledgerKey, ledgerPrefix, listRuns, type Manifest, readManifest } from '@common-handlers/dataset'
import type { ObjectStore } from '@common-handlers/storage'
import { readEntry } from './claim.ts'
import { isDone, type LedgerEntry, type Method } from './ledger.ts'

/** How runs are written; `auto` replaces the table by a full run and merges an incremental one, or appends it when the source has no key. */
export type WriteMode = 'auto' | Method

/** A run that has not come to its end in the ledger. */
export interface PendingRun {
  readonly manifest: Manifest
  readonly method: Method
  /** What the ledger has; absent while nobody has begun. */
  readonly entry: LedgerEntry | undefined
  /** The later run that takes the place of the whole table, so that this one is not needed. */
  readonly supersededBy: string | undefined
}

/** What is to be done, oldest first, after the newest run that is done. */
export interface Queue {
  readonly pending: readonly PendingRun[]
  /** The newest run that is done; absent when none is. */
  readonly done: LedgerEntry | undefined
}

/** By what method a run is written. @throws ConfigError `INGESTOR_KEY_MISSING` */
export function methodOf(manifest: Manifest, write: WriteMode): Method {
  const hasKey = keyColumns(manifest).length > 0
  if (write === 'merge' && !hasKey) {
    throw new ConfigError(
      `write: merge needs a key, and run ${manifest.runId} has none (its source has no primary key): use append or auto`,
      { code: 'INGESTOR_KEY_MISSING', context: { runId: manifest.runId } },
    )
  }
  if (write !== 'auto') return write
  if (manifest.mode === 'full') return 'replace'
  return hasKey ? 'merge' : 'append'
}

/** The names of the key's columns, in the key's own order. */
export function keyColumns(manifest: Manifest): string[] {
  return manifest.columns
    .filter((column) => column.keyPosition !== undefined)
    .toSorted((a, b) => (a.keyPosition ?? 0) - (b.keyPosition ?? 0))
    .map((column) => column.name)
}

/**
 * Reads what is pending: from the newest run back to the newest one that is done. Runs are loaded in their order, so
 * nothing is left to do before that.
 * @throws ConflictError `INGESTOR_RUNS_BROKEN`: a run follows one that is not there, or two follow the same
 */
export async function readQueue(
  store: ObjectStore,
  dataset: string,
  ledgerName: string,
  options: { readonly write: WriteMode; readonly signal: AbortSignal; readonly logger: Logger },
): Promise<Queue> {
  const { write, signal } = options
  const runs = (await listRuns(store, dataset, { signal })).filter((run) => run.committed)
  const known = new Set<string>()
  for await (const { key } of store.list(ledgerPrefix(dataset, ledgerName), { signal })) known.add(key)
  const found: PendingRun[] = []
  let done: LedgerEntry | undefined
  let supersededBy: string | undefined
  for (const { runId } of runs.toReversed()) {
    const key = ledgerKey(dataset, ledgerName, runId)
    const entry = known.has(key) ? (await readEntry(store, key, signal))?.entry : undefined
    if (entry !== undefined && isDone(entry)) {
      done = entry
      break
    }
    const manifest = await readManifest(store, dataset, runId, { signal })
    const method = methodOf(manifest, write)
    found.push({ manifest, method, entry, supersededBy })
    if (method === 'replace') supersededBy ??= runId
  }
  const pending = found.toReversed()
  assertChain(
    pending,
    runs.map((run) => run.runId),
    options.logger,
  )
  return { pending, done }
}

/** Each incremental run must go on from the run before it, or rows are missing in between or there twice. */
function assertChain(pending: readonly PendingRun[], runIds: readonly string[], logger: Logger): void {
  const known = new Set(runIds)
  const successors = new Map<string, string>()
  for (const { manifest, method, supersededBy } of pending) {
    const { runId, previousRunId } = manifest
    // What takes the place of everything, or has its place taken, hangs on nothing.
    if (method === 'replace' || supersededBy !== undefined || previousRunId === undefined) continue
    if (!known.has(previousRunId)) {
      throw broken(
        runId,
        `run ${runId} goes on from run ${previousRunId}, which is not in the store: rows between would be missing. ` +
          'Bring that run back, or extract in full once',
      )
    }
    const other = successors.get(previousRunId)
    if (other !== undefined) {
      const twice = `runs ${other} and ${runId} both go on from run ${previousRunId}, so they hold the same rows`
      if (method === 'append') throw broken(runId, `${twice}: remove one of them, or extract in full once`)
      logger.warn({ runs: [other, runId] }, `${twice}; merged by key, in the order of the runs`)
    }
    successors.set(previousRunId, runId)
  }
}

/** Picks one run by its id, whatever its place. @throws NotFoundError, ConflictError `INGESTOR_RUN_OUT_OF_ORDER` */
export function pickRun(queue: Queue, runId: string): PendingRun | undefined {
  const at = queue.pending.findIndex((run) => run.manifest.runId === runId)
  const run = queue.pending[at]
  if (run === undefined) {
    if (queue.done !== undefined && runId <= queue.done.runId) return undefined
    throw new NotFoundError(`there is no run ${runId}`, { code: 'INGESTOR_RUN_NOT_FOUND', context: { runId } })
  }
  const before = queue.pending.slice(0, at).find((earlier) => earlier.supersededBy === undefined)
  if (before !== undefined && run.method !== 'replace' && run.supersededBy === undefined) {
    throw new ConflictError(
      `run ${runId} cannot be loaded before run ${before.manifest.runId}: rows would arrive in the wrong order. Leave --run away to load both`,
      { code: 'INGESTOR_RUN_OUT_OF_ORDER', context: { runId, before: before.manifest.runId } },
    )
  }
  return run
}

function broken(runId: string, message: string): ConflictError {
  return new ConflictError(message, { code: 'INGESTOR_RUNS_BROKEN', context: { runId } })
}
