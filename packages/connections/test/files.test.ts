import { createHash } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { brotliCompressSync, gzipSync, zstdCompressSync } from 'node:zlib'
import { ConnectionError, NotFoundError, silentLogger } from '@common-handlers/core'
import { type IngestedItem, ingestedItemSchema } from '@common-handlers/connections'
import {
  fetchFiles,
  type FilesQuery,
  type LeftFile,
  type ReadOptions,
  type RemoteEntry,
  type RemoteFiles,
} from '@common-handlers/connections/files'
import { MemoryStore } from '@common-handlers/storage'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'files-'))
})
afterAll(() => rm(folder, { recursive: true }))

interface Kept {
  bytes: Buffer
  modifiedAt: Date | undefined
  etag?: string
  encoding?: string
}

const broken = (): ConnectionError => new ConnectionError('the line is cut', { code: 'FAKE_CUT', retry: 'if-idempotent' })

/** A server in memory that does what a test says. */
class FakeRemote implements RemoteFiles {
  readonly policy = { attempts: 3, baseDelayMs: 0, maxDelayMs: 0, budgetMs: 5_000 }
  timeoutMs = 5_000
  readonly files = new Map<string, Kept>()
  readonly reads: string[] = []
  readonly listed: string[] = []
  /** Called before each chunk; throws to break. */
  onChunk: (path: string, offset: number, signal: AbortSignal) => void | Promise<void> = () => undefined
  more: RemoteEntry[] = []

  put(path: string, content: string | Buffer, seconds: number | null = 1, more: Partial<Kept> = {}): this {
    const modifiedAt = seconds === null ? undefined : new Date(Date.UTC(2026, 10, 1) + seconds * 1000)
    this.files.set(path, { bytes: Buffer.from(content), modifiedAt, ...more })
    return this
  }

  urlOf(path: string): string {
    return `fake://host/${path}`
  }

  async list(at: string): Promise<RemoteEntry[]> {
    this.listed.push(at)
    return [...this.#entries(at)]
  }

  *#entries(at: string): Generator<RemoteEntry> {
    const above = at === '' ? '' : `${at.replace(/\/$/, '')}/`
    yield { path: `${above}.`, kind: 'folder' }
    yield { path: `${above}..`, kind: 'folder' }
    yield* this.more
    const folders = new Set<string>()
    for (const path of this.files.keys()) {
      if (!path.startsWith(above)) continue
      const [name = '', ...rest] = path.slice(above.length).split('/')
      if (rest.length === 0) yield this.#entry(path)
      else folders.add(above + name)
    }
    for (const path of folders) yield { path, kind: 'folder' }
  }

  async stat(path: string): Promise<RemoteEntry> {
    if ([...this.files.keys()].some((key) => key.startsWith(`${path}/`))) return { path, kind: 'folder' }
    return this.#entry(path)
  }

  async *read(path: string, { start = 0, signal = new AbortController().signal }: ReadOptions): AsyncGenerator<Uint8Array> {
    this.reads.push(`${path}@${start}`)
    for (let at = start; ; at += 4) {
      await this.onChunk(path, at, signal)
      const chunk = this.#kept(path).bytes.subarray(at, at + 4)
      if (chunk.byteLength === 0) return
      yield chunk
    }
  }

  #entry(path: string): RemoteEntry {
    const { bytes, modifiedAt, etag, encoding } = this.#kept(path)
    return { path, kind: 'file', size: bytes.byteLength, modifiedAt, etag, encoding }
  }

  #kept(path: string): Kept {
    const kept = this.files.get(path)
    if (kept === undefined) throw new NotFoundError(`no ${path}`, { code: 'FAKE_NOT_FOUND' })
    return kept
  }
}

const fetch = async (remote: RemoteFiles, query: FilesQuery = '', signal?: AbortSignal): Promise<IngestedItem[]> => {
  const context = { signal: signal ?? new AbortController().signal, logger: silentLogger }
  const items = await Array.fromAsync(fetchFiles('fake', remote, query, context))
  for (const item of items) expect(ingestedItemSchema.parse(item)).toEqual(item)
  return items
}
const keys = (items: readonly IngestedItem[]): string[] => items.map(({ key }) => String(key))
const text = ({ data }: IngestedItem): string => Buffer.from(data as Uint8Array).toString()
const content = async (store: MemoryStore, key: string): Promise<string> => (await store.getBytes(key)).bytes.toString()
const keysOf = async (store: MemoryStore): Promise<string[]> =>
  (await Array.fromAsync(store.list(''))).map(({ key }) => key).filter((key) => !key.includes('_seen/'))
