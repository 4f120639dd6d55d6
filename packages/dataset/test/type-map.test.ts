import { describe, expect, it } from 'vitest'
import {
  duckdbDecode,
  exceptionalPredicate,
  mapColumn,
  type MapOptions,
  type SourceColumn,
  trinoDecode,
} from '@common-handlers/dataset'

const source = (baseTypeName: string, more: Partial<SourceColumn> = {}): SourceColumn => ({
  name: 'c',
  sourceType: baseTypeName,
  baseTypeName,
  category: 'X',
  nullable: true,
  ...more,
})
const types = (column: SourceColumn, options?: MapOptions): [string, string, string] => {
  const { logicalType, targets } = mapColumn(column, options)
  return [logicalType, targets.iceberg.type, targets.duckdb.type]
}

const exact: [SourceColumn, string, string, string][] = [
  [source('bool'), 'boolean', 'boolean', 'BOOLEAN'],
  [source('int2'), 'int16', 'integer', 'SMALLINT'],
  [source('int4'), 'int32', 'integer', 'INTEGER'],
  [source('int8'), 'int64', 'bigint', 'BIGINT'],
  [source('oid'), 'int64', 'bigint', 'BIGINT'],
  [source('float4'), 'float32', 'real', 'FLOAT'],
  [source('float8'), 'float64', 'double', 'DOUBLE'],
  [source('numeric', { precision: 10, scale: 2 }), 'decimal', 'decimal(10,2)', 'DECIMAL(10,2)'],
  [source('numeric', { precision: 38, scale: 38 }), 'decimal', 'decimal(38,38)', 'DECIMAL(38,38)'],
  [source('numeric', { precision: 3, scale: -2 }), 'decimal', 'decimal(5,0)', 'DECIMAL(5,0)'],
  [source('numeric', { precision: 2, scale: 4 }), 'decimal', 'decimal(4,4)', 'DECIMAL(4,4)'],
  [source('bytea'), 'binary', 'varbinary', 'BLOB'],
  [source('uuid'), 'uuid', 'uuid', 'UUID'],
  [source('date'), 'date', 'date', 'DATE'],
  [source('time'), 'time', 'time(6)', 'TIME'],
  [source('timestamp'), 'timestamp', 'timestamp(6)', 'TIMESTAMP'],
  [source('timestamptz'), 'timestamptz', 'timestamp(6) with time zone', 'TIMESTAMP WITH TIME ZONE'],
  ...['text', 'varchar', 'bpchar', 'char', 'citext', 'name'].map((name): [SourceColumn, string, string, string] => [
    source(name),
    'text',
    'varchar',
    'VARCHAR',
  ]),
  [source('mood', { category: 'E' }), 'text', 'varchar', 'VARCHAR'],
]

