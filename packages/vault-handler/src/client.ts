import { type RetryPolicy, type Logger, retry, type Secret, withDeadline } from '@common-handlers/core'
import type { client as NodeVault } from 'node-vault'
import type { VaultConfig } from './config.ts'
import { type RequestFacts, toAnswerError, toTransportError, unreadableAnswer } from './errors.ts'
import { parseExact, writeExact } from './exact-json.ts'
import { createRateLimit, type Turn } from './rate-limit.ts'
import { encodePath } from './secret-path.ts'
import type { HttpTransport } from './transport.ts'

/** One request to the API, below `/v1/`. */
export interface ApiRequest {
  readonly method: string
  /** Plain: `secret/data/my app`. */
  readonly path: string
  readonly query?: Readonly<Record<string, string>> | undefined
  readonly body?: unknown
  readonly headers?: Readonly<Record<string, string>> | undefined
  readonly token?: Secret | undefined
  /** False for the few paths that live in the root namespace only. Default true. */
  readonly inNamespace?: boolean | undefined
  /** May it be done twice? */
  readonly idempotent: boolean
  /** Overrides the policy of the handler. */
  readonly policy?: Partial<RetryPolicy> | undefined
}

/** What travels through node-vault to the HTTP layer beneath it. */
interface LayerOptions {
  readonly method: string
  readonly path: string
  readonly uri: string
  readonly headers: Readonly<Record<string, string>>
  readonly json?: unknown
  readonly facts: RequestFacts
  readonly signal: AbortSignal
}

interface LayerAnswer {
  readonly statusCode: number
  readonly body: unknown
  readonly request: { readonly path: string }
}

interface Loaded {
  readonly driver: NodeVault
  readonly transport: HttpTransport
}

const silent = (): void => undefined

/**
 * node-vault with an HTTP layer of ours beneath it: node:http with time-outs and TLS settings, every error mapped, core's
 * retry. Its own logging (`DEBUG=node-vault` prints secrets), environment and renewal timers are switched off.
 */
export class VaultClient {
  /** The server, as it was given; it holds no secret. */
  readonly address: string
  readonly #config: VaultConfig
  readonly #logger: Logger
  readonly #turn: Turn
  #loaded: Promise<Loaded> | undefined

  constructor(config: VaultConfig, logger: Logger) {
    this.address = config.address
    this.#config = config
    this.#logger = logger
    this.#turn = createRateLimit(config.rateLimit)
  }

  /** The body of the answer; undefined for an empty one. */
  async send(request: ApiRequest, signal: AbortSignal): Promise<unknown> {
    const facts: RequestFacts = {
      method: request.method,
      path: request.path.replace(/^\/+|\/+$/g, ''),
      namespace: request.inNamespace === false ? undefined : this.#config.namespace,
      list: request.query?.['list'] === 'true',
      sent: request.body,
    }
    const query = new URLSearchParams(request.query).toString()
    const path = `/${encodePath(request.path)}${query === '' ? '' : `?${query}`}`
    const headers = {
      // Asks an agent or proxy on the way to let the request through (its `require_request_header`).
      'X-Vault-Request': 'true',
      ...(request.token === undefined ? {} : { 'X-Vault-Token': request.token.expose() }),
      ...(facts.namespace === undefined ? {} : { 'X-Vault-Namespace': facts.namespace }),
      ...request.headers,
    }
    const { driver } = await this.#load()
    const attempt = (): Promise<unknown> =>
      withDeadline(
        { signal, timeoutMs: this.#config.timeoutMs },
        { prefix: 'VAULT', action: `${facts.method} ${facts.path}` },
        (deadline) => {
          const options = { method: request.method, path, headers: { ...headers }, facts, signal: deadline.signal }
          return driver.request(request.body === undefined ? options : { ...options, json: request.body })
        },
      )
    return retry(
      async () => {
        await this.#turn(signal)
        return attempt()
      },
      {
        policy: { ...this.#config.retry, ...request.policy },
        signal,
        idempotent: request.idempotent,
        onRetry: (error, next) => {
          this.#logger.debug({ code: error.code, path: facts.path, ...next }, 'vault request is tried again')
        },
      },
    )
  }

  async close(): Promise<void> {
    // What could not be loaded was told to the call that needed it.
    const loaded = await this.#loaded?.catch(() => undefined)
    loaded?.transport.close()
  }

  /** Driver and HTTP are loaded with the first request, so that importing this package costs little. */
  #load(): Promise<Loaded> {
    return (this.#loaded ??= Promise.all([import('node-vault'), import('./transport.ts')]).then(
      ([{ default: create }, { HttpTransport }]) => {
        const url = new URL(this.address)
        const isSocket = url.protocol === 'unix:'
        const transport = new HttpTransport(this.#config.tls, {
          socketPath: isSocket ? decodeURIComponent(url.pathname) : undefined,
          proxy: this.#config.proxy,
        })
        const driver = create({
          endpoint: isSocket ? 'http://localhost' : url.href.replace(/\/$/, ''),
          debug: silent,
          'request-promise': { defaults: () => (options: LayerOptions) => this.#exchange(transport, options) },
        })
        // Where an option is missing the driver takes VAULT_TOKEN, VAULT_NAMESPACE and VAULT_PREFIX from the environment.
        return { driver: Object.assign(driver, { token: '', namespace: '', pathPrefix: '' }), transport }
      },
    ))
  }

