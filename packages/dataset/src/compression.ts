import { pipeline, Readable, type Transform } from 'node:stream'
import { createGunzip, createZstdDecompress } from 'node:zlib'
import type { Compression } from './manifest.ts'

/** The bytes of a file uncompressed; files of many gzip members or zstd frames are read whole. Errors of the source arrive too. */
export function decompress(stream: AsyncIterable<Uint8Array>, compression: Compression): Readable {
  const source = stream instanceof Readable ? stream : Readable.from(stream)
  if (compression === 'none') return source
  const decoder: Transform = compression === 'gzip' ? createGunzip() : createZstdDecompress()
  // The callback keeps the error from being thrown twice: the reader of the decoder gets it.
  return pipeline(source, decoder, () => undefined)
}
