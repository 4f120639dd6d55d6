import { readFile } from 'node:fs/promises'
import { MemoryStore } from '@common-handlers/storage'
import { describe, expect, it } from 'vitest'
import {
  fileName,
  isRunId,
  ledgerKey,
  listRuns,
  manifestJsonSchema,
  manifestKey,
  newRunId,
  parseManifest,
  parseRunKey,
  readManifest,
  readNewestManifest,
  runPrefix,
  writeManifest,
} from '@common-handlers/dataset'
import { aManifest, RUN_ID } from './a-manifest.ts'

const key = `audit/log/run=${RUN_ID}/_manifest.json`

describe('the layout', () => {
  it('has names that sort by time and can be taken apart again', () => {
    const ids = [0, 1, 999, 86_400_000].map((later) => newRunId(new Date(Date.UTC(2026, 10, 21, 10, 15, 30, 123) + later)))
    expect(ids.toSorted()).toEqual(ids)
    expect(ids[0]).toMatch(/^20261121T101530123Z-[0-9a-f]{8}$/)
    expect(ids.every(isRunId)).toBe(true)
    expect(newRunId()).not.toBe(newRunId(new Date()))
    expect(manifestKey('audit/log', RUN_ID)).toBe(key)
    expect(parseRunKey(key)).toEqual({ dataset: 'audit/log', runId: RUN_ID, name: '_manifest.json' })
    for (const other of ['audit/log/x', `audit/log/run=2026/x`, `run=${RUN_ID}/x`, `a/run=${RUN_ID}/x/y`])
      expect(parseRunKey(other)).toBeUndefined()
    expect([
      fileName(0, { compression: 'gzip' }),
      fileName(12, { compression: 'zstd' }),
      fileName(100_000, { compression: 'none' }),
    ]).toEqual(['part-00000.csv.gz', 'part-00012.csv.zst', 'part-100000.csv'])
  })

  it('refuses names that are no folder, and writes targets of any name as one', () => {
    for (const name of ['', '/', '../x', 'a//b', 'a/../b', '_x', '.x', 'a b', 'run=1', 'a/_ingest']) {
      expect(() => runPrefix(name, RUN_ID)).toThrow(expect.objectContaining({ code: 'DATASET_NAME_INVALID' }))
    }
    expect(() => runPrefix('a', '../x')).toThrow(expect.objectContaining({ code: 'DATASET_NAME_INVALID' }))
    expect(ledgerKey('audit/log', 'lake.audit."a/b"', RUN_ID)).toBe(`audit/log/_ingest/lake.audit.%22a%2Fb%22/${RUN_ID}.json`)
  })

  it('lists runs with and without a manifest, oldest first, and nothing else', async () => {
    const store = new MemoryStore()
    const [first, second, third] = [1, 2, 3].map((day) => newRunId(new Date(Date.UTC(2026, 0, day))))
    for (const run of [third, first, second]) await store.put(`d/run=${run}/part-00000.csv.gz`, '12345')
    await store.put(`d/run=${second}/part-00001.csv.gz`, '1')
    for (const run of [first, third]) await store.put(`d/run=${run}/_manifest.json`, '{}')
    for (const stray of ['d/run=x/part', `d/_ingest/t/${first}.json`, 'd2/x', `d/run=${first}/deeper/x`])
      await store.put(stray, 'x')
    const runs = await listRuns(store, 'd')
    expect(runs.map(({ runId, committed, files, bytes, keys }) => [runId, committed, files, bytes, keys.length])).toEqual([
      [first, true, 1, 5, 2],
      [second, false, 2, 6, 2],
      [third, true, 1, 5, 2],
    ])
    expect(await listRuns(store, 'nothing')).toEqual([])
  })
})

