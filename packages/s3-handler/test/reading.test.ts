import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { gzipSync } from 'node:zlib'
import { describe, expect, it } from 'vitest'
import { compressionOf, decompressed, readCsvRows, readLines, type S3CsvOptions } from '../src/reading.ts'

const WHERE = 's3://lake/a.csv'

/** The text in chunks of so many bytes, so that characters, quotes and line ends are cut in two. */
const cut = (text: string | Buffer, size: number): Uint8Array[] => {
  const bytes = Buffer.from(text)
  return Array.from({ length: Math.ceil(bytes.length / size) }, (_, at) => bytes.subarray(at * size, (at + 1) * size))
}
const from = (chunks: Uint8Array[]): AsyncIterable<Uint8Array> => Readable.from(chunks)
const all = async <T>(items: AsyncIterable<T>): Promise<T[]> => {
  const list: T[] = []
  for await (const item of items) list.push(item)
  return list
}
const csv = <const Header extends boolean | readonly string[] = true>(
  text: string | Buffer,
  options: S3CsvOptions<Header> = {},
  size = 1,
): Promise<unknown[]> => all(readCsvRows(from(cut(text, size)), WHERE, options))

const SIZES = [1, 2, 3, 5, 7, 11, 1000]

describe('lines', () => {
  it.each(SIZES)('are the same from chunks of %i bytes', async (size) => {
    const text = 'grüße\r\n\n日本語 😀\nlone \r in it\r\n\r\nno end'
    expect(await all(readLines(from(cut(text, size)), WHERE))).toEqual(['grüße', '', '日本語 😀', 'lone \r in it', '', 'no end'])
  })

  it('end with the last line end', async () => {
    expect(await all(readLines(from(cut('a\nb\n', 2)), WHERE))).toEqual(['a', 'b'])
    expect(await all(readLines(from([]), WHERE))).toEqual([])
    expect(await all(readLines(from(cut('\n\n', 9)), WHERE))).toEqual(['', ''])
  })

  it.each([1, 4, 100])('are not longer than allowed, in chunks of %i', async (size) => {
    const lines: string[] = []
    const reading = (async () => {
      for await (const line of readLines(from(cut('12345\n123456\n', size)), WHERE, 5)) lines.push(line)
    })()
    await expect(reading).rejects.toMatchObject({ code: 'S3_LINE_TOO_LONG', where: { file: WHERE, line: 2 } })
    await expect(all(readLines(from(cut('1234567', size)), WHERE, 5))).rejects.toMatchObject({ where: { line: 1 } })
  })

  it.each([1, 100])('are UTF-8, in chunks of %i', async (size) => {
    const bytes = Buffer.concat([Buffer.from('a\nb\nc'), Buffer.from([0xff]), Buffer.from('\nd\n')])
    await expect(all(readLines(from(cut(bytes, size)), WHERE))).rejects.toMatchObject({
      code: 'S3_NOT_UTF8',
      where: { file: WHERE, line: 3 },
    })
  })
})

describe('rows of a CSV', () => {
  it.each(SIZES)('are the same from chunks of %i bytes', async (size) => {
    const text = '\ufeffid,note\r\n1,"a, ""b"""\r\n2,"two\r\nlines\n"\n\n3,\n4,ü😀'
    expect(await csv(text, {}, size)).toEqual([
      { id: '1', note: 'a, "b"' },
      { id: '2', note: 'two\r\nlines\n' },
      { id: '3', note: '' },
      { id: '4', note: 'ü😀' },
    ])
  })

  it('are arrays, or named by the caller', async () => {
    expect(await csv('a;b\n"c;d";\n', { header: false, delimiter: ';' })).toEqual([
      ['a', 'b'],
      ['c;d', ''],
    ])
    expect(await csv('1,2\n', { header: ['x', 'y'] })).toEqual([{ x: '1', y: '2' }])
    expect(await csv('only\n\nb\n""\n')).toEqual([{ only: '' }, { only: 'b' }, { only: '' }])
    expect(Object.hasOwn((await csv('__proto__\nx\n'))[0] as object, '__proto__')).toBe(true)
  })

  it.each([
    ['too few fields', 'a,b\n1,2\n3\n', 3, '1 fields, but there are 2 columns'],
    ['too many fields, behind a row of two lines', 'a,b\n"1\n1",2\n3,4,5\n', 4, '3 fields'],
    ['a quote that is never closed', 'a,b\n1,2\n3,"4\n5,6\n', 3, 'never closed'],
    ['a quote inside of a bare field', 'a,b\n1,2"2"\n', 2, 'a quote inside and none around it'],
    ['something behind a closing quote', 'a,b\n"1"x,2\n', 2, 'something follows the closing quote'],
    ['two columns of one name', 'a,a\n1,2\n', 1, 'two columns are called "a"'],
  ])('are refused with %s, with key and line', async (_, text, line, problem) => {
    for (const size of [1, 1000])
      await expect(csv(text, {}, size)).rejects.toMatchObject({
        name: 'DataError',
        code: 'S3_CSV_BROKEN',
        where: { file: WHERE, line },
        message: expect.stringContaining(problem) as string,
      })
  })

  it('are not longer than allowed', async () => {
    const text = `a\n"${'x\n'.repeat(100)}`
    await expect(csv(text, { maxRowBytes: 50 })).rejects.toMatchObject({ code: 'S3_CSV_BROKEN', where: { line: 2 } })
  })
})

describe('compression', () => {
  it.each([
    ['a.csv', undefined, 'none'],
    ['a.csv.gz', undefined, 'gzip'],
    ['a.csv.zst', '', 'zstd'],
    ['a.csv', 'GZIP', 'gzip'],
    ['a.csv.gz', 'gzip', 'gzip'],
    ['a.csv', 'aws-chunked,zstd', 'zstd'],
    ['a.csv', 'identity', 'none'],
  ])('of %s with Content-Encoding %s is %s', (key, encoding, expected) => {
    expect(compressionOf(key, encoding)).toBe(expected)
  })

  it('that is not known is an error', () => {
    expect(() => compressionOf('a', 'br')).toThrow(expect.objectContaining({ code: 'S3_ENCODING_UNKNOWN' }) as Error)
  })

  it('that is damaged is named', async () => {
    const bytes = gzipSync('some text that is long enough').subarray(0, 20)
    const body = decompressed(Readable.from([bytes]), 'gzip', WHERE)
    await expect(buffer(body)).rejects.toMatchObject({ code: 'S3_COMPRESSION_BROKEN', where: { file: WHERE } })
  })

  it('passes on what goes wrong with the body, and lets go of it', async () => {
    const reason = new Error('the server went away')
    const failing = new Readable({ read: () => undefined })
    const reading = buffer(decompressed(failing, 'gzip', WHERE))
    failing.push(gzipSync('x').subarray(0, 4))
    failing.destroy(reason)
    await expect(reading).rejects.toBe(reason)
    const silent = new Readable({ read: () => undefined })
    const left = decompressed(silent, 'zstd', WHERE)
    left.resume()
    left.destroy()
    await new Promise((resolve) => silent.once('close', resolve))
    expect(silent.destroyed).toBe(true)
  })
})
