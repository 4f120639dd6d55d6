import { silentLogger } from '@common-handlers/core'
import { ledgerKey } from '@common-handlers/dataset'
import { MemoryStore } from '@common-handlers/storage'
import { describe, expect, it } from 'vitest'
import { LEDGER_VERSION, type LedgerEntry } from '../src/ledger.ts'
import { methodOf, pickRun, type Queue, readQueue, type WriteMode } from '../src/queue.ts'
import { withoutKey, writeRun } from './run-files.ts'

const TARGET = 'lake.audit.audit_log'

const read = (store: MemoryStore, write: WriteMode = 'auto'): Promise<Queue> =>
  readQueue(store, 'audit_log', TARGET, { write, signal: new AbortController().signal, logger: silentLogger })

async function commit(store: MemoryStore, runId: string): Promise<void> {
  const entry: LedgerEntry = {
    version: LEDGER_VERSION,
    dataset: 'audit_log',
    runId,
    target: TARGET,
    owner: 'w',
    revision: 'r',
    method: 'append',
    attempt: 1,
    updatedAt: '2026-11-21T10:00:00Z',
    state: 'committed',
    committedAt: '2026-11-21T10:00:00Z',
    commit: { rows: 3 },
  }
  await store.put(ledgerKey('audit_log', TARGET, runId), JSON.stringify(entry))
}

const shown = ({ pending }: Queue): unknown[] =>
  pending.map(({ manifest, method, supersededBy }) => [manifest.runId, method, supersededBy])

describe('how a run is written', () => {
  it('by its mode and its key', async () => {
    const store = new MemoryStore()
    const full = await writeRun(store, { mode: 'full' })
    const merged = await writeRun(store)
    const appended = await writeRun(store, { columns: withoutKey })
    expect([full, merged, appended].map((run) => methodOf(run, 'auto'))).toEqual(['replace', 'merge', 'append'])
    expect(methodOf(full, 'append')).toBe('append')
    expect(() => methodOf(appended, 'merge')).toThrow(expect.objectContaining({ code: 'INGESTOR_KEY_MISSING' }))
  })
})

describe('what is pending', () => {
  it('is what comes after the newest run that is done, in order', async () => {
    const store = new MemoryStore()
    const one = await writeRun(store, { mode: 'full' })
    const two = await writeRun(store, { previousRunId: one.runId })
    const three = await writeRun(store, { previousRunId: two.runId })
    expect(shown(await read(store))).toEqual([
      [one.runId, 'replace', undefined],
      [two.runId, 'merge', undefined],
      [three.runId, 'merge', undefined],
    ])
    await commit(store, two.runId)
    const queue = await read(store)
    expect(shown(queue)).toEqual([[three.runId, 'merge', undefined]])
    expect(queue.done?.runId).toBe(two.runId)
  })

  it('does not need what stands before the newest full run', async () => {
    const store = new MemoryStore()
    const one = await writeRun(store, { mode: 'full' })
    const two = await writeRun(store, { previousRunId: one.runId })
    const three = await writeRun(store, { mode: 'full', previousRunId: two.runId })
    const four = await writeRun(store, { previousRunId: three.runId })
    expect(shown(await read(store))).toEqual([
      [one.runId, 'replace', three.runId],
      [two.runId, 'merge', three.runId],
      [three.runId, 'replace', undefined],
      [four.runId, 'merge', undefined],
    ])
    expect((await read(store, 'append')).pending.map((run) => run.supersededBy)).toEqual([
      undefined,
      undefined,
      undefined,
      undefined,
    ])
  })

  it('has no hole: a run whose predecessor is gone', async () => {
    const store = new MemoryStore()
    await writeRun(store, { previousRunId: '20260101T000000000Z-00000000' })
    await expect(read(store)).rejects.toMatchObject({ code: 'INGESTOR_RUNS_BROKEN', outcome: 'conflict' })
  })

  it('holds no row twice: two runs that go on from the same', async () => {
    const store = new MemoryStore()
    const one = await writeRun(store, { columns: withoutKey })
    await writeRun(store, { columns: withoutKey, previousRunId: one.runId })
    await writeRun(store, { columns: withoutKey, previousRunId: one.runId })
    await expect(read(store)).rejects.toMatchObject({ code: 'INGESTOR_RUNS_BROKEN' })
    const merged = new MemoryStore()
    const first = await writeRun(merged)
    await writeRun(merged, { previousRunId: first.runId })
    await writeRun(merged, { previousRunId: first.runId })
    expect((await read(merged)).pending).toHaveLength(3)
  })
})

describe('one run', () => {
  it('is not loaded before the run before it', async () => {
    const store = new MemoryStore()
    const one = await writeRun(store)
    const two = await writeRun(store, { previousRunId: one.runId })
    const queue = await read(store)
    expect(() => pickRun(queue, two.runId)).toThrow(expect.objectContaining({ code: 'INGESTOR_RUN_OUT_OF_ORDER' }))
    expect(pickRun(queue, one.runId)?.manifest.runId).toBe(one.runId)
    expect(() => pickRun(queue, '20991121T101530123Z-9f86d081')).toThrow(
      expect.objectContaining({ code: 'INGESTOR_RUN_NOT_FOUND' }),
    )
    await commit(store, one.runId)
    expect(pickRun(await read(store), one.runId)).toBeUndefined()
  })
})
