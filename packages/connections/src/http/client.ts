import {
  type CallOptions,
  type Closable,
  type CloseOptions,
  Lifecycle,
  retry,
  type RetryPolicy,
  sleep,
  withDeadline,
} from '@common-handlers/core'
import type { HttpConfig } from '../config.ts'
import { parseExactJson } from '../ingestion.ts'
import { answerUnusable, redirectRefused, toStatusError } from './errors.ts'
import { createLogin, type Login } from './login.ts'
import {
  createTransport,
  type Transport,
  type TransportAnswer,
  type TransportRequest,
  type TransportStream,
} from './transport.ts'

export interface RestRequest extends CallOptions {
  /** Default GET. */
  readonly method?: string | undefined
  /** Added to `baseUrl`; or a whole URL, which gets the login only where its scheme, host and port are those of `baseUrl`. */
  readonly path?: string | undefined
  readonly query?: Readonly<Record<string, string | number | bigint | boolean | undefined>> | undefined
  readonly headers?: Readonly<Record<string, string>> | undefined
  /** Bytes and texts go as they are, anything else as JSON. */
  readonly body?: unknown
  /** Asks for it only if it has changed (`If-None-Match`): the answer may be 304 without a body. */
  readonly etag?: string | undefined
  /** True when doing it twice is the same as doing it once. Default: true for GET, HEAD, OPTIONS, PUT and DELETE (RFC 9110 section 9.2.2). */
  readonly idempotent?: boolean | undefined
}

export interface RestResponse {
  /** 2xx, or 304 where an `etag` was given. */
  readonly status: number
  /** By name in lower case. */
  readonly headers: Readonly<Record<string, string>>
  /** After redirects. */
  readonly url: string
  readonly mediaType: string
  readonly etag: string | undefined
  /** As it was received, without its content encoding. */
  readonly bytes: Buffer
  /** JSON parsed, with integers past 2^53 as bigint; text as a string; anything else as bytes; undefined where there is none. */
  readonly body: unknown
}

/** An answer whose body is still to come. */
export interface RestStream extends Pick<RestResponse, 'status' | 'headers' | 'url' | 'mediaType' | 'etag'> {
  /** As it comes over the wire: `content-encoding` in the headers says how it is encoded. Leaving the loop lets go of it. */
  readonly body: AsyncIterable<Buffer>
  /** For one that is not read. */
  discard(): void
}

const idempotentMethods = new Set(['GET', 'HEAD', 'OPTIONS', 'PUT', 'DELETE'])
const MAX_REDIRECTS = 5

/** Requests to one API: login, rate limit, retry, JSON. */
export class HttpClient implements Closable {
  readonly #config: HttpConfig
  readonly #base: URL
  readonly #transport: Transport
  readonly #login: Login
  readonly #life: Lifecycle
  #nextStart = 0

  constructor(config: HttpConfig) {
    this.#config = config
    this.#base = new URL(config.baseUrl)
    this.#transport = createTransport(config)
    this.#login = createLogin(config, this.#transport)
    this.#life = new Lifecycle('HttpClient', 'HTTP', () => this.#transport.close())
  }

