import { createHash } from 'node:crypto'
import { type ObjectStore, MemoryStore } from '@common-handlers/storage'
import { describe, expect, it } from 'vitest'
import { PartWriter } from '../src/part-writer.ts'

const header = Buffer.from('id\n')
const rows = (count: number): { bytes: Buffer; rows: number } => ({ bytes: Buffer.from('1234567\n'.repeat(count)), rows: count })

function writerTo(store: ObjectStore, fileBytes: number): PartWriter {
  return new PartWriter({
    store,
    keyOf: (name) => `run/${name}`,
    compression: 'none',
    fileBytes,
    header,
    signal: new AbortController().signal,
  })
}

describe('PartWriter', () => {
  it('closes a file that has reached its size and begins the next with the header', async () => {
    const store = new MemoryStore()
    const writer = writerTo(store, 2000)
    for (let block = 0; block < 7; block++) await writer.write(rows(100))
    const files = await writer.end()
    expect(files.map(({ name, rows: count, bytes }) => [name, count, bytes])).toEqual([
      ['part-00000.csv', 300, 2403],
      ['part-00001.csv', 300, 2403],
      ['part-00002.csv', 100, 803],
    ])
    for (const { name, sha256, bytes, etag } of files) {
      const stored = await store.getBytes(`run/${name}`)
      expect(stored.bytes.subarray(0, 3)).toEqual(header)
      expect(stored.bytes.byteLength).toBe(bytes)
      expect(createHash('sha256').update(stored.bytes).digest('hex')).toBe(sha256)
      expect(stored.etag).toBe(etag)
    }
  })

  it('writes no file for no rows', async () => {
    const store = new MemoryStore()
    expect(await writerTo(store, 2000).end()).toEqual([])
    expect(await Array.fromAsync(store.list(''))).toEqual([])
  })

  it('leaves nothing under the name of a file that was given up', async () => {
    const store = new MemoryStore()
    const writer = writerTo(store, 1_000_000)
    await writer.write(rows(10))
    await writer.abort(new Error('stopped'))
    expect(await Array.fromAsync(store.list(''))).toEqual([])
  })

  it('hands the error of an upload to the writer', async () => {
    const store = new MemoryStore()
    const broken: ObjectStore = Object.assign(Object.create(store) as MemoryStore, {
      put: () => Promise.reject(Object.assign(new Error('no space left'), { code: 'ENOSPC' })),
    })
    const writer = writerTo(broken, 1_000_000)
    const all = async (): Promise<void> => {
      for (let block = 0; block < 100; block++) await writer.write(rows(10))
    }
    await expect(all()).rejects.toThrow('no space left')
    await writer.abort(new Error('given up'))
  })
})
