import * as fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { decodeField, encodeField, encodeOneRowALine, encodeRow, readRows, transcode } from '@common-handlers/dataset'
import { copyBlock, copyRow, cut } from './copy-csv.ts'

const awkward = fc.constantFrom(
  '',
  '\\N',
  '"\\N"',
  'N',
  '\\',
  '"',
  '""',
  ',',
  '\n',
  '\r',
  '\r\n',
  '\u0001',
  '\u0002',
  '\u0002N',
  '\u0002n',
  '\u00022',
  '\\.',
  ' ',
  '\u{1F5C3}',
  'é',
  '\u0003',
  '\\x00',
  '\uFEFF',
)
const value = fc.option(
  fc.oneof(
    awkward,
    fc.array(fc.oneof(awkward, fc.string({ unit: 'binary' })), { maxLength: 4 }).map((parts) => parts.join('')),
  ),
  {
    nil: null,
    freq: 8,
  },
)
const table = fc
  .integer({ min: 1, max: 4 })
  .chain((width) => fc.array(fc.array(value, { minLength: width, maxLength: width }), { minLength: 1, maxLength: 12 }))
const places = fc.array(fc.nat(400), { maxLength: 12 })

async function* stream(bytes: Buffer, at: readonly number[] = []): AsyncGenerator<Uint8Array> {
  for (const chunk of cut(bytes, at)) yield await Promise.resolve(chunk)
}

const rowsOf = async (bytes: Buffer, at: readonly number[], dialect: 'one-row-a-line' | 'rfc4180', nullText?: string) => {
  const rows: (readonly (string | null)[])[] = []
  for await (const row of readRows(stream(bytes, at), { dialect, null: nullText })) rows.push(row.values)
  return rows
}
const whole = async (chunks: AsyncIterable<Uint8Array>): Promise<Buffer> => {
  const parts: Uint8Array[] = []
  for await (const chunk of chunks) parts.push(chunk)
  return Buffer.concat(parts)
}

describe('encodeOneRowALine', () => {
  it('gives back the very bytes when no row is awkward', () => {
    const block = copyBlock([
      ['a', null, '{"x": "y, z"}'],
      ['\\Nx', 'x\\N', '\\x6e'],
      ['', ' ', 'é\u{1F5C3}\u0003'],
    ])
    expect(encodeOneRowALine(block)).toBe(block.bytes)
    expect(encodeOneRowALine({ bytes: Buffer.alloc(0), rowEnds: new Uint32Array(8), rows: 0 })).toHaveLength(0)
  })

  it('rewrites what TRINO.md lists, and leaves the rest of the row as COPY wrote it', () => {
    const block = copyBlock([
      ['1', 'plain, quoted'],
      ['2', 'a\nb\r\nc'],
      ['3', '\u0001\u0002'],
      ['4', '\\N'],
      ['5', null],
      ['6', '"\\N"'],
    ])
    expect(encodeOneRowALine(block).toString()).toBe(
      '1,"plain, quoted"\n2,"a\u0002nb\u0002r\u0002nc"\n3,\u00021\u00022\n4,\u0002N\n5,\\N\n6,"""\\N"""\n',
    )
  })

  it('writes the empty text of a table with one column as "", so that no line is empty', () => {
    expect(encodeOneRowALine(copyBlock([['a'], [''], [null], ['\\.']])).toString()).toBe('a\n""\n\\N\n"\\."\n')
  })

  it('keeps every text, one row a line', async () => {
    await fc.assert(
      fc.asyncProperty(table, places, async (rows, at) => {
        const header = rows[0]?.map((_, index) => `c${index}`) ?? []
        const encoded = encodeOneRowALine(copyBlock([header, ...rows]))
        const lines = encoded.toString().split('\n')
        expect(lines).toHaveLength(rows.length + 2)
        expect(lines.slice(0, -1)).not.toContain('')
        expect(encoded.includes(13) || encoded.includes(1)).toBe(false)
        expect(await rowsOf(encoded, at, 'one-row-a-line')).toEqual(rows)
        // The writer for single values says the same; only where it puts quotes may differ.
        expect(await rowsOf(Buffer.from([header, ...rows].map(encodeRow).join('')), at, 'one-row-a-line')).toEqual(rows)
      }),
      { numRuns: 400 },
    )
  })

  it('does not depend on how rows are put into blocks', () => {
    fc.assert(
      fc.property(table, fc.nat(12), (rows, at) => {
        const parts = [rows.slice(0, at), rows.slice(at)].filter((part) => part.length > 0)
        const joined = Buffer.concat(parts.map((part) => encodeOneRowALine(copyBlock(part))))
        expect(joined.equals(encodeOneRowALine(copyBlock(rows)))).toBe(true)
      }),
    )
  })

  it('uses only the rows it was told of, in an array that may be longer', () => {
    const { bytes } = copyBlock([['a\n'], ['b']])
    const rowEnds = new Uint32Array(1024)
    rowEnds.set([5, 7])
    expect(encodeOneRowALine({ bytes, rowEnds, rows: 2 }).toString()).toBe('"a\u0002n"\nb\n')
  })
})