  /** How often and how long requests are tried. */
  get policy(): Partial<RetryPolicy> {
    return { attempts: this.#config.attempts, budgetMs: this.#config.retryBudgetMs }
  }

  /** The limit of one try, in milliseconds. */
  get timeoutMs(): number {
    return this.#config.timeoutMs
  }

  /** Logs in where that takes a request of its own (OAuth 2). */
  login(options?: CallOptions): Promise<void> {
    return this.#life.run(options?.signal, (signal) =>
      this.#retry(signal, true, async () => {
        await withDeadline({ ...options, signal }, this.#limits('logging in'), (deadline) => this.#login.headers(deadline.signal))
      }),
    )
  }

  /** Sends a request and reads the answer; tries again what may be repeated, no sooner than the server asks for. */
  requestRest(request: RestRequest = {}): Promise<RestResponse> {
    const { method = 'GET', query, headers = {}, body, etag, signal: callers, timeoutMs } = request
    const url = this.#url(request.path ?? '')
    for (const [name, value] of Object.entries(query ?? {})) if (value !== undefined) url.searchParams.set(name, String(value))
    const raw = typeof body === 'string' || body instanceof Uint8Array
    const own: Record<string, string> = {
      accept: 'application/json, */*;q=0.5',
      ...(body === undefined || raw ? {} : { 'content-type': 'application/json' }),
      ...(etag === undefined ? {} : { 'if-none-match': etag }),
      ...lowerCase(headers),
    }
    const sent = {
      method,
      url,
      headers: own,
      body: body === undefined || raw ? body : JSON.stringify(body),
      hasEtag: etag !== undefined,
    }
    return this.#life.run(callers, (signal) =>
      withDeadline({ signal, timeoutMs }, { prefix: 'HTTP', action: `${method} ${url.origin}${url.pathname}` }, (deadline) =>
        this.#retry(deadline.signal, request.idempotent ?? idempotentMethods.has(method), () => this.#try(sent, deadline.signal)),
      ),
    )
  }

  /**
   * Sends a request once, and gives the body as it comes, of any length. Without a header that says otherwise the body is
   * asked for as it is. The signal ends the body, too; a limit of time is that of the headers.
   */
  async requestStream(
    request: Pick<RestRequest, 'method' | 'path' | 'headers' | 'signal' | 'timeoutMs'> = {},
  ): Promise<RestStream> {
    const { method = 'GET', headers = {}, signal: callers, timeoutMs } = request
    const url = this.#url(request.path ?? '')
    const leave = this.#life.hold()
    const signal = callers === undefined ? this.#life.signal : AbortSignal.any([callers, this.#life.signal])
    const sent: Sent = {
      method,
      url,
      headers: { accept: '*/*', 'accept-encoding': 'identity', ...lowerCase(headers) },
      body: undefined,
      hasEtag: false,
    }
    const abort = new AbortController()
    const end = (): void => {
      abort.abort(new Error('nobody waits for the answer'))
      leave()
    }
    try {
      const { answer, at } = await withDeadline(
        { signal, timeoutMs },
        this.#limits(`${method} ${url.origin}${url.pathname}`),
        (deadline) =>
          this.#authorized(sent, deadline.signal, (one) =>
            this.#transport.open({ ...one, signal: AbortSignal.any([deadline.signal, abort.signal]) }),
          ),
      )
      if (answer.status < 200 || answer.status >= 300) {
        answer.discard()
        throw toStatusError(answer.status, { method, url: at }, answer.headers['retry-after'], '')
      }
      const { status, headers: had } = answer
      const discard = (): void => {
        answer.discard()
        leave()
      }
      return {
        status,
        headers: had,
        url: at.href,
        mediaType: mediaTypeOf(answer),
        etag: had['etag'],
        body: leaving(answer.body, leave),
        discard,
      }
    } catch (error) {
      end()
      throw error
    }
  }

  /** Where a path leads, without its query: keys and tokens may stand there. */
  urlOf(path: string): string {
    const { origin, pathname } = this.#url(path)
    return `${origin}${pathname}`
  }

  /** The names of a path below `baseUrl`, decoded; of another host, behind its name. */
  nameOf(path: string): string {
    const { origin, host, pathname } = this.#url(path)
    const [base, isOurs] = [this.#base.pathname.replace(/\/$/, ''), origin === this.#base.origin]
    const below = isOurs && pathname.startsWith(`${base}/`) ? pathname.slice(base.length) : pathname
    const name = isOurs ? below.slice(1) : `${host}${below}`
    try {
      return decodeURIComponent(name)
    } catch {
      // A "%" that encodes nothing.
      return name
    }
  }

  close(options?: CloseOptions): Promise<void> {
    return this.#life.close(options)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #retry<T>(signal: AbortSignal, idempotent: boolean, work: () => Promise<T>): Promise<T> {
    return retry(work, { policy: this.policy, signal, idempotent })
  }

  #limits(action: string): { prefix: string; action: string; defaultMs: number } {
    return { prefix: 'HTTP', action, defaultMs: this.#config.timeoutMs }
  }

  #url(path: string): URL {
    if (/^https?:\/\//i.test(path)) return new URL(path)
    return new URL(path === '' ? this.#base.href : `${this.#base.href.replace(/\/$/, '')}/${path.replace(/^\//, '')}`)
  }

  #try(sent: Sent, signal: AbortSignal): Promise<RestResponse> {
    const { method, url } = sent
    return withDeadline({ signal }, this.#limits(`${method} ${url.origin}${url.pathname}`), async (deadline) => {
      const { answer, at } = await this.#authorized(sent, deadline.signal, (one) => this.#transport.send(one))
      const ok = (answer.status >= 200 && answer.status < 300) || (answer.status === 304 && sent.hasEtag)
      if (!ok) throw toStatusError(answer.status, { method, url: at }, answer.headers['retry-after'], saidIn(answer))
      return toResponse(answer, method, at)
    })
  }

  /** Sends it, and once more with a new token where that helps: one that has ended meanwhile is not the caller's mistake. */
  async #authorized<Answer extends Head>(sent: Sent, signal: AbortSignal, send: Send<Answer>): Promise<Followed<Answer>> {
    const first = await this.#follow(sent, signal, send)
    if (!first.refused) return first
    first.answer.discard?.()
    return await this.#follow(sent, signal, send)
  }

  /** Sends it and follows redirects of reads: within the host of `baseUrl` with all headers, to another with none of ours. */
  async #follow<Answer extends Head>(sent: Sent, signal: AbortSignal, send: Send<Answer>): Promise<Followed<Answer>> {
    const { method, body } = sent
    let at = sent.url
    for (let hop = 0; ; hop++) {
      await this.#slot(signal)
      const ours = at.origin === this.#base.origin
      const login = ours ? await this.#login.headers(signal) : {}
      const headers = ours
        ? { ...lowerCase(this.#config.headers), ...sent.headers, ...login }
        : at.origin === sent.url.origin
          ? sent.headers
          : only(sent.headers, ['accept', 'accept-encoding', 'range', 'if-range'])
      const answer = await send({ method, url: at, headers, body, signal })
      const place = { method, url: at }
      const location = answer.headers['location']
      if (![301, 302, 303, 307, 308].includes(answer.status) || location === undefined) {
        return { answer, at, refused: answer.status === 401 && ours && this.#login.refuse(login) }
      }
      answer.discard?.()
      if (method !== 'GET' && method !== 'HEAD') throw redirectRefused(place, `${method}, which is not sent again elsewhere`)
      if (hop >= MAX_REDIRECTS) throw redirectRefused(place, `more than ${MAX_REDIRECTS} times`)
      if (!URL.canParse(location, at.href)) throw redirectRefused(place, 'to what is no URL')
      const next = new URL(location, at)
      if (!/^https?:$/.test(next.protocol) || (at.protocol === 'https:' && next.protocol === 'http:')) {
        throw redirectRefused(place, `to ${next.protocol}//, which is not followed from ${at.protocol}//`)
      }
      at = next
    }
  }

  /** Waits for the turn that `requestsPerSecond` allows. */
  async #slot(signal: AbortSignal): Promise<void> {
    const { requestsPerSecond } = this.#config
    if (requestsPerSecond === undefined) return
    const now = performance.now()
    const start = Math.max(now, this.#nextStart)
    this.#nextStart = start + 1000 / requestsPerSecond
    await sleep(start - now, signal)
  }
}

interface Sent {
  readonly method: string
  readonly url: URL
  readonly headers: Readonly<Record<string, string>>
  readonly body: string | Uint8Array | undefined
  readonly hasEtag: boolean
}

type Head = Pick<TransportAnswer, 'status' | 'headers'> & Partial<Pick<TransportStream, 'discard'>>
type Send<Answer> = (request: TransportRequest) => Promise<Answer>

interface Followed<Answer> {
  readonly answer: Answer
  /** After redirects. */
  readonly at: URL
  /** The login was, and another can be had. */
  readonly refused: boolean
}

async function* leaving(body: AsyncIterable<Buffer>, leave: () => void): AsyncGenerator<Buffer, void, undefined> {
  try {
    yield* body
  } finally {
    leave()
  }
}

const only = (headers: Readonly<Record<string, string>>, names: readonly string[]): Record<string, string> =>
  Object.fromEntries(Object.entries(headers).filter(([name]) => names.includes(name)))

const lowerCase = (headers: Readonly<Record<string, string>>): Record<string, string> =>
  Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]))

const mediaTypeOf = ({ headers }: Head): string =>
  headers['content-type']?.split(';')[0]?.trim().toLowerCase() ?? 'application/octet-stream'

const isText = (mediaType: string): boolean => /^text\/|[+/](json|xml|csv|x-ndjson)$/.test(mediaType)

const saidIn = (answer: TransportAnswer): string => (isText(mediaTypeOf(answer)) ? answer.bytes.toString() : '')

function toResponse(answer: TransportAnswer, method: string, url: URL): RestResponse {
  const mediaType = mediaTypeOf(answer)
  const { status, headers, bytes } = answer
  let body: unknown
  if (bytes.byteLength > 0) {
    body = isText(mediaType) ? bytes.toString() : bytes
    if (/[+/]json$/.test(mediaType)) {
      try {
        body = parseExactJson(String(body))
      } catch (cause) {
        throw answerUnusable({ method, url }, 'the answer is not the JSON it says it is', cause)
      }
    }
  }
  return { status, headers, url: url.href, mediaType, etag: headers['etag'], bytes, body }
}
