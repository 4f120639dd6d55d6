import { execFile } from 'node:child_process'
import { createHash, randomBytes, randomUUID } from 'node:crypto'
import { mkdtemp, open, readdir, readFile, rm, stat, truncate, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { ServerControl, VersitygwServer } from '@common-handlers/testkit'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { S3Handler, type S3HandlerOptions } from '../src/index.ts'
import { S3Proxy, type SeenRequest } from './s3-proxy.ts'
import type { ServerAddress } from './server-suite.ts'

const MIB = 1024 * 1024
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

const partNumber = ({ method, url }: SeenRequest): number | undefined => {
  const found = /[?&]partNumber=(\d+)/.exec(url)?.[1]
  return method === 'PUT' && found !== undefined ? Number(found) : undefined
}
const rangeOf = ({ method, headers }: SeenRequest): [number, number] | undefined => {
  const found = /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? '')
  return method === 'GET' && found !== null ? [Number(found[1]), Number(found[2])] : undefined
}

async function collect(body: AsyncIterable<unknown>): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of body) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

/** Large transfers, on every server that this package is tested with. */
export function transferSuite(address: ServerAddress): void {
  const prefix = `s3-transfer-${randomUUID()}`
  const made: S3Handler[] = []
  let folder: string
  let proxy: S3Proxy
  let s3: S3Handler

  const handler = (options: Partial<S3HandlerOptions> = {}): S3Handler => {
    const { endpoint, region, accessKeyId, secretAccessKey, bucket } = address
    const one = new S3Handler({ endpoint, region, accessKeyId, secretAccessKey, bucket, prefix, partSize: 5 * MIB, ...options })
    made.push(one)
    return one
  }
  const broken = (options: Partial<S3HandlerOptions> = {}): S3Handler => handler({ endpoint: proxy.endpoint, ...options })

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 's3-transfer-'))
    proxy = await new S3Proxy(address.endpoint).start()
    s3 = handler()
  })
  afterEach(() => {
    proxy.fault = () => undefined
    proxy.hold = () => undefined
    proxy.seen.length = 0
  })
  afterAll(async () => {
    const keys: string[] = []
    for await (const { key } of s3.list('')) keys.push(key)
    await s3.deleteMany(keys)
    await Promise.all(made.map((one) => one.close({ graceMs: 0 })))
    await proxy.stop()
    await rm(folder, { recursive: true })
  })

  describe('download', () => {
    const bytes = randomBytes(23 * MIB + 7)
    beforeAll(async () => {
      await s3.put('whole', bytes)
    })

    it.each([0, 1, 5 * MIB, 5 * MIB + 1])('writes %i bytes to a path and to an open file', async (size) => {
      const path = join(folder, `sized-${size}`)
      const { etag } = await s3.put('sized', bytes.subarray(0, size))
      expect(await s3.download('sized', path)).toEqual({ etag, size })
      expect((await readFile(path)).equals(bytes.subarray(0, size))).toBe(true)
      await writeFile(path, Buffer.alloc(size + 1000, 'x'))
      const handle = await open(path, 'r+')
      await s3.download('sized', handle)
      await handle.close()
      expect((await readFile(path)).equals(bytes.subarray(0, size))).toBe(true)
      expect((await collect(await s3.downloadStream('sized'))).equals(bytes.subarray(0, size))).toBe(true)
    })

    it('reads ranges of one version that together are the object, within the memory it is given', async () => {
      const stream = await broken().downloadStream('whole', { memoryBytes: 4 * MIB })
      let largest = 0
      const chunks: Buffer[] = []
      for await (const chunk of stream) {
        if (chunks.length === 0) {
          // With one chunk taken and none asked for, nothing beyond the memory has been asked of the server.
          await sleep(300)
          const asked = proxy.seen.flatMap((request) => rangeOf(request) ?? [])
          expect(Math.max(...asked) + 1 - (chunk as Buffer).length).toBeLessThanOrEqual(4 * MIB)
        }
        largest = Math.max(largest, (chunk as Buffer).length)
        chunks.push(chunk as Buffer)
      }
      expect(sha256(Buffer.concat(chunks))).toBe(sha256(bytes))
      expect(largest).toBe(MIB)
      const { etag } = await s3.head('whole')
      const ranges = proxy.seen.filter(({ method }) => method === 'GET')
      expect(ranges).toHaveLength(24)
      for (const { headers } of ranges) expect(headers['if-match']).toBe(etag)
    })

    it('goes on where ranges were cut at five places, and reads no byte twice', async () => {
      const cuts = [1, 1000, MIB, 5 * MIB - 1, 3 * MIB - 1]
      const cut = new Set<number>()
      proxy.fault = (request) => {
        const [start = 0] = rangeOf(request) ?? []
        const index = start / (5 * MIB)
        const after = cuts[index]
        if (rangeOf(request) === undefined || after === undefined || cut.has(index)) return undefined
        cut.add(index)
        return { cutAnswerAfter: after }
      }
      const path = join(folder, 'cut')
      await broken().download('whole', path)
      expect(sha256(await readFile(path))).toBe(sha256(bytes))
      expect(cut.size).toBe(5)
      // What was asked for again begins behind what had come, in the same range.
      const again = proxy.seen.flatMap((request) => {
        const range = rangeOf(request)
        return range !== undefined && range[0] % (5 * MIB) !== 0 ? [range] : []
      })
      expect(again.length).toBeGreaterThanOrEqual(5)
      for (const [start, end] of again) {
        expect(start % (5 * MIB)).toBeLessThanOrEqual(cuts[Math.floor(start / (5 * MIB))] ?? 0)
        expect(end).toBe(Math.min(bytes.length, (Math.floor(start / (5 * MIB)) + 1) * 5 * MIB) - 1)
      }
    })

    it('goes on when a range falls silent for longer than the time-out', async () => {
      let stalled = false
      proxy.fault = (request) => {
        if (stalled || rangeOf(request) === undefined) return undefined
        stalled = true
        return { stallAnswerAfter: MIB }
      }
      const path = join(folder, 'stalled')
      await broken({ stallTimeoutMs: 500 }).download('whole', path)
      expect(sha256(await readFile(path))).toBe(sha256(bytes))
      expect(proxy.seen.flatMap((request) => rangeOf(request) ?? []).length / 2).toBe(6)
    })

    it('mixes no two versions, and leaves nothing of a download that failed', async () => {
      await s3.put('changing', bytes)
      let ranges = 0
      proxy.fault = (request) => (rangeOf(request) !== undefined && ++ranges === 1 ? { cutAnswerAfter: 1000 } : undefined)
      proxy.hold = () => (ranges === 2 ? s3.put('changing', randomBytes(bytes.length)) : undefined)
      const into = await mkdtemp(join(folder, 'failed-'))
      await expect(broken({ concurrency: 1 }).download('changing', join(into, 'file'))).rejects.toMatchObject({
        code: 'S3_OBJECT_CHANGED',
      })
      expect(await readdir(into)).toEqual([])
      await expect(s3.download('no/such', join(into, 'file'))).rejects.toMatchObject({ code: 'S3_OBJECT_NOT_FOUND' })
      await expect(s3.downloadStream('no/such')).rejects.toMatchObject({ code: 'S3_OBJECT_NOT_FOUND' })
      expect(await readdir(into)).toEqual([])
    })

    it('ends at once when it is aborted, or its reader leaves', async () => {
      const stop = new AbortController()
      const reason = new Error('enough')
      proxy.fault = (request) => (rangeOf(request) === undefined ? undefined : { stallAnswerAfter: 1000 })
      const one = broken()
      const aborted = one.download('whole', join(folder, 'aborted'), { signal: stop.signal })
      const stream = await one.downloadStream('whole')
      stream.on('error', () => undefined)
      stream.resume()
      await sleep(100)
      stop.abort(reason)
      stream.destroy()
      await expect(aborted).rejects.toBe(reason)
      await one.close()
      expect(one.stats()).toMatchObject({ connections: 0, requests: 0 })
    })
  })

  describe('upload of a file', () => {
    const bytes = randomBytes(42 * MIB + 99)
    let path: string
    beforeAll(async () => {
      path = join(folder, 'source')
      await writeFile(path, bytes)
    })

    it('reads each part at its place, from a path or an open file, and tells how far it is', async () => {
      const progress: number[] = []
      const { etag, size } = await s3.put('file', { path }, { onProgress: ({ sent }) => progress.push(sent) })
      expect([size, etag.endsWith('-9"')]).toEqual([bytes.length, true])
      expect(progress.toSorted((a, b) => a - b)).toEqual(progress)
      expect(progress.at(-1)).toBe(bytes.length)
      expect(sha256((await s3.getBytes('file')).bytes)).toBe(sha256(bytes))
      const handle = await open(path)
      expect(await s3.put('file', handle)).toEqual({ etag, size })
      await handle.close()
    })

    it('is taken up by its token, and sends no part again that the server has', async () => {
      let token = ''
      proxy.fault = (request) => ((partNumber(request) ?? 0) > 5 ? { status: 403, code: 'AccessDenied' } : undefined)
      const failing = broken({ concurrency: 1 }).put('resumed', { path }, { onToken: (given) => void (token = given) })
      await expect(failing).rejects.toMatchObject({ code: 'S3_ACCESS_DENIED' })
      expect(token).not.toBe('')
      proxy.fault = () => undefined
      proxy.seen.length = 0
      const sent: number[] = []
      const written = await broken().put('resumed', { path }, { resume: token, onProgress: (done) => sent.push(done.sent) })
      expect(proxy.seen.flatMap((request) => partNumber(request) ?? []).toSorted((a, b) => a - b)).toEqual([6, 7, 8, 9])
      expect(sent.at(-1)).toBe(bytes.length)
      expect(written.size).toBe(bytes.length)
      expect(sha256((await s3.getBytes('resumed')).bytes)).toBe(sha256(bytes))
      // The upload is over: its token begins anew.
      proxy.seen.length = 0
      await broken().put('resumed', { path }, { resume: token })
      expect(proxy.seen.flatMap((request) => partNumber(request) ?? [])).toHaveLength(9)
    })

    it('sends a part again whose bytes in the file are no longer those that the server has', async () => {
      const changing = join(folder, 'edited')
      await writeFile(changing, bytes)
      let token = ''
      proxy.fault = (request) => ((partNumber(request) ?? 0) > 5 ? { status: 403, code: 'AccessDenied' } : undefined)
      const failing = broken({ concurrency: 1 }).put('edited', { path: changing }, { onToken: (given) => void (token = given) })
      await expect(failing).rejects.toMatchObject({ code: 'S3_ACCESS_DENIED' })
      const edited = Buffer.from(bytes)
      edited.fill(1, 6 * MIB, 6 * MIB + 10)
      await writeFile(changing, edited)
      proxy.fault = () => undefined
      proxy.seen.length = 0
      await broken().put('edited', { path: changing }, { resume: token })
      expect(proxy.seen.flatMap((request) => partNumber(request) ?? []).toSorted((a, b) => a - b)).toEqual([2, 6, 7, 8, 9])
      expect(sha256((await s3.getBytes('edited')).bytes)).toBe(sha256(edited))
    })

    it('refuses a token of something else, a stream that is to be resumed, and a file that changes meanwhile', async () => {
      await expect(s3.put('other', { path }, { resume: 'no-token' })).rejects.toMatchObject({ code: 'S3_OPTIONS_INVALID' })
      await expect(s3.put('other', Readable.from([bytes]), { resume: 'x' })).rejects.toMatchObject({
        code: 'S3_OPTIONS_INVALID',
      })
      const changing = join(folder, 'changing')
      await writeFile(changing, bytes)
      const { mtimeMs } = await stat(changing)
      const touch = async (): Promise<void> => utimes(changing, new Date(), new Date(mtimeMs + 5000))
      const put = s3.put('other', { path: changing }, { onProgress: ({ sent }) => void (sent < 6 * MIB && touch()) })
      await expect(put).rejects.toMatchObject({ code: 'S3_FILE_CHANGED' })
      expect(await s3.exists('other')).toBe(false)
    })
  })

  it('slows down all requests of a handler when the server asks, and speeds up again', async () => {
    let refused = 0
    proxy.fault = (request) =>
      partNumber(request) !== undefined && refused++ < 4 ? { status: 503, code: 'SlowDown' } : undefined
    const one = broken({ concurrency: 8 })
    await one.put('slow', randomBytes(42 * MIB))
    const { requestLimit, slowDowns, requests } = one.stats()
    expect(slowDowns).toBe(4)
    expect(requestLimit).toBeLessThan(8)
    expect(requests).toBe(0)
    for (let count = 0; count < 20; count++) await one.head('slow')
    expect(one.stats().requestLimit).toBeGreaterThan(requestLimit)
  })

  describe.each(['crc32', 'sha256'] as const)('with %s', (checksumAlgorithm) => {
    const bytes = randomBytes(11 * MIB)
    const checked = (options: Partial<S3HandlerOptions> = {}): S3Handler =>
      broken({ checksums: 'when-supported', checksumAlgorithm, ...options })

    it('sends it with every body, and finds what the server would not', async () => {
      const one = checked()
      await one.put(`${checksumAlgorithm}/small`, bytes.subarray(0, MIB))
      await one.put(`${checksumAlgorithm}/parts`, bytes)
      const bodies = proxy.seen.filter(({ method }) => method === 'PUT')
      expect(bodies).toHaveLength(4)
      for (const { headers } of bodies) expect(headers[`x-amz-checksum-${checksumAlgorithm}`]).toBeDefined()
      const path = join(folder, `checked-${checksumAlgorithm}`)
      // S3 keeps no SHA-256 of a whole object that was sent in parts.
      for (const name of checksumAlgorithm === 'crc32' ? ['small', 'parts'] : ['small']) {
        const key = `${checksumAlgorithm}/${name}`
        proxy.fault = () => undefined
        await one.download(key, path)
        expect((await one.getBytes(key)).bytes.equals(await readFile(path))).toBe(true)
        proxy.fault = ({ method }) => (method === 'GET' ? { corruptAnswer: true } : undefined)
        const corrupt = { name: 'DataError', code: 'S3_BODY_CORRUPT' }
        await expect(one.getBytes(key)).rejects.toMatchObject(corrupt)
        await expect(one.get(key).then(collect)).rejects.toMatchObject(corrupt)
        await expect(one.download(key, path)).rejects.toMatchObject(corrupt)
        await expect(one.downloadStream(key).then(collect)).rejects.toMatchObject(corrupt)
      }
    })

    it('has the server refuse bytes that changed on their way', async () => {
      const one = handler({ checksums: 'when-supported', checksumAlgorithm, signPayload: 'never', retry: { attempts: 1 } })
      const mutable = Buffer.from(bytes.subarray(0, 3 * MIB))
      const writing = one.put(`${checksumAlgorithm}/changed`, mutable)
      // The checksum has been made; most of the bytes have not left yet.
      mutable.fill(0)
      await expect(writing).rejects.toMatchObject({ code: 'S3_CHECKSUM_MISMATCH' })
    })
  })
}

