import { type CallOptions, type Closable, type CloseOptions, Lifecycle, retry, sleep, withDeadline } from '@common-handlers/core'
import type { HttpConfig } from '../config.ts'
import { parseExactJson } from '../ingestion.ts'
import { answerUnusable, redirectRefused, toStatusError } from './errors.ts'
import { createLogin, type Login } from './login.ts'
import { createTransport, type Transport, type TransportAnswer } from './transport.ts'

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
  /** As it was received. */
  readonly bytes: Buffer
  /** JSON parsed, with integers past 2^53 as bigint; text as a string; anything else as bytes; undefined where there is none. */
  readonly body: unknown
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

  close(options?: CloseOptions): Promise<void> {
    return this.#life.close(options)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #retry<T>(signal: AbortSignal, idempotent: boolean, work: () => Promise<T>): Promise<T> {
    const { attempts, retryBudgetMs: budgetMs } = this.#config
    return retry(work, { policy: { attempts, budgetMs }, signal, idempotent })
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
      const first = await this.#follow(sent, deadline.signal)
      // A token that has ended meanwhile is not the caller's mistake.
      const { answer, at } = first.refused ? await this.#follow(sent, deadline.signal) : first
      const ok = (answer.status >= 200 && answer.status < 300) || (answer.status === 304 && sent.hasEtag)
      if (!ok) throw toStatusError(answer.status, { method, url: at }, answer.headers['retry-after'], saidIn(answer))
      return toResponse(answer, method, at)
    })
  }

  /** Sends it and follows redirects of reads: within the host of `baseUrl` with all headers, to another with none of ours. */
  async #follow(sent: Sent, signal: AbortSignal): Promise<{ answer: TransportAnswer; at: URL; refused: boolean }> {
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
          : { accept: sent.headers['accept'] ?? '*/*' }
      const answer = await this.#transport.send({ method, url: at, headers, body, signal })
      const place = { method, url: at }
      const location = answer.headers['location']
      if (![301, 302, 303, 307, 308].includes(answer.status) || location === undefined) {
        return { answer, at, refused: answer.status === 401 && ours && this.#login.refuse(login) }
      }
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

const lowerCase = (headers: Readonly<Record<string, string>>): Record<string, string> =>
  Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]))

const mediaTypeOf = ({ headers }: TransportAnswer): string =>
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
