import { pipeline, Readable } from 'node:stream'
import { createBrotliDecompress } from 'node:zlib'
import { decompress, HandlerError, retry } from '@common-handlers/core'
import { untilAborted } from '../cache.ts'
import { encodingBroken, encodingUnknown, endedEarly, fileChanged, readStalled } from './errors.ts'
import { stat } from './find.ts'
import { isSameFile, type RemoteEntry, type RemoteFiles } from './remote-files.ts'

/**
 * The content of a file, whole: after a break it goes on at the next byte if the file is still the one that was listed,
 * and it ends well only if that is so at the end.
 * @throws ConflictError `FILES_CHANGED`
 */
export function readFile(remote: RemoteFiles, file: RemoteEntry, signal: AbortSignal): AsyncIterable<Uint8Array> {
  return decoded(file, received(remote, file, signal))
}

async function* received(remote: RemoteFiles, file: RemoteEntry, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const { path, size = Infinity } = file
  const { policy } = remote
  let offset = 0
  let reader: Reader | undefined
  const next = async (): Promise<Uint8Array | undefined> => {
    try {
      if (reader === undefined) {
        if (offset > 0) await unchanged(remote, file, signal)
        reader = new Reader(remote, file, offset, signal)
      }
      const chunk = await reader.next()
      if (chunk === undefined && offset < size && size !== Infinity) throw endedEarly(path, offset, size)
      return chunk
    } catch (error) {
      await reader?.end()
      reader = undefined
      throw error
    }
  }
  try {
    for (;;) {
      // The tries and their time are for each step: what goes on is not given up, however often it breaks.
      const chunk = await retry(next, { policy, signal, idempotent: true })
      if (chunk === undefined) break
      offset += chunk.byteLength
      if (offset > size) throw fileChanged(path)
      yield chunk
    }
  } finally {
    await reader?.end()
  }
  await unchanged(remote, file, signal)
}

async function unchanged(remote: RemoteFiles, file: RemoteEntry, signal: AbortSignal): Promise<void> {
  if (!isSameFile(file, await stat(remote, file.path, signal))) throw fileChanged(file.path)
}

/** One try to read on from an offset. */
class Reader {
  readonly #path: string
  readonly #timeoutMs: number
  readonly #abort = new AbortController()
  readonly #signal: AbortSignal
  readonly #chunks: AsyncIterator<Uint8Array>

  constructor(remote: RemoteFiles, file: RemoteEntry, start: number, signal: AbortSignal) {
    this.#path = file.path
    this.#timeoutMs = remote.timeoutMs
    this.#signal = AbortSignal.any([signal, this.#abort.signal])
    this.#chunks = remote.read(file.path, { start, version: file, signal: this.#signal })[Symbol.asyncIterator]()
  }

  async next(): Promise<Uint8Array | undefined> {
    const timer = setTimeout(() => this.#abort.abort(readStalled(this.#path, this.#timeoutMs)), this.#timeoutMs)
    try {
      const step = await untilAborted(this.#chunks.next(), this.#signal)
      return step.done === true ? undefined : step.value
    } catch (error) {
      this.#signal.throwIfAborted()
      throw error
    } finally {
      clearTimeout(timer)
    }
  }

  async end(): Promise<void> {
    this.#abort.abort(new Error('nobody reads on'))
    await this.#chunks.return?.().catch(() => undefined)
  }
}

function decoded(file: RemoteEntry, bytes: AsyncIterable<Uint8Array>): AsyncIterable<Uint8Array> {
  const { path, encoding = 'identity' } = file
  switch (encoding) {
    case 'identity':
      return bytes
    case 'gzip':
    case 'x-gzip':
      return guarded(path, encoding, decompress(bytes, 'gzip'))
    case 'zstd':
      return guarded(path, encoding, decompress(bytes, 'zstd'))
    case 'br':
      return guarded(
        path,
        encoding,
        pipeline(Readable.from(bytes), createBrotliDecompress(), () => undefined),
      )
    default:
      throw encodingUnknown(path, encoding)
  }
}

async function* guarded(path: string, encoding: string, stream: Readable): AsyncGenerator<Uint8Array> {
  try {
    yield* stream as AsyncIterable<Uint8Array>
  } catch (error) {
    const { code } = error as { readonly code?: unknown }
    const isOfDecoder =
      !HandlerError.is(error) && typeof code === 'string' && /^(Z_|ZSTD_|ERR__|ERR_(BROTLI|ZSTD|ZLIB))/.test(code)
    throw isOfDecoder ? encodingBroken(path, encoding, error) : error
  }
}