/** What needs a server of its own. `mib` of random bytes go up and come down while it is killed and started again. */
export function restartSuite(start: () => Promise<ServerAddress & ServerControl>, mib: number): void {
  it(`goes on after the server was killed in the middle of ${mib} MiB, up and down`, { timeout: 120_000 }, async () => {
    await using server = await start()
    const folder = await mkdtemp(join(tmpdir(), 's3-restart-'))
    const proxy = await new S3Proxy(server.endpoint).start()
    const source = join(folder, 'source')
    const handle = await open(source, 'w')
    const hash = createHash('sha256')
    const chunk = randomBytes(8 * MIB)
    for (let written = 0; written < mib; written += 8) {
      chunk.writeUInt32LE(written)
      hash.update(chunk)
      await handle.write(chunk)
    }
    await handle.close()
    const { region, accessKeyId, secretAccessKey, bucket } = server
    // A server that has just started may take a request and never answer it.
    const patience = { stallTimeoutMs: 5_000, timeoutMs: 5_000, retry: { maxDelayMs: 1_000 } }
    await using s3 = new S3Handler({ endpoint: proxy.endpoint, region, accessKeyId, secretAccessKey, bucket, ...patience })
    let restarted: Promise<void> | undefined
    /** The request waits until the server is dead, so that this is in the middle, however slow the kill is. */
    const restartAt = (count: number, matches: (request: SeenRequest) => boolean): void => {
      restarted = undefined
      let seen = 0
      let down: Promise<void> | undefined
      proxy.fault = (request) => {
        down = undefined
        if (matches(request) && ++seen === count) {
          down = server.down()
          restarted = down.then(() => server.up())
        }
        return undefined
      }
      proxy.hold = () => down
    }
    try {
      const parts = mib / 8
      restartAt(parts / 2, (request) => partNumber(request) !== undefined)
      await s3.put('restarted', { path: source })
      await restarted
      const succeeded = proxy.seen.flatMap((request) => (request.status === 200 ? (partNumber(request) ?? []) : []))
      expect(new Set(succeeded).size).toBe(parts)
      // Twice at most those that were under way when it was killed.
      expect(succeeded.length).toBeLessThanOrEqual(parts + 4)
      restartAt(parts / 2, (request) => rangeOf(request) !== undefined)
      const target = join(folder, 'target')
      await s3.download('restarted', target)
      await restarted
      const found = createHash('sha256')
      for await (const read of (await open(target)).createReadStream({ highWaterMark: MIB })) found.update(read as Buffer)
      expect(found.digest('hex')).toBe(hash.digest('hex'))
    } finally {
      await proxy.stop()
      await rm(folder, { recursive: true })
    }
  })
}