const sha256 = (bytes: string): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`

describe('which files', () => {
  const remote = new FakeRemote()
    .put('in/b.csv', 'b', 5)
    .put('in/a.csv', 'a', 5)
    .put('in/é.csv', 'e', 5)
    .put('in/x/deep/c.csv', 'c', 1)
    .put('in/x/d.json', 'd', 9)
    .put('in/.hidden.csv', 'h', 2)
    .put('out.csv', 'o', 3)
    .put('in/no-time', 'n', null)

  it.each([
    ['in', ['in/no-time', 'in/x/deep/c.csv', 'in/a.csv', 'in/b.csv', 'in/é.csv', 'in/x/d.json']],
    [{ path: 'in', pattern: '*.csv' }, ['in/a.csv', 'in/b.csv', 'in/é.csv']],
    [{ path: 'in/', pattern: '**/*.csv' }, ['in/x/deep/c.csv', 'in/a.csv', 'in/b.csv', 'in/é.csv']],
    [{ path: 'in', pattern: 'x/*/*' }, ['in/x/deep/c.csv']],
    [{ pattern: 'in/{a,b}.csv' }, ['in/a.csv', 'in/b.csv']],
    [{ pattern: '{in/a,out}.csv' }, ['out.csv', 'in/a.csv']],
    [{ path: 'in', pattern: '.*' }, ['in/.hidden.csv']],
    [{ path: 'in', modifiedSince: '2026-11-01T00:00:05Z' }, ['in/no-time', 'in/a.csv', 'in/b.csv', 'in/é.csv', 'in/x/d.json']],
    [{ path: 'in', pattern: '*/*', modifiedSince: new Date('2026-11-01T00:00:06Z') }, ['in/x/d.json']],
    ['in/a.csv', ['in/a.csv']],
    [{ path: 'in', pattern: 'nothing/*' }, []],
  ])('%j', async (query, expected) => {
    expect(keys(await fetch(remote, query))).toEqual(expected)
  })

  it('looks into no folder that can hold none', async () => {
    remote.listed.length = 0
    await fetch(remote, { path: 'in', pattern: '*.csv' })
    expect(remote.listed).toEqual(['in'])
    remote.listed.length = 0
    await fetch(remote, { pattern: 'in/x/*.json' })
    expect(remote.listed).toEqual(['', 'in', 'in/x'])
  })

  it('does without a folder that is taken away meanwhile, but not without the one asked for', async () => {
    const shrinking = new FakeRemote().put('in/a', 'a').put('in/x/b', 'b')
    const list = shrinking.list.bind(shrinking)
    shrinking.list = async (at) => {
      if (at.endsWith(missing)) throw new NotFoundError(`no ${at}`, { code: 'FAKE_NOT_FOUND' })
      return list(at)
    }
    let missing = 'in/x'
    expect(keys(await fetch(shrinking, 'in'))).toEqual(['in/a'])
    missing = 'in'
    await expect(fetch(shrinking, 'in')).rejects.toMatchObject({ code: 'FAKE_NOT_FOUND' })
  })

  it('goes on after any file, in one order', async () => {
    const [timeless, ...items] = await fetch(remote, 'in')
    for (const [index, { watermark }] of items.entries()) {
      // Of the first nobody knows whether it is new.
      expect(keys(await fetch(remote, { path: 'in', watermark }))).toEqual(['in/no-time', ...keys(items.slice(index + 1))])
    }
    expect(await fetch(remote, { path: 'in', watermark: timeless?.watermark })).toHaveLength(items.length + 1)
    for (const watermark of ['', '{}', '["yesterday","a"]', '[null]']) {
      await expect(fetch(remote, { path: 'in', watermark })).rejects.toMatchObject({ code: 'FILES_WATERMARK_INVALID' })
    }
  })

  it.each([
    [{ patern: '*' }, '"patern" is none of path, pattern'],
    [{ modifiedSince: 'soon' }, 'modifiedSince "soon" is no time'],
    [{ pattern: '/in/*.csv' }, 'begin it with a name'],
    [{ pattern: './*.csv' }, 'begin it with a name'],
    [{ prefix: '../out' }, 'prefix "../out"'],
    [{ target: 's3://bucket/in' }, 'give its handler'],
    [{ maxFileBytes: 0 }, 'maxFileBytes'],
  ])('refuses %j', async (query, why) => {
    const failing = fetch(remote, query as FilesQuery)
    await expect(failing).rejects.toMatchObject({ code: 'FILES_QUERY_INVALID' })
    await expect(failing).rejects.toThrow(why)
  })

  it.each(['../up.csv', '/etc/passwd', 'a/b.csv', '..', '', 'nul\0.csv'])('takes no file that is named %j', async (path) => {
    const hostile = new FakeRemote()
    hostile.more = [{ path, kind: 'file', size: 1, modifiedAt: new Date() }]
    await expect(fetch(hostile, { target: join(folder, 'hostile') })).rejects.toMatchObject({ code: 'FILES_NAME_REFUSED' })
  })

  it('takes no file for a marker', async () => {
    const hostile = new FakeRemote().put('_seen/x', 'x')
    await expect(fetch(hostile, { target: new MemoryStore() })).rejects.toMatchObject({ code: 'FILES_NAME_REFUSED' })
  })

  it('downloads nothing in a dry run, and says what is there already', async () => {
    const target = new MemoryStore()
    await fetch(remote, { path: 'in', pattern: 'a.csv', target })
    remote.reads.length = 0
    const items = await fetch(remote, { path: 'in', pattern: '*.csv', target, dryRun: true })
    expect(items.map(({ data }) => data)).toEqual([
      { path: 'in/a.csv', size: 1, modifiedAt: '2026-11-01T00:00:05.000Z', seen: true },
      { path: 'in/b.csv', size: 1, modifiedAt: '2026-11-01T00:00:05.000Z', seen: false },
      { path: 'in/é.csv', size: 1, modifiedAt: '2026-11-01T00:00:05.000Z', seen: false },
    ])
    expect(remote.reads).toEqual([])
    expect(items.some(({ watermark }) => watermark !== undefined)).toBe(false)
  })
})

describe('the content', () => {
  it('is there with its bytes and checksum, in memory or in a target', async () => {
    const remote = new FakeRemote().put('in/a.csv', 'content').put('in/x/empty', '')
    const [first, second] = await fetch(remote, 'in')
    expect([first?.data, second?.data]).toEqual([Buffer.from('content'), Buffer.alloc(0)])
    const facts = { bytes: 7, checksum: sha256('content'), mediaType: 'text/csv', source: 'fake://host/in/a.csv' }
    expect(first).toMatchObject(facts)

    const target = new MemoryStore()
    const [stored] = await fetch(remote, { path: 'in', target, prefix: 'raw/fake' })
    expect(stored).toMatchObject({ ...facts, location: 'memory:/raw/fake/a.csv' })
    expect(stored).not.toHaveProperty('data')
    expect(await keysOf(target)).toEqual(['raw/fake/a.csv', 'raw/fake/x/empty'])

    const [local] = await fetch(new FakeRemote().put('a #?%.csv', 'content'), { target: join(folder, 'here') })
    expect(await readFile(new URL(local?.location ?? ''), 'utf8')).toBe('content')
  })

  it('is not held where it is too large', async () => {
    const remote = new FakeRemote().put('a', 'content')
    await expect(fetch(remote, { maxFileBytes: 6 })).rejects.toMatchObject({ code: 'FILES_TOO_LARGE' })
    expect(remote.reads).toEqual([])
    expect(await fetch(remote, { maxFileBytes: 7 })).toHaveLength(1)
  })

  it.each([
    ['gzip', gzipSync],
    ['br', brotliCompressSync],
    ['zstd', zstdCompressSync],
  ] as const)('is decoded where it comes as %s, and an error where it is none', async (encoding, encode) => {
    const whole = encode(Buffer.from('content '.repeat(1_000)))
    const remote = new FakeRemote().put('a', whole, 1, { encoding })
    const [item] = await fetch(remote)
    expect(item).toMatchObject({ bytes: 8_000, checksum: sha256('content '.repeat(1_000)) })
    for (const bytes of [Buffer.from('not encoded at all'), whole.subarray(0, -4)]) {
      await expect(fetch(new FakeRemote().put('a', bytes, 1, { encoding }))).rejects.toMatchObject({
        code: 'FILES_ENCODING_BROKEN',
      })
    }
    await expect(fetch(new FakeRemote().put('a', 'x', 1, { encoding: 'lzw' }))).rejects.toMatchObject({
      code: 'FILES_ENCODING_UNKNOWN',
    })
  })
})

describe('a connection that breaks', () => {
  it('goes on at the next byte, as often as it gets on', async () => {
    const remote = new FakeRemote().put('a', '0123456789'.repeat(4))
    const broke = new Set<number>()
    remote.onChunk = (_path, at) => {
      if (at % 8 !== 4 || broke.has(at)) return
      broke.add(at)
      throw broken()
    }
    const [item] = await fetch(remote)
    expect(item === undefined ? '' : text(item)).toBe('0123456789'.repeat(4))
    expect(remote.reads).toEqual(['a@0', 'a@4', 'a@12', 'a@20', 'a@28', 'a@36'])
  })

  it('behind the last byte is none', async () => {
    const remote = new FakeRemote().put('a', '01234567')
    remote.onChunk = (_path, at) => {
      if (at === 8) throw broken()
    }
    expect((await fetch(remote)).map(text)).toEqual(['01234567'])
    expect(remote.reads).toEqual(['a@0'])
  })

  it('is given up where nothing gets on, and nothing is visible', async () => {
    const remote = new FakeRemote().put('a', '0123456789')
    remote.onChunk = (_path, at) => {
      if (at === 4) throw broken()
    }
    const target = new MemoryStore()
    await expect(fetch(remote, { target })).rejects.toMatchObject({ code: 'FAKE_CUT' })
    expect(remote.reads).toEqual(['a@0', 'a@4', 'a@4'])
    expect(await Array.fromAsync(target.list(''))).toEqual([])
  })

  it('that ends too early, or goes silent, is one that broke', async () => {
    const remote = new FakeRemote().put('a', '0123456789')
    remote.timeoutMs = 50
    let silent = true
    remote.onChunk = async (_path, at, signal) => {
      if (at !== 4 || !silent) return
      silent = false
      await new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)))
    }
    expect((await fetch(remote)).map(text)).toEqual(['0123456789'])
    expect(remote.reads).toEqual(['a@0', 'a@4'])
    remote.onChunk = async (_path, _at, signal) => {
      await new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)))
    }
    await expect(fetch(remote)).rejects.toMatchObject({ code: 'FILES_STALLED' })

    const short = new FakeRemote().put('a', '0123456789')
    const { stat } = short
    short.stat = async (path) => ({ ...(await stat.call(short, path)), size: 12 })
    await expect(fetch(short, 'a')).rejects.toMatchObject({ code: 'FILES_INCOMPLETE' })
  })

  it('is not gone on with where the file is another by now', async () => {
    const remote = new FakeRemote().put('a', '0123456789').put('b', 'b', 2)
    remote.onChunk = (path, at) => {
      if (path !== 'a' || at !== 4) return
      remote.put('a', 'abcdefghij', 3)
      throw broken()
    }
    const left: LeftFile[] = []
    const target = new MemoryStore()
    const items = await fetch(remote, { target, onLeft: (file) => left.push(file) })
    expect(keys(items)).toEqual(['b'])
    expect(left).toEqual([{ path: 'a', reason: 'changed' }])
    expect(await keysOf(target)).toEqual(['b'])
  })
})

describe('a file that is being written', () => {
  it('is left for the next run and named, by growth, by time and by etag; what follows it comes again', async () => {
    for (const change of [
      (remote: FakeRemote) => remote.put('a', '0123456789abcd', 1),
      (remote: FakeRemote) => remote.put('a', '9876543210', 2),
      (remote: FakeRemote) => remote.put('a', '9876543210', 1, { etag: 'other' }),
    ]) {
      const remote = new FakeRemote().put('0', 'x', 0).put('a', '0123456789').put('b', 'y', 1)
      remote.onChunk = (path, at) => {
        if (path === 'a' && at === 8) change(remote)
      }
      const left: LeftFile[] = []
      const target = new MemoryStore()
      const items = await fetch(remote, { target, onLeft: (file) => left.push(file) })
      expect(keys(items)).toEqual(['0', 'b'])
      expect(left).toEqual([{ path: 'a', reason: 'changed' }])
      expect(await keysOf(target)).toEqual(['0', 'b'])
      remote.onChunk = () => undefined
      const { watermark } = items[1] ?? {}
      expect(keys(await fetch(remote, { watermark })).toSorted()).toEqual(['a', 'b'])
      expect(keys(await fetch(remote, { target }))).toEqual(['a'])
    }
  })

  it('or taken away is none of the run’s', async () => {
    const remote = new FakeRemote().put('a', '0123456789').put('b', 'y')
    remote.onChunk = (path) => {
      if (path === 'a') remote.files.delete('a')
    }
    const left: LeftFile[] = []
    expect(keys(await fetch(remote, { onLeft: (file) => left.push(file) }))).toEqual(['b'])
    expect(left).toEqual([{ path: 'a', reason: 'gone' }])
  })
})

describe('markers', () => {
  it('let a rerun download nothing twice, and what has changed again', async () => {
    const remote = new FakeRemote().put('a', 'one').put('b', 'two', 2)
    const target = new MemoryStore()
    expect(keys(await fetch(remote, { target }))).toEqual(['a', 'b'])
    await target.delete('b')
    remote.reads.length = 0
    expect(await fetch(remote, { target })).toEqual([])
    expect(remote.reads).toEqual([])
    remote.put('a', 'ONE', 3)
    expect(keys(await fetch(remote, { target }))).toEqual(['a'])
    expect(await content(target, 'a')).toBe('ONE')
    // Back to how it was: the target does not hold that any more.
    remote.put('a', 'one', 1)
    expect(keys(await fetch(remote, { target }))).toEqual(['a'])
    expect(await content(target, 'a')).toBe('one')
    expect(await fetch(remote, { target })).toEqual([])
    expect(keys(await fetch(remote, { target, again: true }))).toEqual(['a', 'b'])
  })

  it('say what a target has, for people too', async () => {
    const remote = new FakeRemote().put('a', 'one', 1, { etag: '"1"' })
    const target = join(folder, 'marked')
    await fetch(remote, { target })
    const [marker = ''] = await readdir(join(target, '_seen'))
    expect(JSON.parse(await readFile(join(target, '_seen', marker), 'utf8'))).toMatchObject({
      version: 1,
      source: 'fake://host/a',
      key: 'a',
      size: 3,
      modifiedAt: '2026-11-01T00:00:01.000Z',
      etag: '"1"',
      bytes: 3,
      checksum: sha256('one'),
    })
  })

  it('are taken away before their file is written again', async () => {
    const remote = new FakeRemote().put('a', 'one')
    const target = new MemoryStore()
    await fetch(remote, { target })
    remote.put('a', 'other', 2).onChunk = () => {
      throw broken()
    }
    await expect(fetch(remote, { target })).rejects.toMatchObject({ code: 'FAKE_CUT' })
    remote.put('a', 'one').onChunk = () => undefined
    expect(keys(await fetch(remote, { target }))).toEqual(['a'])
  })

  it('are of one source, and not written where nothing tells versions apart', async () => {
    const target = new MemoryStore()
    const other = new FakeRemote().put('a', 'two')
    other.urlOf = (path) => `fake://other/${path}`
    await fetch(new FakeRemote().put('a', 'one'), { target })
    expect(keys(await fetch(other, { target }))).toEqual(['a'])
    expect(await content(target, 'a')).toBe('two')
    const unknown = new FakeRemote().put('u', 'x', null)
    for (const _run of [1, 2]) expect(keys(await fetch(unknown, { target }))).toEqual(['u'])
  })
})

it('ends with its signal, in the middle of a file too, and nothing is visible', async () => {
  const remote = new FakeRemote().put('a', '0123456789')
  const abort = new AbortController()
  const reason = new RangeError('enough')
  remote.onChunk = (_path, at) => {
    if (at === 4) abort.abort(reason)
  }
  const target = join(folder, 'aborted')
  await expect(fetch(remote, { target }, abort.signal)).rejects.toBe(reason)
  expect((await readdir(target, { recursive: true })).filter((name) => !name.startsWith('.storage'))).toEqual([])
})
