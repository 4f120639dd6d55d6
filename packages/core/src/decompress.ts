import { pipeline, Readable } from 'node:stream'
import { createGunzip, createZstdDecompress } from 'node:zlib'

/** How the bytes of a file are compressed. */
export type Compression = 'gzip' | 'zstd' | 'none'

/** The bytes of a file uncompressed; files of many gzip members or zstd frames are read whole. Errors of the source arrive too. */
export function decompress(stream: AsyncIterable<Uint8Array>, compression: Compression): Readable {
  const source = stream instanceof Readable ? stream : Readable.from(stream)
  if (compression === 'none') return source
  // The callback keeps the error from being thrown twice: the reader of the decoder gets it.
  if (compression === 'gzip') return pipeline(source, createGunzip(), () => undefined)
  return pipeline(source, cutAtFrames, createZstdDecompress(), () => undefined)
}

/**
 * Node's decoder takes a frame that begins with a chunk, but ends, without an error, at a frame that begins inside of one
 * (seen in 24.21): the rest of the file would be missing.
 */
async function* cutAtFrames(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const frames = new FrameWalk()
  for await (const chunk of source) {
    for (let from = 0; from < chunk.length;) {
      const to = frames.advance(chunk, from)
      yield chunk.subarray(from, to)
      from = to
    }
  }
}

const FRAME = 0xfd2fb528
const SKIPPABLE = 0x184d2a50
const RLE_BLOCK = 1

/** Walks over zstd frames by their lengths, without decoding anything (RFC 8878, section 3.1). */
class FrameWalk {
  #head: number[] = []
  /** Bytes of the header that is being collected; a frame's first part is its magic number and descriptor. */
  #wanted = 5
  #part: 'frame' | 'skippable' | 'block' = 'frame'
  #skip = 0
  #lastBlock = false
  #checksum = false

  /** Where the frame that `from` lies in ends, or the end of the bytes. */
  advance(bytes: Uint8Array, from: number): number {
    for (let at = from; ;) {
      const skipped = Math.min(this.#skip, bytes.length - at)
      this.#skip -= skipped
      at += skipped
      if (this.#skip === 0 && this.#lastBlock) {
        this.#lastBlock = false
        this.#collect('frame', 5)
        return at
      }
      if (at === bytes.length) return at
      this.#head.push(bytes[at++] ?? 0)
      if (this.#head.length === this.#wanted) this.#read(Buffer.from(this.#head))
    }
  }

  #collect(part: 'frame' | 'skippable' | 'block', wanted: number): void {
    this.#head = []
    this.#part = part
    this.#wanted = wanted
  }

  #read(head: Buffer): void {
    if (this.#part === 'block') {
      const header = head.readUIntLE(0, 3)
      this.#lastBlock = (header & 1) === 1
      this.#skip = ((header >> 1) & 3) === RLE_BLOCK ? 1 : header >> 3
      if (this.#lastBlock && this.#checksum) this.#skip += 4
      this.#collect('block', 3)
    } else if (this.#part === 'skippable') {
      this.#skip = head.readUInt32LE(4)
      this.#lastBlock = true
    } else if (head.readUInt32LE(0) === FRAME) {
      const descriptor = head[4] ?? 0
      const single = (descriptor & 0x20) !== 0
      this.#checksum = (descriptor & 4) !== 0
      this.#skip = (single ? 0 : 1) + ([0, 1, 2, 4][descriptor & 3] ?? 0) + ([single ? 1 : 0, 2, 4, 8][descriptor >> 6] ?? 0)
      this.#collect('block', 3)
    } else if ((head.readUInt32LE(0) & 0xfffffff0) === SKIPPABLE) {
      // Its length comes behind the magic number; one byte of it is here already.
      this.#part = 'skippable'
      this.#wanted = 8
    } else {
      // No frame: the decoder will say so.
      this.#skip = Infinity
    }
  }
}
