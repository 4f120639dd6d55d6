import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { silentLogger } from '@common-handlers/core'
import { DuckDbHandler } from '@common-handlers/duckdb-handler'
import { LocalFolderStore } from '@common-handlers/storage'
import { expect, it } from 'vitest'
import { type IngestorConfig, ingestorConfigSchema } from '../src/config.ts'
import { ingest, type IngestOptions } from '../src/ingest.ts'
import type { LoadResult } from '../src/load.ts'
import { openSession } from '../src/session.ts'
import { auditColumns, auditRow, auditRows, withoutKey, writeRun } from './run-files.ts'

interface Laptop extends AsyncDisposable {
  readonly folder: string
  readonly config: IngestorConfig
  readonly store: LocalFolderStore
  ingest(options?: Partial<IngestOptions>): Promise<LoadResult[]>
  rows(sql: string): Promise<unknown[]>
}

async function laptop(): Promise<Laptop> {
  const folder = await mkdtemp(join(tmpdir(), 'ingestor-'))
  const url = pathToFileURL(join(folder, 'landing')).href
  const config = ingestorConfigSchema.parse({
    dataset: 'audit_log',
    store: url,
    engine: 'duckdb',
    target: { schema: 'audit', table: 'audit_log' },
    duckdb: { path: join(folder, 'warehouse.duckdb') },
  })
  const store = new LocalFolderStore({ folder: url })
  return {
    folder,
    config,
    store,
    ingest: async (options = {}) => {
      await using session = await openSession(config, silentLogger)
      return await ingest(session, { signal: new AbortController().signal, pauseMs: 1, ...options })
    },
    rows: async (sql) => {
      await using database = new DuckDbHandler({ path: join(folder, 'warehouse.duckdb') })
      return (await database.query(sql)).rows.map((row) => Object.values(row))
    },
    [Symbol.asyncDispose]: async () => {
      await store.close()
      await rm(folder, { recursive: true, force: true })
    },
  }
}

const header = auditColumns.map((column) => column.name).join(',')

it('loads a full run and an incremental one, and nothing again', async () => {
  await using here = await laptop()
  const full = await writeRun(here.store, { mode: 'full', files: [auditRows(1, 50), auditRows(51, 50)] })
  await writeRun(here.store, {
    files: [Array.from({ length: 40 }, (_, index) => auditRow(81 + index, 'changed'))],
    previousRunId: full.runId,
  })
  expect(await here.ingest()).toMatchObject([
    { method: 'replace', rows: 100 },
    { method: 'merge', rows: 40 },
  ])
  expect(await here.ingest()).toEqual([])
  expect(
    await here.rows(`SELECT count(*), count(DISTINCT id), count(*) FILTER (actor = 'changed') FROM audit.audit_log`),
  ).toEqual([[120n, 120n, 40n]])
})

it('appends runs without a key', async () => {
  await using here = await laptop()
  const one = await writeRun(here.store, { columns: withoutKey })
  await writeRun(here.store, { columns: withoutKey, previousRunId: one.runId })
  expect(await here.ingest()).toMatchObject([{ method: 'append' }, { method: 'append' }])
  expect(await here.rows('SELECT count(*) FROM audit.audit_log')).toEqual([[6n]])
})

it('loads everything again into a new file', async () => {
  await using here = await laptop()
  await writeRun(here.store)
  await here.ingest()
  await rm(here.config.duckdb?.path ?? '')
  expect(await here.ingest()).toMatchObject([{ state: 'committed', loaded: true }])
})

it('reads the rfc4180 dialect as it is', async () => {
  await using here = await laptop()
  const text = `${header}\n1,2026-11-21 10:00:00+00,"two\nlines","{""a"": 1}"\n2,\\N,"\\N",\\N\n`
  await writeRun(here.store, { dialect: 'rfc4180', raw: [{ text, rows: 2 }] })
  await here.ingest()
  expect(await here.rows('SELECT actor, payload FROM audit.audit_log ORDER BY id')).toEqual([
    ['two\nlines', '{"a": 1}'],
    ['\\N', null],
  ])
})

it.each([
  ['too few fields', `${header}\n1,2026-11-21 10:00:00+00,a,{}\n2,2026-11-21 10:00:00+00,b\n`, 3],
  ['too many fields', `${header}\n1,2026-11-21 10:00:00+00,a,{},more\n`, 2],
  ['a value that is none', `${header}\n1,2026-11-21 10:00:00+00,a,{}\ntwo,2026-11-21 10:00:00+00,b,{}\n`, 3],
])('a row with %s: nothing is loaded, and file and line are named', async (_, text, line) => {
  await using here = await laptop()
  await writeRun(here.store, { raw: [{ text, rows: text.split('\n').length - 2 }] })
  await expect(here.ingest()).rejects.toMatchObject({ code: 'INGESTOR_ROW_BROKEN', where: { line } })
  expect(await here.rows('SELECT count(*) FROM audit.audit_log')).toEqual([[0n]])
})

it('a manifest that counts wrong changes nothing', async () => {
  await using here = await laptop()
  await writeRun(here.store, { raw: [{ text: `${header}\n1,2026-11-21 10:00:00+00,a,{}\n`, rows: 2 }] })
  await expect(here.ingest()).rejects.toMatchObject({ code: 'INGESTOR_ROWS_DIFFER', context: { expected: 2, arrived: 1 } })
  expect(await here.rows('SELECT count(*) FROM audit.audit_log')).toEqual([[0n]])
})

it('a load that was ruled out cannot be made any more', async () => {
  await using here = await laptop()
  const manifest = await writeRun(here.store)
  await using session = await openSession(here.config, silentLogger)
  const call = { signal: new AbortController().signal }
  const attempt = { manifest, method: 'append' as const, attempt: 1 }
  await session.engine.prepare(attempt, call)
  const zombie = await session.engine.submit(attempt, call)
  expect(await session.engine.settle(attempt, zombie.submission, call)).toEqual({ applied: false })
  await expect(zombie.follow(call)).rejects.toMatchObject({ outcome: 'conflict' })
  expect(await session.engine.settle(attempt, zombie.submission, call)).toEqual({ applied: false })
})

it('plan and check make no file', async () => {
  await using here = await laptop()
  const manifest = await writeRun(here.store)
  await using session = await openSession(here.config, silentLogger, { readOnly: true })
  const call = { signal: new AbortController().signal }
  expect(await session.engine.plan({ manifest, method: 'merge', attempt: 1 }, call)).toMatchObject({
    statement: expect.stringContaining('MERGE INTO "audit"."audit_log"'),
  })
  expect(await session.engine.ledgerName(call)).toBe('duckdb-new.audit.audit_log')
  expect((await session.engine.check(call)).results).toMatchObject([{ ok: true }])
  expect(await readdir(here.folder)).toEqual(['landing'])
})
