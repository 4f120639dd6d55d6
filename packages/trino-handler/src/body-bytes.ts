import { setImmediate as turn } from 'node:timers/promises'

/** Room for an answer whose length is not known. */
const FIRST = 256 * 1024

/** A body in one buffer of its own. Its chunks are copied as they come. */
export async function collect(body: AsyncIterable<Uint8Array>, length: number): Promise<Buffer> {
  let bytes = Buffer.allocUnsafeSlow(Number.isSafeInteger(length) && length >= 0 ? length : FIRST)
  let filled = 0
  for await (const chunk of body) {
    const needed = filled + chunk.length
    if (needed > bytes.length) {
      const larger = Buffer.allocUnsafeSlow(Math.max(needed, 2 * bytes.length))
      bytes.copy(larger, 0, 0, filled)
      free(bytes)
      bytes = larger
    }
    bytes.set(chunk, filled)
    filled = needed
    letGo(chunk)
  }
  return bytes.subarray(0, filled)
}

/**
 * Gives the memory of a chunk back that was copied: left to the collector, it was 20 MB more. Where a chunk ends with its
 * memory, nothing else that the connection has read into it is still to come.
 */
function letGo({ buffer, byteOffset, length }: Uint8Array): void {
  if (byteOffset + length === buffer.byteLength) release(buffer)
}

/** Gives the memory of a collected body back at once; what is left of it afterwards is empty. */
export function free(bytes: Buffer): void {
  release(bytes.buffer)
}

function release(buffer: ArrayBufferLike): void {
  // Small buffers share a slab with others.
  if (buffer instanceof ArrayBuffer && !buffer.detached && buffer.byteLength > Buffer.poolSize) buffer.transfer(0)
}

const BLOCK = 256 * 1024

/** A body in blocks of {@link Blocks}. */
export interface BlockBytes {
  readonly blocks: readonly Buffer[]
  /** Of all; the last block is full up to there. */
  readonly length: number
}

/**
 * Memory for the segments of a result: blocks of one size, each used again as soon as it is read. Buffers that are as long
 * as a segment, one after the other of another length, leave holes between them that stay with the process.
 */
export class Blocks {
  readonly #free: Buffer[] = []

  async collect(body: AsyncIterable<Uint8Array>): Promise<BlockBytes> {
    const blocks: Buffer[] = []
    let length = 0
    for await (const chunk of body) {
      for (let at = 0; at < chunk.length;) {
        const from = length % BLOCK
        if (from === 0) blocks.push(this.#free.pop() ?? Buffer.allocUnsafeSlow(BLOCK))
        const count = Math.min(BLOCK - from, chunk.length - at)
        blocks.at(-1)?.set(chunk.subarray(at, at + count), from)
        at += count
        length += count
        // Whoever reads the segment before goes on, and its blocks are used again for this one.
        if (length % BLOCK === 0) await turn()
      }
      letGo(chunk)
    }
    return { blocks, length }
  }

  /** The bytes, a block at a time; it is used again when the next one is asked for. */
  *read({ blocks, length }: BlockBytes): Generator<Buffer, void, undefined> {
    let left = length
    for (const block of blocks) {
      yield block.subarray(0, left)
      left -= BLOCK
      this.#free.push(block)
    }
  }

  /** Gives the memory back that is not in use. */
  free(): void {
    for (const block of this.#free.splice(0)) free(block)
  }
}
