import { type CallOptions, ConflictError, HandlerError, sleep } from '@common-handlers/core'
import { type Manifest, manifestKey, runPrefix, writeManifest } from '@common-handlers/dataset'
import type { ObjectStore } from '@common-handlers/storage'

/** `unfinished`: no manifest yet. `abandoned`: an empty manifest stands there, so that none can ever be written. */
export type RunState = 'committed' | 'unfinished' | 'abandoned'

/** How long a run that holds the claim may take for its manifest before another one takes it for dead. */
const PATIENCE_MS = 5_000
/** Takers of one claim at the same time; each round one of them goes on. */
const MAX_ROUNDS = 100

/** `<dataset>/_next/<run>.json` names the run that may follow; of the first run of all, `_next/first.json`. */
export function claimKey(dataset: string, previousRunId: string | undefined): string {
  return `${dataset}/_next/${previousRunId ?? 'first'}.json`
}

export async function runState(store: ObjectStore, dataset: string, runId: string, options?: CallOptions): Promise<RunState> {
  try {
    const { size } = await store.head(manifestKey(dataset, runId), options)
    return size === 0 ? 'abandoned' : 'committed'
  } catch (error) {
    if (HandlerError.is(error) && error.outcome === 'not-found') return 'unfinished'
    throw error
  }
}

/**
 * Makes sure that a run never appears: puts an empty object where its manifest would stand, unless the manifest is
 * there. Of this and the run's own commit exactly one succeeds, since both write only if nothing is there.
 */
export async function abandonRun(store: ObjectStore, dataset: string, runId: string, options?: CallOptions): Promise<RunState> {
  const { written } = await store.putIfAbsent(manifestKey(dataset, runId), '', options)
  return written ? 'abandoned' : runState(store, dataset, runId, options)
}

/**
 * Makes a run visible as the one successor of the run before it.
 *
 * 1. The claim `_next/<run before>.json` is created with If-None-Match and names this run. When it names another one
 *    already: that run is committed (then this one has lost), or it is dead (then its manifest is ruled out for ever by
 *    {@link abandonRun}, and the claim changes hands with If-Match).
 * 2. The manifest is created with If-None-Match. It cannot be there but as the mark of somebody who took this run for
 *    dead and became the successor instead.
 *
 * So of all runs that started from the same run, exactly one gets a manifest, whoever stops where.
 * @throws ConflictError `EXTRACTOR_RUN_OVERTAKEN`
 */
export async function commitRun(
  store: ObjectStore,
  manifest: Manifest,
  options: CallOptions & { readonly patienceMs?: number } = {},
): Promise<void> {
  const { dataset, runId } = manifest
  await becomeSuccessor(store, manifest, options)
  try {
    // The same manifest may be there already: of a try whose answer was lost.
    await writeManifest(store, manifest, { signal: options.signal, timeoutMs: options.timeoutMs })
  } catch (error) {
    if (!HandlerError.is(error) || error.outcome !== 'conflict') throw error
    throw overtaken(dataset, runId, 'another extractor took it for dead')
  }
}

async function becomeSuccessor(
  store: ObjectStore,
  { dataset, runId, previousRunId }: Manifest,
  options: CallOptions & { readonly patienceMs?: number },
): Promise<void> {
  const call = { signal: options.signal, timeoutMs: options.timeoutMs }
  const key = claimKey(dataset, previousRunId)
  const body = JSON.stringify({ runId })
  for (let round = 0; round < MAX_ROUNDS; round++) {
    if ((await store.putIfAbsent(key, body, { ...call, contentType: 'application/json' })).written) return
    const claim = await store.getBytes(key, call)
    const holder = holderOf(claim.bytes)
    if (holder === runId) return
    const state = await settle(store, dataset, holder, options.patienceMs ?? PATIENCE_MS, call)
    if (state === 'committed') throw overtaken(dataset, runId, `run ${holder} was committed first`)
    if ((await store.putIfMatch(key, body, claim.etag, call)).written) return
  }
  throw overtaken(dataset, runId, 'too many extractors want to commit at the same time')
}

/** Waits a moment for the manifest of a run that is about to commit, then rules it out. */
async function settle(
  store: ObjectStore,
  dataset: string,
  runId: string,
  patienceMs: number,
  call: CallOptions,
): Promise<RunState> {
  for (const end = Date.now() + patienceMs; ;) {
    const state = await runState(store, dataset, runId, call)
    if (state !== 'unfinished') return state
    if (Date.now() >= end) return abandonRun(store, dataset, runId, call)
    await sleep(Math.min(200, patienceMs), call.signal)
  }
}

function holderOf(bytes: Buffer): string {
  const claim: unknown = JSON.parse(bytes.toString('utf8'))
  const runId = typeof claim === 'object' && claim !== null && 'runId' in claim ? claim.runId : undefined
  return typeof runId === 'string' ? runId : ''
}

function overtaken(dataset: string, runId: string, why: string): ConflictError {
  return new ConflictError(
    `run ${runId} of ${dataset} was not committed: ${why}. Its files are removed; the next run starts from the newest committed one`,
    { code: 'EXTRACTOR_RUN_OVERTAKEN', retry: 'never', context: { dataset, runId } },
  )
}

/**
 * Takes back a run that will not be committed: its files are deleted. When its manifest may have been sent, it is ruled
 * out first. Gives `committed`, and deletes nothing, when the manifest turns out to be there.
 */
export async function discardRun(
  store: ObjectStore,
  dataset: string,
  runId: string,
  options: CallOptions & { readonly manifestSent: boolean },
): Promise<{ readonly state: RunState; readonly deleted: number }> {
  const call = { signal: options.signal, timeoutMs: options.timeoutMs }
  const state = options.manifestSent ? await abandonRun(store, dataset, runId, call) : 'unfinished'
  if (state === 'committed') return { state, deleted: 0 }
  return { state, deleted: await deleteFiles(store, dataset, runId, call) }
}

/** Deletes every object of a run but its manifest or the mark in its place. */
export async function deleteFiles(store: ObjectStore, dataset: string, runId: string, call: CallOptions): Promise<number> {
  const keys: string[] = []
  for await (const { key } of store.list(runPrefix(dataset, runId), call)) {
    if (key !== manifestKey(dataset, runId)) keys.push(key)
  }
  for (const key of keys) await store.delete(key, call)
  return keys.length
}
