import { ledgerKey, runPrefix } from '@common-handlers/dataset'
import { startFaultProxy, startSeaweedfs, startTrino, type TrinoServer } from '@common-handlers/testkit'
import { describeWith } from '@common-handlers/testkit/vitest'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { readEntry } from '../src/claim.ts'
import type { IngestorConfigInput } from '../src/config.ts'
import { LEDGER_VERSION } from '../src/ledger.ts'
import { startHttpGate } from './http-gate.ts'
import { isLoad, nthGet } from './load-requests.ts'
import { call, start, until } from './program.ts'
import { auditRows, withoutKey, writeRun } from './run-files.ts'
import { type TrinoWorld, trinoWorld } from './trino-world.ts'

const withTrino = (world: TrinoWorld, change: Partial<NonNullable<IngestorConfigInput['trino']>>): IngestorConfigInput => ({
  ...world.input,
  trino: { url: '', user: '', ...world.input.trino, ...change },
})

const errorOf = (log: string): { code?: string; message?: string } => {
  const failed = log.split('\n').findLast((line) => line.includes('"error"'))
  return failed === undefined ? {} : (JSON.parse(failed) as { error: { code: string; message: string } }).error
}

describeWith(['trino'], 'a load that cannot be', ({ trino }) => {
  it('has a file missing, changed or too many: the file is named, nothing is loaded', async () => {
    await using world = await trinoWorld(trino)
    const run = await writeRun(world.store, { files: [auditRows(1, 3), auditRows(4, 3)] })
    const key = `${runPrefix('audit_log', run.runId)}part-00001.csv.gz`
    const { bytes } = await world.store.getBytes(key)
    const changed = Buffer.from(bytes)
    changed[20] = (changed[20] ?? 0) ^ 1

    await world.store.put(key, changed)
    expect(await call(['run'], world.input)).toMatchObject({
      code: 6,
      log: expect.stringContaining('part-00001.csv.gz differs from its checksum'),
    })
    await world.store.put(key, bytes.subarray(1))
    expect(errorOf((await call(['run'], world.input)).log).code).toBe('INGESTOR_FILE_SIZE')
    await world.store.delete(key)
    expect(errorOf((await call(['run'], world.input)).log).code).toBe('INGESTOR_FILE_MISSING')
    await world.store.put(key, bytes)
    await world.store.put(`${runPrefix('audit_log', run.runId)}part-00002.csv.gz`, bytes)
    expect(errorOf((await call(['run'], world.input)).log).code).toBe('INGESTOR_FILE_UNKNOWN')
    await world.store.delete(`${runPrefix('audit_log', run.runId)}part-00002.csv.gz`)
    const status = JSON.parse((await call(['status'], world.input)).stdout) as {
      runs: { state: string; entry: { problem: { code: string } } }[]
    }
    expect(status.runs).toMatchObject([{ state: 'failed', entry: { problem: { code: 'INGESTOR_FILE_UNKNOWN' } } }])

    expect((await call(['run', '--verify'], world.input)).code).toBe(0)
    expect(await world.count()).toBe(6)
  })

  it.each<[string, (world: TrinoWorld) => IngestorConfigInput, number, string]>([
    [
      'an Iceberg catalog that is not there',
      (world) => ({ ...world.input, target: { ...world.input.target, catalog: 'nowhere' } }),
      4,
      'TRINO_CATALOG_NOT_FOUND',
    ],
    [
      'a staging catalog that is not there',
      (world) => withTrino(world, { stagingCatalog: 'nowhere' }),
      4,
      'INGESTOR_STAGING_NOT_FOUND',
    ],
    [
      'a staging catalog that lays no tables over files',
      (world) => withTrino(world, { stagingCatalog: 'lake' }),
      1,
      'TRINO_INVALID_TABLE_PROPERTY',
    ],
    [
      'nobody at the address of Trino',
      (world) => withTrino(world, { url: 'http://127.0.0.1:1', retry: { budgetMs: 1 } }),
      5,
      'TRINO_UNREACHABLE',
    ],
    ['a bucket that is not there', (world) => ({ ...world.input, store: 's3://nowhere/landing' }), 4, 'S3_BUCKET_NOT_FOUND'],
    [
      'a wrong secret',
      (world) => ({ ...world.input, s3: { ...world.input.s3, secretAccessKey: 'wrong-secret' } }),
      3,
      'S3_SIGNATURE_REJECTED',
    ],
  ])('names %s', async (_, config, exitCode, code) => {
    await using world = await trinoWorld(trino)
    await writeRun(world.store, { columns: withoutKey })
    const outcome = await call(['run'], config(world))
    expect([outcome.code, errorOf(outcome.log).code]).toEqual([exitCode, code])
    expect(outcome.log).not.toContain('wrong-secret')
  })

  it('follows a statement that can no longer be looked up: stops, and goes on when a person says how', async () => {
    await using world = await trinoWorld(trino)
    const one = await writeRun(world.store, { columns: withoutKey, files: [auditRows(1, 2)] })
    await world.ingest()
    const two = await writeRun(world.store, { columns: withoutKey, files: [auditRows(3, 2)], previousRunId: one.runId })
    const target = await world.session.engine.ledgerName({ signal: new AbortController().signal })
    const stale = {
      version: LEDGER_VERSION,
      dataset: 'audit_log',
      runId: two.runId,
      target,
      owner: 'a dead one',
      revision: 'r',
      method: 'append',
      attempt: 1,
      updatedAt: '2026-01-01T00:00:00Z',
      state: 'submitted',
      leaseUntil: '2026-01-01T00:01:00Z',
      submission: { queryId: '20260101_000000_00000_aaaaa', submittedAt: '2026-01-01T00:00:00Z', baseSnapshotId: '1' },
    }
    await world.store.put(ledgerKey('audit_log', target, two.runId), JSON.stringify(stale))
    const outcome = await call(['run'], world.input)
    expect(outcome).toMatchObject({ code: 7, log: expect.stringContaining(`run --assume-not-applied ${two.runId}`) })
    expect(await world.count()).toBe(2)
    expect((await call(['run', '--assume-not-applied', two.runId], world.input)).code).toBe(0)
    expect(await world.count()).toBe(4)

    const three = await writeRun(world.store, { columns: withoutKey, files: [auditRows(5, 2)], previousRunId: two.runId })
    await world.store.put(ledgerKey('audit_log', target, three.runId), JSON.stringify({ ...stale, runId: three.runId }))
    expect((await call(['run', '--assume-applied', three.runId], world.input)).code).toBe(0)
    expect(await world.count()).toBe(4)
    expect((await readEntry(world.store, ledgerKey('audit_log', target, three.runId)))?.entry).toMatchObject({
      state: 'committed',
      assumed: true,
    })
  })
})

