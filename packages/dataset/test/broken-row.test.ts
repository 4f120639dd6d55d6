import { Readable } from 'node:stream'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { describe, expect, it } from 'vitest'
import {
  type Compression,
  type CsvFormat,
  decompress,
  findBrokenRow,
  mapColumn,
  readRows,
  type SourceColumn,
} from '@common-handlers/dataset'

const column = (name: string, baseTypeName: string, more: Partial<SourceColumn> = {}): ReturnType<typeof mapColumn> =>
  mapColumn({ name, sourceType: baseTypeName, baseTypeName, category: 'X', nullable: true, ...more })
const oneRowALine: CsvFormat = { dialect: 'one-row-a-line' }
const find = (text: string | Buffer, columns: ReturnType<typeof mapColumn>[], format = oneRowALine) =>
  findBrokenRow(Readable.from([Buffer.from(text)]), columns, format)

const idAndText = [column('id', 'int4', { nullable: false }), column('note', 'text')]

describe('findBrokenRow', () => {
  it('finds nothing in a file as it should be', async () => {
    expect(await find('id,note\n1,"a, ""b"""\n2,\\N\n3,a\u0002nb\n', idAndText)).toBeUndefined()
    expect(await find('id,note\n', idAndText)).toBeUndefined()
    expect(await find('id,note\r\n1,"a\nb"\r\n', idAndText, { dialect: 'rfc4180' })).toBeUndefined()
  })

  const broken: [title: string, file: string | Buffer, line: number, problem: RegExp, where?: string][] = [
    ['a field too few', 'id,note\n1,a\n2\n', 3, /1 fields, but there are 2 columns/],
    ['a field too many', 'id,note\n1,a,b\n', 2, /3 fields/],
    ['an empty line', 'id,note\n1,a\n\n', 3, /1 fields/],
    ['a quote that is not closed', 'id,note\n1,"a\n2,b\n', 2, /opened and not closed/],
    ['something behind a closing quote', 'id,note\n1,"a"b\n', 2, /follows the closing quote/],
    ['bytes that are no UTF-8', Buffer.concat([Buffer.from('id,note\n1,'), Buffer.from([0xff]), Buffer.from('\n')]), 2, /UTF-8/],
    ['a wrong escape', 'id,note\n1,a\u0002x\n', 2, /U\+0002/],
    ['a value of another type', 'id,note\n1,a\n1x,b\n', 3, /"1x" is no int4/, 'id'],
    ['a value out of range', 'id,note\n2147483648,a\n', 2, /2147483648/, 'id'],
    ['NULL where there is none', 'id,note\n\\N,a\n', 2, /NULL/, 'id'],
    ['another header', 'id,text\n1,a\n', 1, /"text" where the manifest has "note"/, 'note'],
    ['no header', '', 1, /header is missing/],
  ]
  for (const [title, file, line, problem, where] of broken) {
    it(`finds ${title}`, async () => {
      const found = await find(file, idAndText)
      expect(found).toMatchObject({ line, problem: expect.stringMatching(problem) })
      expect(found?.column).toBe(where)
    })
  }

  it('finds a quote that is never closed in the dialect where a row may have many lines', async () => {
    expect(await find('id,note\n1,a\n2,"b\n3,c\n', idAndText, { dialect: 'rfc4180' })).toMatchObject({
      line: 3,
      problem: expect.stringContaining('never closed'),
    })
  })

  const values: [baseTypeName: string, good: string[], bad: string[], more?: Partial<SourceColumn>][] = [
    ['bool', ['t', 'f'], ['', 'T', 'yes', '1']],
    ['int2', ['-32768', '32767', '0'], ['32768', '1.0', '', '+1', ' 1', '1e3']],
    ['int8', ['-9223372036854775808', '9223372036854775807'], ['9223372036854775808', '9'.repeat(400)]],
    [
      'numeric',
      ['99999999.99', '-0.50', '0', '.5'],
      ['999999999', '0.001', 'NaN', '', '-', '1.', '1e5'],
      { precision: 10, scale: 2 },
    ],
    ['float8', ['1', '-1.5e-300', 'NaN', 'Infinity', '-Infinity', '-0'], ['', 'inf', 'x', '1e']],
    ['bytea', ['\\x', '\\x00fF'], ['', '00', '\\x0', '\\xgg']],
    ['uuid', ['123e4567-e89b-12d3-a456-426614174000'], ['123e4567e89b12d3a456426614174000', '']],
    [
      'date',
      ['0001-01-01', '9999-12-31', '2024-02-29'],
      ['2023-02-29', '2026-13-01', '2026-1-1', '10000-01-01', 'infinity', '0044-03-15 BC', '0000-01-01'],
    ],
    ['time', ['00:00:00', '23:59:59.999999'], ['24:00:00', '12:60:00', '12:00', '12:00:00.1234567']],
    ['timestamp', ['2026-11-21 10:15:30.123456'], ['2026-11-21T10:15:30', '2026-11-21', '2026-02-30 00:00:00']],
    ['timestamptz', ['2026-11-21 10:15:30.123456+00'], ['2026-11-21 10:15:30', '2026-11-21 10:15:30+01', '-infinity']],
    ['jsonb', ['{"a": 1}', 'null', '1e400'], ['{', '', "{'a': 1}"]],
    ['text', ['', 'anything'], []],
    ['interval', ['1 mon', 'anything'], []],
  ]
  for (const [baseTypeName, good, bad, more] of values) {
    it(`knows a ${baseTypeName} when it sees one`, async () => {
      // A second column: one alone would be an empty line where the value is empty.
      const columns = [column('v', baseTypeName, more), column('x', 'text')]
      const field = (value: string): string => `"${value.replaceAll('"', '""')}"`
      for (const value of good) expect(await find(`v,x\n${field(value)},\n`, columns), value).toBeUndefined()
      for (const value of bad)
        expect(await find(`v,x\n${field(value)},\n`, columns), value).toMatchObject({ line: 2, column: 'v' })
    })
  }

  it('takes any spelling where the column is text because of its values', async () => {
    const dates = mapColumn(
      { name: 'd', sourceType: 'date', baseTypeName: 'date', category: 'D', nullable: true },
      { exceptional: true },
    )
    expect(await find('d\ninfinity\n0044-03-15 BC\n', [dates])).toBeUndefined()
  })
})

