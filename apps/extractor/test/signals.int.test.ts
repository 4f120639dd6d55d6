import { Readable } from 'node:stream'
import { readRows as parseRows } from '@common-handlers/dataset'
import { S3Handler } from '@common-handlers/s3-handler'
import { type PostgresAddress, type S3Address, startFaultProxy } from '@common-handlers/testkit'
import { describeWith } from '@common-handlers/testkit/vitest'
import { expect, it } from 'vitest'
import { addRows, auditLogTable } from './audit-log.ts'
import { dataset, type Running, s3Settings, type Settings, type Setup, setUp, until } from './harness.ts'
import { startHttpGate } from './http-gate.ts'
import { readPart } from './stored-files.ts'

const source: Settings['source'] = { table: 'audit_log', mode: 'incremental', watermark: 'id' }
/** Files are small, so that several are complete when the process is stopped. */
const output = { fileBytes: 16_384 }

type Stop = (running: Running) => Promise<void>

interface Phase {
  readonly name: string
  /** Starts a run, waits until it stands still in this phase, stops it there, and takes away what held it. */
  readonly interrupt: (setup: Setup, s3: S3Address, stop: Stop) => Promise<void>
}

const lockWaiters = (query: string): string =>
  `SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '${query}%'`

const partsWritten = async (setup: Setup): Promise<number> => {
  const keys = await Array.fromAsync(setup.store.list(`${dataset}/run=`), (object) => object.key)
  return keys.filter((key) => key.includes('/part-')).length
}

/** Holds the S3 request that matches, and stops the process when it has come. */
const atRequest =
  (matches: (request: string) => boolean): Phase['interrupt'] =>
  async (setup, s3, stop) => {
    await using gate = await startHttpGate(s3.endpoint, matches)
    const { s3: settings } = s3Settings(s3, '')
    const running = await setup.spawn('run', { source, output, s3: { ...settings, endpoint: gate.endpoint } })
    await gate.held
    await stop(running)
  }

const phases: readonly Phase[] = [
  {
    name: 'while it connects to PostgreSQL',
    interrupt: async (setup, _, stop) => {
      const { host, port, user, password, database } = setup.database
      await using proxy = await startFaultProxy({ host, port })
      proxy.stall()
      const running = await setup.spawn('run', {
        source,
        output,
        postgres: { host: proxy.host, port: proxy.port, user, password, database },
      })
      await until(() => proxy.connections > 0)
      await stop(running)
    },
  },
  {
    name: 'while it looks at the table',
    interrupt: async (setup, _, stop) => {
      const holder = await setup.connect()
      await holder.query('BEGIN; LOCK TABLE audit_log IN ACCESS EXCLUSIVE MODE')
      const running = await setup.spawn('run', { source, output })
      await until(async () => (await setup.sql(lockWaiters(''))).length > 0)
      await stop(running)
      await holder.query('ROLLBACK')
    },
  },
  {
    name: 'in the middle of the COPY',
    interrupt: async (setup, _, stop) => {
      // The first rows are on the store when the reader comes to the one that waits.
      await setup.sql('SELECT pg_advisory_lock(7)')
      const before = await partsWritten(setup)
      const running = await setup.spawn('run', { source: { ...source, table: 'gated', key: ['id'] }, output })
      await until(async () => (await setup.sql(lockWaiters('COPY'))).length > 0 && (await partsWritten(setup)) > before + 1)
      await stop(running)
      await setup.sql('SELECT pg_advisory_unlock(7)')
    },
  },
  { name: 'while it uploads the third file', interrupt: atRequest((request) => /^PUT .*part-00002/.test(request)) },
  { name: 'before it claims to be the next run', interrupt: atRequest((request) => /^PUT .*_next/.test(request)) },
  { name: 'before its manifest', interrupt: atRequest((request) => /^PUT .*_manifest/.test(request)) },
]

/** A view whose row 3000 waits for a lock, when its note is asked for; the probe does not ask for notes. */
const gatedView = `
  CREATE FUNCTION gate(id bigint, note text) RETURNS text STABLE LANGUAGE plpgsql AS
    'BEGIN IF id = 3000 THEN PERFORM pg_advisory_xact_lock_shared(7); END IF; RETURN note; END';
  CREATE VIEW gated AS SELECT id, occurred_at, actor, amount, payload, gate(id, note) AS note FROM audit_log`

async function expectComplete(setup: Setup, s3: S3Address): Promise<void> {
  expect((await setup.call('run', { source, output })).code).toBe(0)
  const manifests = await setup.manifests()
  const ids: number[] = []
  for (const manifest of manifests) {
    for (const { name } of manifest.files) {
      for await (const { values } of parseRows(Readable.from([await readPart(setup.store, manifest, name)]), manifest.format))
        ids.push(Number(values[0]))
    }
  }
  expect(ids).toEqual(Array.from({ length: 4000 }, (_, at) => at + 1))

  expect((await setup.call(['gc', '--older-than', '0s', '--yes'], { source })).code).toBe(0)
  const committed = manifests.map((manifest) => `run=${manifest.runId}/`)
  const left = await Array.fromAsync(setup.store.list(`${dataset}/run=`))
  expect(left.filter(({ key, size }) => size > 0 && !committed.some((run) => key.includes(run)))).toEqual([])
  await using handler = new S3Handler({
    ...s3Settings(s3, '').s3,
    bucket: s3.bucket,
    prefix: setup.store.url.split('/').slice(3).join('/'),
  })
  expect(await Array.fromAsync(handler.listUnfinishedUploads(''))).toEqual([])
}

async function prepare(postgres: PostgresAddress, s3: S3Address): Promise<Setup> {
  const setup = await setUp(postgres, s3)
  await setup.sql(auditLogTable)
  await setup.sql(gatedView)
  // Rows come in the order of the index, one by one, and not after a sort that has waited for all of them.
  await setup.sql(`ALTER DATABASE ${setup.database.database} SET enable_sort = off`)
  await setup.sql(`ALTER DATABASE ${setup.database.database} SET enable_seqscan = off`)
  // The first run of all stands, so that what is stopped is a successor.
  await addRows(setup, 500)
  await setup.call('run', { source, output })
  await addRows(setup, 3500)
  return setup
}

const backends = `SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'common-handlers'`

describeWith(['postgres', 's3'], 'a run that is stopped', ({ postgres, s3 }) => {
  it.each(phases)('by SIGTERM $name ends with 143 and leaves nothing half-visible', async ({ interrupt }) => {
    await using setup = await prepare(postgres, s3)
    await interrupt(setup, s3, async (running) => {
      running.child.kill('SIGTERM')
      const { code, log } = await running.ended
      expect([code, log.includes('stopped by SIGTERM')]).toEqual([143, true])
      // The statement does not go on without its client.
      await until(async () => (await setup.sql(backends)).length === 0)
      expect((await setup.manifests()).length).toBe(1)
    })
    await expectComplete(setup, s3)
  })

  it.each(phases)('by SIGKILL $name leaves the dataset whole, and gc takes the rest away', async ({ interrupt }) => {
    await using setup = await prepare(postgres, s3)
    await interrupt(setup, s3, async (running) => {
      running.child.kill('SIGKILL')
      expect((await running.ended).code).toBe('SIGKILL')
      expect((await setup.manifests()).length).toBe(1)
    })
    await expectComplete(setup, s3)
  })
})
