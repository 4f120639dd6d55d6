import { parseRetryAfter, registerSecretValue } from '@common-handlers/core'
import { Agent, request } from 'undici'
import type { TrinoConfig } from './config.ts'
import { fromStatus, fromTransport } from './errors.ts'

export interface HttpReply {
  readonly status: number
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  readonly text: string
}

export interface HttpRequest {
  readonly method: 'GET' | 'POST' | 'DELETE'
  /** An address of the server, or a path on it. */
  readonly uri: string
  readonly signal?: AbortSignal | undefined
  readonly headers?: Readonly<Record<string, string>> | undefined
  readonly body?: string | undefined
  /** Statuses that are an answer and not an error. */
  readonly expected: readonly number[]
}

/** One exchange with the server over kept connections: no retry, no redirect, errors as handler errors. */
export class TrinoHttp {
  /** Scheme, host and port: for messages. */
  readonly target: string
  readonly #agent: Agent
  readonly #headers: Readonly<Record<string, string>>

  constructor(config: TrinoConfig) {
    this.target = new URL(config.url).origin
    this.#agent = new Agent({
      connections: config.connections,
      headersTimeout: config.requestTimeoutMs,
      bodyTimeout: config.requestTimeoutMs,
      connect: {
        timeout: config.connectTimeoutMs,
        rejectUnauthorized: config.tls.verify,
        ...(config.tls.caCert === undefined ? {} : { ca: config.tls.caCert }),
      },
    })
    this.#headers = { ...credentials(config), 'X-Trino-User': config.user, 'X-Trino-Source': config.source }
  }

  async send({ method, uri, signal, headers, body, expected }: HttpRequest): Promise<HttpReply> {
    let reply: HttpReply
    try {
      const answer = await request(this.#resolve(uri), {
        dispatcher: this.#agent,
        method,
        headers: { ...this.#headers, ...headers },
        ...(body === undefined ? {} : { body }),
        ...(signal === undefined ? {} : { signal }),
      })
      reply = { status: answer.statusCode, headers: answer.headers, text: await answer.body.text() }
    } catch (cause) {
      if (signal?.aborted === true) throw signal.reason
      throw fromTransport(cause, this.target)
    }
    if (expected.includes(reply.status)) return reply
    const retryAfter = reply.headers['retry-after']
    throw fromStatus(
      reply.status,
      reply.text,
      this.target,
      parseRetryAfter(Array.isArray(retryAfter) ? retryAfter[0] : retryAfter),
    )
  }

  /**
   * The server writes its own idea of its address into `nextUri`; behind a proxy that can be another host or scheme.
   * We ask where we were told to, so credentials go nowhere else.
   */
  #resolve(uri: string): string {
    const { pathname, search } = new URL(uri, this.target)
    return `${this.target}${pathname}${search}`
  }

  close(): Promise<void> {
    return this.#agent.destroy()
  }
}

function credentials({ user, password, token }: TrinoConfig): Record<string, string> {
  if (token !== undefined) return { Authorization: `Bearer ${token.expose()}` }
  if (password === undefined) return {}
  const pair = Buffer.from(`${user}:${password.expose()}`).toString('base64')
  // A proxy's error page may show the headers it was sent.
  registerSecretValue(pair)
  return { Authorization: `Basic ${pair}` }
}

/** Headers that say in which session a statement runs. */
export function sessionHeaders(config: TrinoConfig): Record<string, string> {
  const properties = Object.entries(config.sessionProperties).map(([name, value]) => `${name}=${encodeURIComponent(value)}`)
  return {
    // Without it, every time and timestamp is cut to milliseconds.
    'X-Trino-Client-Capabilities': 'PARAMETRIC_DATETIME',
    'X-Trino-Time-Zone': config.timeZone,
    'Content-Type': 'text/plain; charset=utf-8',
    ...(config.catalog === undefined ? {} : { 'X-Trino-Catalog': config.catalog }),
    ...(config.schema === undefined ? {} : { 'X-Trino-Schema': config.schema }),
    ...(properties.length === 0 ? {} : { 'X-Trino-Session': properties.join(',') }),
    ...(config.clientTags.length === 0 ? {} : { 'X-Trino-Client-Tags': config.clientTags.join(',') }),
  }
}
