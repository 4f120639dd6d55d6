import type { Progress } from '@common-handlers/cli'
import type { Logger } from '@common-handlers/core'
import {
  copySettings,
  encodeOneRowALine,
  encodeRow,
  type Manifest,
  MANIFEST_VERSION,
  mapColumn,
  type ManifestFile,
  newRunId,
  readNewestManifest,
  runPrefix,
} from '@common-handlers/dataset'
import { type CopyBlock, PostgresHandler, quoteLiteral, type ReadSnapshot } from '@common-handlers/postgres-handler'
import type { ObjectStore } from '@common-handlers/storage'
import { commitRun, discardRun } from './commit.ts'
import { type Compressor, createCompressor, mapInOrder } from './compression.ts'
import type { ExtractorConfig, OutputConfig } from './config.ts'
import { PartWriter } from './part-writer.ts'
import { describeSource, type DescribedSource } from './source.ts'
import { copySelect, headerLine, probeQuery, type ProbeResult, readProbe, rowCondition } from './source-sql.ts'
import { version } from './version.ts'
import { planWindow, type Window, watermarkOf } from './window.ts'

export interface ExtractionContext {
  readonly logger: Logger
  readonly signal: AbortSignal
  readonly progress: Pick<Progress, 'update'>
}

/** What a run did: the manifest it committed, or nothing since there was nothing new. */
export type Extraction =
  | { readonly manifest: Manifest; readonly csvBytes: number }
  | { readonly manifest?: undefined; readonly previousRunId: string }

/** Compressed at the same time; more would only wait for the two or three threads that are there. */
const BLOCKS_IN_FLIGHT = 3
const MAX_BLOCK_BYTES = 512 * 1024
const MIN_BLOCK_BYTES = 16 * 1024
/** Time for taking back what an unfinished run has written. What is left then, `gc` finds. */
const CLEAN_UP_MS = 5_000
export const NULL_TEXT = '\\N'

/**
 * Reads the source in one snapshot, writes its files and commits them as one run. Whatever fails or is aborted, and
 * wherever, no run is visible then, and its files are deleted as far as the store can be reached.
 */
export async function extract(config: ExtractorConfig, store: ObjectStore, context: ExtractionContext): Promise<Extraction> {
  const { logger, signal } = context
  const { dataset } = config
  const previous = await readNewestManifest(store, dataset, { signal })
  const runId = followingRunId(previous?.runId)
  logger.debug({ dataset, runId, previousRunId: previous?.runId }, 'a run begins')
  let copied: { readonly manifest: Manifest; readonly csvBytes: number } | undefined
  try {
    copied = await readSource(config, store, runId, previous, context)
    if (copied === undefined) return { previousRunId: previous?.runId ?? '' }
    await commitRun(store, copied.manifest, { signal })
    return copied
  } catch (error) {
    const state = await cleanUp(store, dataset, runId, copied !== undefined, logger)
    // The answer was lost, or the abort came too late: the run is there.
    if (copied !== undefined && state === 'committed') return copied
    throw error
  }
}

/** Ids sort by time, and a run has to sort behind the one it follows, also when the clock of this machine is behind. */
export function followingRunId(previousRunId: string | undefined, now: Date = new Date()): string {
  const [, day = '', time = '', ms = ''] = /^(\d{8})T(\d{6})(\d{3})Z/.exec(previousRunId ?? '') ?? []
  const iso = `${day.replace(/(....)(..)(..)/, '$1-$2-$3')}T${time.replace(/(..)(..)(..)/, '$1:$2:$3')}.${ms}Z`
  const before = day === '' ? 0 : Date.parse(iso)
  return newRunId(new Date(Math.max(now.getTime(), before + 1)))
}

async function cleanUp(
  store: ObjectStore,
  dataset: string,
  runId: string,
  manifestSent: boolean,
  logger: Logger,
): Promise<string> {
  try {
    const { state, deleted } = await discardRun(store, dataset, runId, { manifestSent, signal: AbortSignal.timeout(CLEAN_UP_MS) })
    if (deleted > 0) logger.debug({ dataset, runId, deleted }, 'the files of the unfinished run were deleted')
    return state
  } catch (error) {
    logger.warn({ dataset, runId, error }, 'the files of the unfinished run could not be deleted; gc will find them')
    return 'unknown'
  }
}

/** Reads everything in one transaction and writes the files. Undefined when an incremental run found nothing. */
async function readSource(
  config: ExtractorConfig,
  store: ObjectStore,
  runId: string,
  previous: Manifest | undefined,
  context: ExtractionContext,
): Promise<{ readonly manifest: Manifest; readonly csvBytes: number } | undefined> {
  const { signal, logger } = context
  await using postgres = new PostgresHandler({ ...config.postgres, logger })
  return await postgres.readSnapshot(
    async (reader) => {
      const { source, window } = await lookAt(config, reader, previous)
      if (window.remark !== undefined) logger.warn({ dataset: config.dataset }, window.remark)
      const { snapshot } = reader
      const probe = probeQuery(source, window.known, snapshot)
      const [row = {}] = await reader.getRecords(probe.sql)
      const found = readProbe(probe, row)
      if (config.source.mode === 'incremental' && previous !== undefined && found.rows === 0) return undefined
      const facts = { rows: found.rows, from: window.known?.from, to: found.high, snapshot: snapshot.id }
      logger.info({ dataset: config.dataset, runId, ...facts }, 'the rows are counted')
      const select = copySelect(source, rowCondition(source, window.known, snapshot))
      const copied =
        found.rows === 0
          ? { files: [], csvBytes: 0 }
          : await copyFiles(config, store, runId, source, reader, select, found.rows, context)
      return {
        manifest: toManifest(config, runId, previous, reader, source, window, found, copied.files),
        csvBytes: copied.csvBytes,
      }
    },
    { signal },
  )
}

