import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { readConfigFile } from '@common-handlers/core'
import { LocalFolderStore } from '@common-handlers/storage'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type IngestorConfigInput, ingestorConfigSchema } from '../src/config.ts'
import { call, start } from './program.ts'
import { auditRows, writeRun } from './run-files.ts'

let folder: string
let store: LocalFolderStore
let config: IngestorConfigInput

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'ingestor-'))
  const url = pathToFileURL(join(folder, 'landing')).href
  store = new LocalFolderStore({ folder: url })
  config = {
    dataset: 'audit_log',
    store: url,
    engine: 'duckdb',
    target: { schema: 'audit', table: 'audit_log' },
    duckdb: { path: join(folder, 'w.duckdb') },
  }
})

afterEach(async () => {
  await store.close()
  await rm(folder, { recursive: true, force: true })
})

const json = (text: string): unknown => JSON.parse(text)

describe('the commands', () => {
  it('plan, run and status tell the same story', async () => {
    const one = await writeRun(store, { mode: 'full', files: [auditRows(1, 3)] })
    const two = await writeRun(store, { mode: 'full', files: [auditRows(1, 5)], previousRunId: one.runId })
    const plan = await call(['plan'], config)
    expect(json(plan.stdout)).toMatchObject({
      engine: 'duckdb',
      runs: [
        { runId: one.runId, supersededBy: two.runId },
        {
          runId: two.runId,
          method: 'replace',
          rows: 5,
          plan: { statement: expect.stringContaining('CREATE OR REPLACE TABLE "audit"."audit_log"') },
        },
      ],
    })
    expect(json((await call(['status'], config)).stdout)).toMatchObject({ runs: [{ state: 'pending' }, { state: 'pending' }] })
    const run = await call(['run'], config)
    expect([run.code, json(run.stdout)]).toMatchObject([0, { runs: [{ state: 'superseded' }, { state: 'committed', rows: 5 }] }])
    expect(json((await call(['status', '--limit', '1'], config)).stdout)).toMatchObject({
      runs: [{ runId: two.runId, state: 'committed' }],
    })
    expect(json((await call(['plan'], config)).stdout)).toMatchObject({ done: two.runId, runs: [] })
  })

  it('run --run loads that one, and what comes before it is not needed', async () => {
    const one = await writeRun(store, { mode: 'full' })
    const two = await writeRun(store, { previousRunId: one.runId })
    expect((await call(['run', '--run', two.runId], config)).code).toBe(7)
    expect((await call(['run', '--run', one.runId], config)).code).toBe(0)
    expect(json((await call(['status'], config)).stdout)).toMatchObject({ runs: [{ state: 'pending' }, { state: 'committed' }] })
  })

  it('check says what was tried', async () => {
    const checked = await call(['check'], config)
    expect([checked.code, json(checked.stdout)]).toMatchObject([0, { ok: true, results: [{ ok: true }, { ok: true }] }])
  })

  it('explain-config says where each value came from', async () => {
    const explained = await call(['explain-config', '--set', 'lease.seconds=5'], config)
    expect(json(explained.stdout)).toContainEqual({ key: 'lease.seconds', value: 5, origin: 'override' })
  })

  it.each([
    ['--run', 'yesterday', 'is not the id of a run'],
    ['--assume-applied', '7', 'is not the id of a run'],
  ])('refuse %s %s', async (flag, value, message) => {
    expect(await call(['run', flag, value], config)).toMatchObject({ code: 2, log: expect.stringContaining(message) })
  })

  it.each<[string, Partial<IngestorConfigInput>, string]>([
    ['engine trino without trino', { engine: 'trino', store: 's3://lake/landing' }, 'needs trino.url'],
    [
      'engine trino with a folder',
      { engine: 'trino', trino: { url: 'http://127.0.0.1:1', user: 'u' } },
      'Trino cannot read a folder of this machine',
    ],
    ['engine duckdb without a path', { duckdb: undefined }, 'needs duckdb.path'],
    ['a folder that cannot be made', { duckdb: { path: `${import.meta.filename}/w.duckdb` } }, 'give another one'],
    ['a store that is none', { store: 'ftp://lake' }, 'expected s3://bucket/prefix'],
  ])('refuse %s', async (_, change, message) => {
    expect(await call(['run'], { ...config, ...change })).toMatchObject({ code: 2, log: expect.stringContaining(message) })
  })
})

describe('DuckDB and two processes', () => {
  it('one has the file; the other leaves with exit code 7 or finds it done', async () => {
    await writeRun(store, { files: [auditRows(1, 2000)] })
    const running = await Promise.all(Array.from({ length: 3 }, () => start(['run'], config)))
    const ended = await Promise.all(running.map((one) => one.ended))
    expect(ended.some(({ code }) => code === 0)).toBe(true)
    for (const { code } of ended) expect([0, 7]).toContain(code)
    expect((await call(['run'], config)).code).toBe(0)
    expect(json((await call(['status'], config)).stdout)).toMatchObject({ runs: [{ state: 'committed', rows: 2000 }] })
  })
})

describe('the examples', () => {
  it.each(['trino.yaml', 'duckdb.yaml'])('%s is a configuration', async (name) => {
    const example = await readConfigFile(join(import.meta.dirname, '../examples', name))
    expect(ingestorConfigSchema.safeParse(example).error).toBeUndefined()
  })
})
