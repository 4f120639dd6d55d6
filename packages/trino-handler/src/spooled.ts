import type { Writable } from 'node:stream'
import { setImmediate as turn } from 'node:timers/promises'
import { createZstdDecompress } from 'node:zlib'
import { HandlerError, RemoteError, retry } from '@common-handlers/core'
import type { BlockBytes, Blocks } from './body-bytes.ts'
import type { WireSegment } from './protocol.ts'
import type { RowParser } from './row-text.ts'
import type { StatementContext } from './statement.ts'

/** Each unpacking of so many bytes is a turn of the thread pool. */
const UNPACKED = 64 * 1024

/** One segment of a spooled result: fetched, and still to be unpacked. */
export interface FetchedSegment {
  readonly wire: WireSegment
  readonly encoding: string
  /** As it was stored. */
  readonly bytes: BlockBytes
}

/** Fetches a segment, again after what passes; an inline one is there already. Checks its length. */
export async function fetchSegment(
  context: StatementContext,
  wire: WireSegment,
  encoding: string,
  signal: AbortSignal,
  memory: Blocks,
): Promise<FetchedSegment> {
  const { transport, logger } = context
  const { uri } = wire
  const download = transport.download?.bind(transport)
  let bytes: BlockBytes
  if (uri === undefined || download === undefined) bytes = await memory.collect(inline(wire))
  else {
    const fetched = await retry(
      async () => {
        try {
          return await download({ uri, headers: segmentHeaders(wire) }, signal, memory)
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
    if (fetched instanceof HandlerError) throw fetched
    bytes = fetched
  }
  checkCount('bytes', wire.metadata?.segmentSize, bytes.length)
  return { wire, encoding, bytes }
}

async function* inline({ data = '' }: WireSegment): AsyncGenerator<Buffer, void, undefined> {
  yield Buffer.from(data, 'base64')
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
  memory: Blocks,
): AsyncGenerator<unknown[][], void, undefined> {
  const { rowOffset, rowsCount, uncompressedSize } = wire.metadata ?? {}
  checkCount('rows before it', rowOffset, rowsBefore)
  let size = 0
  let rows = 0
  // What does not get smaller is not compressed, and has no uncompressed size.
  const packed = uncompressedSize === undefined ? 'json' : encoding
  try {
    for await (const chunk of unpacked(packed, memory.read(bytes))) {
      // The first byte opens the list of rows.
      for (const parsed of parser.some(size === 0 ? chunk.subarray(1) : chunk)) {
        rows += parsed.length
        yield parsed
      }
      size += chunk.length
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

async function* unpacked(encoding: string, blocks: Iterable<Buffer>): AsyncGenerator<Buffer, void, undefined> {
  switch (encoding) {
    case 'json':
      for (const block of blocks) {
        yield block
        // Nothing is waited for here: without a turn of their own all others would wait for the whole segment.
        await turn()
      }
      return
    case 'json+zstd': {
      const stream = createZstdDecompress({ chunkSize: UNPACKED })
      // What fails there fails here, too.
      feed(stream, blocks).catch(() => undefined)
      yield* stream as AsyncIterable<Buffer>
      return
    }
    default:
      throw corrupt(`its encoding is ${encoding}, which was not asked for`)
  }
}

/** Asks for the next block when the one before has been read. */
async function feed(stream: Writable, blocks: Iterable<Buffer>): Promise<void> {
  for (const block of blocks) {
    await new Promise<void>((resolve, reject) => {
      stream.write(block, (error) => (error ? reject(error) : resolve()))
    })
  }
  stream.end()
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
