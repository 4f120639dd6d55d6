import { type App, type AppCommand, exitCodes, formatCount, formatTable, openReferences } from '@common-handlers/cli'
import { type CheckResult, ConfigError } from '@common-handlers/core'
import { isRunId } from '@common-handlers/dataset'
import { type VaultConfigInput, VaultHandler } from '@common-handlers/vault-handler'
import type { IngestorConfig, ingestorConfigSchema } from './config.ts'
import { ingest, type IngestOptions } from './ingest.ts'
import type { LoadResult } from './load.ts'
import { readQueue } from './queue.ts'
import { checkReport, loadReport } from './report.ts'
import { openSession } from './session.ts'
import { readStatus, statusNote } from './status.ts'

type Work = AppCommand<IngestorConfig>['run']

export const runOnce: Work = async ({ config, logger, signal, options, progress, print }) => {
  await using session = await openSession(config, logger)
  const results: LoadResult[] = []
  const drawn = progress(`load ${session.engine.target}`)
  try {
    await ingest(session, {
      signal,
      run: textOption(options, 'run'),
      verifyWhole: options['verify'] === true,
      wait: options['wait'] === true,
      assume: assumption(options),
      onProgress: (manifest, { rows, bytes, detail }) =>
        drawn.update({
          rows,
          totalRows: rows === undefined ? undefined : manifest.totals.rows,
          bytes,
          detail: detail ?? manifest.runId,
        }),
      onResult: (result) => results.push(result),
    })
  } finally {
    drawn.end()
    // What was loaded is told also when a later run fails.
    if (results.length > 0 || !signal.aborted)
      print({ text: loadReport(results, session.engine.target), json: { target: session.engine.target, runs: results } })
  }
}

export const plan: Work = async ({ config, logger, signal, print }) => {
  await using session = await openSession(config, logger, { readOnly: true })
  const { engine, store } = session
  const ledgerName = await engine.ledgerName({ signal })
  const { pending, done } = await readQueue(store.objects, config.dataset, ledgerName, { write: config.write, signal, logger })
  const runs = []
  for (const { manifest, method, entry, supersededBy } of pending) {
    const attempt = { manifest, method, attempt: (entry?.attempt ?? 0) + 1 }
    const planned = supersededBy === undefined ? await engine.plan(attempt, { signal }) : undefined
    runs.push({
      runId: manifest.runId,
      mode: manifest.mode,
      method,
      rows: manifest.totals.rows,
      files: manifest.totals.files,
      state: entry?.state ?? 'pending',
      supersededBy,
      plan: planned,
    })
  }
  const text = runs.flatMap((run) => {
    const what = run.supersededBy === undefined ? run.method : `not needed: ${run.supersededBy} replaces the table`
    const head = `${run.runId}  ${run.mode}, ${formatCount(run.rows)} rows in ${run.files} files, ${run.state}  ->  ${what}`
    return [
      head,
      ...[...(run.plan?.ddl ?? []), ...(run.plan?.staging ?? []), ...(run.plan === undefined ? [] : [run.plan.statement])].map(
        (line) => `    ${line}`,
      ),
    ]
  })
  const newest = done === undefined ? 'nothing was loaded before' : `newest run that is done: ${done.runId} (${done.state})`
  print({
    text: [`${engine.target} by ${engine.name}; ${newest}`, ...(text.length === 0 ? ['nothing new'] : text)].join('\n'),
    json: { target: engine.target, engine: engine.name, done: done?.runId, runs },
  })
}

export const check: Work = async ({ config, logger, signal, print }) => {
  await using session = await openSession(config, logger, { readOnly: true })
  const results: CheckResult[] = []
  if (config.vault !== undefined) {
    await using vault = new VaultHandler({ ...config.vault, logger })
    results.push(await vault.check({ signal }))
  }
  results.push(await session.store.check({ signal }))
  const engine = await session.engine.check({ signal })
  results.push(...engine.results)
  const ok = results.every((result) => result.ok)
  print({ text: checkReport(results, engine.advice), json: { ok, results, advice: engine.advice } })
  return ok ? exitCodes.ok : exitCodes.failed
}

export const status: Work = async ({ config, logger, signal, options, print }) => {
  await using session = await openSession(config, logger, { readOnly: true })
  const limit = Number(options['limit'] ?? 20)
  if (!Number.isInteger(limit) || limit < 1) throw new ConfigError('--limit: expected a number from 1', { code: 'CLI_USAGE' })
  const ledgerName = await session.engine.ledgerName({ signal })
  const runs = await readStatus(session.store.objects, config.dataset, ledgerName, { limit, signal })
  const rows = runs.map((run) => [
    run.runId,
    run.mode,
    formatCount(run.rows),
    run.state,
    run.snapshotId ?? '',
    statusNote(run.entry),
  ])
  print({
    text:
      runs.length === 0
        ? `no runs of ${config.dataset} in ${config.store}`
        : formatTable([['run', 'mode', 'rows', 'state', 'snapshot', ''], ...rows]),
    json: { target: session.engine.target, runs },
  })
}

function textOption(options: Readonly<Record<string, unknown>>, name: string): string | undefined {
  const value = options[name]
  if (typeof value !== 'string') return undefined
  if (!isRunId(value))
    throw new ConfigError(`${value} is not the id of a run, such as 20261121T101530123Z-9f86d081`, { code: 'CLI_USAGE' })
  return value
}

function assumption(options: Readonly<Record<string, unknown>>): IngestOptions['assume'] {
  const applied = textOption(options, 'assumeApplied')
  const notApplied = textOption(options, 'assumeNotApplied')
  if (applied !== undefined && notApplied !== undefined) {
    throw new ConfigError('give --assume-applied or --assume-not-applied, not both', { code: 'CLI_USAGE' })
  }
  if (applied !== undefined) return { runId: applied, as: 'applied' }
  return notApplied === undefined ? undefined : { runId: notApplied, as: 'not-applied' }
}

/** The handler checks what stands under `vault`. */
export const resolvers: App<typeof ingestorConfigSchema>['resolvers'] = async (tree, context) =>
  openReferences(tree, context, (vault) => new VaultHandler({ ...(vault as VaultConfigInput), logger: context.logger }))
