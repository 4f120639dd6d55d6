import { randomBytes } from 'node:crypto'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { silentLogger } from '@common-handlers/core'
import { DuckDbHandler } from '@common-handlers/duckdb-handler'
import type { ObjectStore } from '@common-handlers/storage'
import type { S3Address } from '@common-handlers/testkit'
import { describeWith } from '@common-handlers/testkit/vitest'
import { expect, it } from 'vitest'
import { type IngestorConfigInput, ingestorConfigSchema } from '../src/config.ts'
import { openStore } from '../src/store.ts'
import { startHttpGate } from './http-gate.ts'
import { isLedger } from './load-requests.ts'
import { call, start } from './program.ts'
import { auditRow, auditRows, type Row, writeRun } from './run-files.ts'

interface Laptop {
  readonly folder: string
  readonly input: IngestorConfigInput
  readonly store: ObjectStore
  rows(sql: string): Promise<unknown[]>
}

async function onLaptop(s3: S3Address, work: (laptop: Laptop) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'ingestor-'))
  const { endpoint, region, accessKeyId, secretAccessKey, bucket } = s3
  const path = join(folder, 'warehouse.duckdb')
  const input: IngestorConfigInput = {
    dataset: 'audit_log',
    store: `s3://${bucket}/laptop-${randomBytes(4).toString('hex')}`,
    engine: 'duckdb',
    target: { schema: 'audit', table: 'audit_log' },
    duckdb: { path },
    s3: { endpoint, region, accessKeyId, secretAccessKey },
    lease: { seconds: 2 },
  }
  const { objects: store } = openStore(ingestorConfigSchema.parse(input), silentLogger)
  const rows: Laptop['rows'] = async (sql) => {
    await using database = new DuckDbHandler({ path })
    return (await database.query(sql)).rows.map((row) => Object.values(row))
  }
  try {
    await work({ folder, input, store, rows })
  } finally {
    await store.close()
    await rm(folder, { recursive: true, force: true })
  }
}

describeWith(['s3'], 'runs from S3 into DuckDB', ({ s3 }) => {
  it('a full one and an incremental one; the copies are removed', async () => {
    await onLaptop(s3, async ({ folder, input, store, rows }) => {
      const full = await writeRun(store, { mode: 'full', files: [auditRows(1, 100)] })
      await writeRun(store, {
        files: [Array.from({ length: 40 }, (_, index) => auditRow(81 + index, 'changed'))],
        previousRunId: full.runId,
      })
      expect((await call(['run'], input)).code).toBe(0)
      expect(await rows(`SELECT count(*), count(*) FILTER (actor = 'changed') FROM audit.audit_log`)).toEqual([[120n, 40n]])
      expect((await call(['run'], input)).code).toBe(0)
      expect(await rows('SELECT count(*) FROM audit.audit_log')).toEqual([[120n]])
      expect(await readdir(join(folder, 'warehouse.duckdb.ingest'))).toEqual([])
    })
  })

  it('a disk that is full says so, and leaves the table as it was', async () => {
    await onLaptop(s3, async ({ input, store, rows }) => {
      await call(['run'], input)
      const noise = (id: number): Row => auditRow(id, randomBytes(2000).toString('hex'))
      await writeRun(store, { files: [Array.from({ length: 2000 }, (_, index) => noise(index))] })
      // No file may grow past 2 MiB: what a full disk is to a copy of 4 MB.
      const { ended } = await start(['run'], input, "trap '' XFSZ; ulimit -f 4096")
      const { code, log } = await ended
      expect([code, log.includes('INGESTOR_DISK_FULL')]).toEqual([8, true])
      expect((await call(['run'], input)).code).toBe(0)
      expect(await rows('SELECT count(*) FROM audit.audit_log')).toEqual([[2000n]])
    })
  })

  it.each(['claimed', 'submitted', 'committed'])(
    'killed before it writes down "%s": the next run leaves each row once',
    async (state) => {
      await onLaptop(s3, async ({ input, store, rows }) => {
        await writeRun(store, { files: [auditRows(1, 100)] })
        await using gate = await startHttpGate(s3.endpoint, (request) => isLedger(request, state))
        const { child, ended } = await start(['run'], { ...input, s3: { ...input.s3, endpoint: gate.endpoint } })
        await gate.held
        child.kill('SIGKILL')
        expect((await ended).code).toBe('SIGKILL')
        expect((await call(['run', '--wait'], input)).code).toBe(0)
        expect(await rows('SELECT count(*), count(DISTINCT id) FROM audit.audit_log')).toEqual([[100n, 100n]])
        expect((await call(['run'], input)).code).toBe(0)
        expect(await rows('SELECT count(*) FROM audit.audit_log')).toEqual([[100n]])
      })
    },
  )
})