/** What is read and which of its rows; used by `run` and `plan` alike. */
export async function lookAt(
  config: ExtractorConfig,
  reader: ReadSnapshot,
  previous: Manifest | undefined,
): Promise<{ readonly source: DescribedSource; readonly window: Window }> {
  const settings = Object.entries(copySettings).map(
    ([name, value]) => `set_config(${quoteLiteral(name)}, ${quoteLiteral(value)}, true)`,
  )
  await reader.getRows(`SELECT ${settings.join(', ')}`)
  const source = await describeSource(reader, config.source)
  return { source, window: planWindow(config.source, source, previous, reader.snapshot) }
}

/** The statement that is run: the header line is written by us, at the top of every file. */
export function copyStatement(select: string): string {
  return `COPY (\n${select}\n) TO STDOUT (FORMAT csv, HEADER false, NULL ${quoteLiteral(NULL_TEXT).trim()}, ENCODING 'UTF8')`
}

async function copyFiles(
  { dataset, output }: ExtractorConfig,
  store: ObjectStore,
  runId: string,
  source: DescribedSource,
  reader: ReadSnapshot,
  select: string,
  totalRows: number,
  { signal, progress }: ExtractionContext,
): Promise<{ readonly files: readonly ManifestFile[]; readonly csvBytes: number }> {
  const compress = createCompressor(output.compression, output.level)
  const names = source.columns.map((column) => column.name)
  const header = output.dialect === 'one-row-a-line' ? Buffer.from(encodeRow(names)) : headerLine(names)
  const writer = new PartWriter({
    store,
    keyOf: (name) => runPrefix(dataset, runId) + name,
    compression: output.compression,
    fileBytes: output.fileBytes,
    header: await compress(header),
    signal,
  })
  const blockBytes = Math.max(MIN_BLOCK_BYTES, Math.min(output.fileBytes, MAX_BLOCK_BYTES))
  try {
    let rows = 0
    let csvBytes = 0
    const blocks = reader.copyOut(copyStatement(select), { blockBytes, signal })
    for await (const block of mapInOrder(blocks, BLOCKS_IN_FLIGHT, (raw) => toStored(raw, output, compress))) {
      await writer.write(block)
      rows += block.rows
      csvBytes += block.csvBytes
      progress.update({ rows, totalRows, bytes: csvBytes, detail: writer.current })
    }
    return { files: await writer.end(), csvBytes }
  } catch (error) {
    await writer.abort(error)
    throw error
  }
}

async function toStored(
  block: CopyBlock,
  { dialect }: OutputConfig,
  compress: Compressor,
): Promise<{ readonly bytes: Buffer; readonly rows: number; readonly csvBytes: number }> {
  const csv = dialect === 'one-row-a-line' ? encodeOneRowALine(block) : block.bytes
  const { byteLength } = csv
  const bytes = await compress(csv)
  // Uncompressed, the block itself is on its way to the store.
  if (bytes !== block.bytes) block.release()
  return { bytes, rows: block.rows, csvBytes: byteLength }
}

function toManifest(
  config: ExtractorConfig,
  runId: string,
  previous: Manifest | undefined,
  { snapshot }: ReadSnapshot,
  source: DescribedSource,
  window: Window,
  found: ProbeResult,
  files: readonly ManifestFile[],
): Manifest {
  const { serverVersion, ...seen } = snapshot
  const watermark = watermarkOf(source, window, found, snapshot)
  const text = new Set(config.source.text)
  return {
    version: MANIFEST_VERSION,
    dataset: config.dataset,
    runId,
    ...(previous === undefined ? {} : { previousRunId: previous.runId }),
    createdAt: new Date().toISOString(),
    createdBy: `audit-log-extractor ${version}`,
    source: { system: 'postgresql', serverVersion, database: config.postgres.database, ...source.origin },
    mode: config.source.mode,
    ...(watermark === undefined ? {} : { watermark }),
    snapshot: seen,
    columns: source.columns.map((column) =>
      mapColumn(column, { exceptional: found.exceptional.get(column.name), text: text.has(column.name) }),
    ),
    format: { dialect: config.output.dialect, compression: config.output.compression, null: NULL_TEXT, header: true },
    files,
    totals: {
      files: files.length,
      rows: files.reduce((total, file) => total + file.rows, 0),
      bytes: files.reduce((total, file) => total + file.bytes, 0),
    },
  }
}
