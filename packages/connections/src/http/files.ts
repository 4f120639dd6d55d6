import { type CallOptions, HandlerError, type RetryPolicy } from '@common-handlers/core'
import type { ReadableFiles, ReadOptions, RemoteEntry } from '../files/remote-files.ts'
import type { HttpClient, RestStream } from './client.ts'
import { cannotGoOn } from './errors.ts'

/** What a server answers that does not know HEAD, or does not allow it. */
const HEAD_REFUSED = new Set(['HTTP_FORBIDDEN', 'HTTP_STATUS'])

/** What an API serves, as files: known by its headers (RFC 9110 section 8), and gone on with by `Range` (section 14). */
export class HttpFiles implements ReadableFiles {
  readonly policy: Partial<RetryPolicy>
  readonly timeoutMs: number
  readonly #client: HttpClient
  readonly #locate: (name: string) => string

  /** `locate` says where a file is that is called so: a path below `baseUrl`, or a URL. In the names there is no secret. */
  constructor(client: HttpClient, locate: (name: string) => string) {
    this.#client = client
    this.#locate = locate
    this.policy = client.policy
    this.timeoutMs = client.timeoutMs
  }

  urlOf(path: string): string {
    return this.#client.urlOf(this.#locate(path))
  }

  async stat(path: string, options: CallOptions = {}): Promise<RemoteEntry> {
    const ask = async (method: string): Promise<RemoteEntry> => {
      const answer = await this.#client.requestStream({ ...options, method, path: this.#locate(path) })
      answer.discard()
      return entryOf(path, answer)
    }
    try {
      return await ask('HEAD')
    } catch (error) {
      if (!HandlerError.is(error) || !HEAD_REFUSED.has(error.code)) throw error
      return await ask('GET')
    }
  }

  async *read(path: string, { start = 0, version, signal }: ReadOptions = {}): AsyncGenerator<Buffer, void, undefined> {
    // A weak tag says that two contents mean the same, and not that their bytes are the same.
    const strong = version?.etag?.startsWith('W/') === false ? version.etag : undefined
    const condition = strong ?? version?.modifiedAt?.toUTCString()
    const headers = start === 0 ? {} : { range: `bytes=${start}-`, ...(condition === undefined ? {} : { 'if-range': condition }) }
    const answer = await this.#client.requestStream({ path: this.#locate(path), headers, signal })
    let skip = 0
    try {
      const place = { method: 'GET', url: new URL(answer.url) }
      if (start > 0 && condition === undefined) throw cannotGoOn(place, 'the server gives it no ETag and no time of change')
      const isPart = answer.status === 206 && answer.headers['content-range']?.startsWith(`bytes ${start}-`) === true
      if (answer.status === 206 && !isPart) throw cannotGoOn(place, 'the server sent another part than the one asked for')
      if (!isPart) skip = start
    } catch (error) {
      answer.discard()
      throw error
    }
    for await (const chunk of answer.body) {
      const rest = chunk.subarray(skip)
      skip -= chunk.byteLength - rest.byteLength
      if (rest.byteLength > 0) yield rest
    }
  }
}

/** The endings of files that are encoded themselves: what a server calls their encoding is their content. */
const encodedFiles: Readonly<Record<string, RegExp>> = {
  gzip: /\.(gz|tgz)$/i,
  'x-gzip': /\.(gz|tgz)$/i,
  br: /\.br$/i,
  zstd: /\.zst$/i,
}

function entryOf(path: string, { url, headers, etag, mediaType }: RestStream): RemoteEntry {
  const size = /^\d+$/.test(headers['content-length'] ?? '') ? Number(headers['content-length']) : undefined
  const time = Date.parse(headers['last-modified'] ?? '')
  const encoding = headers['content-encoding']
  const isOfFile = encoding !== undefined && encodedFiles[encoding]?.test(new URL(url).pathname) === true
  return {
    path,
    kind: 'file',
    size,
    modifiedAt: Number.isNaN(time) ? undefined : new Date(time),
    etag,
    mediaType,
    ...(encoding === undefined || isOfFile ? {} : { encoding }),
  }
}
