import { ConflictError, DataError, HandlerError, type Logger, retry, type RetryPolicy, sleep } from '@common-handlers/core'
import type { Manifest } from '@common-handlers/dataset'
import type { ObjectStore } from '@common-handlers/storage'
import { Claim, claimRun } from './claim.ts'
import type { Engine, Fate, LoadAttempt, LoadProgress } from './engine.ts'
import { type Commit, type DoneEntry, isDone, type LedgerEntry, type Method, problemOf, type Submission } from './ledger.ts'

/** What one run needs to be loaded. */
export interface LoadRequest {
  readonly manifest: Manifest
  readonly method: Method
  /** The run's object in the ledger, and the target's name there. */
  readonly ledgerKey: string
  readonly ledgerName: string
  /** What a person says about a statement whose fate cannot be proved. */
  readonly assume?: 'applied' | 'not-applied' | undefined
}

/** With what a run is loaded. */
export interface LoadContext {
  readonly store: ObjectStore
  readonly engine: Engine
  readonly logger: Logger
  readonly signal: AbortSignal
  readonly owner: string
  readonly leaseMs: number
  /** How long attempts that fail for a passing reason (a restart, a lost connection) are followed by another one. */
  readonly budgetMs: number
  /** How long an interrupted load may take to find out what became of its statement. */
  readonly settleMs: number
  readonly wait?: boolean | undefined
  /** Checks the files against the manifest; called once, when the claim is held. */
  readonly verify: (manifest: Manifest, signal: AbortSignal) => Promise<void>
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined
  /** The wait before the second attempt, in milliseconds; it doubles up to ten times as much. Default 1 000. */
  readonly pauseMs?: number | undefined
}

export interface LoadResult {
  readonly runId: string
  readonly state: DoneEntry['state']
  /** True when this call did it; false when it was done before. */
  readonly loaded: boolean
  readonly method: Method
  readonly rows: number
  readonly snapshotId: string | undefined
  readonly attempts: number
  readonly seconds: number
}

const FIRST_PAUSE_MS = 1_000
const PATIENT: Omit<RetryPolicy, 'budgetMs'> = { attempts: Number.POSITIVE_INFINITY, baseDelayMs: 1_000, maxDelayMs: 10_000 }

/**
 * Loads one run exactly once:
 * claim it → check its files → make the table and the staging → register the statement → write its id down → run it →
 * find out what became of it → write the commit down. Whatever ends a load early, here or in a process that is gone,
 * the next attempt begins by finding out what became of the statement that was written down.
 * @throws ConflictError `INGESTOR_RUN_CLAIMED`, `INGESTOR_CLAIM_LOST`, `INGESTOR_CANNOT_BE_PROVED`
 * @throws DataError when the files are not what the manifest says
 */
export function loadRun(request: LoadRequest, context: LoadContext): Promise<LoadResult> {
  return withClaim(request, context, (load) => load.run())
}

/**
 * Marks a run as not needed, since a later run takes the place of the whole table. What was begun of it is first
 * brought to its end, or it could still add its rows afterwards.
 */
export function supersedeRun(request: LoadRequest, by: string, context: LoadContext): Promise<LoadResult> {
  return withClaim(request, context, (load) => load.supersede(by))
}

async function withClaim(
  request: LoadRequest,
  context: LoadContext,
  work: (load: RunLoad) => Promise<DoneEntry>,
): Promise<LoadResult> {
  const began = performance.now()
  const { manifest, method, ledgerKey: key, ledgerName: target } = request
  const { logger, owner, leaseMs, signal, wait } = context
  const { runId, dataset } = manifest
  using grace = graceAfter(signal, context.settleMs)
  const claimed = await claimRun(
    context.store,
    { key, dataset, runId, target, method },
    {
      owner,
      leaseMs,
      logger,
      signal,
      writes: grace.signal,
      wait,
      onWait: (held) => logger.info({ runId, owner: held.owner }, 'waiting for another worker to end its claim'),
    },
  )
  if (!(claimed instanceof Claim)) return resultOf(claimed, false, began)
  await using claim = claimed
  const load = new RunLoad(request, context, claim, grace.signal)
  try {
    return resultOf(await work(load), true, began)
  } catch (error) {
    // Nothing of a lost claim is ours any more, the right to tidy up after it included.
    claim.signal.throwIfAborted()
    await load.leave(error)
    throw error
  }
}

