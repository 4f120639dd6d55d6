import { Agent, request } from 'undici'
import { answerUnusable, toNetworkError } from './errors.ts'

export interface Sent {
  readonly url: URL
  readonly headers: Readonly<Record<string, string>>
  /** Absent for a GET. */
  readonly body?: string | undefined
  readonly signal: AbortSignal
  /** What is asked for, in messages. */
  readonly place: string
}

export interface Answer {
  readonly status: number
  readonly body: string
  readonly retryAfter: string | undefined
}

export interface Transport {
  send(sent: Sent): Promise<Answer>
  close(): Promise<void>
}

/** An answer is a page of rows: what is larger is none. */
const MAX_BODY_BYTES = 256 * 1024 * 1024

/** Requests, each sent once; no redirect is followed. */
export function createTransport(options: { readonly ca?: string | undefined; readonly timeoutMs: number }): Transport {
  const { ca, timeoutMs: timeout } = options
  const agent = new Agent({
    headersTimeout: timeout,
    bodyTimeout: timeout,
    connect: { timeout, ...(ca === undefined ? {} : { ca }) },
    maxResponseSize: MAX_BODY_BYTES,
  })
  return {
    async send({ url, headers, body, signal, place }) {
      try {
        const answer = await request(url, {
          dispatcher: agent,
          method: body === undefined ? 'GET' : 'POST',
          headers,
          signal,
          ...(body === undefined ? {} : { body }),
        })
        const retryAfter = answer.headers['retry-after']
        return { status: answer.statusCode, body: await answer.body.text(), retryAfter: retryAfter?.toString() }
      } catch (error) {
        signal.throwIfAborted()
        throw toNetworkError(error, place)
      }
    },
    close: () => agent.destroy(),
  }
}

export function parsed(body: string, place: string): Readonly<Record<string, unknown>> {
  try {
    const found: unknown = JSON.parse(body)
    if (typeof found === 'object' && found !== null) return found as Readonly<Record<string, unknown>>
  } catch {
    // It is said below.
  }
  throw answerUnusable(place, 'the answer is no JSON object')
}