describe('decompress', () => {
  it('reads many gzip members and many zstd frames as one', async () => {
    const parts = ['a\n1\n', '2\n', '3\n'].map((part) => Buffer.from(part))
    const files: [Compression, Buffer][] = [
      ['gzip', Buffer.concat(parts.map((part) => gzipSync(part)))],
      ['zstd', Buffer.concat(parts.map((part) => zstdCompressSync(part)))],
      ['none', Buffer.concat(parts)],
    ]
    for (const [compression, bytes] of files) {
      const rows: unknown[] = []
      for await (const row of readRows(
        decompress(Readable.from([bytes.subarray(0, 7), bytes.subarray(7)]), compression),
        oneRowALine,
      ))
        rows.push(row.values[0])
      expect(rows, compression).toEqual(['1', '2', '3'])
    }
  })

  it('passes on what goes wrong in the source and in the bytes', async () => {
    const read = async (stream: AsyncIterable<Uint8Array>): Promise<void> => {
      for await (const row of readRows(decompress(stream, 'gzip'), oneRowALine)) expect(row).toBeDefined()
    }
    const failing = (async function* () {
      yield gzipSync('a\n').subarray(0, 5)
      throw await Promise.resolve(new Error('the store went away'))
    })()
    await expect(read(failing)).rejects.toThrow('the store went away')
    await expect(read(Readable.from([gzipSync('a\n1\n').subarray(0, 15)]))).rejects.toMatchObject({ code: 'DATASET_CSV_BROKEN' })
  })
})
