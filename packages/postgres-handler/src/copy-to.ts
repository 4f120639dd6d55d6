import type { Writable } from 'node:stream'
import { finished } from 'node:stream/promises'
import { unlessAborted } from './abort.ts'
import type { CopyResult } from './copy-in.ts'
import { asksForHeader, type CopyBlock } from './copy-reader.ts'

/** Where the bytes of a COPY go to: a stream, or a function that is waited for. The bytes are on loan until it is done. */
export type CopySink = Writable | ((bytes: Buffer) => unknown)

const BINARY_SIGNATURE = Buffer.from('PGCOPY\n\xff\r\n\0', 'latin1')

/** Writes the blocks of a COPY one after the other; a stream is ended, or destroyed where it fails. */
export async function writeBlocks(
  statement: string,
  blocks: AsyncIterable<CopyBlock>,
  sink: CopySink,
  signal: AbortSignal,
): Promise<CopyResult> {
  const write = typeof sink === 'function' ? sink : writerOf(sink)
  let [rows, bytes] = [0, 0]
  try {
    for await (const block of blocks) {
      // A header line, or the trailer of the binary format, is no row.
      const binary = BINARY_SIGNATURE.equals(block.bytes.subarray(0, BINARY_SIGNATURE.length))
      if (bytes === 0 && (binary || asksForHeader(statement))) rows--
      // A sink that stands still is left where it stands, and so is the block that it has.
      await unlessAborted(Promise.resolve(write(block.bytes)), signal)
      rows += block.rows
      bytes += block.bytes.length
      block.release()
    }
    if (typeof sink !== 'function') await unlessAborted(ended(sink), signal)
  } catch (error) {
    if (typeof sink !== 'function') sink.destroy(error instanceof Error ? error : new Error(String(error)))
    throw error
  }
  return { rows, bytes }
}

/** Waits for each write, for the memory of a block is used again; COPY reads on meanwhile. */
function writerOf(sink: Writable): (bytes: Buffer) => Promise<void> {
  // The write that fails says so itself; an error between two of them is told by the next.
  sink.on('error', () => undefined)
  return (bytes) =>
    new Promise((resolve, reject) => {
      sink.write(bytes, (error) => {
        if (error === null || error === undefined) resolve()
        else reject(sink.errored ?? error)
      })
    })
}

/** A process's own output stays open. */
async function ended(sink: Writable): Promise<void> {
  if (sink === process.stdout || sink === process.stderr) return
  sink.end()
  await finished(sink, { readable: false })
}
