import { readFileSync } from 'node:fs'
import { type App, type AppCommand, exitCodes, formatCount, formatTable, openReferences } from '@common-handlers/cli'
import { type CheckResult, ConfigError } from '@common-handlers/core'
import { isRunId } from '@common-handlers/dataset'
import { type VaultConfigInput, VaultHandler } from '@common-handlers/vault-handler'
import { type IngestorConfig, ingestorConfigSchema } from './config.ts'
import { ingest, type IngestOptions } from './ingest.ts'
import type { LoadResult } from './load.ts'
import { readQueue } from './queue.ts'
import { checkReport, loadReport } from './report.ts'
import { openSession } from './session.ts'
import { readStatus, statusNote } from './status.ts'

type Command = AppCommand<IngestorConfig>

const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string }

const runCommand: Command = {
  name: 'run',
  repeatable: true,
  summary: 'load every new run into the table, each exactly once',
  help: `Loads the runs that are not in the table yet, oldest first. A full run takes the place of the whole table; an
incremental one is merged by its key, or appended when its source has none (key write). Before a run is loaded its files
are compared with its manifest. What another worker has begun and left is first brought to its end: stopping this
program at any moment, and starting it again, leaves each row in the table once.

  iceberg-ingestor run -c ingestor.yaml
  iceberg-ingestor run -c ingestor.yaml --run 20261121T101530123Z-9f86d081 --verify`,
  options: [
    { flags: '--run <id>', description: 'load this run alone' },
    { flags: '--verify', description: 'read every file whole and compare its SHA-256 with the manifest' },
    { flags: '--wait', description: 'wait while another worker loads a run, instead of leaving with exit code 7' },
    { flags: '--assume-applied <id>', description: 'this run is in the table, although its snapshot has expired' },
    { flags: '--assume-not-applied <id>', description: 'this run is not in the table: load it again' },
  ],
  run: async ({ config, logger, signal, options, progress, print }) => {
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
  },
}

const planCommand: Command = {
  name: 'plan',
  summary: 'show what run would do, and change nothing',
  help: `Shows which runs would be loaded and how, which are not needed, and the statements for each. Reads the store and asks
the engine about the table; writes nothing and claims nothing.`,
  run: async ({ config, logger, signal, print }) => {
    await using session = await openSession(config, logger, { readOnly: true })
    const { engine, store } = session
    const ledgerName = await engine.ledgerName({ signal })
    const { pending, done } = await readQueue(store.objects, config.dataset, ledgerName, { write: config.write, signal, logger })
    const runs = []
    for (const { manifest, method, entry, supersededBy } of pending) {
      const attempt = { manifest, method, attempt: (entry?.attempt ?? 0) + 1 }
      const plan = supersededBy === undefined ? await engine.plan(attempt, { signal }) : undefined
      runs.push({
        runId: manifest.runId,
        mode: manifest.mode,
        method,
        rows: manifest.totals.rows,
        files: manifest.totals.files,
        state: entry?.state ?? 'pending',
        supersededBy,
        plan,
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
  },
}

const checkCommand: Command = {
  name: 'check',
  summary: 'try every connection and right that a load needs',
  help: `Tries the vault, the store (with a small object that it deletes again), and the engine: the server, the catalogs, the
rights on the target, and an external table over the store, which it drops again. Says what is missing and what to do.
Exit code 0 when a load can begin, 1 when something is missing.`,
  run: async ({ config, logger, signal, print }) => {
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
  },
}

const statusCommand: Command = {
  name: 'status',
  summary: 'show each run and how far it has come',
  help: `Shows the newest runs with their state in the ledger of this target:
  pending     nobody has begun
  claimed     a worker has it; its statement cannot have run
  submitted   its statement may have run: whoever takes over looks that up first
  committed   its rows are in the table
  superseded  a later full run takes its place
  failed      the last attempt ended without a commit; the next run tries again`,
  options: [{ flags: '--limit <n>', description: 'how many runs to show (default 20)' }],
  run: async ({ config, logger, signal, options, print }) => {
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
  },
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

/** The program `iceberg-ingestor`. */
export const ingestorApp: App<typeof ingestorConfigSchema> = {
  name: 'iceberg-ingestor',
  version,
  description: 'Loads runs of CSV files into an Iceberg table through Trino, or into DuckDB, each exactly once.',
  envPrefix: 'INGESTOR',
  config: ingestorConfigSchema,
  commands: [runCommand, planCommand, checkCommand, statusCommand],
  // The handler checks what stands under `vault`.
  resolvers: async (tree, context) =>
    openReferences(tree, context, (vault) => new VaultHandler({ ...(vault as VaultConfigInput), logger: context.logger })),
  help: `Where to start:
  iceberg-ingestor explain-config --keys        every key that can be set
  iceberg-ingestor check -c ingestor.yaml       is everything there and allowed?
  iceberg-ingestor plan  -c ingestor.yaml       what would be loaded, and how
  iceberg-ingestor run   -c ingestor.yaml       load it

A configuration:
  dataset: audit_log
  store: s3://lake/landing
  engine: trino
  target: { catalog: lake, schema: audit, table: audit_log, partitioning: ["day(occurred_at)"] }
  trino: { url: "https://trino:8443", user: ingestor, password: "vault:secret/trino#password", stagingCatalog: stage }
  s3: { accessKeyId: "vault:secret/s3#key", secretAccessKey: "vault:secret/s3#secret" }
  vault: { address: "https://vault:8200", tokenFile: /run/secrets/vault-token }

Each key can be given in the environment as well (INGESTOR_TARGET_TABLE=audit_log) or with --set target.table=audit_log.`,
}
