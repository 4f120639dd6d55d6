import { listRuns, manifestKey, newRunId, runPrefix } from '@common-handlers/dataset'
import { MemoryStore } from '@common-handlers/storage'
import { describe, expect, it } from 'vitest'
import { findGarbage, removeGarbage } from '../src/gc.ts'
import type { RunStore, UnfinishedUpload } from '../src/store.ts'

const dataset = 'audit_log'

function storeWith(uploads: UnfinishedUpload[]): RunStore & { objects: MemoryStore } {
  const objects = new MemoryStore()
  return {
    objects,
    check: () => Promise.reject(new Error('not asked for')),
    uploads: {
      async *list(prefix) {
        yield* uploads.filter((upload) => upload.key.startsWith(prefix))
      },
      abort: (upload) => {
        uploads.splice(uploads.indexOf(upload), 1)
        return Promise.resolve()
      },
    },
  }
}

describe('gc', () => {
  it('removes old unfinished runs and uploads, and nothing else', async () => {
    const [done, dead, abandoned, uploading] = [newRunId(), newRunId(), newRunId(), newRunId()]
    const key = (runId: string): string => `${runPrefix(dataset, runId)}part-00000.csv`
    const old = { key: key(dead), uploadId: 'old', initiated: new Date(0) }
    const young = { key: key(uploading), uploadId: 'young', initiated: new Date(Date.now() + 60_000) }
    const store = storeWith([old, young])
    for (const runId of [done, dead, abandoned, uploading]) await store.objects.put(key(runId), 'id\n1\n')
    await store.objects.put(manifestKey(dataset, done), '{}')
    await store.objects.put(manifestKey(dataset, abandoned), '')

    const garbage = await findGarbage(store, dataset, 0)
    expect(garbage.runs.map((run) => run.runId)).toEqual([dead, abandoned].toSorted())
    expect(garbage.uploads).toEqual([old])
    expect(garbage.young).toEqual({ runs: 1, uploads: 1 })
    expect(await removeGarbage(store, dataset, garbage)).toEqual({ runs: 2, files: 2, uploads: 1 })

    const left = await listRuns(store.objects, dataset)
    expect(left.filter((run) => run.files > 0).map((run) => run.runId)).toEqual([done, uploading].toSorted())
    expect((await findGarbage(store, dataset, 0)).runs).toEqual([])
  })

  it('leaves what is young alone', async () => {
    const store = storeWith([])
    await store.objects.put(`${runPrefix(dataset, newRunId())}part-00000.csv`, 'id\n1\n')
    const garbage = await findGarbage(store, dataset, 3_600_000)
    expect(garbage).toEqual({ runs: [], uploads: [], young: { runs: 1, uploads: 0 } })
  })

  it('leaves a run alone that was committed after it was found', async () => {
    const store = storeWith([])
    const runId = newRunId()
    await store.objects.put(`${runPrefix(dataset, runId)}part-00000.csv`, 'id\n1\n')
    const garbage = await findGarbage(store, dataset, 0)
    await store.objects.put(manifestKey(dataset, runId), '{}')
    expect(await removeGarbage(store, dataset, garbage)).toEqual({ runs: 0, files: 0, uploads: 0 })
    expect((await listRuns(store.objects, dataset))[0]?.files).toBe(1)
  })
})
