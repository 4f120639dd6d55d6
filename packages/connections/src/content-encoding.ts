import { pipeline, Readable } from 'node:stream'
import { createBrotliDecompress } from 'node:zlib'
import { decompress, HandlerError } from '@common-handlers/core'

/** What is asked for, and decoded by {@link decode}. */
export const ACCEPTED_ENCODINGS = 'gzip, br, zstd'

/** The bytes as they were before they were encoded for their way (RFC 9110 section 8.4); undefined where nobody here knows how. */
export function decode(bytes: AsyncIterable<Uint8Array>, encoding: string): AsyncIterable<Uint8Array> | undefined {
  switch (encoding.toLowerCase()) {
    case '':
    case 'identity':
      return bytes
    case 'gzip':
    case 'x-gzip':
      return decompress(bytes, 'gzip')
    case 'zstd':
      return decompress(bytes, 'zstd')
    case 'br':
      return pipeline(Readable.from(bytes), createBrotliDecompress(), () => undefined)
    default:
      return undefined
  }
}

/** True for an error of the decoder, and false for one of what it reads. */
export function isDecoderError(error: unknown): boolean {
  const { code } = error as { readonly code?: unknown }
  return !HandlerError.is(error) && typeof code === 'string' && /^(Z_|ZSTD_|ERR__|ERR_(BROTLI|ZSTD|ZLIB))/.test(code)
}