describe('the manifest', () => {
  it('comes back as it was written; the newest one is found', async () => {
    const store = new MemoryStore()
    expect(await readNewestManifest(store, 'audit/log')).toBeUndefined()
    const newer = aManifest({ runId: RUN_ID.replace('2026', '2027'), previousRunId: RUN_ID })
    await writeManifest(store, newer)
    await writeManifest(store, aManifest())
    await store.put(`audit/log/run=${RUN_ID.replace('2026', '2028')}/part-00000.csv.gz`, 'not committed')
    expect(await readManifest(store, 'audit/log', RUN_ID)).toEqual(aManifest())
    expect(await readNewestManifest(store, 'audit/log')).toEqual(newer)
  })

  it('is written once: the same again is no conflict, another one is', async () => {
    const store = new MemoryStore()
    await writeManifest(store, aManifest())
    await writeManifest(store, aManifest())
    await expect(writeManifest(store, aManifest({ createdBy: 'another' }))).rejects.toMatchObject({
      code: 'DATASET_RUN_EXISTS',
      outcome: 'conflict',
    })
    expect((await readManifest(store, 'audit/log', RUN_ID)).createdBy).toBe('audit-log-extractor 0.1.0')
  })

  it('that is missing is not found', async () => {
    await expect(readManifest(new MemoryStore(), 'audit/log', RUN_ID)).rejects.toMatchObject({
      code: 'DATASET_MANIFEST_MISSING',
      outcome: 'not-found',
      context: { key },
    })
  })

  it('of a newer version is refused, with its file, its version and what to do', async () => {
    const store = new MemoryStore()
    await store.put(key, JSON.stringify({ ...aManifest(), version: 2, news: true }))
    const error: unknown = await readManifest(store, 'audit/log', RUN_ID).catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({
      code: 'DATASET_MANIFEST_TOO_NEW',
      outcome: 'data',
      where: { file: key },
      context: { version: 2 },
    })
    expect((error as Error).message).toMatch(/version 2.*upgrade/)
  })

  const wrong: [title: string, change: object | string, says: string][] = [
    ['no JSON', '{', key],
    ['no object', '[]', 'expected object'],
    ['an unknown key', { news: 1 }, 'news'],
    [
      'a wrong type deep inside',
      { columns: [{ ...aManifest().columns[0], targets: { iceberg: { type: 1 }, duckdb: { type: 'X' } } }] },
      'columns[0].targets.iceberg.type',
    ],
    ['a checksum that is none', { files: [{ ...aManifest().files[0], sha256: 'x' }] }, 'files[0].sha256: expected 64'],
    ['a file outside of the run', { files: [{ ...aManifest().files[0], name: '../x' }] }, 'files[0].name'],
    ['another dataset', { dataset: 'other' }, 'belongs to other'],
    ['another run', { runId: RUN_ID.replace('2026', '2025') }, 'belongs to audit/log, run 2025'],
    ['totals that are not the sums', { totals: { files: 1, rows: 11, bytes: 300 } }, 'totals.rows: 11, but the files hold 10'],
    ['a column twice', { columns: [aManifest().columns[0], aManifest().columns[0]] }, 'columns: a name is there twice'],
  ]
  for (const [title, change, says] of wrong) {
    it(`with ${title} is refused, and the error says where`, async () => {
      const store = new MemoryStore()
      await store.put(key, typeof change === 'string' ? change : JSON.stringify({ ...aManifest(), ...change }))
      const error: unknown = await readManifest(store, 'audit/log', RUN_ID).catch((thrown: unknown) => thrown)
      expect(error).toMatchObject({ code: 'DATASET_MANIFEST_INVALID', outcome: 'data', where: { file: key } })
      expect((error as Error).message).toContain(says)
    })
  }

  it('that is none is not written', async () => {
    const store = new MemoryStore()
    await expect(writeManifest(store, aManifest({ totals: { files: 2, rows: 10, bytes: 300 } }))).rejects.toMatchObject({
      code: 'DATASET_MANIFEST_INVALID',
    })
    await expect(writeManifest(store, { ...aManifest(), columns: [] })).rejects.toMatchObject({
      code: 'DATASET_MANIFEST_INVALID',
    })
    expect(await listRuns(store, 'audit/log')).toEqual([])
  })

  it('has a published JSON Schema that is current', async () => {
    const published: unknown = JSON.parse(await readFile(new URL('../schema/manifest-v1.json', import.meta.url), 'utf8'))
    expect(published, 'run the script "schema" of this package').toEqual(manifestJsonSchema())
    expect(published).toMatchObject({ $schema: 'https://json-schema.org/draft/2020-12/schema', additionalProperties: false })
  })

  it('is parsed into what the schema knows', () => {
    expect(parseManifest(JSON.stringify(aManifest()), 'x')).toEqual(aManifest())
  })
})
