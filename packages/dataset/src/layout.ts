import { randomBytes } from 'node:crypto'
import type { CallOptions } from '@common-handlers/core'
import { isNotFound, issuesInWords, manifestInvalid, manifestMissing, manifestTooNew, nameInvalid, runExists } from './errors.ts'
import { type Manifest, MANIFEST_VERSION, type ManifestFormat, manifestSchema } from './manifest.ts'

/** What this package needs of an object store; every store of `@common-handlers/storage` and `S3Handler` fit. */
export interface DatasetStore {
  list(
    prefix: string,
    options?: CallOptions,
  ): AsyncIterable<{ readonly key: string; readonly size: number; readonly lastModified: Date }>
  getBytes(key: string, options?: CallOptions): Promise<{ readonly bytes: Uint8Array; readonly etag: string }>
  putIfAbsent(
    key: string,
    body: Uint8Array | string,
    options?: CallOptions & { readonly contentType?: string | undefined },
  ): Promise<{ readonly written: boolean }>
}

/** A run as its objects show it. */
export interface RunListing {
  readonly runId: string
  /** True when the manifest is there: only then does the run exist for readers. */
  readonly committed: boolean
  /** True when an empty object stands where the manifest would: the run was given up and can never be committed. */
  readonly abandoned: boolean
  /** Data files, the manifest not counted. */
  readonly files: number
  /** Of the data files, as stored. */
  readonly bytes: number
  /** When the newest object of the run was written. */
  readonly lastModified: Date
  /** Every object of the run, the manifest included: what a clean-up removes. */
  readonly keys: readonly string[]
}

const MANIFEST_NAME = '_manifest.json'
const RUN_ID = /^\d{8}T\d{9}Z-[0-9a-f]{8}$/
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]*(?:\/[A-Za-z0-9][A-Za-z0-9._-]*)*$/
const RUN_KEY = /^(.+)\/run=([^/]+)\/([^/]+)$/

/** Checks a dataset's name. @throws ConfigError `DATASET_NAME_INVALID` */
export function assertDatasetName(name: string): void {
  if (!NAME.test(name) || name.split('/').some((part) => part.startsWith('run='))) throw nameInvalid('the dataset name', name)
}

/** A new run id; ids sort by the time at which they were made: `20261121T101530123Z-9f86d081`. */
export function newRunId(now: Date = new Date()): string {
  return `${now.toISOString().replace(/[-:.]/g, '')}-${randomBytes(4).toString('hex')}`
}

export function isRunId(text: string): boolean {
  return RUN_ID.test(text)
}

/** `<dataset>/run=<run-id>/` */
export function runPrefix(dataset: string, runId: string): string {
  assertDatasetName(dataset)
  if (!isRunId(runId)) throw nameInvalid('the run id', runId)
  return `${dataset}/run=${runId}/`
}

/** `part-00000.csv.gz`: the name of a run's n-th file, from 0. */
export function fileName(index: number, format: Pick<ManifestFormat, 'compression'>): string {
  const suffix = { gzip: '.gz', zstd: '.zst', none: '' }[format.compression]
  return `part-${String(index).padStart(5, '0')}.csv${suffix}`
}

export function manifestKey(dataset: string, runId: string): string {
  return runPrefix(dataset, runId) + MANIFEST_NAME
}

/** `<dataset>/_ingest/<target>/`: where an ingestor keeps what it loaded into one target. */
export function ledgerPrefix(dataset: string, target: string): string {
  assertDatasetName(dataset)
  // A quoted table name may hold anything; a key may not.
  return `${dataset}/_ingest/${encodeURIComponent(target).replaceAll('*', '%2A')}/`
}

/** `<dataset>/_ingest/<target>/<run-id>.json`: claimed before a run is loaded, and the proof that it was. */
export function ledgerKey(dataset: string, target: string, runId: string): string {
  if (!isRunId(runId)) throw nameInvalid('the run id', runId)
  return `${ledgerPrefix(dataset, target)}${runId}.json`
}

/** Takes a key apart; undefined when it does not lie in a run. */
export function parseRunKey(
  key: string,
): { readonly dataset: string; readonly runId: string; readonly name: string } | undefined {
  const [, dataset, runId, name] = RUN_KEY.exec(key) ?? []
  if (dataset === undefined || runId === undefined || name === undefined || !isRunId(runId)) return undefined
  return { dataset, runId, name }
}

