import { randomBytes, randomUUID } from 'node:crypto'
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text as textOf } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { silentLogger } from '@common-handlers/core'
import { z } from 'zod'
import { type S3Dialect, S3Handler, type S3HandlerOptions, type S3SyncResult } from '../src/index.ts'
import { S3Proxy, type SeenRequest } from './s3-proxy.ts'
import type { ServerAddress } from './server-suite.ts'

const MIB = 1024 * 1024
const run = promisify(execFile)

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const item of items) all.push(item)
  return all
}

const partCopies = (seen: readonly SeenRequest[]): number => seen.filter(({ url }) => url.includes('partNumber=')).length

/** What one of the servers lacks; its answer is asserted in place of the work. */
interface Abilities {
  readonly versions: boolean
  readonly encryption: boolean
  readonly classes: boolean
  readonly listOrder: S3Dialect['listOrder']
  /** `${filename}` in the key of a form. */
  readonly formNames: boolean
}

/** What holds of the calls beyond transfers, on every S3 server that this package is tested with. */
export function apiSuite(address: ServerAddress, can: Abilities): void {
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

    it('knows that the source is gone when the answer to its delete was lost', async () => {
      await s3.put('move/lost', 'x')
      let lost = false
      proxy.fault = ({ method }) => {
        if (method !== 'DELETE' || lost) return undefined
        lost = true
        return { loseAnswer: true }
      }
      try {
        await handler({ endpoint: proxy.endpoint }).move('move/lost', 'move/found')
      } finally {
        proxy.fault = () => undefined
      }
      expect(lost).toBe(true)
      expect(await s3.exists('move/lost')).toBe(false)
      expect(await s3.getText('move/found')).toBe('x')
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

  describe('presigned', () => {
    it('addresses are read and written by anybody, as they say and no other way', async () => {
      const key = "presigned/a b+ü'(1).txt"
      const put = await s3.presignPut(key, { contentType: 'text/x-signed', metadata: { by: 'nobody' } })
      const write = (headers: Record<string, string>, body = 'by nobody'): Promise<Response> =>
        fetch(put.url, { method: put.method, headers, body })
      expect((await write({ 'content-type': 'text/other' })).status).toBe(403)
      expect(await s3.exists(key)).toBe(false)
      expect((await write(put.headers)).status).toBe(200)
      expect(await s3.head(key)).toMatchObject({ contentType: 'text/x-signed', metadata: { by: 'nobody' } })

      const get = await s3.presignGet(key, { contentType: 'text/plain', contentDisposition: 'attachment; filename="a b.txt"' })
      const answer = await fetch(get.url)
      expect(await answer.text()).toBe('by nobody')
      expect(answer.headers.get('content-type')).toBe('text/plain')
      expect(answer.headers.get('content-disposition')).toBe('attachment; filename="a b.txt"')
      const other = new URL(get.url)
      other.pathname = other.pathname.replace('presigned/', 'stored/')
      expect((await fetch(other)).status).toBe(403)
      expect((await fetch(get.url.replace('X-Amz-Expires=900', 'X-Amz-Expires=901'))).status).toBe(403)
    })

    it('addresses end', async () => {
      const { url, expiresAt } = await s3.presignGet('stored/tags', { expiresInMs: 1_500 })
      expect(url).toContain('X-Amz-Expires=1&')
      expect(expiresAt.getTime()).toBeLessThanOrEqual(Date.now() + 1_000)
      await new Promise((resolve) => setTimeout(resolve, 2_500))
      expect((await fetch(url)).status).toBeGreaterThanOrEqual(400)
      for (const expiresInMs of [0, 999, 8 * 24 * 3_600_000, Number.NaN])
        await expect(s3.presignGet('x', { expiresInMs })).rejects.toMatchObject({ code: 'S3_OPTIONS_INVALID' })
    })

    it('forms take what their policy allows', async () => {
      const post = await s3.presignPost('posted/', { maxBytes: 10, contentType: 'text/plain' })
      const send = (bytes: string, fields: Readonly<Record<string, string>> = post.fields): Promise<Response> => {
        const form = new FormData()
        for (const [name, value] of Object.entries(fields)) form.append(name, value)
        form.append('file', new Blob([bytes]), 'by-form.txt')
        return fetch(post.url, { method: 'POST', body: form })
      }
      expect((await send('12345678901')).status).toBe(400)
      expect((await send('x', { ...post.fields, key: `${folder}/elsewhere` })).status).toBe(403)
      expect((await send('x', { ...post.fields, 'content-type': 'text/html' })).status).toBe(403)
      expect((await send('1234567890')).status).toBeLessThan(300)
      const name = can.formNames ? 'posted/by-form.txt' : 'posted/${filename}'
      expect((await collect(s3.list('posted/'))).map((object) => object.key)).toEqual([name])
      expect(await s3.getText(name)).toBe('1234567890')
      const one = await s3.presignPost('posted/one.txt')
      expect((await send('x', one.fields)).status).toBeLessThan(300)
      expect(await s3.getText('posted/one.txt')).toBe('x')
    })
  })

  describe('storage class and encryption', () => {
    it('class is stored, or a server that ignores it is told of, once', async () => {
      const told: unknown[] = []
      const logger = { ...silentLogger, warn: (fields: unknown) => void told.push(fields) }
      const one = handler({ logger })
      for (const key of ['stored/class', 'stored/class-2']) await one.put(key, 'x', { storageClass: 'STANDARD_IA' })
      expect((await s3.head('stored/class')).storageClass).toBe(can.classes ? 'STANDARD_IA' : undefined)
      const ignored = { key: `${one.url}/stored/class`, storageClass: 'STANDARD_IA', stored: 'STANDARD' }
      expect(told).toEqual(can.classes ? [] : [ignored])
      await s3.copy('stored/class', 'stored/class', { storageClass: 'STANDARD' })
      expect((await s3.head('stored/class')).storageClass).toBeUndefined()
    })

    it('by keys of the server is stored, or an error', async () => {
      const encryption = { kind: 's3' } as const
      const small = handler({ partSize: 5 * MIB })
      await small.put('stored/plain', Buffer.alloc(6 * MIB))
      const puts = [
        () => s3.put('stored/sse', 'x', { encryption }),
        () => small.put('stored/sse-parts', Buffer.alloc(6 * MIB), { encryption }),
        () => s3.putIfAbsent('stored/sse-absent', 'x', { encryption }),
        () => s3.copy('stored/class', 'stored/sse-copy', { encryption }),
        () => s3.copy('stored/plain', 'stored/sse-copy-parts', { encryption, multipartThreshold: MIB, partSize: 5 * MIB }),
      ]
      for (const put of puts) {
        if (can.encryption) await put()
        else await expect(put()).rejects.toMatchObject({ code: 'S3_ENCRYPTION_IGNORED', retry: 'never' })
      }
      if (can.encryption) expect((await s3.head('stored/sse')).encryption).toBe('AES256')
      // Of what goes in parts nothing is there: it is seen before they are joined.
      expect(await s3.exists('stored/sse-parts')).toBe(can.encryption)
      expect(await collect(s3.listUnfinishedUploads('stored/'))).toEqual([])
    })

    it.each([
      [{ etag: '"x"', 'x-amz-server-side-encryption': 'aws:kms' }, true],
      [{ etag: '"x"', 'x-amz-server-side-encryption': 'AES256' }, false],
      [{ etag: '"x"' }, false],
    ])('by a key of KMS is asked for as S3 wants it; the answer %j is believed: %j', async (headers, believed) => {
      proxy.seen.length = 0
      proxy.fault = () => ({ status: 200, code: '', headers })
      const encryption = { kind: 'kms', keyId: 'alias/lake', bucketKey: true } as const
      try {
        const put = handler({ endpoint: proxy.endpoint }).put('stored/kms', 'x', { encryption })
        if (believed) expect(await put).toMatchObject({ size: 1 })
        else await expect(put).rejects.toMatchObject({ code: 'S3_ENCRYPTION_IGNORED', context: { kind: 'kms', stored: true } })
      } finally {
        proxy.fault = () => undefined
      }
      expect(proxy.seen[0]?.headers).toMatchObject({
        'x-amz-server-side-encryption': 'aws:kms',
        'x-amz-server-side-encryption-aws-kms-key-id': 'alias/lake',
        'x-amz-server-side-encryption-bucket-key-enabled': 'true',
      })
    })

    it("by a customer's key needs the key at each reading, or is an error", async () => {
      const key = randomBytes(32)
      const encryption = { kind: 'customer', key } as const
      const small = handler({ partSize: 5 * MIB })
      const bytes = randomBytes(6 * MIB)
      if (!can.encryption) {
        const ignored = { code: 'S3_ENCRYPTION_IGNORED' }
        await expect(s3.put('stored/sse-c', 'shown', { encryption })).rejects.toMatchObject(ignored)
        await expect(small.put('stored/sse-c-parts', bytes, { encryption })).rejects.toMatchObject(ignored)
        expect(await s3.exists('stored/sse-c-parts')).toBe(false)
        return
      }
      await s3.put('stored/sse-c', 'hidden', { encryption })
      await small.put('stored/sse-c-parts', bytes, { encryption })
      expect(await s3.getText('stored/sse-c', { customerKey: key })).toBe('hidden')
      expect((await s3.getBytes('stored/sse-c-parts', { customerKey: key })).bytes.equals(bytes)).toBe(true)
      expect(await s3.head('stored/sse-c', { customerKey: key })).toMatchObject({ size: 6, encryption: 'customer' })
      await s3.copy({ key: 'stored/sse-c', customerKey: key }, 'stored/sse-c-2', { encryption })
      expect(await s3.getText('stored/sse-c-2', { customerKey: key })).toBe('hidden')
      const refused = { context: { status: 400, serverCode: 'InvalidArgument' } }
      await expect(s3.getText('stored/sse-c')).rejects.toMatchObject(refused)
      await expect(s3.get('stored/sse-c', { customerKey: randomBytes(16) })).rejects.toMatchObject({ code: 'S3_OPTIONS_INVALID' })
    })
  })

  describe('versions', () => {
    it('are listed, read, deleted and restored, or refused by name', async () => {
      const kept = handler({ bucket: `versions-${randomUUID()}`, prefix: 'p' })
      await kept.createBucketIfAbsent()
      expect(await kept.versioning()).toBe('off')
      if (!can.versions) {
        await expect(kept.setVersioning('enabled')).rejects.toMatchObject({ name: 'RemoteError', code: 'S3_NOT_SUPPORTED' })
        return
      }
      await kept.setVersioning('enabled')
      expect(await kept.versioning()).toBe('enabled')
      const key = 'a b+ü'
      await kept.put(key, 'one')
      await kept.put(key, 'second')
      await kept.delete(key)
      const versions = await collect(kept.listVersions(''))
      expect(versions.map((one) => [one.key, one.size, one.isLatest, one.isDeleteMarker])).toEqual([
        [key, 0, true, true],
        [key, 6, false, false],
        [key, 3, false, false],
      ])
      const [marker, second, first] = versions.map((one) => one.versionId)
      expect(await kept.exists(key)).toBe(false)
      expect(await kept.getText(key, { versionId: first })).toBe('one')
      expect((await kept.head(key, { versionId: second })).size).toBe(6)
      await kept.restoreVersion(key, first ?? '')
      expect(await kept.getText(key)).toBe('one')
      expect(await collect(kept.listVersions(''))).toHaveLength(4)
      await kept.delete(key, { versionId: second })
      await expect(kept.getText(key, { versionId: second })).rejects.toMatchObject({ code: 'S3_OBJECT_NOT_FOUND' })
      await kept.delete(key, { versionId: marker })
      expect((await collect(kept.listVersions(''))).map((one) => one.size)).toEqual([3, 3])
    })
  })

  describe('sync', () => {
    let root: string
    const past = new Date(Date.now() - 3_600_000)
    const write = async (path: string, text: string, time = past): Promise<void> => {
      await mkdir(dirname(join(root, path)), { recursive: true })
      await writeFile(join(root, path), text)
      await utimes(join(root, path), time, time)
    }
    const read = (path: string): Promise<string> => readFile(join(root, path), 'utf8')
    const did = ({ steps }: S3SyncResult): string[] => steps.map(({ action, path }) => `${action} ${path}`).toSorted()

    beforeEach(async () => {
      root = await mkdtemp(join(tmpdir(), 's3-sync-'))
    })
    afterEach(async () => {
      await rm(root, { recursive: true, force: true })
    })

    it('brings a folder up: what is new or changed, and nothing twice', async () => {
      await write('a.txt', 'a')
      await write('b/c ü.txt', 'cc')
      await write('skip.tmp', 'x')
      await symlink('/etc/hostname', join(root, 'link'))
      const options = { direction: 'up', folder: root, prefix: 'up', exclude: ['**/*.tmp'] } as const
      const plan = await s3.sync({ ...options, dryRun: true })
      expect(did(plan)).toEqual(['upload a.txt', 'upload b/c ü.txt'])
      expect(await collect(s3.list('up/'))).toEqual([])
      const seen: string[] = []
      const first = await s3.sync({
        ...options,
        headers: () => ({ contentType: 'text/x' }),
        onProgress: ({ path }) => seen.push(path),
      })
      expect(did(first)).toEqual(did(plan))
      expect(seen.toSorted()).toEqual(['a.txt', 'b/c ü.txt'])
      expect(first.refused).toEqual([{ path: 'link', reason: 'a link is not followed' }])
      expect((await s3.head('up/a.txt')).contentType).toBe('text/x')
      expect(await s3.sync(options)).toMatchObject({ steps: [], unchanged: 2 })

      await write('a.txt', 'A', new Date(Date.now() + 60_000))
      await s3.put('up/gone.txt', 'x')
      await s3.put('up/kept.tmp', 'x')
      expect(did(await s3.sync({ ...options, delete: true }))).toEqual(['delete gone.txt', 'upload a.txt'])
      expect((await collect(s3.list('up/'))).map(({ key }) => key)).toEqual(['up/a.txt', 'up/b/c ü.txt', 'up/kept.tmp'])
      await expect(s3.sync({ ...options, folder: join(root, 'none'), delete: true })).rejects.toMatchObject({
        code: 'S3_FOLDER_INVALID',
      })
      expect(await s3.exists('up/a.txt')).toBe(true)
    })

    it('brings a prefix down, and deletes what is not there', async () => {
      await s3.put('down/a.txt', 'a')
      await s3.put('down/b/c.txt', 'cc')
      await write('old/gone.txt', 'x')
      await write('mine.keep', 'x')
      const options = { direction: 'down', folder: root, prefix: 'down/', delete: true, exclude: ['*.keep'] } as const
      expect(did(await s3.sync(options))).toEqual(['delete old/gone.txt', 'download a.txt', 'download b/c.txt'])
      expect([await read('a.txt'), await read('b/c.txt'), await read('mine.keep')]).toEqual(['a', 'cc', 'x'])
      expect(await s3.sync(options)).toMatchObject({ steps: [], unchanged: 2 })
      const fresh = join(root, 'made/by/it')
      expect(did(await s3.sync({ ...options, folder: fresh, include: ['b/**'] }))).toEqual(['download b/c.txt'])
    })

    it('compares by etag, of parts too', async () => {
      const small = handler({ partSize: 5 * MIB })
      const bytes = randomBytes(11 * MIB)
      await writeFile(join(root, 'large'), bytes)
      await write('small', 'same size')
      const options = { direction: 'up', folder: root, prefix: 'etag', compare: 'etag' } as const
      await small.sync(options)
      const later = new Date(Date.now() + 60_000)
      for (const name of ['large', 'small']) await utimes(join(root, name), later, later)
      expect(await small.sync(options)).toMatchObject({ steps: [], unchanged: 2 })
      await write('small', 'SAME SIZE')
      expect(did(await small.sync(options))).toEqual(['upload small'])
    })

    it('writes nothing through a link, and nothing outside of the folder', async () => {
      const outside = await mkdtemp(join(tmpdir(), 's3-outside-'))
      try {
        await s3.put('links/dir/file', 'x')
        await symlink(outside, join(root, 'dir'))
        await expect(s3.sync({ direction: 'down', folder: root, prefix: 'links' })).rejects.toMatchObject({
          code: 'S3_FOLDER_INVALID',
        })
        expect(await readdir(outside)).toEqual([])
        proxy.fault = ({ url }) =>
          url.includes('list-type=2')
            ? {
                status: 200,
                code: '',
                body: `<ListBucketResult><IsTruncated>false</IsTruncated>${['../escaped', '/etc/x', 'a/../../escaped', 'folder/']
                  .map((key) => `<Contents><Key>${folder}/evil/${key}</Key><Size>1</Size></Contents>`)
                  .join('')}</ListBucketResult>`,
              }
            : undefined
        const result = await handler({ endpoint: proxy.endpoint }).sync({ direction: 'down', folder: root, prefix: 'evil' })
        expect(result.steps).toEqual([])
        expect(result.refused.map(({ path }) => path)).toEqual(['../escaped', '/etc/x', 'a/../../escaped', 'folder/'])
      } finally {
        proxy.fault = () => undefined
        await rm(outside, { recursive: true, force: true })
      }
    })

    it('leaves no half file when it fails, and deletes nothing then', async () => {
      await s3.put('half/large', randomBytes(2 * MIB))
      await write('gone', 'x')
      let gets = 0
      proxy.fault = ({ method, url }) => {
        if (method !== 'GET' || url.includes('list-type')) return undefined
        return gets++ === 0 ? { cutAnswerAfter: MIB } : { status: 403, code: 'AccessDenied' }
      }
      try {
        const broken = handler({ endpoint: proxy.endpoint })
        const options = { direction: 'down', folder: root, prefix: 'half', delete: true } as const
        await expect(broken.sync(options)).rejects.toMatchObject({ code: 'S3_ACCESS_DENIED' })
        expect(gets).toBeGreaterThan(1)
      } finally {
        proxy.fault = () => undefined
      }
      expect(await readdir(root)).toEqual(['gone'])
    })
  })

  describe('dialect', () => {
    it('finds what this server does, changes nothing that fits it, and takes its probes away', async () => {
      const probed = handler({ checksums: 'when-supported' })
      expect(await probed.dialect()).toEqual({
        pathStyle: true,
        hostStyle: false,
        unsignedPayload: true,
        checksums: true,
        ifNoneMatch: true,
        ifMatch: true,
        listOrder: can.listOrder,
        deleteObjects: true,
        multipartCopy: true,
        tags: true,
        versioning: 'off',
        encryption: { s3: can.encryption, customer: can.encryption },
        storageClasses: can.classes,
        changed: {},
      })
      expect(await collect(s3.list('_dialect/'))).toEqual([])
    })

    it('finds what another one lacks, and does without it', async () => {
      proxy.fault = ({ method, url, headers }) => {
        const lacking =
          headers['x-amz-content-sha256'] === 'UNSIGNED-PAYLOAD' ||
          headers['x-amz-checksum-crc32'] !== undefined ||
          headers['x-amz-copy-source'] !== undefined ||
          (method === 'POST' && url.includes('?delete')) ||
          url.includes('tagging')
        return lacking ? { status: 501, code: 'NotImplemented' } : undefined
      }
      try {
        const poor = handler({
          endpoint: proxy.endpoint,
          forcePathStyle: false,
          signPayload: 'never',
          checksums: 'when-supported',
        })
        expect(await poor.dialect()).toMatchObject({
          pathStyle: true,
          hostStyle: false,
          unsignedPayload: false,
          checksums: false,
          ifNoneMatch: true,
          deleteObjects: false,
          multipartCopy: false,
          tags: false,
          changed: { forcePathStyle: true, signPayload: 'always', checksums: 'when-required' },
        })
        await poor.put('poor/a', 'x')
        expect(await poor.getText('poor/a')).toBe('x')
        expect(await poor.deleteMany(['poor/a'])).toEqual({ deleted: 1, failed: [] })
        expect(await s3.exists('poor/a')).toBe(false)
      } finally {
        proxy.fault = () => undefined
      }
      expect(await collect(s3.list('_dialect/'))).toEqual([])
      expect(await collect(s3.listUnfinishedUploads('_dialect/'))).toEqual([])
    })

    it('says of a server that takes a condition and ignores it that it does not do it', async () => {
      proxy.fault = ({ headers }) =>
        headers['if-none-match'] === undefined && headers['if-match'] === undefined
          ? undefined
          : { status: 200, code: '', headers: { etag: '"any"' } }
      try {
        const found = await handler({ endpoint: proxy.endpoint }).dialect()
        expect(found).toMatchObject({ ifNoneMatch: false, ifMatch: false })
      } finally {
        proxy.fault = () => undefined
      }
    })

    it('gives the error of a server that does not let us in', async () => {
      await expect(handler({ secretAccessKey: 'not-the-secret' }).dialect()).rejects.toMatchObject({ outcome: 'auth' })
      await expect(handler({ bucket: `none-${randomUUID()}` }).dialect()).rejects.toMatchObject({ code: 'S3_BUCKET_NOT_FOUND' })
    })
  })

  describe('credentials', () => {
    const chain = async (environment: Record<string, string>): Promise<string> => {
      const script = fileURLToPath(new URL('chain-credentials.ts', import.meta.url))
      const { stdout } = await run(process.execPath, ['--conditions=@common-handlers/source', script], {
        env: {
          PATH: process.env['PATH'],
          AWS_EC2_METADATA_DISABLED: 'true',
          S3_OPTIONS: JSON.stringify({ endpoint: address.endpoint, bucket: address.bucket, prefix: folder }),
          ...environment,
        },
      })
      return stdout.trim()
    }

    it('come from the environment', async () => {
      const environment = { AWS_ACCESS_KEY_ID: address.accessKeyId, AWS_SECRET_ACCESS_KEY: address.secretAccessKey }
      expect(await chain(environment)).toBe('written and read')
      expect(await chain({})).toBe('AuthError S3_NO_CREDENTIALS')
    })

    it('come from the environment, with endpoint and region, where it is asked for', async () => {
      const { endpoint, region, accessKeyId, secretAccessKey, bucket } = address
      const variables = {
        AWS_ENDPOINT_URL_S3: endpoint,
        AWS_REGION: region,
        AWS_ACCESS_KEY_ID: accessKeyId,
        AWS_SECRET_ACCESS_KEY: secretAccessKey,
      }
      const one = S3Handler.fromEnvironment({ bucket, prefix: folder, endpoint: undefined }, variables)
      open.push(one)
      await one.put('environment', 'x')
      expect(await s3.getText('environment')).toBe('x')
    })

    it('come from a profile', async () => {
      const home = await mkdtemp(join(tmpdir(), 's3-profile-'))
      try {
        const { accessKeyId, secretAccessKey } = address
        const file = join(home, 'credentials')
        await writeFile(file, `[lake]\naws_access_key_id = ${accessKeyId}\naws_secret_access_key = ${secretAccessKey}\n`)
        expect(await chain({ AWS_PROFILE: 'lake', AWS_SHARED_CREDENTIALS_FILE: file })).toBe('written and read')
      } finally {
        await rm(home, { recursive: true, force: true })
      }
    })

    it('come for the token of a web identity, as in a Kubernetes pod', async () => {
      const home = await mkdtemp(join(tmpdir(), 's3-identity-'))
      const asked: URLSearchParams[] = []
      const sts = createServer((request, response) => {
        void textOf(request).then((body) => {
          asked.push(new URLSearchParams(body))
          response.setHeader('content-type', 'text/xml')
          response.end(`<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
            <AssumeRoleWithWebIdentityResult><Credentials>
              <AccessKeyId>${address.accessKeyId}</AccessKeyId><SecretAccessKey>${address.secretAccessKey}</SecretAccessKey>
              <Expiration>${new Date(Date.now() + 3_600_000).toISOString()}</Expiration>
            </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`)
        })
      }).listen(0, '127.0.0.1')
      try {
        await once(sts, 'listening')
        await writeFile(join(home, 'token'), 'the-token-of-the-pod')
        const role = 'arn:aws:iam::123456789012:role/lake'
        const found = await chain({
          AWS_ROLE_ARN: role,
          AWS_WEB_IDENTITY_TOKEN_FILE: join(home, 'token'),
          AWS_REGION: 'us-east-1',
          AWS_ENDPOINT_URL_STS: `http://127.0.0.1:${(sts.address() as AddressInfo).port}`,
        })
        expect(found).toBe('written and read')
        expect(asked).toHaveLength(1)
        expect(Object.fromEntries(asked[0] ?? [])).toMatchObject({
          Action: 'AssumeRoleWithWebIdentity',
          RoleArn: role,
          WebIdentityToken: 'the-token-of-the-pod',
        })
      } finally {
        sts.close()
        await rm(home, { recursive: true, force: true })
      }
    })

    it('come from a provider, once for many calls, and again when the server no longer takes them', async () => {
      const { endpoint, region, bucket, accessKeyId, secretAccessKey } = address
      let asked = 0
      const leased = new S3Handler({
        endpoint,
        region,
        bucket,
        prefix: folder,
        credentials: async () => {
          await new Promise((resolve) => setTimeout(resolve, 20))
          return ++asked === 1
            ? { accessKeyId: 'revoked-lease', secretAccessKey: 'its-secret' }
            : { accessKeyId, secretAccessKey }
        },
      })
      open.push(leased)
      await Promise.all(Array.from({ length: 10 }, (_, index) => leased.put(`leased/${index}`, 'x')))
      expect(asked).toBe(2)
      expect(await leased.getTags('leased/0')).toEqual({})
      expect(asked).toBe(2)
    })

    it('of a provider that fails are an error with its reason', async () => {
      const { endpoint, region, bucket } = address
      const sealed = new S3Handler({ endpoint, region, bucket, credentials: () => Promise.reject(new Error('sealed')) })
      open.push(sealed)
      await expect(sealed.head('x')).rejects.toMatchObject({
        code: 'S3_CREDENTIALS_FAILED',
        message: 'the credential provider failed: sealed',
      })
    })
  })

  describe('a clock that is wrong', () => {
    beforeEach(() => void vi.useFakeTimers({ toFake: ['Date'] }))
    afterEach(() => void vi.useRealTimers())

    it.each([-1, 1])('by %i hours is set right by the first answer', async (hours) => {
      await s3.put('clock', 'x')
      vi.setSystemTime(Date.now() + hours * 3_600_000)
      proxy.seen.length = 0
      const one = handler({ endpoint: proxy.endpoint, retry: { attempts: 1 } })
      expect(await one.head('clock')).toMatchObject({ size: 1 })
      expect(proxy.seen.map(({ status }) => status)).toEqual([403, 200])
      await one.put('clock', 'y')
      expect(await one.getText('clock')).toBe('y')
      expect(proxy.seen.map(({ status }) => status)).toEqual([403, 200, 200, 200])
      // Requests of the SDK, and addresses, take the same time.
      expect(await one.getTags('clock')).toEqual({})
      const { url } = await one.presignGet('clock')
      expect((await fetch(url)).status).toBe(200)
    })

    it('is set right for all requests that are under way', async () => {
      await s3.put('clock', 'x')
      vi.setSystemTime(Date.now() + 3_600_000)
      const one = handler({ retry: { attempts: 1 } })
      const found = await Promise.all(Array.from({ length: 10 }, () => one.head('clock')))
      expect(found.map(({ size }) => size)).toEqual(Array.from({ length: 10 }, () => 1))
    })

    it('is no reason to try a request again that is not allowed', async () => {
      proxy.seen.length = 0
      proxy.fault = () => ({ status: 403, code: 'AccessDenied' })
      try {
        const denied = handler({ endpoint: proxy.endpoint }).put('clock', 'x')
        await expect(denied).rejects.toMatchObject({ code: 'S3_ACCESS_DENIED' })
      } finally {
        proxy.fault = () => undefined
      }
      expect(proxy.seen).toHaveLength(1)
    })
  })

  describe('errors', () => {
    it('name the action that is not allowed, and what is missing', async () => {
      await s3.put('errors/a', 'x')
      const denied = handler({ endpoint: proxy.endpoint })
      proxy.fault = ({ method }) => (method === 'HEAD' ? undefined : { status: 403, code: 'AccessDenied' })
      const calls: [string, () => Promise<unknown>][] = [
        ['CopyObject', () => denied.copy('errors/a', 'errors/b')],
        ['GetObjectTagging', () => denied.getTags('errors/a')],
        ['PutObjectTagging', () => denied.setTags('errors/a', { a: '1' })],
        ['DeleteObjectTagging', () => denied.setTags('errors/a', {})],
        ['ListObjectVersions', () => collect(denied.listVersions(''))],
        ['GetBucketVersioning', () => denied.versioning()],
        ['PutBucketVersioning', () => denied.setVersioning('enabled')],
        ['DeleteObjects', () => denied.deleteMany(['errors/a'])],
        ['ListMultipartUploads', () => denied.abortUnfinishedUploads({ olderThanMs: 0 })],
        ['ListObjectsV2', () => collect(denied.list('', { delimiter: '/' }))],
      ]
      try {
        for (const [action, call] of calls)
          await expect(call(), action).rejects.toMatchObject({
            name: 'PermissionError',
            code: 'S3_ACCESS_DENIED',
            message: expect.stringContaining(`not allowed: ${action} on `) as string,
          })
      } finally {
        proxy.fault = () => undefined
      }
      for (const call of [() => s3.copy('errors/none', 'x'), () => s3.move('errors/none', 'x'), () => s3.getTags('errors/none')])
        await expect(call()).rejects.toMatchObject({
          code: 'S3_OBJECT_NOT_FOUND',
          message: `no object "${folder}/errors/none" in bucket "${address.bucket}"`,
        })
    })
  })

  it('runs its example', async () => {
    const script = fileURLToPath(new URL('../examples/rows-and-folders.ts', import.meta.url))
    const { stdout, stderr } = await run(process.execPath, ['--conditions=@common-handlers/source', script], {
      env: {
        PATH: process.env['PATH'],
        S3_ENDPOINT: address.endpoint,
        S3_BUCKET: address.bucket,
        S3_PREFIX: `${folder}/example`,
        AWS_ACCESS_KEY_ID: address.accessKeyId,
        AWS_SECRET_ACCESS_KEY: address.secretAccessKey,
      },
    })
    expect(stderr).toBe('')
    expect(stdout.split('\n')).toEqual([
      'upload people.csv.gz',
      '1 "Grace\\nHopper"',
      '2 "Ada"',
      "{ reviewed: 'yes' }",
      'anybody reads it',
      'archive/',
      'people/',
      '',
    ])
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