/** A download of 5 GiB, of which the server's disk holds nothing but zeros that it does not store. */
export function memorySuite(start: () => Promise<VersitygwServer>): void {
  it('holds its memory with an object of 5 GiB and 16 transfers at a time', { timeout: 120_000 }, async () => {
    await using server = await start()
    const { endpoint, region, accessKeyId, secretAccessKey, bucket, dataFolder } = server
    if (dataFolder === undefined) throw new Error('the data of this server cannot be reached')
    const options = { endpoint, region, accessKeyId, secretAccessKey, bucket }
    await using s3 = new S3Handler(options)
    await s3.put('sparse', 'x')
    await truncate(join(dataFolder, bucket, 'sparse'), 5 * 1024 * MIB)
    const script = fileURLToPath(new URL('download-memory.ts', import.meta.url))
    const { stdout } = await promisify(execFile)(process.execPath, ['--conditions=@common-handlers/source', script], {
      env: { ...process.env, NODE_OPTIONS: '', DOWNLOAD_OPTIONS: JSON.stringify(options) },
    })
    const { size, read, grownBy } = JSON.parse(stdout) as { size: number; read: number; grownBy: number }
    expect(size).toBe(5 * 1024 * MIB)
    expect(read).toBeGreaterThanOrEqual(16 * 64 * MIB)
    // 16 × 4 MiB of its own, and what the reader has let go of and the collector has not.
    expect(grownBy).toBeLessThan(256 * MIB)
  })
}
