import {
  type App,
  type AppCommand,
  type CommandContext,
  exitCodes,
  formatBytes,
  formatCount,
  formatTable,
  openReferences,
  parseDuration,
} from '@common-handlers/cli'
import { type Manifest, manifestKey } from '@common-handlers/dataset'
import { type VaultConfigInput, VaultHandler } from '@common-handlers/vault-handler'
import { checkAll, describeChecks } from './check.ts'
import type { ExtractorConfig, extractorConfigSchema } from './config.ts'
import { extract } from './extract.ts'
import { findGarbage, removeGarbage } from './gc.ts'
import { describePlan, planRun } from './plan.ts'
import { openStore, type RunStore } from './store.ts'

type Work = AppCommand<ExtractorConfig>['run']
type Context = CommandContext<ExtractorConfig>

/** Runs a command's work with the store of the configuration, and closes it whatever happens. */
const withStore =
  (work: (context: Context, store: RunStore) => Promise<number | undefined | void>): Work =>
  async (context) => {
    const store = openStore(context.config, context.logger)
    try {
      return await work(context, store)
    } finally {
      await store.objects.close()
    }
  }

export const runOnce: Work = withStore(async (context, { objects }) => {
  const { config, logger, signal } = context
  const began = performance.now()
  const progress = context.progress('extract')
  const done = await extract(config, objects, { logger, signal, progress }).finally(() => progress.end())
  if (done.manifest === undefined) {
    const json = { dataset: config.dataset, runId: null, previousRunId: done.previousRunId, rows: 0 }
    context.print({ text: `nothing new since run ${done.previousRunId} of ${config.dataset}`, json })
    return
  }
  const seconds = (performance.now() - began) / 1000
  context.print(
    runResult(done.manifest, done.csvBytes, seconds, `${objects.url}/${manifestKey(config.dataset, done.manifest.runId)}`),
  )
})

function runResult(
  manifest: Manifest,
  csvBytes: number,
  seconds: number,
  url: string,
): { readonly text: string; readonly json: unknown } {
  const { runId, previousRunId, dataset, mode, totals, watermark } = manifest
  const { rows, bytes, files } = totals
  const rowsPerSecond = Math.round(rows / seconds)
  const lines: [string, string][] = [
    ['run', `${runId} of ${dataset}, ${mode}`],
    ['rows', `${formatCount(rows)} in ${seconds.toFixed(1)} s, ${formatCount(rowsPerSecond)} rows/s`],
    ['bytes', `${formatBytes(bytes)} in ${files} ${files === 1 ? 'file' : 'files'}, ${formatBytes(csvBytes)} of CSV`],
  ]
  if (watermark !== undefined) {
    const from = watermark.from === undefined ? '' : `above ${watermark.from} `
    const late = watermark.lateRows ? ', with rows committed late' : ''
    lines.push(['window', `${watermark.column} ${from}up to ${watermark.to ?? 'nothing yet'}${late}`])
  }
  lines.push(['manifest', url])
  const json = {
    dataset,
    runId,
    previousRunId,
    mode,
    rows,
    bytes,
    csvBytes,
    files,
    seconds,
    rowsPerSecond,
    watermark,
    manifest: url,
  }
  return { text: formatTable(lines), json }
}

export const plan: Work = withStore(async ({ config, logger, signal, print }, { objects }) => {
  const planned = await planRun(config, objects, { logger, signal })
  print({ text: describePlan(planned), json: planned })
})

export const check: Work = withStore(async ({ config, logger, signal, print }, store) => {
  const results = await checkAll(config, store, { logger, signal })
  print({ text: describeChecks(results), json: results })
  return results.every((result) => result.ok) ? exitCodes.ok : exitCodes.failed
})

export const gc: Work = withStore(async ({ config, options, signal, print }, store) => {
  const age = typeof options['olderThan'] === 'string' ? options['olderThan'] : '24h'
  const garbage = await findGarbage(store, config.dataset, parseDuration(age, '--older-than'), { signal })
  const lines = [
    ...garbage.runs.map(
      (one) => `run ${one.runId}: ${one.files} files, ${formatBytes(one.bytes)}, last written ${one.lastModified.toISOString()}`,
    ),
    ...garbage.uploads.map((one) => `upload of ${one.key}, begun ${one.initiated.toISOString()}`),
  ]
  const { young } = garbage
  if (young.runs + young.uploads > 0) {
    lines.push(`left alone: ${young.runs} runs and ${young.uploads} uploads that are unfinished, but younger than ${age}`)
  }
  const removed = options['yes'] === true ? await removeGarbage(store, config.dataset, garbage, { signal }) : undefined
  const found = garbage.runs.length + garbage.uploads.length
  if (found === 0) lines.push('nothing to delete')
  else if (removed === undefined) lines.push('nothing was deleted; add --yes to delete')
  else lines.push(`deleted: ${removed.runs} runs with ${removed.files} files, ${removed.uploads} uploads`)
  print({ text: lines.join('\n'), json: { dataset: config.dataset, ...garbage, deleted: removed ?? null } })
})

/** The handler checks what stands under `vault`. */
export const resolvers: App<typeof extractorConfigSchema>['resolvers'] = async (tree, context) =>
  openReferences(tree, context, (vault) => new VaultHandler({ ...(vault as VaultConfigInput), logger: context.logger }))