/** Every run of a dataset, oldest first, those without a manifest included. */
export async function listRuns(store: DatasetStore, dataset: string, options?: CallOptions): Promise<RunListing[]> {
  assertDatasetName(dataset)
  const runs = new Map<
    string,
    { runId: string; committed: boolean; abandoned: boolean; files: number; bytes: number; lastModified: Date; keys: string[] }
  >()
  for await (const { key, size, lastModified } of store.list(`${dataset}/run=`, options)) {
    const parsed = parseRunKey(key)
    if (parsed === undefined || parsed.dataset !== dataset) continue
    let run = runs.get(parsed.runId)
    if (run === undefined)
      runs.set(
        parsed.runId,
        (run = { runId: parsed.runId, committed: false, abandoned: false, files: 0, bytes: 0, lastModified, keys: [] }),
      )
    run.keys.push(key)
    if (lastModified > run.lastModified) run.lastModified = lastModified
    if (parsed.name === MANIFEST_NAME) {
      run.committed = size > 0
      run.abandoned = size === 0
    } else {
      run.files++
      run.bytes += size
    }
  }
  return [...runs.values()].toSorted((a, b) => (a.runId < b.runId ? -1 : 1))
}

/**
 * Reads and checks the manifest of a run.
 * @throws NotFoundError `DATASET_MANIFEST_MISSING`
 * @throws DataError `DATASET_MANIFEST_TOO_NEW`, `DATASET_MANIFEST_INVALID`
 */
export async function readManifest(
  store: DatasetStore,
  dataset: string,
  runId: string,
  options?: CallOptions,
): Promise<Manifest> {
  const key = manifestKey(dataset, runId)
  const read = await store.getBytes(key, options).catch((error: unknown) => {
    throw isNotFound(error) ? manifestMissing(key, error) : error
  })
  if (read.bytes.byteLength === 0) throw manifestMissing(key)
  const manifest = parseManifest(Buffer.from(read.bytes).toString('utf8'), key)
  if (manifest.dataset !== dataset || manifest.runId !== runId) {
    throw manifestInvalid(key, `it says it belongs to ${manifest.dataset}, run ${manifest.runId}`)
  }
  return manifest
}

/** Checks the text of a manifest; `key` is named in errors. @throws DataError */
export function parseManifest(text: string, key: string): Manifest {
  let content: unknown
  try {
    content = JSON.parse(text)
  } catch (cause) {
    throw manifestInvalid(key, (cause as Error).message, cause)
  }
  const version = typeof content === 'object' && content !== null && 'version' in content ? content.version : undefined
  if (typeof version === 'number' && version > MANIFEST_VERSION) throw manifestTooNew(key, version, MANIFEST_VERSION)
  const parsed = manifestSchema.safeParse(content)
  if (!parsed.success) throw manifestInvalid(key, issuesInWords(parsed.error.issues))
  const problem = inconsistency(parsed.data)
  if (problem !== undefined) throw manifestInvalid(key, problem)
  return parsed.data
}

/** What a schema cannot say: totals are the sums, names are there once. */
function inconsistency({ files, totals, columns }: Manifest): string | undefined {
  const sum = (of: 'rows' | 'bytes'): number => files.reduce((total, file) => total + file[of], 0)
  if (totals.files !== files.length) return `totals.files: ${totals.files}, but ${files.length} files are listed`
  if (totals.rows !== sum('rows')) return `totals.rows: ${totals.rows}, but the files hold ${sum('rows')}`
  if (totals.bytes !== sum('bytes')) return `totals.bytes: ${totals.bytes}, but the files hold ${sum('bytes')}`
  if (new Set(files.map((file) => file.name)).size !== files.length) return 'files: a name is there twice'
  if (new Set(columns.map((column) => column.name)).size !== columns.length) return 'columns: a name is there twice'
  return undefined
}

/**
 * Writes the manifest, which makes the run exist. The same manifest may be written again (an answer can be lost on its
 * way); a different one under the same run id may not.
 * @throws ConflictError `DATASET_RUN_EXISTS`
 * @throws DataError `DATASET_MANIFEST_INVALID` when the manifest is none, before anything is written
 */
export async function writeManifest(store: DatasetStore, manifest: Manifest, options?: CallOptions): Promise<void> {
  const key = manifestKey(manifest.dataset, manifest.runId)
  const text = `${JSON.stringify(manifest, null, 2)}\n`
  parseManifest(text, key)
  const { written } = await store.putIfAbsent(key, text, { ...options, contentType: 'application/json' })
  if (written) return
  const { bytes } = await store.getBytes(key, options)
  if (Buffer.from(bytes).toString('utf8') !== text) throw runExists(key)
}

/** The manifest of the newest committed run: where an incremental run goes on. Undefined when there is none. */
export async function readNewestManifest(
  store: DatasetStore,
  dataset: string,
  options?: CallOptions,
): Promise<Manifest | undefined> {
  const newest = (await listRuns(store, dataset, options)).findLast((run) => run.committed)
  return newest && (await readManifest(store, dataset, newest.runId, options))
}