describe('mapColumn', () => {
  for (const [column, ...expected] of exact) {
    it(`gives ${column.baseTypeName}(${column.precision ?? ''},${column.scale ?? ''}) a type of its own`, () => {
      expect(types(column)).toEqual(expected)
      const { targets } = mapColumn(column)
      expect([targets.iceberg.textBecause, targets.duckdb.textBecause]).toEqual([undefined, undefined])
    })
  }

  const asText = [
    source('numeric'),
    source('numeric', { precision: 39, scale: 2 }),
    source('numeric', { precision: 38, scale: -1 }),
    source('numeric', { precision: 1, scale: 39 }),
    ...[
      'timetz',
      'interval',
      'money',
      'inet',
      'cidr',
      'macaddr',
      'macaddr8',
      'xml',
      'bit',
      'varbit',
      'geometry',
      'point',
      'tsvector',
      'constructor',
    ].map((name) => source(name)),
    source('_int4', { category: 'A' }),
    source('int4range', { category: 'R' }),
    source('pair', { category: 'C' }),
  ]
  for (const column of asText) {
    it(`keeps ${column.baseTypeName}(${column.precision ?? ''},${column.scale ?? ''}) as text, with the reason`, () => {
      expect(types(column)).toEqual(['text', 'varchar', 'VARCHAR'])
      const { targets } = mapColumn(column)
      expect(targets.iceberg.textBecause).toMatch(/\w/)
      expect(targets.duckdb.textBecause).toMatch(/\w/)
    })
  }

  it('keeps JSON as text where there is no such type', () => {
    expect(types(source('json'))).toEqual(['json', 'varchar', 'VARCHAR'])
    expect(types(source('jsonb'))).toEqual(['json', 'varchar', 'JSON'])
    expect(mapColumn(source('jsonb')).targets.iceberg.textBecause).toContain('JSON')
  })

  it('makes text of a column with values that the engine cannot hold, and of no other', () => {
    const numeric = source('numeric', { precision: 10, scale: 2 })
    expect(types(numeric, { exceptional: true })).toEqual(['decimal', 'varchar', 'VARCHAR'])
    expect(types(source('date'), { exceptional: true })).toEqual(['date', 'varchar', 'DATE'])
    expect(types(source('time'), { exceptional: true })).toEqual(['time', 'varchar', 'TIME'])
    expect(types(source('timestamptz'), { exceptional: true })).toEqual(['timestamptz', 'varchar', 'VARCHAR'])
    expect(types(source('timestamptz'), { exceptional: { iceberg: true, duckdb: false } })).toEqual([
      'timestamptz',
      'varchar',
      'TIMESTAMP WITH TIME ZONE',
    ])
    expect(types(source('int8'), { exceptional: true })).toEqual(['int64', 'bigint', 'BIGINT'])
    expect(mapColumn(source('date'), { exceptional: true })).toMatchObject({
      exceptional: true,
      targets: { iceberg: { textBecause: 'holds infinity or years outside of 0001–9999' } },
    })
    expect(mapColumn(source('int8'), { exceptional: true }).exceptional).toBeUndefined()
    expect(mapColumn(source('date'), { exceptional: { iceberg: false, duckdb: false } }).exceptional).toBeUndefined()
  })

  it('keeps a column as text when it is told to, without a reason where it is text anyway', () => {
    expect(mapColumn(source('int8'), { text: true })).toMatchObject({
      logicalType: 'int64',
      targets: { iceberg: { type: 'varchar', textBecause: 'asked for by the configuration' } },
    })
    expect(mapColumn(source('text'), { text: true }).targets).toEqual({
      iceberg: { type: 'varchar' },
      duckdb: { type: 'VARCHAR' },
    })
  })
})

describe('exceptionalPredicate', () => {
  it('is there for the columns that can hold such values', () => {
    const withPredicate = new Set(['date', 'time', 'timestamp', 'timestamptz', 'numeric'])
    for (const [column] of exact) {
      expect(exceptionalPredicate(column) !== undefined, column.baseTypeName).toBe(withPredicate.has(column.baseTypeName))
    }
    expect(exceptionalPredicate(source('numeric'))).toBeUndefined()
    expect(exceptionalPredicate(source('date'), 'duckdb')).toBeUndefined()
    expect(exceptionalPredicate(source('time', { name: 'a "b"' }))).toBe(`"a ""b""" = '24:00:00'::time`)
  })
})

describe('decode expressions', () => {
  it('quote names, and read a raw column of another name', () => {
    const column = mapColumn(source('int4', { name: 'a "b"' }))
    expect(trinoDecode(column)).toBe(`CAST(NULLIF("a ""b""", '\\N') AS integer)`)
    expect(trinoDecode(column, { raw: 'c0' })).toBe(`CAST(NULLIF("c0", '\\N') AS integer)`)
    expect(duckdbDecode(column, { raw: 'c0' })).toBe('CAST("c0" AS INTEGER)')
    expect(duckdbDecode(mapColumn(source('text')), { dialect: 'rfc4180' })).toBe('"c"')
  })
})