describe('encodeField and decodeField', () => {
  it('are the inverse of each other for a field without quotes of CSV', () => {
    fc.assert(
      fc.property(value, (given) => {
        const field = encodeField(given)
        const bare = field.startsWith('"') ? field.slice(1, -1).replaceAll('""', '"') : field
        // A text that begins with a quote is always quoted itself.
        expect(decodeField(bare)).toBe(given)
      }),
    )
  })

  it('refuses what no encoder writes', () => {
    for (const field of ['\u0002', 'a\u0002x', '\u0002n\u0002', 'a\u0002N', '\u0002Nb'])
      expect(decodeField(field)).toBeUndefined()
  })
})

describe('transcode', () => {
  it('keeps every text of an rfc4180 file, chunks ending anywhere', async () => {
    await fc.assert(
      fc.asyncProperty(table, places, async (rows, at) => {
        const header = rows[0]?.map((_, index) => `c${index}`) ?? []
        const bytes = copyBlock([header, ...rows]).bytes
        expect(await rowsOf(bytes, at, 'rfc4180')).toEqual(rows)
        const encoded = await whole(transcode(stream(bytes, at), { dialect: 'rfc4180', null: '\\N' }))
        expect(encoded.toString().split('\n')).toHaveLength(rows.length + 2)
        expect(await rowsOf(encoded, [], 'one-row-a-line')).toEqual(rows)
      }),
      { numRuns: 300 },
    )
  })

  it('reads CRLF between rows, another word for NULL, and a last row without a line end', async () => {
    const foreign = Buffer.from('id,text\r\n1,"a\r\nb"\r\n2,\r\n3,""\r\n4,"\\N"\r\n5,\\N')
    const encoded = await whole(transcode(stream(foreign, [3, 9, 10, 20]), { dialect: 'rfc4180', null: '' }))
    expect(encoded.toString()).toBe('id,text\n1,a\u0002r\u0002nb\n2,\\N\n3,\n4,\u0002N\n5,\u0002N\n')
    const copied = await whole(transcode(stream(foreign, [3, 9, 10, 20]), { dialect: 'rfc4180' }))
    expect(copied.toString()).toBe('id,text\n1,"a\u0002r\u0002nb"\n2,\n3,""\n4,\u0002N\n5,\\N\n')
  })

  it('passes on what is in the dialect already', async () => {
    const bytes = Buffer.from('a\n"\n\n')
    expect((await whole(transcode(stream(bytes, [2]), { dialect: 'one-row-a-line' }))).equals(bytes)).toBe(true)
  })

  it('names the row whose quote is never closed, and does not read on for ever', async () => {
    const bytes = Buffer.from(`a,b\n1,x\n2,"${'y\n'.repeat(100)}`)
    const open = whole(transcode(stream(bytes), { dialect: 'rfc4180' }, { file: 'part-00000.csv' }))
    await expect(open).rejects.toMatchObject({ code: 'DATASET_CSV_BROKEN', where: { file: 'part-00000.csv', line: 3 } })
    const long = whole(transcode(stream(bytes, [20, 40, 60]), { dialect: 'rfc4180' }, { maxRowBytes: 50 }))
    await expect(long).rejects.toMatchObject({ code: 'DATASET_CSV_BROKEN', where: { line: 3 } })
  })
})

describe('readRows', () => {
  it('counts physical lines', async () => {
    const lines: number[] = []
    const bytes = Buffer.from(['a', 'x\ny\nz', 'b', 'c'].map((text) => copyRow([text, '1'])).join(''))
    for await (const row of readRows(stream(bytes, [4, 5, 6, 13]), { dialect: 'rfc4180' })) lines.push(row.line)
    expect(lines).toEqual([2, 5, 6])
  })

  it('throws where a row cannot be read', async () => {
    const read = rowsOf(Buffer.from('a\nb\n"c\n'), [], 'one-row-a-line')
    await expect(read).rejects.toMatchObject({ code: 'DATASET_CSV_BROKEN', where: { line: 3 } })
  })
})
