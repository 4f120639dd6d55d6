import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ingestorApp } from '@common-handlers/iceberg-ingestor'
import { extractorApp } from '@common-handlers/audit-log-extractor'
import { type App, runApp } from '@common-handlers/cli'
import { PostgresHandler } from '@common-handlers/postgres-handler'
import { createDatabase, describeWith, openbaoAdmin, runWithPyIceberg } from '@common-handlers/testkit'
import { TrinoHandler } from '@common-handlers/trino-handler'
import { afterAll, beforeAll, expect, it } from 'vitest'
import type { z } from 'zod'
import { changeFlights, countByDay, createApplication, loadFlights } from '../src/flights.ts'

const WITNESS = `
import json, os
import pyarrow.compute as pc
from pyiceberg.catalog.rest import RestCatalog
env = os.environ
catalog = RestCatalog('witness', uri=env['CATALOG_URI'], warehouse=env['WAREHOUSE'], credential=env['CREDENTIAL'],
  **{'s3.endpoint': env['S3_ENDPOINT'], 's3.access-key-id': env['S3_KEY'], 's3.secret-access-key': env['S3_SECRET'],
     's3.region': env['S3_REGION'], 's3.force-virtual-addressing': 'false'})
table = catalog.load_table((env['SCHEMA'], 'audit_log'))
days = pc.strftime(table.scan(selected_fields=('occurred_at',)).to_arrow()['occurred_at'], format='%Y-%m-%d')
print(json.dumps({str(row['values']): row['counts'] for row in pc.value_counts(days).to_pylist()}))
`

async function run(app: App<z.ZodType>, config: string): Promise<Record<string, unknown>> {
  let out = ''
  let log = ''
  const stdout = { write: (text: string) => (out += text) }
  const stderr = { write: (text: string) => (log += text) }
  const code = await runApp(app, { argv: ['run', '--config', config], env: {}, stdout, stderr }, new AbortController().signal)
  expect(code, log).toBe(0)
  return JSON.parse(out) as Record<string, unknown>
}

describeWith(['postgres', 'openbao', 's3', 'trino'], 'the main job', ({ postgres: server, openbao, trino }) => {
  const { s3 } = trino
  const schema = `audit_${Date.now()}`
  let folder: string
  let database: Awaited<ReturnType<typeof createDatabase>>
  let postgres: PostgresHandler
  let lake: TrinoHandler

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'main-job-'))
    database = await createDatabase(server)
    postgres = new PostgresHandler({
      host: database.host,
      port: database.port,
      user: database.user,
      password: database.password,
      database: database.database,
    })
    lake = new TrinoHandler({ url: trino.url, user: trino.user })
    await createApplication(database, postgres, 'a password of the extractor')
    await loadFlights(postgres)
    const bao = openbaoAdmin(openbao)
    await bao.putSecret(`${schema}/all`, { password: 'a password of the extractor', id: s3.accessKeyId, key: s3.secretAccessKey })
    await writeFile(join(folder, 'token'), openbao.rootToken)
    const shared = {
      dataset: 'audit_log',
      store: `s3://${s3.bucket}/${schema}`,
      vault: { address: openbao.address, tokenFile: join(folder, 'token') },
      s3: {
        endpoint: s3.endpoint,
        region: s3.region,
        forcePathStyle: true,
        accessKeyId: `vault:secret/data/${schema}/all#id`,
        secretAccessKey: `vault:secret/data/${schema}/all#key`,
      },
    }
    const extractor = {
      ...shared,
      source: { table: 'app.audit_log', mode: 'incremental', watermark: 'id' },
      postgres: {
        host: database.host,
        port: database.port,
        database: database.database,
        user: 'extractor',
        password: `vault:secret/data/${schema}/all#password`,
      },
    }
    const ingestor = {
      ...shared,
      engine: 'trino',
      target: { catalog: trino.catalog, schema, table: 'audit_log' },
      trino: { url: trino.url, user: trino.user, stagingCatalog: trino.stagingCatalog },
    }
    await writeFile(join(folder, 'extractor.json'), JSON.stringify(extractor))
    await writeFile(join(folder, 'ingestor.json'), JSON.stringify(ingestor))
  })

  afterAll(async () => {
    await lake?.close()
    await postgres?.close()
    await database?.drop()
    await rm(folder, { recursive: true, force: true })
  })

  it('moves everything, then what is new, once and whole; PyIceberg counts the same days', async () => {
    const extract = () => run(extractorApp, join(folder, 'extractor.json'))
    const ingest = () => run(ingestorApp, join(folder, 'ingestor.json'))
    expect(await extract()).toMatchObject({ rows: 200_000 })
    expect(await ingest()).toMatchObject({ runs: [{ rows: 200_000, loaded: true }] })
    const { updated, deleted } = await changeFlights(postgres)
    expect(updated + deleted).toBe(6250)
    expect(await extract()).toMatchObject({ rows: 6250 })
    expect(await ingest()).toMatchObject({ runs: [{ rows: 6250, loaded: true }] })
    // Again: nothing is new, nothing is added.
    expect(await extract()).toMatchObject({ rows: 0 })
    expect(await ingest()).toMatchObject({ runs: [] })

    const source = Object.fromEntries(await countByDay(postgres))
    const { rows } = await lake.query<{ day: string; n: bigint }>(
      `select date_format(occurred_at at time zone 'UTC', '%Y-%m-%d') as day, count(*) as n from ${trino.catalog}.${schema}.audit_log group by 1`,
    )
    expect(Object.fromEntries(rows.map(({ day, n }) => [day, Number(n)]))).toEqual(source)
    const witness = await runWithPyIceberg(WITNESS, {
      CATALOG_URI: s3.catalogUri,
      WAREHOUSE: `s3://${s3.tableBucket}`,
      CREDENTIAL: `${s3.accessKeyId}:${s3.secretAccessKey}`,
      S3_ENDPOINT: s3.endpoint,
      S3_KEY: s3.accessKeyId,
      S3_SECRET: s3.secretAccessKey,
      S3_REGION: s3.region,
      SCHEMA: schema,
    })
    expect(JSON.parse(witness)).toEqual(source)
  }, 300_000)
})
