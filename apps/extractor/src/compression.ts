import { promisify } from 'node:util'
import { constants, gzip, zstdCompress } from 'node:zlib'
import type { Compression } from '@common-handlers/dataset'

/** Turns one block into one gzip member or zstd frame; readers take any number of them, one after the other, as one file. */
export type Compressor = (block: Buffer) => Promise<Buffer>

const gzipAsync = promisify<Buffer, object, Buffer>(gzip)
const zstdAsync = promisify<Buffer, object, Buffer>(zstdCompress)

/** Room for the whole result in one go, as a rule: each further piece is another round through the thread pool. */
const outputSize = (block: Buffer): number => Math.max(16 * 1024, Math.ceil(block.byteLength / 3))

/** A compressor that works on the thread pool, at the level given (gzip 1–9, zstd 1–19). */
export function createCompressor(compression: Compression, level: number): Compressor {
  switch (compression) {
    case 'gzip':
      return (block) => gzipAsync(block, { level, chunkSize: outputSize(block) })
    case 'zstd':
      return (block) => zstdAsync(block, { chunkSize: outputSize(block), params: { [constants.ZSTD_c_compressionLevel]: level } })
    case 'none':
      return (block) => Promise.resolve(block)
  }
}

/**
 * Works on up to `depth` items at once and gives the results in the order of the items. Items are taken only as results
 * are asked for, so that a slow reader holds the source back.
 */
export async function* mapInOrder<A, B>(
  source: AsyncIterable<A>,
  depth: number,
  work: (item: A) => Promise<B>,
): AsyncGenerator<B, void, undefined> {
  const pending: Promise<B>[] = []
  try {
    for await (const item of source) {
      const job = work(item)
      // It is awaited further below; until then a failure must not count as unhandled.
      job.catch(() => undefined)
      pending.push(job)
      if (pending.length < depth) continue
      const first = pending.shift()
      if (first !== undefined) yield await first
    }
    for (let next = pending.shift(); next !== undefined; next = pending.shift()) yield await next
  } finally {
    await Promise.allSettled(pending)
  }
}
