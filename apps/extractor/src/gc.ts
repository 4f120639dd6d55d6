import type { CallOptions } from '@common-handlers/core'
import { listRuns, parseRunKey } from '@common-handlers/dataset'
import { abandonRun, deleteFiles } from './commit.ts'
import type { RunStore, UnfinishedUpload } from './store.ts'

/** A run that was never committed. */
export interface UnfinishedRun {
  readonly runId: string
  readonly files: number
  readonly bytes: number
  /** When its newest object was written. */
  readonly lastModified: Date
}

export interface Garbage {
  readonly runs: readonly UnfinishedRun[]
  readonly uploads: readonly UnfinishedUpload[]
  /** Unfinished, but too young to be judged: their extractor may be at work. */
  readonly young: { readonly runs: number; readonly uploads: number }
}

/** Finds runs without a manifest, and uploads without an end, that nobody has touched for so long. */
export async function findGarbage(
  store: RunStore,
  dataset: string,
  olderThanMs: number,
  options?: CallOptions,
): Promise<Garbage> {
  const before = Date.now() - olderThanMs
  const unfinished = (await listRuns(store.objects, dataset, options)).filter(
    // Of an abandoned run without files only the mark is left, which keeps it from ever being committed: it stays.
    (run) => !run.committed && !(run.abandoned && run.files === 0),
  )
  const uploads: UnfinishedUpload[] = []
  for await (const upload of store.uploads?.list(`${dataset}/run=`, options) ?? []) {
    if (parseRunKey(upload.key)?.dataset === dataset) uploads.push(upload)
  }
  // An extractor in the middle of a large file has no new object to show, but a new upload.
  const active = new Set(
    uploads.filter((upload) => upload.initiated.getTime() > before).map((upload) => parseRunKey(upload.key)?.runId),
  )
  const old = unfinished.filter((run) => run.lastModified.getTime() <= before && !active.has(run.runId))
  const oldUploads = uploads.filter((upload) => upload.initiated.getTime() <= before)
  return {
    runs: old.map(({ runId, files, bytes, lastModified }) => ({ runId, files, bytes, lastModified })),
    uploads: oldUploads,
    young: { runs: unfinished.length - old.length, uploads: uploads.length - oldUploads.length },
  }
}

/**
 * Deletes what was found. Before a run's files go, its manifest is ruled out, so that an extractor which is alive after
 * all cannot commit a run without files; one that was committed meanwhile is left alone.
 */
export async function removeGarbage(
  store: RunStore,
  dataset: string,
  garbage: Garbage,
  options?: CallOptions,
): Promise<{ readonly runs: number; readonly files: number; readonly uploads: number }> {
  let runs = 0
  let files = 0
  for (const { runId } of garbage.runs) {
    if ((await abandonRun(store.objects, dataset, runId, options)) === 'committed') continue
    files += await deleteFiles(store.objects, dataset, runId, options ?? {})
    runs++
  }
  for (const upload of garbage.uploads) await store.uploads?.abort(upload, options)
  return { runs, files, uploads: garbage.uploads.length }
}