  async #exchange(transport: HttpTransport, options: LayerOptions): Promise<LayerAnswer> {
    const { facts, signal } = options
    const body = options.json === undefined ? undefined : writeExact(options.json)
    const type = options.method === 'PATCH' ? 'application/merge-patch+json' : 'application/json'
    const headers = { ...(body === undefined ? {} : { 'content-type': type }), ...options.headers }
    const send = async (url: URL): ReturnType<HttpTransport['send']> => {
      try {
        return await transport.send({ method: options.method, url, headers, body, signal })
      } catch (cause) {
        signal.throwIfAborted()
        throw toTransportError(facts, this.address, cause)
      }
    }
    let answer = await send(new URL(options.uri))
    const next = redirection(answer.status, answer.headers.location, options.uri)
    if (next !== undefined) answer = await send(next)
    const parsed = parseAnswer(answer.text)
    const { status } = answer
    if ((status < 200 || status > 299) && !holdsBatch(parsed?.value)) {
      // An answer that is not JSON is still an answer: a proxy's 502 comes as a page.
      throw toAnswerError(facts, { status, body: parsed?.value, retryAfter: answer.headers['retry-after'] })
    }
    if (parsed === undefined) throw unreadableAnswer(facts, status, answer.headers['content-type'])
    // The driver knows 200 and 204 as the only good ones.
    return { statusCode: 200, body: parsed.value, request: { path: options.path } }
  }
}

/** A standby sends the caller to the active node, once; never from TLS to plain text, as in the Go client. */
function redirection(status: number, location: string | undefined, from: string): URL | undefined {
  if (![301, 302, 307, 308].includes(status) || location === undefined) return undefined
  const url = URL.parse(location, from)
  if (url === null || !/^https?:$/.test(url.protocol)) return undefined
  return from.startsWith('https:') && url.protocol === 'http:' ? undefined : url
}

/** Undefined for what is not JSON; an empty answer is a value that is undefined. */
function parseAnswer(text: string): { readonly value: unknown } | undefined {
  if (text.trim() === '') return { value: undefined }
  try {
    return { value: parseExact(text) }
  } catch {
    return undefined
  }
}

/** The transit engine answers a batch with status 400 where one item is bad; the results of all are in it nevertheless. */
function holdsBatch(answer: unknown): boolean {
  const { data } = (answer ?? {}) as { readonly data?: { readonly batch_results?: unknown } | null }
  return Array.isArray(data?.batch_results)
}
