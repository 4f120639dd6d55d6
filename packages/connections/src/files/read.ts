import { retry, untilAborted } from '@common-handlers/core'
import { decode, isDecoderError } from '../content-encoding.ts'
import { encodingBroken, encodingUnknown, endedEarly, fileChanged, readStalled } from './errors.ts'
import { stat } from './find.ts'
import { isSameFile, type ReadableFiles, type RemoteEntry } from './remote-files.ts'

/**
 * The content of a file, whole: after a break it goes on at the next byte if the file is still the one that was listed,
 * and it ends well only if that is so at the end.
 * @throws ConflictError `FILES_CHANGED`
 */
export function readFile(remote: ReadableFiles, file: RemoteEntry, signal: AbortSignal): AsyncIterable<Uint8Array> {
  return decoded(file, received(remote, file, signal))
}

async function* received(remote: ReadableFiles, file: RemoteEntry, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const { path, size = Infinity } = file
  const { policy } = remote
  let offset = 0
  let reader: Reader | undefined
  const next = async (): Promise<Uint8Array | undefined> => {
    try {
      if (reader === undefined) {
        // Cut behind the last byte: some servers refuse a range of nothing.
        if (offset > 0 && offset === size) return undefined
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

async function unchanged(remote: ReadableFiles, file: RemoteEntry, signal: AbortSignal): Promise<void> {
  if (!isSameFile(file, await stat(remote, file.path, signal))) throw fileChanged(file.path)
}

/** One try to read on from an offset. */
class Reader {
  readonly #path: string
  readonly #timeoutMs: number
  readonly #abort = new AbortController()
  readonly #signal: AbortSignal
  readonly #chunks: AsyncIterator<Uint8Array>

  constructor(remote: ReadableFiles, file: RemoteEntry, start: number, signal: AbortSignal) {
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

async function* decoded(
  { path, encoding = 'identity' }: RemoteEntry,
  bytes: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array, void, undefined> {
  const content = decode(bytes, encoding)
  if (content === undefined) throw encodingUnknown(path, encoding)
  try {
    yield* content
  } catch (error) {
    throw isDecoderError(error) ? encodingBroken(path, encoding, error) : error
  }
}
