import { readFileSync } from 'node:fs'
import type { App, AppCommand } from '@common-handlers/cli'
import type { IngestorConfig, ingestorConfigSchema } from './config.ts'

// What the program says of itself. What it does, and every driver with it, is loaded when a command runs.

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
  run: async (context) => (await import('./commands.ts')).runOnce(context),
}

const planCommand: Command = {
  name: 'plan',
  summary: 'show what run would do, and change nothing',
  help: `Shows which runs would be loaded and how, which are not needed, and the statements for each. Reads the store and asks
the engine about the table; writes nothing and claims nothing.`,
  run: async (context) => (await import('./commands.ts')).plan(context),
}

const checkCommand: Command = {
  name: 'check',
  summary: 'try every connection and right that a load needs',
  help: `Tries the vault, the store (with a small object that it deletes again), and the engine: the server, the catalogs, the
rights on the target, and an external table over the store, which it drops again. Says what is missing and what to do.
Exit code 0 when a load can begin, 1 when something is missing.`,
  run: async (context) => (await import('./commands.ts')).check(context),
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
  run: async (context) => (await import('./commands.ts')).status(context),
}

/** The program `iceberg-ingestor`. */
export const ingestorApp: App<typeof ingestorConfigSchema> = {
  name: 'iceberg-ingestor',
  version,
  description: 'Loads runs of CSV files into an Iceberg table through Trino, or into DuckDB, each exactly once.',
  envPrefix: 'INGESTOR',
  config: async () => (await import('./config.ts')).ingestorConfigSchema,
  commands: [runCommand, planCommand, checkCommand, statusCommand],
  resolvers: async (tree, context) => (await import('./commands.ts')).resolvers(tree, context),
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