describeWith(['trino'], 'two ingestors at once', ({ trino }) => {
  it('one loads, the other leaves with exit code 7, or waits', async () => {
    await using world = await trinoWorld(trino)
    await writeRun(world.store, { columns: withoutKey, files: [auditRows(1, 200)] })
    await using gate = await startHttpGate(trino.url, isLoad)
    const first = await start(['run'], withTrino(world, { url: gate.endpoint }))
    await gate.held
    expect(await call(['run'], world.input)).toMatchObject({ code: 7, log: expect.stringContaining('INGESTOR_RUN_CLAIMED') })
    const waiting = call(['run', '--wait'], world.input)
    gate.release()
    expect((await first.ended).code).toBe(0)
    expect((await waiting).code).toBe(0)
    expect(await world.count()).toBe(200)
  })
})

describeWith(['trino'], 'an S3 server that is gone for a while', ({ trino }) => {
  it('while the ingestor writes down what it does: it waits, and loads once', async () => {
    const { hostname, port } = new URL(trino.s3.endpoint)
    await using proxy = await startFaultProxy({ host: hostname, port: Number(port) })
    await using world = await trinoWorld(trino, { s3Endpoint: `http://${proxy.host}:${proxy.port}` })
    await writeRun(world.store, { columns: withoutKey, files: [auditRows(1, 200)] })
    await using gate = await startHttpGate(trino.url, isLoad)
    const running = call(['run'], { ...withTrino(world, { url: gate.endpoint }), lease: { seconds: 30 } })
    await gate.held
    await proxy.refuse()
    gate.release()
    await new Promise((resolve) => setTimeout(resolve, 5_000))
    await proxy.accept()
    expect((await running).code).toBe(0)
    expect(await world.count()).toBe(200)
  })
})

/** Trino starts in 15 s, and in minutes where others have the processors. */
const RESTART_MS = 300_000

describeWith(['s3'], 'servers that go away in the middle', () => {
  let s3: Awaited<ReturnType<typeof startSeaweedfs>>
  let trino: TrinoServer
  beforeAll(async () => {
    s3 = await startSeaweedfs()
    trino = await startTrino({ s3 })
  })
  afterAll(async () => {
    await trino?.stop()
    await s3?.stop()
  })

  async function loadAcross(
    get: number,
    meanwhile: (world: TrinoWorld) => Promise<void>,
  ): Promise<{ attempts: number; count: number }> {
    await using world = await trinoWorld(trino)
    const one = await writeRun(world.store, { columns: withoutKey, files: [auditRows(1, 10)] })
    await world.ingest()
    await writeRun(world.store, { columns: withoutKey, files: [auditRows(11, 200)], previousRunId: one.runId })
    await using gate = await startHttpGate(trino.url, nthGet(get))
    const running = call(['run'], withTrino(world, { url: gate.endpoint }))
    await gate.held
    await meanwhile(world)
    gate.release()
    const { code, stdout, log } = await running
    expect(code === 0 ? '' : log).toBe('')
    const { runs } = JSON.parse(stdout) as { runs: { attempts: number }[] }
    return { attempts: runs[0]?.attempts ?? 0, count: await world.count() }
  }

  it(
    'Trino, before the statement has begun: a second attempt',
    async () => {
      expect(await loadAcross(1, () => trino.restart())).toEqual({ attempts: 2, count: 210 })
    },
    RESTART_MS,
  )

  it(
    'Trino, after the statement was committed: no second attempt',
    async () => {
      const committed = async (world: TrinoWorld): Promise<void> => {
        await until(async () => (await world.count()) === 210)
        await trino.restart()
      }
      expect(await loadAcross(3, committed)).toEqual({ attempts: 1, count: 210 })
    },
    RESTART_MS,
  )

  it('S3, with the catalog in it: each row once', async () => {
    const away = async (): Promise<void> => {
      await s3.down({ graceful: true })
      setTimeout(() => void s3.up(), 4_000)
    }
    expect(await loadAcross(1, away)).toMatchObject({ count: 210 })
  })
})
