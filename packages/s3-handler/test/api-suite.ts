import { randomBytes, randomUUID } from 'node:crypto'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { S3Handler, type S3HandlerOptions } from '../src/index.ts'
import { S3Proxy, type SeenRequest } from './s3-proxy.ts'
import type { ServerAddress } from './server-suite.ts'

const MIB = 1024 * 1024

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const item of items) all.push(item)
  return all
}

const partCopies = (seen: readonly SeenRequest[]): number => seen.filter(({ url }) => url.includes('partNumber=')).length

/** What holds of the calls beyond transfers, on every S3 server that this package is tested with. */
export function apiSuite(address: ServerAddress): void {
  const folder = `s3-api-${randomUUID()}`
  const open: S3Handler[] = []
  let s3: S3Handler
  let proxy: S3Proxy

  const handler = (options: Partial<S3HandlerOptions> = {}): S3Handler => {
    const { endpoint, region, accessKeyId, secretAccessKey, bucket } = address
    const made = new S3Handler({ endpoint, region, accessKeyId, secretAccessKey, bucket, prefix: folder, ...options })
    open.push(made)
    return made
  }

  beforeAll(async () => {
    s3 = handler()
    proxy = await new S3Proxy(address.endpoint).start()
  })
  afterAll(async () => {
    await s3.deleteMany((await collect(s3.list(''))).map((object) => object.key))
    await Promise.all(open.map((one) => one.close({ graceMs: 0 })))
    await proxy.stop()
  })

  describe('reading', () => {
    it('gives lines, of a compressed object too, in whatever way it says so', async () => {
      const text = Array.from({ length: 20_000 }, (_, row) => `${row},grüße 😀`)
      const bytes = [text.slice(0, 9_000), text.slice(9_000)].map((part) => Buffer.from(`${part.join('\n')}\n`))
      const gzip = Buffer.concat(bytes.map((part) => gzipSync(part)))
      const zstd = Buffer.concat(bytes.map((part) => zstdCompressSync(part)))
      await s3.put('lines/plain.txt', Buffer.concat(bytes))
      await s3.put('lines/members.txt.gz', gzip)
      await s3.put('lines/frames.txt.zst', zstd)
      await s3.put('lines/header.txt', zstd, { contentEncoding: 'zstd' })
      for (const key of ['lines/plain.txt', 'lines/members.txt.gz', 'lines/frames.txt.zst', 'lines/header.txt'])
        expect(await collect(s3.lines(key)), key).toEqual(text)
      expect((await s3.getBytes('lines/members.txt.gz')).bytes.equals(gzip)).toBe(true)
      expect((await s3.getBytes('lines/header.txt', { decompress: 'auto' })).bytes.equals(Buffer.concat(bytes))).toBe(true)
      await expect(s3.getText('lines/members.txt.gz', { decompress: false })).rejects.toMatchObject({ code: 'S3_NOT_UTF8' })
      await expect(s3.get('lines/header.txt', { decompress: 'auto', start: 1 })).rejects.toMatchObject({
        code: 'S3_OPTIONS_INVALID',
      })
    })

    it('lets go of the body when its reader has enough lines', async () => {
      const one = handler()
      await one.put('lines/many', 'line\n'.repeat(2_000_000))
      for await (const line of one.lines('lines/many')) {
        expect(line).toBe('line')
        break
      }
      await one.close({ graceMs: 60_000 })
    })

    it('names the object whose compression is damaged', async () => {
      await s3.put('lines/cut.gz', gzipSync(randomBytes(10_000)).subarray(0, 5_000))
      await expect(collect(s3.lines('lines/cut.gz'))).rejects.toMatchObject({
        code: expect.stringMatching(/S3_COMPRESSION_BROKEN|S3_NOT_UTF8/) as string,
        where: { file: `${s3.url}/lines/cut.gz` },
      })
      await expect(s3.getText('lines/cut.gz')).rejects.toMatchObject({ code: 'S3_COMPRESSION_BROKEN' })
    })

    it('gives the rows of a CSV, and says where one is broken', async () => {
      await s3.put('rows.csv.gz', gzipSync('id,note\n1,"two\nlines"\n2,b\n'))
      expect(await collect(s3.csvRows('rows.csv.gz'))).toEqual([
        { id: '1', note: 'two\nlines' },
        { id: '2', note: 'b' },
      ])
      const arrays: string[][] = await collect(s3.csvRows('rows.csv.gz', { header: false }))
      expect(arrays[0]).toEqual(['id', 'note'])
      await s3.put('broken.csv', 'id,note\n1,"a\nb"\n2\n')
      await expect(collect(s3.csvRows('broken.csv'))).rejects.toMatchObject({
        code: 'S3_CSV_BROKEN',
        where: { file: `${s3.url}/broken.csv`, line: 4 },
      })
    })

    it('gives JSON as a schema wants it', async () => {
      await s3.put('typed.json.gz', gzipSync('{"rows":"12"}'))
      const value: { rows: number } = await s3.getJson('typed.json.gz', z.object({ rows: z.coerce.number() }))
      expect(value).toEqual({ rows: 12 })
      await expect(s3.getJson('typed.json.gz', z.object({ rows: z.number(), more: z.string() }))).rejects.toMatchObject({
        code: 'S3_JSON_INVALID',
        where: { file: `${s3.url}/typed.json.gz` },
        message: expect.stringMatching(/rows: [^]*more: /) as string,
      })
    })
  })

  describe('what an object is stored with', () => {
    it('comes back from head', async () => {
      await s3.put('stored/with', 'text', {
        contentType: 'text/plain; charset=utf-8',
        contentEncoding: 'identity',
        contentDisposition: 'attachment; filename="a.txt"',
        cacheControl: 'max-age=60',
        metadata: { Owner: 'me', note: 'a = b' },
      })
      expect(await s3.head('stored/with')).toMatchObject({
        key: 'stored/with',
        size: 4,
        contentType: 'text/plain; charset=utf-8',
        contentDisposition: 'attachment; filename="a.txt"',
        cacheControl: 'max-age=60',
        metadata: { owner: 'me', note: 'a = b' },
      })
    })

    it('comes back of an object that went in parts', async () => {
      await handler({ partSize: 5 * MIB }).put('stored/parts', randomBytes(6 * MIB), {
        contentType: 'application/x-rows',
        metadata: { rows: '12' },
      })
      expect(await s3.head('stored/parts')).toMatchObject({ contentType: 'application/x-rows', metadata: { rows: '12' } })
    })

    it('is refused where a header cannot carry it', async () => {
      await expect(s3.put('stored/odd', 'x', { metadata: { name: 'grüße' } })).rejects.toMatchObject({
        code: 'S3_OPTIONS_INVALID',
        message: expect.stringContaining('x-amz-meta-name') as string,
      })
    })

    it('has tags, that can be read, replaced and taken away', async () => {
      await s3.put('stored/tags', 'x', { tags: { team: 'data', 'with space': 'a+b = c' } })
      expect(await s3.getTags('stored/tags')).toEqual({ team: 'data', 'with space': 'a+b = c' })
      await s3.setTags('stored/tags', { only: 'this' })
      expect(await s3.getTags('stored/tags')).toEqual({ only: 'this' })
      await s3.setTags('stored/tags', {})
      expect(await s3.getTags('stored/tags')).toEqual({})
      await expect(s3.getTags('stored/nothing')).rejects.toMatchObject({ code: 'S3_OBJECT_NOT_FOUND' })
    })
  })

  describe('list', () => {
    it('shows one level with a delimiter, and begins behind a key', async () => {
      for (const key of ['level/a', 'level/b/1', 'level/b/2', 'level/c é/3', 'level/d']) await s3.put(key, key)
      const entries = await collect(s3.list('level/', { delimiter: '/' }))
      expect(entries.flatMap((entry) => ('prefix' in entry ? [entry.prefix] : []))).toEqual(['level/b/', 'level/c é/'])
      expect(entries.flatMap((entry) => ('key' in entry ? [entry.key] : []))).toEqual(['level/a', 'level/d'])
      const behind = await collect(s3.list('level/', { startAfter: 'level/b/1' }))
      expect(behind.map(({ key }) => key)).toEqual(['level/b/2', 'level/c é/3', 'level/d'])
    })
  })

  describe('copy', () => {
    it('keeps what the source was stored with, or replaces it', async () => {
      const odd = 'copy/from ü+%&?.txt'
      await s3.put(odd, 'content', { contentType: 'text/x-odd', metadata: { a: '1' }, tags: { t: '1' } })
      const { etag } = await s3.head(odd)
      expect(await s3.copy(odd, 'copy/to')).toEqual({ etag, size: 7 })
      expect(await s3.getText('copy/to')).toBe('content')
      expect(await s3.head('copy/to')).toMatchObject({ contentType: 'text/x-odd', metadata: { a: '1' } })
      expect(await s3.getTags('copy/to')).toEqual({ t: '1' })
      await s3.copy('copy/to', 'copy/to', { metadata: { b: '2' } })
      const changed = await s3.head('copy/to')
      expect(changed.contentType).toBe('text/x-odd')
      expect(changed.metadata).toEqual({ b: '2' })
      await s3.copy(odd, 'copy/tagged', { tags: { u: '2' } })
      expect(await s3.getTags('copy/tagged')).toEqual({ u: '2' })
    })

    it('goes in parts above the threshold, and keeps what the source was stored with', async () => {
      const bytes = randomBytes(12 * MIB + 5)
      await s3.put('copy/large', bytes, { contentType: 'text/x-large', metadata: { a: '1' }, tags: { t: '1' } })
      proxy.seen.length = 0
      const through = handler({ endpoint: proxy.endpoint })
      const copied = await through.copy('copy/large', 'copy/large-2', { multipartThreshold: 6 * MIB, partSize: 5 * MIB })
      expect(copied.etag).toMatch(/-3"$/)
      expect(partCopies(proxy.seen)).toBe(3)
      expect((await s3.getBytes('copy/large-2')).bytes.equals(bytes)).toBe(true)
      expect(await s3.head('copy/large-2')).toMatchObject({ contentType: 'text/x-large', metadata: { a: '1' } })
      expect(await s3.getTags('copy/large-2')).toEqual({ t: '1' })
    })

    it('leaves nothing of a copy of which a part is refused', async () => {
      await s3.put('copy/refused', randomBytes(12 * MIB))
      proxy.fault = ({ url }) => (url.includes('partNumber=2') ? { status: 403, code: 'AccessDenied' } : undefined)
      try {
        const copying = handler({ endpoint: proxy.endpoint }).copy('copy/refused', 'copy/refused-2', {
          multipartThreshold: 6 * MIB,
          partSize: 5 * MIB,
        })
        await expect(copying).rejects.toMatchObject({
          code: 'S3_ACCESS_DENIED',
          message: expect.stringContaining('UploadPartCopy') as string,
        })
      } finally {
        proxy.fault = () => undefined
      }
      expect(await s3.exists('copy/refused-2')).toBe(false)
      expect(await collect(s3.listUnfinishedUploads('copy/'))).toEqual([])
    })

    it('takes an object of another bucket', async () => {
      const other = handler({ bucket: `other-${randomUUID()}`, prefix: '' })
      await other.createBucketIfAbsent()
      await other.put('a/b', 'of the other')
      const bucket = other.url.slice('s3://'.length)
      await s3.copy({ bucket, key: 'a/b' }, 'copy/other')
      expect(await s3.getText('copy/other')).toBe('of the other')
      await expect(s3.copy({ bucket, key: 'none' }, 'copy/none')).rejects.toMatchObject({ code: 'S3_OBJECT_NOT_FOUND' })
    })

    it('takes only the source that it was told of', async () => {
      const { etag } = await s3.put('copy/state', '1')
      expect(await s3.copy('copy/state', 'copy/state-2', { ifSourceMatch: etag })).toMatchObject({ size: 1 })
      await s3.put('copy/state', '22')
      await expect(s3.copy('copy/state', 'copy/state-3', { ifSourceMatch: etag })).rejects.toMatchObject({
        code: 'S3_PRECONDITION_FAILED',
      })
      expect(await s3.exists('copy/state-3')).toBe(false)
    })

    it('is an error of its own when the source is replaced between the look and the copy', async () => {
      await s3.put('copy/raced', 'before')
      let replaced: Promise<unknown> | undefined
      proxy.fault = ({ method }) => {
        if (method === 'PUT') replaced ??= s3.put('copy/raced', 'behind')
        return undefined
      }
      proxy.hold = () => replaced
      try {
        await expect(handler({ endpoint: proxy.endpoint }).copy('copy/raced', 'copy/raced-2')).rejects.toMatchObject({
          code: 'S3_OBJECT_CHANGED',
        })
      } finally {
        proxy.fault = () => undefined
        proxy.hold = () => undefined
      }
      expect(await s3.exists('copy/raced-2')).toBe(false)
    })
  })

  describe('move', () => {
    it('copies, then deletes', async () => {
      await s3.put('move/a', 'x', { metadata: { a: '1' } })
      await s3.move('move/a', 'move/b')
      expect((await collect(s3.list('move/'))).map(({ key }) => key)).toEqual(['move/b'])
      expect((await s3.head('move/b')).metadata).toEqual({ a: '1' })
      await expect(s3.move('move/b', 'move/b')).rejects.toMatchObject({ code: 'S3_OPTIONS_INVALID' })
    })

    it('keeps a source that was replaced while it was copied', async () => {
      await s3.put('move/raced', 'before')
      let copied = false
      let replaced: Promise<unknown> | undefined
      proxy.fault = ({ method }) => {
        if (method === 'PUT') copied = true
        else if (copied) replaced ??= s3.put('move/raced', 'newer')
        return undefined
      }
      proxy.hold = () => replaced
      try {
        await expect(handler({ endpoint: proxy.endpoint }).move('move/raced', 'move/raced-2')).rejects.toMatchObject({
          code: 'S3_OBJECT_CHANGED',
        })
      } finally {
        proxy.fault = () => undefined
        proxy.hold = () => undefined
      }
      expect(await s3.getText('move/raced')).toBe('newer')
    })
  })

  describe('unfinished uploads', () => {
    it('are thrown away when they are old enough', async () => {
      proxy.fault = ({ method, url }) =>
        method === 'DELETE' || url.includes('partNumber=2') ? { status: 403, code: 'AccessDenied' } : undefined
      try {
        const killed = handler({ endpoint: proxy.endpoint, partSize: 5 * MIB })
        await expect(killed.put('old/one', randomBytes(11 * MIB))).rejects.toThrow('UploadPart')
      } finally {
        proxy.fault = () => undefined
      }
      expect(await s3.abortUnfinishedUploads({ prefix: 'old/', olderThanMs: 3_600_000 })).toEqual([])
      const aborted = await s3.abortUnfinishedUploads({ prefix: 'old/', olderThanMs: -60_000 })
      expect(aborted.map(({ key }) => key)).toEqual(['old/one'])
      expect(await collect(s3.listUnfinishedUploads('old/'))).toEqual([])
    })
  })
}
