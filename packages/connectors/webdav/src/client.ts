import { joinPath, type ReadOptions, type RemoteEntry, type RemoteFiles } from '@common-handlers/connections/files'
import { HttpClient, HttpFiles, httpConfigSchema, reachSteps } from '@common-handlers/connections/http'
import {
  type CallOptions,
  type CheckResult,
  type Closable,
  type CloseOptions,
  HandlerError,
  type RetryPolicy,
  runCheck,
  withDeadline,
} from '@common-handlers/core'
import type { WebdavConfig } from './config.ts'
import { answerUnusable, listTooOdd, notSpoken } from './errors.ts'
import { PROPFIND, readMultistatus, type Resource } from './multistatus.ts'

/** The files of one WebDAV server, below `baseUrl`. Paths are not encoded; one that begins with `/` is the same without it. */
export class WebdavClient implements RemoteFiles, Closable {
  readonly policy: Partial<RetryPolicy>
  readonly timeoutMs: number
  readonly #config: WebdavConfig
  readonly #http: HttpClient
  readonly #files: HttpFiles

  constructor(config: WebdavConfig) {
    const { maxListBytes: maxBodyBytes, attempts, retryBudgetMs, timeoutMs, ...shared } = config
    this.#config = config
    this.policy = { attempts, budgetMs: retryBudgetMs }
    this.timeoutMs = timeoutMs
    // One try: who lists and reads tries again.
    this.#http = new HttpClient(httpConfigSchema.parse({ ...shared, timeoutMs, maxBodyBytes, attempts: 1 }))
    this.#files = new HttpFiles(this.#http, encoded)
  }

  urlOf(path: string): string {
    return this.#files.urlOf(path)
  }

  /** Logs in, and looks whether this is WebDAV. */
  async connect(options?: CallOptions): Promise<void> {
    await this.stat('', options)
  }

  /** What stands in a folder. */
  async list(folder: string, options?: CallOptions): Promise<RemoteEntry[]> {
    const place = encoded(folder).replace(/\/?$/, '/')
    const { url, resources } = await this.#propfind(place, '1', options)
    const paths = resources.map(({ href }) => segments(url, href))
    // The folder itself, as the server calls it: behind another server its path may be another.
    const asked = segments(url, url)
    const own = paths.some((path) => isSame(path, asked)) ? asked : paths.toSorted((a, b) => a.length - b.length)[0]
    if (own === undefined) throw answerUnusable(url, 'it is empty')
    return resources.flatMap((resource, index) => {
      const path = paths[index] ?? []
      if (isSame(path, own)) return []
      const name = path.at(-1)
      if (name === undefined || !isSame(path.slice(0, -1), own)) {
        throw listTooOdd(url, resource.href)
      }
      return [entryOf(url, joinPath(folder, name), resource)]
    })
  }

  async stat(path: string, options?: CallOptions): Promise<RemoteEntry> {
    const { url, resources } = await this.#propfind(encoded(path), '0', options)
    const [resource] = resources
    if (resource === undefined || resources.length > 1) throw answerUnusable(url, `it tells of ${resources.length} resources`)
    return entryOf(url, path, resource)
  }

  /** The bytes of a file from `start` on (`Range`). */
  read(path: string, options?: ReadOptions): AsyncGenerator<Buffer, void, undefined> {
    return this.#files.read(path, options)
  }

  /** Reaches the server, asks what it can do, logs in, and looks into the folder. */
  check(options: CallOptions = {}): Promise<CheckResult> {
    return withDeadline(options, { prefix: 'WEBDAV', action: 'the check' }, ({ signal }) =>
      runCheck(
        this.urlOf(''),
        [
          ...reachSteps(this.#config, signal),
          {
            name: 'ask what it can do',
            run: async () => {
              const { headers } = await this.#http.requestRest({ method: 'OPTIONS', signal })
              const dav = headers['dav'] === undefined ? 'says nothing of WebDAV' : `WebDAV ${headers['dav']}`
              return [headers['server'], dav].filter((part) => part !== undefined).join(', ')
            },
          },
          {
            name: 'look into the folder',
            run: async () => {
              const entries = await this.list('', { signal })
              const began = performance.now()
              await this.stat('', { signal })
              return `${entries.length} entries, an answer takes ${(performance.now() - began).toFixed(1)} ms`
            },
          },
        ],
        signal,
      ),
    )
  }

  close(options?: CloseOptions): Promise<void> {
    return this.#http.close(options)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #propfind(path: string, depth: '0' | '1', options?: CallOptions): Promise<{ url: string; resources: Resource[] }> {
    const url = this.#http.urlOf(path)
    const headers = { depth, 'content-type': 'application/xml; charset=utf-8', accept: 'application/xml, text/xml' }
    const { status, bytes } = await this.#http
      .requestRest({ ...options, method: 'PROPFIND', path, headers, body: PROPFIND, idempotent: true })
      .catch((error: unknown) => {
        const said = HandlerError.is(error) ? error.context['status'] : undefined
        throw said === 405 || said === 501 ? notSpoken(url, String(said)) : error
      })
    if (status !== 207) throw notSpoken(url, String(status))
    try {
      return { url, resources: readMultistatus(bytes.toString()) }
    } catch (error) {
      throw answerUnusable(url, (error as Error).message, error)
    }
  }
}

const isSame = (one: readonly string[], other: readonly string[]): boolean =>
  one.length === other.length && one.every((name, index) => name === other[index])

/** A path of names as one of a URL. */
const encoded = (path: string): string => path.replace(/^\/+/, '').split('/').map(encodeURIComponent).join('/')

/** The names of a path, decoded, without the slash at its end. */
function segments(url: string, href: string): string[] {
  try {
    const { pathname } = new URL(href, url)
    return pathname.replace(/\/$/, '').split('/').map(decodeURIComponent)
  } catch (error) {
    throw answerUnusable(url, `${JSON.stringify(href)} is no path`, error)
  }
}

function entryOf(url: string, path: string, { status, isFolder, properties }: Resource): RemoteEntry {
  if (status !== undefined && !/^HTTP\/\S+ 2\d\d\b/.test(status)) throw answerUnusable(url, `${path}: ${status}`)
  const time = Date.parse(properties.get('getlastmodified') ?? '')
  const modifiedAt = Number.isNaN(time) ? undefined : new Date(time)
  if (isFolder) return { path, kind: 'folder', modifiedAt }
  const length = properties.get('getcontentlength') ?? ''
  const [etag, mediaType] = [properties.get('getetag'), properties.get('getcontenttype')?.split(';')[0]?.trim()]
  return {
    path,
    kind: 'file',
    size: /^\d+$/.test(length) ? Number(length) : undefined,
    modifiedAt,
    etag: etag === '' ? undefined : etag,
    mediaType: mediaType === '' ? undefined : mediaType,
  }
}
