import { deepEqual, equal, notEqual, ok, rejects } from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { buffer } from 'node:stream/consumers'
import { HandlerError } from '@common-handlers/core'
import type { ObjectInfo, ObjectStore } from './object-store.ts'

/** What the suite needs of a test runner; vitest's and node:test's fit. */
export interface ConformanceRunner {
  readonly describe: (title: string, work: () => void) => unknown
  readonly it: (title: string, work: () => Promise<void>) => unknown
}

export interface ConformanceSubject {
  /** What is tested: `MemoryStore`, `S3Handler on SeaweedFS`. */
  readonly title: string
  /** A store for one test; the test closes it. Every store opened sees the same objects, or none but its own. */
  readonly open: () => ObjectStore | Promise<ObjectStore>
  /** Writers that race in each race test. Default 8. */
  readonly racers?: number
}

const text = 'naïve \u{1F5C3} text'
const wait = (ms: number): Promise<void> => new Promise((resolve) => void setTimeout(resolve, ms))

async function keysOf(listing: AsyncIterable<ObjectInfo>): Promise<string[]> {
  const keys: string[] = []
  for await (const info of listing) keys.push(info.key)
  return keys
}

const notFound = (error: unknown): boolean => HandlerError.is(error) && error.outcome === 'not-found'

/**
 * What every object store must do, as tests: run it in the tests of each store. Each test works under a prefix of its
 * own and removes what it wrote.
 */