/** The loading of one run under one claim. */
class RunLoad {
  readonly #request: LoadRequest
  readonly #context: LoadContext
  readonly #claim: Claim
  /** Ends with the caller's signal or with the claim. */
  readonly #signal: AbortSignal
  /** For what must still be done after the caller's signal; ends some time after it, or with the claim. */
  readonly #grace: AbortSignal
  readonly #end: number
  #verified = false
  /** The statement that was followed to its end without an error. */
  #followed: Submission | undefined

  constructor(request: LoadRequest, context: LoadContext, claim: Claim, grace: AbortSignal) {
    this.#request = request
    this.#context = context
    this.#claim = claim
    this.#signal = AbortSignal.any([context.signal, claim.signal])
    this.#grace = AbortSignal.any([grace, claim.signal])
    this.#end = Date.now() + context.budgetMs
  }

  async run(): Promise<DoneEntry> {
    const { engine, logger, pauseMs = FIRST_PAUSE_MS } = this.#context
    for (let pause = pauseMs; ; pause = Math.min(pause * 2, pauseMs * 10)) {
      const failure = this.#entry.state === 'claimed' ? await this.#attempt() : undefined
      await this.#settle(failure)
      if (isDone(this.#entry)) return this.#finish()
      if (failure === undefined) continue
      this.#signal.throwIfAborted()
      if (!this.#mayTryAgain(failure)) throw await engine.diagnose(this.#now, failure, { signal: this.#signal })
      logger.warn(
        { runId: this.#entry.runId, error: failure },
        'the attempt failed for a reason that may pass; making another one',
      )
      await sleep(pause, this.#signal)
    }
  }

  async supersede(by: string): Promise<DoneEntry> {
    await this.#settle(undefined)
    if (!isDone(this.#entry)) {
      await this.#unstage()
      await this.#claim.superseded(by)
    }
    return this.#finish()
  }

  /** Ends without a commit: tidies up and gives the claim back. What was submitted stays written down. */
  async leave(error: unknown): Promise<void> {
    if (this.#entry.state === 'claimed') await this.#unstage()
    try {
      await this.#claim.release(problemOf(error))
    } catch (cause) {
      this.#context.logger.warn({ error: cause }, 'the claim could not be given back; it ends with its lease')
    }
  }

  get #entry(): LedgerEntry {
    return this.#claim.entry
  }

  /** The attempt as the ledger has it now. */
  get #now(): LoadAttempt {
    const { method, attempt } = this.#entry
    return { manifest: this.#request.manifest, method, attempt }
  }

  async #finish(): Promise<DoneEntry> {
    const entry = this.#entry
    if (!isDone(entry)) throw new Error('the run is not done')
    if (entry.state === 'committed') await this.#unstage()
    return entry
  }

  /** One try, up to the end of the statement. Returns what went wrong instead of throwing it: the statement's fate decides. */
  async #attempt(): Promise<unknown> {
    const { engine, verify, onProgress } = this.#context
    const { manifest } = this.#request
    const signal = this.#signal
    try {
      if (!this.#verified) await verify(manifest, signal)
      this.#verified = true
      const attempt = this.#now
      await engine.prepare(attempt, { signal })
      // To add nothing needs no statement; to replace a table by nothing does.
      if (manifest.totals.rows === 0 && attempt.method !== 'replace') {
        await this.#claim.committed({ rows: 0 })
        return undefined
      }
      await engine.stage(attempt, { signal })
      const statement = await engine.submit(attempt, { signal })
      try {
        await this.#claim.submitted(statement.submission)
        this.#claim.assertHeld()
      } catch (error) {
        await statement.cancel()
        throw error
      }
      await statement.follow({ signal, onProgress })
      this.#followed = statement.submission
      return undefined
    } catch (error) {
      return error
    }
  }

  /** Finds out what became of the statement that is written down, if one is, and writes that down. */
  async #settle(failure: unknown): Promise<void> {
    const entry = this.#entry
    if (entry.state !== 'submitted') return
    const { runId, submission } = entry
    const attempt = this.#now
    const fate = await this.#fate(attempt, submission)
    if (fate === 'assumed') {
      await this.#claim.committed({ rows: this.#request.manifest.totals.rows }, true)
    } else if (!fate.applied) {
      await this.#claim.restart(this.#request.method)
      // It ended without an error and left nothing: another attempt would end in the same way.
      if (this.#followed?.queryId === submission.queryId) throw notThere(runId, submission)
    } else if (fate.commit.rows === this.#request.manifest.totals.rows) {
      await this.#claim.committed(fate.commit)
      if (failure !== undefined) this.#context.logger.info({ runId }, 'the statement was applied although its answer was lost')
    } else {
      await this.#takeBack(attempt, submission, fate.commit)
    }
  }

  async #fate(attempt: LoadAttempt, submission: Submission): Promise<Fate | 'assumed'> {
    const { engine, logger } = this.#context
    try {
      // Asking again is harmless, and a server that is starting again must be waited for.
      return await retry(() => engine.settle(attempt, submission, { signal: this.#grace }), {
        policy: { ...PATIENT, budgetMs: Math.max(0, this.#end - Date.now()) },
        idempotent: true,
        signal: this.#grace,
        onRetry: (error, next) => logger.warn({ error, ...next }, 'cannot find out yet what became of the statement'),
      })
    } catch (error) {
      const { assume } = this.#request
      if (!HandlerError.is(error) || error.code !== 'INGESTOR_CANNOT_BE_PROVED' || assume === undefined) throw error
      logger.warn({ runId: attempt.manifest.runId, assume }, 'what became of the statement is taken from the command line')
      return assume === 'applied' ? 'assumed' : { applied: false }
    }
  }

  async #takeBack(attempt: LoadAttempt, submission: Submission, commit: Commit): Promise<never> {
    const { engine } = this.#context
    const undone = await engine.undo(attempt, submission, commit, { signal: this.#grace })
    if (undone) await this.#claim.restart(this.#request.method)
    throw rowsDiffer(this.#request.manifest, commit, engine.target, undone)
  }

  #mayTryAgain(failure: unknown): boolean {
    return HandlerError.is(failure) && failure.retry !== 'never' && Date.now() < this.#end
  }

  /** What cannot be removed is no reason to fail: the next run removes it. */
  async #unstage(): Promise<void> {
    const { engine, logger } = this.#context
    try {
      await engine.unstage(this.#now, { signal: this.#grace })
    } catch (error) {
      logger.warn({ error }, 'what the load made beside the table could not be removed; the next run does it')
    }
  }
}

/** A signal that is aborted some time after the given one: for what must still be done when everything else stops. */
function graceAfter(signal: AbortSignal, ms: number): { readonly signal: AbortSignal } & Disposable {
  const grace = new AbortController()
  let timer: NodeJS.Timeout | undefined
  const begin = (): void => {
    timer = setTimeout(() => grace.abort(signal.reason), ms)
  }
  if (signal.aborted) begin()
  else signal.addEventListener('abort', begin, { once: true })
  return {
    signal: grace.signal,
    [Symbol.dispose]: () => {
      clearTimeout(timer)
      signal.removeEventListener('abort', begin)
    },
  }
}

function resultOf(entry: DoneEntry, loaded: boolean, began: number): LoadResult {
  return {
    runId: entry.runId,
    state: entry.state,
    loaded,
    method: entry.method,
    rows: entry.state === 'committed' ? entry.commit.rows : 0,
    snapshotId: entry.state === 'committed' ? entry.commit.snapshotId : undefined,
    attempts: entry.attempt,
    seconds: (performance.now() - began) / 1000,
  }
}

function rowsDiffer(manifest: Manifest, commit: Commit, target: string, undone: boolean): DataError {
  const { runId, totals } = manifest
  const then = undone
    ? `${target} was set back to what it was before`
    : `${target} has been written to since and was NOT set back: remove snapshot ${commit.snapshotId ?? ''} by hand`
  return new DataError(`run ${runId} holds ${totals.rows} rows by its manifest, but ${commit.rows} arrived; ${then}`, {
    code: 'INGESTOR_ROWS_DIFFER',
    context: { runId, expected: totals.rows, arrived: commit.rows, snapshotId: commit.snapshotId, undone },
  })
}

function notThere(runId: string, { queryId }: Submission): ConflictError {
  return new ConflictError(
    `the statement ${queryId} for run ${runId} ended well, but the table has no snapshot of it: somebody has set the table back or replaced it meanwhile`,
    { code: 'INGESTOR_SNAPSHOT_MISSING', context: { runId, queryId } },
  )
}
