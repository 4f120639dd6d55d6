import { randomBytes } from 'node:crypto'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import {
  openbaoAdmin,
  startOpenBao,
  startPostgres,
  startSeaweedfs,
  startTrino,
  type TrinoOptions,
} from '@common-handlers/testkit'
import { TrinoHandler } from '@common-handlers/trino-handler'
import type { Stage } from './stage.ts'

/** Where a kept stage can be asked: written for `demo query --real`. */
export interface RealState {
  readonly trino: { readonly url: string; readonly user: string }
}

/** OpenBao, PostgreSQL, SeaweedFS (S3 and Iceberg REST catalog) and Trino, fetched and started by the project itself. */
export async function realStage(folder: string, trinoOptions: Pick<TrinoOptions, 'heapMegabytes'> = {}): Promise<Stage> {
  await rm(folder, { recursive: true, force: true })
  await mkdir(folder, { recursive: true })
  await using started = new AsyncDisposableStack()
  const [postgres, openbao, s3] = await settle(started, [startPostgres(), startOpenBao(), startSeaweedfs()])
  const [trino] = await settle(started, [startTrino({ s3, ...trinoOptions })])
  const extractorPassword = randomBytes(18).toString('base64url')
  const bao = openbaoAdmin(openbao)
  await bao.putSecret('audit/postgres', { password: extractorPassword })
  await bao.putSecret('audit/s3', { access_key_id: s3.accessKeyId, secret_access_key: s3.secretAccessKey })
  await bao.writePolicy('audit', 'path "secret/data/audit/*" { capabilities = ["read"] }')
  const { roleId, secretId } = await bao.createAppRole('audit', { policies: ['audit'] })
  const secretIdFile = join(folder, 'secret-id')
  await writeFile(secretIdFile, secretId, { mode: 0o600 })
  const shared = `dataset: audit_log
store: s3://${s3.bucket}/landing
vault:
  address: ${openbao.address}
  appRole:
    roleId: ${roleId}
    secretIdFile: ${secretIdFile}
s3:
  endpoint: ${s3.endpoint}
  region: ${s3.region}
  forcePathStyle: true
  accessKeyId: vault:secret/data/audit/s3#access_key_id
  secretAccessKey: vault:secret/data/audit/s3#secret_access_key
`
  const extractorConfig = join(folder, 'extractor.yaml')
  const ingestorConfig = join(folder, 'ingestor.yaml')
  await writeFile(
    extractorConfig,
    `${shared}source:
  table: app.audit_log
  mode: incremental
  watermark: id
postgres:
  host: ${postgres.host}
  port: ${postgres.port}
  database: ${postgres.database}
  user: extractor
  password: vault:secret/data/audit/postgres#password
`,
  )
  await writeFile(
    ingestorConfig,
    `${shared}engine: trino
target:
  catalog: ${trino.catalog}
  schema: audit
  table: audit_log
trino:
  url: ${trino.url}
  user: ${trino.user}
  stagingCatalog: ${trino.stagingCatalog}
`,
  )
  const state: RealState = { trino: { url: trino.url, user: trino.user } }
  await writeFile(join(folder, 'state.json'), JSON.stringify(state))
  const query = (sql: string): Promise<readonly Readonly<Record<string, unknown>>[]> => queryTrino(state, sql)
  const servers = started.move()
  return {
    description: 'PostgreSQL → CSV files on S3 (SeaweedFS) → Iceberg (REST catalog) through Trino, secrets from OpenBao',
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
    files: `s3://${s3.bucket}/landing/audit_log at ${s3.endpoint}, table ${trino.catalog}.audit.audit_log`,
    async countByDay() {
      const rows = await query(
        `select date_format(occurred_at at time zone 'UTC', '%Y-%m-%d') as day, count(*) as "rows" from ${trino.catalog}.audit.audit_log group by 1 order by 1`,
      )
      return new Map(rows.map((row) => [String(row['day']), Number(row['rows'])]))
    },
    query,
    pasteable: `npx -y pnpm@12 demo query --real "select action, count(*) as n, max(occurred_at) as last from ${trino.catalog}.audit.audit_log group by action"`,
    async [Symbol.asyncDispose]() {
      await rm(join(folder, 'state.json'), { force: true })
      await servers.disposeAsync()
    },
  }
}

/** Waits for all of them, so that one that fails to start does not leave the others running. */
async function settle<T extends readonly AsyncDisposable[]>(
  stack: AsyncDisposableStack,
  starting: { [K in keyof T]: Promise<T[K]> },
): Promise<T> {
  const results = await Promise.allSettled(starting)
  for (const result of results) if (result.status === 'fulfilled') stack.use(result.value)
  const failed = results.find((result) => result.status === 'rejected')
  if (failed !== undefined) throw failed.reason
  return results.map((result) => (result as PromiseFulfilledResult<AsyncDisposable>).value) as unknown as T
}

export async function queryTrino(state: RealState, sql: string): Promise<readonly Readonly<Record<string, unknown>>[]> {
  await using trino = new TrinoHandler({ url: state.trino.url, user: state.trino.user })
  const { rows } = await trino.query<Record<string, unknown>>(sql)
  return rows
}
