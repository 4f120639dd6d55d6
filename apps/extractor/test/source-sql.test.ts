import { describe, expect, it } from 'vitest'
import type { SourceColumn } from '@common-handlers/dataset'
import {
  copySelect,
  headerLine,
  probeQuery,
  readProbe,
  rowCondition,
  type Source,
  transactionOf,
  watermarkFamily,
} from '../src/source-sql.ts'

const column = (name: string, sourceType: string, baseTypeName: string): SourceColumn => ({
  name,
  sourceType,
  baseTypeName,
  category: 'N',
  nullable: true,
})

const source: Source = {
  from: '"app"."audit_log"',
  hasTransactionIds: true,
  columns: [column('id', 'bigint', 'int8'), column('at "time"', 'timestamp with time zone', 'timestamptz')],
  watermark: { name: 'id', type: 'bigint' },
  key: ['id'],
}
const snapshot = { xmin: '700', xmax: '750' }
const oneLine = (text: string | undefined): string => (text ?? '').replaceAll(/\s+/g, ' ')

describe('copySelect', () => {
  it('names the columns, and orders by watermark and key', () => {
    expect(oneLine(copySelect({ ...source, key: ['entity', 'id'] }, undefined))).toBe(
      'SELECT source."id", source."at ""time""" FROM "app"."audit_log" AS source ORDER BY source."id", source."entity"',
    )
  })

  it('orders by the key alone without a watermark, and not at all without both', () => {
    expect(copySelect({ ...source, watermark: undefined }, undefined)).toMatch(/ORDER BY source\."id"$/)
    expect(copySelect({ ...source, watermark: undefined, key: [] }, undefined)).not.toContain('ORDER BY')
  })
})

describe('rowCondition', () => {
  it('is none for all rows', () => {
    expect(rowCondition(source, undefined, snapshot)).toBeUndefined()
  })

  it('keeps a comment at the end of source.where from swallowing what follows', () => {
    const where = rowCondition({ ...source, where: 'actor <> 1 -- not the robot' }, { from: '5' }, snapshot)
    expect(where).toBe('(actor <> 1 -- not the robot\n) AND source."id" > \'5\'::bigint')
  })

  it('looks for late rows among the transactions that the run before may not have seen', () => {
    const known = { from: '5', late: { xmin: '690', known: ['700', '701'] } }
    expect(rowCondition(source, known, snapshot)).toBe(
      `(source."id" > '5'::bigint OR (${transactionOf(snapshot)} >= 690 AND ${transactionOf(snapshot)} <> ALL ('{700,701}'::bigint[])))`,
    )
  })

  it('bounds the search in the unit of the watermark', () => {
    const late = { xmin: '690', known: [] }
    expect(rowCondition(source, { from: '5000', lookback: '1000', late }, snapshot)).toBe(
      `source."id" > ('5000'::bigint::numeric - 1000) AND (source."id" > '5000'::bigint OR (${transactionOf(snapshot)} >= 690))`,
    )
    const timed: Source = { ...source, watermark: { name: 'at', type: 'timestamp with time zone' } }
    expect(rowCondition(timed, { from: '2026-01-01 00:00:00+00', lookback: '2 days', late }, snapshot)).toContain(
      `source."at" > ('2026-01-01 00:00:00+00'::timestamp with time zone - interval '2 days') AND `,
    )
    expect(() => rowCondition(source, { from: '5', lookback: '2 days', late }, snapshot)).toThrow(
      'source.lookback: "2 days" is not a number, but the watermark column is of type bigint',
    )
  })

  it('quotes values', () => {
    expect(rowCondition({ ...source, watermark: { name: 'd', type: 'date' } }, { from: "it's" }, snapshot)).toBe(
      `source."d" > 'it''s'::date`,
    )
  })
})

describe('transactionOf', () => {
  // The same arithmetic in JavaScript as a check of the SQL's numbers.
  const evaluate = (sql: string, xmin: bigint): bigint => {
    const [, now = '', ahead = '', modulus = ''] = /^\((\d+) - \((\d+) - source\.xmin::text::bigint\) % (\d+)\)$/.exec(sql) ?? []
    return BigInt(now) - ((BigInt(ahead) - xmin) % BigInt(modulus))
  }

  it('gives the epoch back to a 32-bit id', () => {
    const epoch = 2n ** 32n
    expect(evaluate(transactionOf({ xmax: '750' }), 749n)).toBe(749n)
    expect(evaluate(transactionOf({ xmax: String(3n * epoch + 10n) }), 9n)).toBe(3n * epoch + 9n)
    // Written before the 32 bits ran over, seen after.
    expect(evaluate(transactionOf({ xmax: String(3n * epoch + 10n) }), epoch - 5n)).toBe(3n * epoch - 5n)
  })
})

describe('the probe', () => {
  it('asks for everything in one pass and reads the answer', () => {
    const probe = probeQuery(source, { from: '5', late: { xmin: '690', known: [] } }, snapshot)
    expect(probe.sql.match(/\bFROM "app"/g)?.length).toBe(1)
    expect(probe.sql).toContain(`(greatest(max(source."id"), '5'::bigint))::text AS high`)
    expect(probe.exceptional).toEqual([
      { column: 'at "time"', engine: 'iceberg' },
      { column: 'at "time"', engine: 'duckdb' },
    ])
    expect(readProbe(probe, { rows: '12', high: '17', transactions: '{701,702}', e0: 'true', e1: 'false' })).toEqual({
      rows: 12,
      high: '17',
      transactions: ['701', '702'],
      exceptional: new Map([['at "time"', { iceberg: true, duckdb: false }]]),
    })
    expect(readProbe(probe, { rows: '0', high: null, transactions: null, e0: 'false', e1: 'false' })).toMatchObject({
      rows: 0,
      high: undefined,
      transactions: [],
    })
  })

  it('does not look at transactions when none was running, nor where there are none', () => {
    expect(probeQuery(source, undefined, { xmin: '750', xmax: '750' }).sql).not.toContain('xmin')
    expect(probeQuery({ ...source, hasTransactionIds: false }, undefined, snapshot).sql).not.toContain('xmin')
  })
})

describe('watermarkFamily', () => {
  it('takes numbers and times', () => {
    expect(['smallint', 'integer', 'bigint', 'numeric', 'numeric(20,0)'].map(watermarkFamily)).toEqual(Array(5).fill('number'))
    expect(['date', 'timestamp without time zone', 'timestamp(3) with time zone'].map(watermarkFamily)).toEqual(
      Array(3).fill('time'),
    )
    expect(['text', 'uuid', 'boolean', 'time without time zone'].map(watermarkFamily)).toEqual(Array(4).fill(undefined))
  })
})

describe('headerLine', () => {
  it('is what COPY … (HEADER) writes', () => {
    expect(headerLine(['id', 'a,b', 'say "hi"', ' plain ', '\\N']).toString()).toBe('id,"a,b","say ""hi""", plain ,"\\N"\n')
  })
})
