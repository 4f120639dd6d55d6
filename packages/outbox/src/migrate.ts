import { ConfigError } from '@common-handlers/core'
import { outboxMigration } from './migrations/001-outbox.ts'
import { operationsMigration } from './migrations/002-operations.ts'
import { logMigration } from './migrations/003-log.ts'
import { type OutboxNames, outboxNames } from './names.ts'
import { type ConnectionPool, onBorrowed, type PoolClient, textRows } from './pool.ts'

export interface Migration {
  readonly version: number
  readonly name: string
  readonly sql: (names: OutboxNames) => string
}

/** In their order; one that was released is never changed. */
const migrations: readonly Migration[] = [outboxMigration, operationsMigration, logMigration]

export interface MigrateOptions {
  /** Default `outbox`. */
  readonly schema?: string | undefined
  /** Says what would be done and does nothing. */
  readonly dryRun?: boolean | undefined
}

export interface MigrateResult {
  /** The version that the schema has now. */
  readonly version: number
  readonly applied: readonly string[]
}

/**
 * Brings the schema to the version of this package: each migration in a transaction of its own, once, whoever comes
 * first. Workers of the version before go on meanwhile.
 * @throws ConfigError `OUTBOX_SCHEMA_TOO_NEW` when a later version of this package was here
 */
export async function migrate(pool: ConnectionPool, options: MigrateOptions = {}): Promise<MigrateResult> {
  const names = outboxNames(options.schema ?? 'outbox')
  return await onBorrowed(pool, 10_000, 'the migration', (client) => run(client, names, options.dryRun ?? false))
}

async function run(client: PoolClient, names: OutboxNames, dryRun: boolean): Promise<MigrateResult> {
  const { schema, lockClass } = names
  const applied: string[] = []
  for (const { version, name, sql } of migrations) {
    await client.query('BEGIN')
    try {
      // Worker ids begin at 1: 0 is the lock of migrations.
      await client.query(`SELECT pg_advisory_xact_lock(${lockClass}, 0)`)
      const current = await schemaVersion(client, names)
      if (current < version) {
        applied.push(name)
        if (!dryRun) {
          if (current === 0)
            await client.query(
              `CREATE SCHEMA IF NOT EXISTS ${schema};
               CREATE TABLE IF NOT EXISTS ${schema}.migration (
                 version int PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())`,
            )
          await client.query(sql(names))
          await client.query(`INSERT INTO ${schema}.migration (version, name) VALUES ($1, $2)`, [version, name])
        }
      }
      await client.query('COMMIT')
    } catch (error) {
      await client.query('ROLLBACK').catch(() => undefined)
      throw error
    }
  }
  return { version: await schemaVersion(client, names), applied }
}

/** 0 where there is nothing yet. */
async function schemaVersion(client: PoolClient, { schema }: OutboxNames): Promise<number> {
  const [[found] = []] = await textRows(client, `SELECT to_regclass($1)::text`, [`${schema}.migration`])
  if (found === null || found === undefined) return 0
  const [[version] = []] = await textRows(client, `SELECT coalesce(max(version), 0)::text FROM ${schema}.migration`)
  const known = migrations.at(-1)?.version ?? 0
  if (Number(version) > known)
    throw new ConfigError(
      `the schema ${schema} has version ${version}, this package knows ${known}: use the version of the package that made it`,
      { code: 'OUTBOX_SCHEMA_TOO_NEW' },
    )
  return Number(version)
}

/** @throws ConfigError `OUTBOX_SCHEMA_MISSING` when the schema is not there or is older than this package */
export async function assertMigrated(client: PoolClient, names: OutboxNames): Promise<void> {
  const version = await schemaVersion(client, names)
  const known = migrations.at(-1)?.version ?? 0
  if (version < known)
    throw new ConfigError(
      `the schema ${names.schema} ${version === 0 ? 'holds no outbox' : `has version ${version}, ${known} is needed`}: run \`outbox migrate\` or migrate()`,
      { code: 'OUTBOX_SCHEMA_MISSING' },
    )
}
