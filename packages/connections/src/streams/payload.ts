import { createHash } from 'node:crypto'
import { parseExactJson } from '../ingestion.ts'

/** What the payload of a message is taken for. */
export type PayloadFormat = 'json' | 'text' | 'bytes'

export interface Payload {
  readonly data: unknown
  readonly mediaType: string
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** The value of a payload; undefined for one that is not of its format. An integer past 2^53 is a bigint. */
export function decodePayload(bytes: Uint8Array, format: PayloadFormat): Payload | undefined {
  if (format === 'bytes') return undecoded(bytes)
  try {
    const text = utf8.decode(bytes)
    return format === 'text'
      ? { data: text, mediaType: 'text/plain' }
      : { data: parseExactJson(text), mediaType: 'application/json' }
  } catch {
    return undefined
  }
}

/** A payload as it is: what becomes of one that is not of its format, so that it is neither lost nor in the way. */
export const undecoded = (bytes: Uint8Array): Payload => ({ data: bytes, mediaType: 'application/octet-stream' })

/** A key for a message that has none: the same for the same content. */
export const contentKey = (...parts: readonly (Uint8Array | string)[]): string => {
  const hash = createHash('sha256')
  for (const part of parts) hash.update(`${Buffer.byteLength(part)}:`).update(part)
  return `sha256:${hash.digest('hex')}`
}
