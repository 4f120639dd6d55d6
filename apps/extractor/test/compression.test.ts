import { gunzipSync } from 'node:zlib'
import { describe, expect, it } from 'vitest'
import { createCompressor, mapInOrder } from '../src/compression.ts'
import { unzstd } from './stored-files.ts'

const block = Buffer.from('1,"two",\\N\n'.repeat(1000))

describe('createCompressor', () => {
  it('makes members that can be read one after the other as one file', async () => {
    const gzip = createCompressor('gzip', 1)
    const zstd = createCompressor('zstd', 1)
    const twice = Buffer.concat([block, block])
    expect(gunzipSync(Buffer.concat([await gzip(block), await gzip(block)])).equals(twice)).toBe(true)
    expect(unzstd(Buffer.concat([await zstd(block), await zstd(block)])).equals(twice)).toBe(true)
    expect(await createCompressor('none', 1)(block)).toBe(block)
  })

  it('takes the level', async () => {
    const text = Buffer.from(
      Array.from({ length: 20_000 }, (_, at) => `${at},{"user": "user-${(at * at) % 97}", "page": ${(at * 31) % 1009}}\n`).join(
        '',
      ),
    )
    for (const compression of ['gzip', 'zstd'] as const) {
      const fast = await createCompressor(compression, 1)(text)
      const small = await createCompressor(compression, 9)(text)
      expect(small.byteLength).toBeLessThan(fast.byteLength)
    }
  })
})

describe('mapInOrder', () => {
  async function* numbers(count: number, taken: number[] = []): AsyncGenerator<number> {
    for (let at = 0; at < count; at++) {
      taken.push(at)
      yield at
    }
  }

  it('keeps the order whichever ends first', async () => {
    const done: number[] = []
    const slowFirst = async (item: number): Promise<number> => {
      for (let turn = 0; turn < 10 - item; turn++) await new Promise((resolve) => setImmediate(resolve))
      done.push(item)
      return item
    }
    expect(await Array.fromAsync(mapInOrder(numbers(9), 3, slowFirst))).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8])
    expect(done).not.toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8])
  })

  it('takes no more items than it works on at once', async () => {
    const taken: number[] = []
    const results = mapInOrder(numbers(100, taken), 3, (item) => Promise.resolve(item))
    await results.next()
    expect(taken.length).toBe(3)
    await results.return()
    expect(taken.length).toBe(3)
  })

  it('throws the failure of an item in its place, and leaves none unhandled', async () => {
    const fail = (item: number): Promise<number> =>
      item >= 2 ? Promise.reject(new Error(`item ${item}`)) : Promise.resolve(item)
    const got: number[] = []
    const all = async (): Promise<void> => {
      for await (const item of mapInOrder(numbers(9), 3, fail)) got.push(item)
    }
    await expect(all()).rejects.toThrow('item 2')
    expect(got).toEqual([0, 1])
  })
})
