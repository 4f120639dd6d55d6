import type { Manifest, SourceColumn } from '@common-handlers/dataset'
import { describe, expect, it } from 'vitest'
import type { Source } from '../src/source-sql.ts'
import { planWindow, watermarkColumn, watermarkOf } from '../src/window.ts'

const id: SourceColumn = {
  name: 'id',
  sourceType: 'bigint',
  baseTypeName: 'int8',
  category: 'N',
  nullable: false,
  keyPosition: 1,
}
const actor: SourceColumn = { name: 'actor', sourceType: 'text', baseTypeName: 'text', category: 'S', nullable: true }
const source: Source = {
  from: '"t"',
  hasTransactionIds: true,
  columns: [id, actor],
  watermark: { name: 'id', type: 'bigint' },
  key: ['id'],
}
const targets = { iceberg: { type: 'x' }, duckdb: { type: 'x' } }

function previous(changes: Partial<Manifest> = {}): Manifest {
  return {
    version: 1,
    dataset: 'audit_log',
    runId: '20261121T101530123Z-9f86d081',
    createdAt: '2026-11-21T10:15:30.123Z',
    createdBy: 'test',
    source: { system: 'postgresql', serverVersion: '18', database: 'app' },
    mode: 'incremental',
    watermark: { column: 'id', to: '100', lateRows: true, knownTransactions: ['690', '720'] },
    snapshot: { id: '690:740:691', xmin: '690', xmax: '740', xip: ['691'] },
    columns: [
      { name: 'id', sourceType: 'bigint', logicalType: 'int64', nullable: false, keyPosition: 1, targets },
      { name: 'actor', sourceType: 'text', logicalType: 'text', nullable: true, targets },
    ],
    format: { dialect: 'one-row-a-line', compression: 'gzip', null: '\\N', header: true },
    files: [],
    totals: { files: 0, rows: 0, bytes: 0 },
    ...changes,
  }
}

const now = { xmin: '700', xmax: '800' }
const incremental = { mode: 'incremental' } as const

describe('planWindow', () => {
  it('reads every row in a full run and in the first incremental one', () => {
    expect(planWindow({ mode: 'full' }, source, previous(), now)).toEqual({ lateRows: false })
    expect(planWindow(incremental, source, undefined, now)).toEqual({ lateRows: true, remark: undefined })
    const empty = previous({ watermark: { column: 'id', lateRows: true, knownTransactions: [] } })
    expect(planWindow(incremental, source, empty, now).known).toBeUndefined()
  })

  it('goes on from the watermark and the transactions of the run before', () => {
    expect(planWindow({ ...incremental, lookback: '50' }, source, previous(), now)).toEqual({
      known: { from: '100', lookback: '50', late: { xmin: '690', known: ['690', '720'] } },
      lateRows: true,
      remark: undefined,
    })
  })

  it('says why late rows are not looked for', () => {
    const query = planWindow(incremental, { ...source, hasTransactionIds: false }, previous(), now)
    expect(query).toEqual({
      known: { from: '100' },
      lateRows: false,
      remark: expect.stringContaining('the source is no table') as string,
    })
    expect(planWindow({ ...incremental, lookback: 'none' }, source, previous(), now).remark).toContain('source.lookback is none')
  })

  it('rather reads a row twice than not at all when the transactions of the run before are not known', () => {
    const window = planWindow(incremental, source, previous({ watermark: { column: 'id', to: '100', lateRows: true } }), now)
    expect(window.known?.late).toEqual({ xmin: '690', known: [] })
    expect(window.remark).toContain('may come again')
  })

  const refusal = (changes: Partial<Manifest>, changed: Source = source, xmax = '800'): unknown => {
    try {
      planWindow(incremental, changed, previous(changes), { xmax })
    } catch (error) {
      return error
    }
    throw new Error('nothing was refused')
  }

  it.each([
    ['no watermark', { watermark: undefined }, source, 'it noted no watermark'],
    [
      'another watermark',
      { watermark: { column: 'at', lateRows: true } },
      source,
      'its watermark column is "at", now it is "id"',
    ],
    ['a column that is gone', {}, { ...source, columns: [id] }, 'its column "actor" is gone'],
    ['another type', {}, { ...source, columns: [id, { ...actor, sourceType: 'integer' }] }, 'of type text, now it is integer'],
    ['another key', {}, { ...source, columns: [id, { ...actor, keyPosition: 2 }] }, 'its key was (id), now it is (id, actor)'],
  ])('refuses %s, and says what to do', (_, changes, changed, message) => {
    const error = refusal(changes, changed)
    expect(error).toMatchObject({ code: 'EXTRACTOR_PREVIOUS_RUN_DIFFERS', outcome: 'config' })
    expect((error as Error).message).toContain(message)
    expect((error as Error).message).toContain('start over with a full run: --set source.mode=full')
  })

  it('refuses another server', () => {
    expect(refusal({}, source, '739')).toMatchObject({ message: expect.stringContaining('so it read another server') as string })
  })

  it('takes a new column', () => {
    const wider = { ...source, columns: [id, actor, { ...actor, name: 'reason' }] }
    expect(planWindow(incremental, wider, previous(), now).known?.from).toBe('100')
  })
})

describe('watermarkOf', () => {
  it('carries on the transactions that may still matter', () => {
    const window = planWindow(incremental, source, previous(), now)
    expect(watermarkOf(source, window, { high: '120', transactions: ['705', '720'] }, now)).toEqual({
      column: 'id',
      from: '100',
      to: '120',
      lateRows: true,
      knownTransactions: ['720', '705'],
    })
  })

  it('lists no transactions that it cannot know, or that are too many', () => {
    const none = planWindow({ ...incremental, lookback: 'none' }, source, previous(), now)
    expect(watermarkOf(source, none, { high: '120', transactions: [] }, now)?.knownTransactions).toBeUndefined()
    const many = Array.from({ length: 100_001 }, (_, at) => String(at + 1000))
    expect(watermarkOf(source, { lateRows: true }, { high: '1', transactions: many }, now)?.knownTransactions).toBeUndefined()
  })

  it('is noted by full runs too, so that an incremental one can follow', () => {
    expect(watermarkOf(source, { lateRows: false }, { high: '9', transactions: ['701'] }, now)).toEqual({
      column: 'id',
      to: '9',
      lateRows: false,
      knownTransactions: ['701'],
    })
    expect(
      watermarkOf({ ...source, watermark: undefined }, { lateRows: false }, { high: undefined, transactions: [] }, now),
    ).toBeUndefined()
  })
})

describe('watermarkColumn', () => {
  it('finds the type, or says what is wrong', () => {
    expect(watermarkColumn('id', [id, actor])).toEqual({ name: 'id', type: 'bigint' })
    expect(() => watermarkColumn('ID', [id, actor])).toThrow('the source has no column "ID"; it has: id, actor')
    expect(() => watermarkColumn('actor', [id, actor])).toThrow(
      'column "actor" is of type text; a number, a date or a timestamp is needed',
    )
  })
})
