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
import { type ExtractorConfig, extractorConfigSchema } from './config.ts'
import { extract } from './extract.ts'
import { findGarbage, removeGarbage } from './gc.ts'
import { describePlan, planRun } from './plan.ts'
import { openStore, type RunStore } from './store.ts'
import { version } from './version.ts'

type Context = CommandContext<ExtractorConfig>

/** Runs a command's work with the store of the configuration, and closes it whatever happens. */
const withStore =
  (work: (context: Context, store: RunStore) => Promise<number | undefined | void>): AppCommand<ExtractorConfig>['run'] =>
  async (context) => {
    const store = openStore(context.config, context.logger)
    try {
      return await work(context, store)
    } finally {
      await store.objects.close()
    }
  }

const run: AppCommand<ExtractorConfig> = {
  name: 'run',
  repeatable: true,
  summary: 'read the source and commit its rows as one run',
  help: `Reads the source in one snapshot, writes CSV files into <store>/<dataset>/run=<id>/ and, last, _manifest.json, which
makes the run visible. When anything fails, or on SIGTERM, nothing is visible and what was written is deleted.
An incremental run that finds nothing new writes nothing and ends with 0.

  audit-log-extractor run --config extractor.yaml
  audit-log-extractor run --config extractor.yaml --set source.mode=incremental --set source.watermark=id`,
  run: withStore(async (context, { objects }) => {
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
  }),
}

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

const plan: AppCommand<ExtractorConfig> = {
  name: 'plan',
  summary: 'show what a run would read and write, and do neither',
  help: `Asks PostgreSQL and the store what is there, and shows columns with their types in each target, the watermark window,
how many rows and files are to be expected, and the SQL. Reads no rows, writes nothing.

  audit-log-extractor plan --config extractor.yaml`,
  run: withStore(async ({ config, logger, signal, print }, { objects }) => {
    const planned = await planRun(config, objects, { logger, signal })
    print({ text: describePlan(planned), json: planned })
  }),
}

const check: AppCommand<ExtractorConfig> = {
  name: 'check',
  summary: 'try every connection and right that a run needs',
  help: `Logs in to the vault, if one is configured; connects to PostgreSQL and looks whether the source may be read; reaches the
store, writes a small object, proves that a second write of it is refused, and deletes it. Ends with 1 when a step fails.

  audit-log-extractor check --config extractor.yaml`,
  run: withStore(async ({ config, logger, signal, print }, store) => {
    const results = await checkAll(config, store, { logger, signal })
    print({ text: describeChecks(results), json: results })
    return results.every((result) => result.ok) ? exitCodes.ok : exitCodes.failed
  }),
}

const gc: AppCommand<ExtractorConfig> = {
  name: 'gc',
  summary: 'find, and with --yes delete, what killed runs have left in the store',
  help: `Finds runs without a manifest and multipart uploads without an end that nothing was added to for a day. Without --yes it
only lists them. A run that is deleted is first barred from being committed, so that an extractor which is alive
after all fails instead of committing a run without files.

  audit-log-extractor gc --config extractor.yaml
  audit-log-extractor gc --config extractor.yaml --older-than 7d --yes`,
  options: [
    { flags: '--older-than <time>', description: 'how long nothing was added: 24h (default), 90m, 7d' },
    { flags: '--yes', description: 'delete; without it, only list' },
  ],
  run: withStore(async ({ config, options, signal, print }, store) => {
    const age = typeof options['olderThan'] === 'string' ? options['olderThan'] : '24h'
    const garbage = await findGarbage(store, config.dataset, parseDuration(age, '--older-than'), { signal })
    const lines = [
      ...garbage.runs.map(
        (one) =>
          `run ${one.runId}: ${one.files} files, ${formatBytes(one.bytes)}, last written ${one.lastModified.toISOString()}`,
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
  }),
}

/** The extractor as a program: `main(extractorApp)` runs it, `runApp` runs it inside another process. */
export const extractorApp: App<typeof extractorConfigSchema> = {
  name: 'audit-log-extractor',
  version,
  description: 'Extracts a PostgreSQL table or query into CSV files with a manifest, on S3 or in a folder.',
  envPrefix: 'EXTRACTOR',
  config: extractorConfigSchema,
  commands: [run, plan, check, gc],
  // The handler checks what stands under `vault`.
  resolvers: async (tree, context) =>
    openReferences(tree, context, (vault) => new VaultHandler({ ...(vault as VaultConfigInput), logger: context.logger })),
  help: `A first configuration, extractor.yaml:

  dataset: audit_log
  store: file:///tmp/landing            # or s3://bucket/prefix, then with s3.endpoint, s3.accessKeyId, …
  source:
    table: app.audit_log
    mode: incremental                   # or full, the default
    watermark: id                       # the column that grows
  postgres:
    host: localhost
    database: app
    user: reader
    password: env:PGPASSWORD            # or vault:secret/app#password, with vault.address; or file:/run/secrets/pg

  audit-log-extractor check -c extractor.yaml           is everything there, and may it be read and written?
  audit-log-extractor plan -c extractor.yaml            what would be read and written?
  audit-log-extractor run -c extractor.yaml             do it; again and again, for what is new
  audit-log-extractor gc -c extractor.yaml              what have killed runs left?
  audit-log-extractor explain-config -c extractor.yaml  where does each value come from?
  audit-log-extractor explain-config --keys             what can be set?

Every key can also be given in the environment (source.table: EXTRACTOR_SOURCE_TABLE) and by --set source.table=….`,
}
