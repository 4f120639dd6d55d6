import { type ManifestColumn, mapColumn } from '@common-handlers/dataset'
import { MemoryStore } from '@common-handlers/storage'
import { describe, expect, it } from 'vitest'
import { assertDistinctNames, fitColumns, rawColumns } from '../src/trino-sql.ts'
import { writeRun } from './run-files.ts'

const column = (name: string, baseTypeName: string, sourceType: string, precision?: number, scale?: number): ManifestColumn =>
  mapColumn({
    name,
    sourceType,
    baseTypeName,
    category: 'X',
    nullable: true,
    ...(precision === undefined ? {} : { precision, scale: scale ?? 0 }),
  })

const manifestOf = (...columns: ManifestColumn[]) => writeRun(new MemoryStore(), { columns, files: [] })

describe('an existing column', () => {
  it.each([
    ['int4', 'integer', undefined, undefined, 'integer', true],
    ['int4', 'integer', undefined, undefined, 'bigint', true],
    ['int4', 'integer', undefined, undefined, 'decimal(10,0)', true],
    ['int4', 'integer', undefined, undefined, 'decimal(10,1)', false],
    ['int8', 'bigint', undefined, undefined, 'integer', false],
    ['int8', 'bigint', undefined, undefined, 'double', false],
    ['float4', 'real', undefined, undefined, 'double', true],
    ['float8', 'double precision', undefined, undefined, 'real', false],
    ['numeric', 'numeric(10,2)', 10, 2, 'decimal(12,2)', true],
    ['numeric', 'numeric(10,2)', 10, 2, 'decimal(12,4)', true],
    ['numeric', 'numeric(10,2)', 10, 2, 'decimal(11,4)', false],
    ['timestamptz', 'timestamptz', undefined, undefined, 'timestamp(6) with time zone', true],
    ['timestamptz', 'timestamptz', undefined, undefined, 'timestamp(6)', false],
    ['text', 'text', undefined, undefined, 'uuid', false],
    ['uuid', 'uuid', undefined, undefined, 'varchar', true],
  ])('takes %s (%s) as %s or not', async (base, source, precision, scale, existing, fits) => {
    const manifest = await manifestOf(column('a', base, source, precision, scale))
    const fit = (): ManifestColumn[] => fitColumns(manifest, [{ name: 'a', type: existing }], 't')
    if (fits) expect(fit()).toMatchObject([{ targets: { iceberg: { type: existing } } }])
    else expect(fit).toThrow(expect.objectContaining({ code: 'INGESTOR_COLUMN_TYPE' }))
  })

  it('that must not be null is in the way when the run has none', async () => {
    const manifest = await manifestOf(column('a', 'text', 'text'))
    const table = [
      { name: 'a', type: 'varchar' },
      { name: 'b', type: 'bigint', nullable: false },
    ]
    expect(() => fitColumns(manifest, table, 't')).toThrow(expect.objectContaining({ code: 'INGESTOR_COLUMN_REQUIRED' }))
    expect(() => fitColumns(manifest, [{ name: 'b', type: 'bigint' }], 't')).toThrow(
      expect.objectContaining({ code: 'INGESTOR_COLUMN_MISSING' }),
    )
  })
})

it('names that differ in capitals alone are refused', async () => {
  const manifest = await manifestOf(column('Name', 'text', 'text'), column('name', 'text', 'text'))
  expect(() => assertDistinctNames(manifest)).toThrow(expect.objectContaining({ code: 'INGESTOR_COLUMN_NAMES' }))
})

it('the table over the files has one column more, for what is too much', async () => {
  expect(rawColumns(await manifestOf(column('_extra', 'text', 'text'), column('b', 'text', 'text')))).toEqual([
    'c0',
    'c1',
    '_extra',
  ])
})
