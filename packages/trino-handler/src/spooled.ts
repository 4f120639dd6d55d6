import { createZstdDecompress } from 'node:zlib'
import { HandlerError, RemoteError, retry } from '@common-handlers/core'
import type { WireSegment } from './protocol.ts'
import { PIECE, type RowParser } from './row-text.ts'
import type { StatementContext } from './statement.ts'

/** One segment of a spooled result: fetched, and still to be unpacked. */
export interface FetchedSegment {
  readonly wire: WireSegment
  readonly encoding: string
  /** As it was stored. */
  readonly bytes: Buffer
}

/** Fetches a segment, again after what passes; an inline one is there already. Checks its length. */
export async function fetchSegment(
  context: StatementContext,
  wire: WireSegment,
  encoding: string,
  signal: AbortSignal,
): Promise<FetchedSegment> {
  const { transport, logger } = context
  const { uri } = wire
  const download = transport.download?.bind(transport)
  let bytes: Buffer
  if (uri === undefined || download === undefined) bytes = Buffer.from(wire.data ?? '', 'base64')
  else {
    const fetched = await retry(
      async () => {
        try {
          return await download({ uri, headers: segmentHeaders(wire) }, signal)
        } catch (error) {
          // The statement may be run again; to ask for the segment again is of no use.
          if (HandlerError.is(error) && error.code === 'TRINO_SEGMENT_GONE') return error
          throw error
        }
      },
      {
        policy: context.retry,
        signal,
        idempotent: true,
        onRetry: (error, next) => logger.warn({ code: error.code, ...next }, 'fetching a segment again'),
      },
    )
    if (!Buffer.isBuffer(fetched)) throw fetched
    bytes = fetched
  }
  checkCount('bytes', wire.metadata?.segmentSize, bytes.length)
  return { wire, encoding, bytes }
}

/** What has to be said to get a segment and to acknowledge it: its key, where the server has it encrypted. */
export const segmentHeaders = ({ headers = {} }: WireSegment): Record<string, string> =>
  Object.fromEntries(Object.entries(headers).map(([name, values]) => [name, values.join(', ')]))

/**
 * The rows of a segment, some at a time; unpacked as they are read, so that memory does not grow with the segment.
 * @throws RemoteError `TRINO_SEGMENT_CORRUPT` when it does not hold what the server said
 */
export async function* segmentRows(
  { wire, encoding, bytes }: FetchedSegment,
  rowsBefore: number,
  parser: RowParser,
): AsyncGenerator<unknown[][], void, undefined> {
  const { rowOffset, rowsCount, uncompressedSize } = wire.metadata ?? {}
  checkCount('rows before it', rowOffset, rowsBefore)
  let size = 0
  let rows = 0
  // What does not get smaller is not compressed, and has no uncompressed size.
  const packed = uncompressedSize === undefined ? 'json' : encoding
  try {
    for await (const piece of unpacked(packed, bytes)) {
      // The first byte opens the list of rows.
      const parsed = parser.push(size === 0 ? piece.subarray(1) : piece)
      size += piece.length
      rows += parsed.length
      if (parsed.length > 0) yield parsed
    }
    // And the last one closes it.
    const parsed = parser.end(1)
    rows += parsed.length
    if (parsed.length > 0) yield parsed
  } catch (cause) {
    if (cause instanceof RemoteError) throw cause
    throw corrupt(`it cannot be read: ${cause instanceof Error ? cause.message.slice(0, 100) : String(cause)}`)
  }
  checkCount('bytes unpacked', uncompressedSize, size)
  checkCount('rows', rowsCount, rows)
}

async function* unpacked(encoding: string, bytes: Buffer): AsyncGenerator<Buffer, void, undefined> {
  switch (encoding) {
    case 'json':
      for (let at = 0; at < bytes.length; at += PIECE) yield bytes.subarray(at, at + PIECE)
      return
    case 'json+zstd': {
      const stream = createZstdDecompress({ chunkSize: PIECE })
      stream.end(bytes)
      yield* stream as AsyncIterable<Buffer>
      return
    }
    default:
      throw corrupt(`its encoding is ${encoding}, which was not asked for`)
  }
}

function checkCount(what: string, said: number | string | undefined, found: number): void {
  if (said !== undefined && Number(said) !== found) throw corrupt(`${found} ${what} where the server says ${said}`)
}

const corrupt = (why: string): RemoteError =>
  new RemoteError(`a segment of the spooled result is not whole: ${why}`, {
    code: 'TRINO_SEGMENT_CORRUPT',
    serverCode: '200',
    retry: 'if-idempotent',
  })
