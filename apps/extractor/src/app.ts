import type { App, AppCommand } from '@common-handlers/cli'
import type { ExtractorConfig, extractorConfigSchema } from './config.ts'
import { version } from './version.ts'

// What the program says of itself. What it does, and every driver with it, is loaded when a command runs.

const run: AppCommand<ExtractorConfig> = {
  name: 'run',
  repeatable: true,
  summary: 'read the source and commit its rows as one run',
  help: `Reads the source in one snapshot, writes CSV files into <store>/<dataset>/run=<id>/ and, last, _manifest.json, which
makes the run visible. When anything fails, or on SIGTERM, nothing is visible and what was written is deleted.
An incremental run that finds nothing new writes nothing and ends with 0.

  audit-log-extractor run --config extractor.yaml
  audit-log-extractor run --config extractor.yaml --set source.mode=incremental --set source.watermark=id`,
  run: async (context) => (await import('./commands.ts')).runOnce(context),
}

const plan: AppCommand<ExtractorConfig> = {
  name: 'plan',
  summary: 'show what a run would read and write, and do neither',
  help: `Asks PostgreSQL and the store what is there, and shows columns with their types in each target, the watermark window,
how many rows and files are to be expected, and the SQL. Reads no rows, writes nothing.

  audit-log-extractor plan --config extractor.yaml`,
  run: async (context) => (await import('./commands.ts')).plan(context),
}

const check: AppCommand<ExtractorConfig> = {
  name: 'check',
  summary: 'try every connection and right that a run needs',
  help: `Logs in to the vault, if one is configured; connects to PostgreSQL and looks whether the source may be read; reaches the
store, writes a small object, proves that a second write of it is refused, and deletes it. Ends with 1 when a step fails.

  audit-log-extractor check --config extractor.yaml`,
  run: async (context) => (await import('./commands.ts')).check(context),
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
  run: async (context) => (await import('./commands.ts')).gc(context),
}

/** The extractor as a program: `main(extractorApp)` runs it, `runApp` runs it inside another process. */
export const extractorApp: App<typeof extractorConfigSchema> = {
  name: 'audit-log-extractor',
  version,
  description: 'Extracts a PostgreSQL table or query into CSV files with a manifest, on S3 or in a folder.',
  envPrefix: 'EXTRACTOR',
  config: async () => (await import('./config.ts')).extractorConfigSchema,
  commands: [run, plan, check, gc],
  resolvers: async (tree, context) => (await import('./commands.ts')).resolvers(tree, context),
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
