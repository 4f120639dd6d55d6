import { Agent, request } from 'undici'
import { bodyTooLarge, type HttpPlace, toHttpError } from './errors.ts'

/** One request; nothing is repeated and no redirect followed. */
export interface TransportRequest extends HttpPlace {
  readonly headers: Readonly<Record<string, string>>
  readonly body?: string | Uint8Array | undefined
  readonly signal: AbortSignal
}

export interface TransportAnswer {
  readonly status: number
  /** By name in lower case; several of one name joined by a comma. */
  readonly headers: Readonly<Record<string, string>>
  readonly bytes: Buffer
}

export interface Transport {
  send(request: TransportRequest): Promise<TransportAnswer>
  close(): Promise<void>
}

export interface TransportOptions {
  readonly ca?: string | undefined
  readonly timeoutMs: number
  readonly maxBodyBytes: number
}

export function createTransport({ ca, timeoutMs, maxBodyBytes }: TransportOptions): Transport {
  const agent = new Agent({
    headersTimeout: timeoutMs,
    bodyTimeout: timeoutMs,
    connect: { timeout: timeoutMs, ...(ca === undefined ? {} : { ca }) },
  })
  return {
    async send(sent) {
      try {
        const { statusCode, headers, body } = await request(sent.url, {
          dispatcher: agent,
          method: sent.method,
          headers: { 'accept-encoding': 'identity', ...sent.headers },
          signal: sent.signal,
          ...(sent.body === undefined ? {} : { body: sent.body }),
        })
        const chunks: Buffer[] = []
        let length = 0
        for await (const chunk of body as AsyncIterable<Buffer>) {
          length += chunk.byteLength
          if (length > maxBodyBytes) throw bodyTooLarge(sent, maxBodyBytes)
          chunks.push(chunk)
        }
        return { status: statusCode, headers: joined(headers), bytes: Buffer.concat(chunks) }
      } catch (error) {
        sent.signal.throwIfAborted()
        throw toHttpError(error, sent)
      }
    },
    close: () => agent.close(),
  }
}

function joined(headers: Readonly<Record<string, string | string[] | undefined>>): Record<string, string> {
  const entries = Object.entries(headers).filter(([, value]) => value !== undefined)
  return Object.fromEntries(entries.map(([name, value]) => [name.toLowerCase(), String(value)]))
}