export function objectStoreConformance({ describe, it }: ConformanceRunner, subject: ConformanceSubject): void {
  const racers = subject.racers ?? 8
  const test = (title: string, work: (store: ObjectStore, at: (name: string) => string) => Promise<void>): void => {
    it(title, async () => {
      const store = await subject.open()
      const root = `conformance/${randomBytes(6).toString('hex')}/`
      try {
        await work(store, (name) => root + name)
      } finally {
        for (const key of await keysOf(store.list(root))) await store.delete(key)
        await store.close()
      }
    })
  }

  describe(`${subject.title} is an object store`, () => {
    test('gives back what was put, by bytes, stream, range and head', async (store, at) => {
      const key = at('folder/a b+c=ü.txt')
      const bytes = Buffer.from(text)
      const written = await store.put(key, text, { contentType: 'text/plain' })
      equal(written.size, bytes.length)
      const read = await store.getBytes(key)
      equal(read.bytes.toString(), text)
      equal(read.etag, written.etag)
      equal((await buffer(await store.get(key))).toString(), text)
      equal((await buffer(await store.get(key, { start: 2, end: 4 }))).toString('hex'), bytes.subarray(2, 5).toString('hex'))
      equal((await buffer(await store.get(key, { start: 3 }))).toString('hex'), bytes.subarray(3).toString('hex'))
      const info = await store.head(key)
      deepEqual([info.key, info.size, info.etag], [key, bytes.length, written.etag])
      ok(Math.abs(info.lastModified.getTime() - Date.now()) < 86_400_000)
    })

    test('keeps an empty object', async (store, at) => {
      await store.put(at('empty'), '')
      equal((await store.getBytes(at('empty'))).bytes.length, 0)
      equal((await store.head(at('empty'))).size, 0)
      equal((await buffer(await store.get(at('empty')))).length, 0)
    })

    test('takes a stream of unknown length', async (store, at) => {
      const chunk = randomBytes(1_000_003)
      const { size, etag } = await store.put(at('stream'), repeat(chunk, 9))
      equal(size, 9 * chunk.length)
      const read = await store.getBytes(at('stream'))
      ok(read.bytes.equals(Buffer.concat(Array<Buffer>(9).fill(chunk))))
      equal(read.etag, etag)
      equal((await store.head(at('stream'))).etag, etag)
    })

    test('replaces an object, and its etag with it', async (store, at) => {
      const first = await store.put(at('x'), 'one')
      const second = await store.put(at('x'), 'two')
      notEqual(first.etag, second.etag)
      equal((await store.getBytes(at('x'))).bytes.toString(), 'two')
    })

    test('says that what is not there is not found', async (store, at) => {
      await rejects(store.get(at('none')), notFound)
      await rejects(store.getBytes(at('none')), notFound)
      await rejects(store.head(at('none')), notFound)
      await store.put(at('folder/x'), 'x')
      await rejects(store.getBytes(at('folder')), notFound)
    })

    test('deletes, also what is not there', async (store, at) => {
      await store.put(at('x'), 'x')
      await store.delete(at('x'))
      await store.delete(at('x'))
      await rejects(store.head(at('x')), notFound)
      deepEqual(await keysOf(store.list(at(''))), [])
    })

    test('lists by prefix, in the byte order of keys', async (store, at) => {
      const names = ['a', 'a-b/1', 'a.txt', 'aa/1', 'aa/2', 'b/c/d', 'b=1/_m', 'b=1/p', 'Z', 'é', '\uFFFD', '\u{1F5C3}']
      for (const name of names.toReversed()) await store.put(at(name), name)
      const ordered = names.map(at).toSorted((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
      deepEqual(await keysOf(store.list(at(''))), ordered)
      deepEqual(
        await keysOf(store.list(at('a'))),
        ordered.filter((key) => key.startsWith(at('a'))),
      )
      deepEqual(await keysOf(store.list(at('b='))), [at('b=1/_m'), at('b=1/p')])
      deepEqual(await keysOf(store.list(at('b/'))), [at('b/c/d')])
      deepEqual(await keysOf(store.list(at('nothing/here'))), [])
      for await (const info of store.list(at('aa/'))) deepEqual([info.size, info.etag], [4, (await store.head(info.key)).etag])
    })

    test('writes if absent: once', async (store, at) => {
      const first = await store.putIfAbsent(at('x'), 'one')
      ok(first.written)
      deepEqual(await store.putIfAbsent(at('x'), 'two'), { written: false })
      const read = await store.getBytes(at('x'))
      deepEqual([read.bytes.toString(), read.etag], ['one', first.etag])
    })

    test(`lets one of ${racers} writers win an absent key`, async (store, at) => {
      for (let round = 0; round < 5; round++) {
        const key = at(`race-${round}`)
        const results = await Promise.all(Array.from({ length: racers }, (_, racer) => store.putIfAbsent(key, `racer ${racer}`)))
        const winners = results.flatMap((result, racer) => (result.written ? [racer] : []))
        equal(winners.length, 1)
        equal((await store.getBytes(key)).bytes.toString(), `racer ${winners[0]}`)
      }
    })

    test('writes if the etag matches, and only then', async (store, at) => {
      deepEqual(await store.putIfMatch(at('x'), 'zero', '"0123456789abcdef0123456789abcdef"'), { written: false })
      await rejects(store.head(at('x')), notFound)
      const first = await store.put(at('x'), 'one')
      const second = await store.putIfMatch(at('x'), 'two', first.etag)
      ok(second.written)
      deepEqual(await store.putIfMatch(at('x'), 'three', first.etag), { written: false })
      const read = await store.getBytes(at('x'))
      deepEqual([read.bytes.toString(), read.etag], ['two', second.etag])
    })

    test(`counts right when ${racers} writers add one by etag`, async (store, at) => {
      await store.put(at('counter'), '0')
      const add = async (): Promise<void> => {
        for (;;) {
          const { bytes, etag } = await store.getBytes(at('counter'))
          if ((await store.putIfMatch(at('counter'), String(Number(bytes.toString()) + 1), etag)).written) return
        }
      }
      await Promise.all(Array.from({ length: racers }, add))
      equal((await store.getBytes(at('counter'))).bytes.toString(), String(racers))
    })

    test('shows nothing of an object until it is whole', async (store, at) => {
      const { promise: half, resolve: reached } = Promise.withResolvers<void>()
      const { promise: goOn, resolve: finish } = Promise.withResolvers<void>()
      const writing = store.put(
        at('slow'),
        (async function* () {
          yield Buffer.alloc(6_000_000, 'a')
          reached()
          await goOn
          yield Buffer.from('end')
        })(),
      )
      await half
      await wait(50)
      await rejects(store.head(at('slow')), notFound)
      deepEqual(await keysOf(store.list(at(''))), [])
      finish()
      equal((await writing).size, 6_000_003)
      equal((await store.head(at('slow'))).size, 6_000_003)
    })

    test('leaves nothing of a stream that fails, and the old object as it was', async (store, at) => {
      await store.put(at('old'), 'old')
      for (const name of ['old', 'new']) {
        const broken = (async function* () {
          yield Buffer.alloc(6_000_000, 'a')
          await wait(1)
          throw new Error('the source broke')
        })()
        await rejects(store.put(at(name), broken), /the source broke/)
      }
      deepEqual(await keysOf(store.list(at(''))), [at('old')])
      equal((await store.getBytes(at('old'))).bytes.toString(), 'old')
    })

    test('leaves nothing of a stream that is aborted, also while it waits, and rejects with the reason', async (store, at) => {
      const abort = new AbortController()
      const reason = new Error('stop it')
      const { promise: ended, resolve: end } = Promise.withResolvers<string>()
      const endless = (async function* () {
        try {
          yield Buffer.alloc(6_000_000, 'a')
          setTimeout(() => abort.abort(reason), 20)
          for (;;) {
            await wait(10)
            yield Buffer.alloc(10, 'a')
          }
        } finally {
          end('closed')
        }
      })()
      await rejects(store.put(at('x'), endless, { signal: abort.signal }), (error) => error === reason)
      await rejects(store.head(at('x')), notFound)
      equal(await Promise.race([ended, wait(5_000)]), 'closed')
    })

    test('does nothing for a signal that is aborted already', async (store, at) => {
      const reason = new Error('too late')
      const signal = AbortSignal.abort(reason)
      const sameReason = (error: unknown): boolean => error === reason
      await rejects(store.put(at('x'), 'x', { signal }), sameReason)
      await rejects(store.putIfAbsent(at('x'), 'x', { signal }), sameReason)
      await rejects(store.getBytes(at('x'), { signal }), sameReason)
      await rejects(keysOf(store.list(at(''), { signal })), sameReason)
      deepEqual(await keysOf(store.list(at(''))), [])
    })

    it('closes twice, and refuses calls afterwards', async () => {
      const store = await subject.open()
      await Promise.all([store.close(), store.close()])
      await store[Symbol.asyncDispose]()
      await rejects(store.getBytes('conformance/closed'), (error) => HandlerError.is(error) && error.code.endsWith('_CLOSED'))
    })
  })
}

async function* repeat(chunk: Buffer, times: number): AsyncGenerator<Buffer> {
  for (let time = 0; time < times; time++) yield Promise.resolve(chunk)
}
