import { ConflictError } from '@common-handlers/core'
import { ledgerKey, type Manifest } from '@common-handlers/dataset'
import type { LoadProgress } from './engine.ts'
import { type LoadContext, type LoadRequest, type LoadResult, loadRun, supersedeRun } from './load.ts'
import { type PendingRun, pickRun, type Queue, readQueue } from './queue.ts'
import type { Session } from './session.ts'
import { verifyFiles } from './verify.ts'

export interface IngestOptions {
  readonly signal: AbortSignal
  /** One run instead of all that are new. */
  readonly run?: string | undefined
  /** Read the bytes of every file and compare their SHA-256, whatever the store says of its checksums. */
  readonly verifyWhole?: boolean | undefined
  /** Wait for another worker's claim to end instead of leaving. */
  readonly wait?: boolean | undefined
  /** What a person says of a run whose statement cannot be looked up any more. */
  readonly assume?: { readonly runId: string; readonly as: 'applied' | 'not-applied' } | undefined
  readonly onBegin?: ((manifest: Manifest) => void) | undefined
  readonly onProgress?: ((manifest: Manifest, progress: LoadProgress) => void) | undefined
  readonly onResult?: ((result: LoadResult) => void) | undefined
  readonly pauseMs?: number | undefined
}

/** How long an interrupted load may take to find out, and write down, what became of its statement. Docker kills after 10 s, Kubernetes after 30 s. */
const SETTLE_MS = 8_000

/** Loads what is new, oldest first; stops at the first run that cannot be loaded. @throws as {@link loadRun}, readQueue */
export async function ingest(session: Session, options: IngestOptions): Promise<LoadResult[]> {
  const { config, store, engine, logger } = session
  const { signal } = options
  const ledgerName = await engine.ledgerName({ signal })
  const queue = await readQueue(store.objects, config.dataset, ledgerName, { write: config.write, signal, logger })
  const runs = chosen(queue, options.run)
  if (runs.length > 0) await assertTargetKept(session, queue, runs, signal)
  const results: LoadResult[] = []
  for (const run of runs) {
    const { manifest, method, supersededBy } = run
    const { runId } = manifest
    const { assume } = options
    const request: LoadRequest = {
      manifest,
      method,
      ledgerKey: ledgerKey(config.dataset, ledgerName, runId),
      ledgerName,
      assume: assume?.runId === runId ? assume.as : undefined,
    }
    options.onBegin?.(manifest)
    const context = loadContext(session, options, manifest)
    const result = await (supersededBy === undefined ? loadRun(request, context) : supersedeRun(request, supersededBy, context))
    logger.info({ ...result }, result.state === 'committed' ? 'run loaded' : 'run not needed: a later one replaces the table')
    results.push(result)
    options.onResult?.(result)
  }
  return results
}

function loadContext({ config, store, engine, logger, owner }: Session, options: IngestOptions, manifest: Manifest): LoadContext {
  const { signal, wait, pauseMs, onProgress } = options
  return {
    store: store.objects,
    engine,
    logger,
    signal,
    owner,
    leaseMs: config.lease.seconds * 1000,
    budgetMs: config.recovery.budgetSeconds * 1000,
    settleMs: SETTLE_MS,
    wait,
    pauseMs,
    verify: async (of, verifying) => {
      const { read } = await verifyFiles(store.objects, of, { signal: verifying, whole: options.verifyWhole })
      logger.debug({ runId: of.runId, files: of.files.length, read }, 'the files are what the manifest says')
    },
    onProgress: onProgress && ((progress) => onProgress(manifest, progress)),
  }
}

/** The runs to work on: all, or the one that was asked for with those that it makes needless. */
function chosen(queue: Queue, runId: string | undefined): readonly PendingRun[] {
  if (runId === undefined) return queue.pending
  const run = pickRun(queue, runId)
  if (run === undefined) return []
  const before = queue.pending.slice(0, queue.pending.indexOf(run))
  const needless = before.map((earlier) => ({ ...earlier, supersededBy: earlier.supersededBy ?? runId }))
  return [...needless, run]
}

/** Rows that were loaded are gone with their table: loading only what is new would leave a table with holes. */
async function assertTargetKept(
  { engine }: Session,
  queue: Queue,
  runs: readonly PendingRun[],
  signal: AbortSignal,
): Promise<void> {
  const { done } = queue
  // Asked always: a server that is not there is told now, and not after the time that one is waited for in the middle.
  const exists = await engine.exists({ signal })
  const first = runs.find((run) => run.supersededBy === undefined)
  if (exists || done === undefined || first === undefined || first.method === 'replace') return
  throw new ConflictError(
    `the ledger says that runs up to ${done.runId} were loaded into ${engine.target}, but the table is not there. ` +
      'Extract in full once, or give target.ledger another name to load every run again',
    { code: 'INGESTOR_TARGET_LOST', context: { target: engine.target, runId: done.runId } },
  )
}
