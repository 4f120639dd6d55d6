import { randomBytes } from 'node:crypto'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { pathToFileURL } from 'node:url'
import { DuckDbHandler } from '@common-handlers/duckdb-handler'
import { startPostgres } from '@common-handlers/testkit'
import type { Stage } from './stage.ts'

/** Everything from npm: PostgreSQL, a folder as the store, DuckDB as the warehouse, secrets in a file. */
export async function embeddedStage(folder: string): Promise<Stage> {
  await rm(folder, { recursive: true, force: true })
  await mkdir(join(folder, 'store'), { recursive: true })
  const postgres = await startPostgres({ binaries: 'embedded' })
  const extractorPassword = randomBytes(18).toString('base64url')
  const secrets = join(folder, 'secrets.json')
  await writeFile(secrets, JSON.stringify({ extractorPassword }), { mode: 0o600 })
  const warehouse = join(folder, 'warehouse.duckdb')
  const store = pathToFileURL(join(folder, 'store')).href
  const extractorConfig = join(folder, 'extractor.yaml')
  const ingestorConfig = join(folder, 'ingestor.yaml')
  await writeFile(
    extractorConfig,
    `# What the demo runs: audit-log-extractor run --config ${relative(process.cwd(), extractorConfig)}
dataset: audit_log
store: ${store}
source:
  table: app.audit_log
  mode: incremental
  watermark: id
postgres:
  host: ${postgres.host}
  port: ${postgres.port}
  database: ${postgres.database}
  user: extractor
  password: file:${secrets}#extractorPassword
`,
  )
  await writeFile(
    ingestorConfig,
    `# What the demo runs: iceberg-ingestor run --config ${relative(process.cwd(), ingestorConfig)}
dataset: audit_log
store: ${store}
engine: duckdb
target:
  schema: audit
  table: audit_log
duckdb:
  path: ${warehouse}
`,
  )
  return {
    description: 'PostgreSQL from npm → CSV files in a folder → DuckDB, secrets from a file',
    postgres: {
      host: postgres.host,
      port: postgres.port,
      user: postgres.user,
      password: postgres.password,
      database: postgres.database,
    },
    extractorPassword,
    extractorConfig,
    ingestorConfig,
    files: `${relative(process.cwd(), join(folder, 'store'))}, warehouse in ${relative(process.cwd(), warehouse)}`,
    async countByDay() {
      const rows = await queryWarehouse(
        warehouse,
        `select strftime(timezone('UTC', occurred_at), '%Y-%m-%d') as day, count(*) as rows from audit.audit_log group by 1 order by 1`,
      )
      return new Map(rows.map((row) => [String(row['day']), Number(row['rows'])]))
    },
    query: (sql) => queryWarehouse(warehouse, sql),
    pasteable: `npx -y pnpm@12 demo query "select action, count(*) as rows, max(occurred_at) as last from audit.audit_log group by action"`,
    [Symbol.asyncDispose]: () => postgres.stop(),
  }
}

/** Opened for one query and closed again: DuckDB lets one process at a time write a file. */
export async function queryWarehouse(path: string, sql: string): Promise<readonly Readonly<Record<string, unknown>>[]> {
  await using duckdb = new DuckDbHandler({ path, readOnly: true })
  const { rows } = await duckdb.query(sql)
  return rows
}
