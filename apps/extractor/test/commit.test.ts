import { listRuns, type Manifest, manifestKey, newRunId, readNewestManifest, runPrefix } from '@common-handlers/dataset'
import { MemoryStore, type ObjectStore } from '@common-handlers/storage'
import { describe, expect, it } from 'vitest'
import { abandonRun, claimKey, commitRun, discardRun, runState } from '../src/commit.ts'

const dataset = 'audit_log'

function manifest(runId: string, previousRunId?: string): Manifest {
  return {
    version: 1,
    dataset,
    runId,
    ...(previousRunId === undefined ? {} : { previousRunId }),
    createdAt: '2026-11-21T10:15:30.123Z',
    createdBy: 'test',
    source: { system: 'postgresql', serverVersion: '18', database: 'app', table: '"app"."audit_log"' },
    mode: 'full',
    snapshot: { id: '10:10:', xmin: '10', xmax: '10', xip: [] },
    columns: [
      {
        name: 'id',
        sourceType: 'bigint',
        logicalType: 'int64',
        nullable: false,
        targets: { iceberg: { type: 'bigint' }, duckdb: { type: 'BIGINT' } },
      },
    ],
    format: { dialect: 'one-row-a-line', compression: 'gzip', null: '\\N', header: true },
    files: [],
    totals: { files: 0, rows: 0, bytes: 0 },
  }
}

const quick = { patienceMs: 20 }

/** A store whose next call of a method never comes back, as if the process had been killed there. */
function dyingAt(store: ObjectStore, method: 'putIfAbsent', key: string): { store: ObjectStore; died: Promise<void> } {
  const died = Promise.withResolvers<void>()
  const dying = Object.assign(Object.create(store) as ObjectStore, {
    [method]: (...args: Parameters<ObjectStore['putIfAbsent']>) => {
      if (args[0] !== key) return store[method](...args)
      died.resolve()
      return new Promise<never>(() => undefined)
    },
  })
  return { store: dying, died: died.promise }
}

const committed = async (store: ObjectStore): Promise<string[]> =>
  (await listRuns(store, dataset)).filter((run) => run.committed).map((run) => run.runId)

describe('commitRun', () => {
  it('makes a run visible', async () => {
    const store = new MemoryStore()
    const runId = newRunId()
    expect(await runState(store, dataset, runId)).toBe('unfinished')
    await commitRun(store, manifest(runId))
    expect(await runState(store, dataset, runId)).toBe('committed')
    expect((await readNewestManifest(store, dataset))?.runId).toBe(runId)
  })

  it('may be done again: the answer of the first time can be lost', async () => {
    const store = new MemoryStore()
    const one = manifest(newRunId())
    await commitRun(store, one)
    await commitRun(store, one)
    expect(await committed(store)).toEqual([one.runId])
  })

  it('lets one of many successors of a run win', async () => {
    for (let round = 0; round < 20; round++) {
      const store = new MemoryStore()
      const first = newRunId()
      await commitRun(store, manifest(first))
      const rivals = Array.from({ length: 8 }, () => newRunId())
      const results = await Promise.allSettled(rivals.map((runId) => commitRun(store, manifest(runId, first))))
      const winners = rivals.filter((_, at) => results[at]?.status === 'fulfilled')
      expect(winners.length).toBe(1)
      expect(await committed(store)).toEqual([first, ...winners].toSorted())
      const lost = results.flatMap((result) =>
        result.status === 'rejected' ? [result.reason as { code: string; outcome: string }] : [],
      )
      expect(lost.map(({ code, outcome }) => `${code} ${outcome}`)).toEqual(Array(7).fill('EXTRACTOR_RUN_OVERTAKEN conflict'))
    }
  })

  it('lets one of many first runs win', async () => {
    const store = new MemoryStore()
    const rivals = Array.from({ length: 8 }, () => newRunId())
    const results = await Promise.allSettled(rivals.map((runId) => commitRun(store, manifest(runId), quick)))
    expect(results.filter((result) => result.status === 'fulfilled').length).toBe(1)
    expect((await committed(store)).length).toBe(1)
  })

  it('goes on after a run that died between its claim and its manifest', async () => {
    const store = new MemoryStore()
    const dead = newRunId()
    const dying = dyingAt(store, 'putIfAbsent', manifestKey(dataset, dead))
    void commitRun(dying.store, manifest(dead))
    await dying.died
    const next = newRunId()
    await commitRun(store, manifest(next), quick)
    expect(await committed(store)).toEqual([next])
    // Were it alive after all, it would find that it has lost.
    await expect(commitRun(store, manifest(dead))).rejects.toMatchObject({ code: 'EXTRACTOR_RUN_OVERTAKEN' })
    expect(await committed(store)).toEqual([next])
  })

  it('lets one of many win after a run that died, and the dead one wake up at any time', async () => {
    for (let round = 0; round < 20; round++) {
      const store = new MemoryStore()
      const dead = newRunId()
      await store.putIfAbsent(claimKey(dataset, undefined), JSON.stringify({ runId: dead }))
      const rivals = [dead, ...Array.from({ length: 6 }, () => newRunId())]
      const results = await Promise.allSettled(rivals.map((runId) => commitRun(store, manifest(runId), { patienceMs: 0 })))
      expect(results.filter((result) => result.status === 'fulfilled').length).toBe(1)
      expect((await committed(store)).length).toBe(1)
    }
  })
})

describe('discardRun', () => {
  it('deletes the files, and rules a manifest out that may be under way', async () => {
    const store = new MemoryStore()
    const runId = newRunId()
    await store.put(`${runPrefix(dataset, runId)}part-00000.csv`, 'id\n1\n')
    expect(await discardRun(store, dataset, runId, { manifestSent: true })).toEqual({ state: 'abandoned', deleted: 1 })
    await expect(commitRun(store, manifest(runId))).rejects.toMatchObject({ outcome: 'conflict' })
    expect(await committed(store)).toEqual([])
  })

  it('leaves nothing at all of a run that has not come to its manifest', async () => {
    const store = new MemoryStore()
    const runId = newRunId()
    await store.put(`${runPrefix(dataset, runId)}part-00000.csv`, 'id\n1\n')
    await discardRun(store, dataset, runId, { manifestSent: false })
    expect(await Array.fromAsync(store.list(''))).toEqual([])
  })

  it('deletes nothing of a run whose manifest is there', async () => {
    const store = new MemoryStore()
    const runId = newRunId()
    await store.put(`${runPrefix(dataset, runId)}part-00000.csv`, 'id\n1\n')
    await commitRun(store, manifest(runId))
    expect(await discardRun(store, dataset, runId, { manifestSent: true })).toEqual({ state: 'committed', deleted: 0 })
    expect(await abandonRun(store, dataset, runId)).toBe('committed')
  })
})
