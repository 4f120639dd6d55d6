import { untilAborted } from '@common-handlers/core'
import { Agent, type Dispatcher, EnvHttpProxyAgent, ProxyAgent, request } from 'undici'
import type { HttpConfig } from '../config.ts'
import { ACCEPTED_ENCODINGS, decode, isDecoderError } from '../content-encoding.ts'
import { basicLogin } from './basic-login.ts'
import { answerUnusable, bodyTooLarge, type HttpPlace, toHttpError } from './errors.ts'

/** One request; nothing is repeated and no redirect followed. */
export interface TransportRequest extends HttpPlace {
  readonly headers: Readonly<Record<string, string>>
  readonly body?: string | Uint8Array | undefined
  readonly signal: AbortSignal
}

/** Up to so much is read of what nobody wants, to keep the connection. */
const DISCARDED_BYTES = 16 * 1024

interface Head {
  readonly status: number
  /** By name in lower case; several of one name joined by a comma. */
  readonly headers: Readonly<Record<string, string>>
}

export interface TransportAnswer extends Head {
  readonly bytes: Buffer
}

export interface TransportStream extends Head {
  /** As it comes over the wire. Leaving the loop ends the connection. */
  readonly body: AsyncIterable<Buffer>
  /** Without reading it. */
  discard(): void
}

export interface Transport {
  /** The answer whole, decoded, up to `maxBodyBytes`. */
  send(request: TransportRequest): Promise<TransportAnswer>
  open(request: TransportRequest): Promise<TransportStream>
  close(): Promise<void>
}

export function createTransport(config: HttpConfig): Transport {
  const { maxBodyBytes } = config
  const dispatcher = createDispatcher(config)
  const open = async (sent: TransportRequest): Promise<TransportStream> => {
    const mapped = (error: unknown): unknown => {
      sent.signal.throwIfAborted()
      return toHttpError(error, sent)
    }
    try {
      const answer = request(sent.url, {
        dispatcher,
        method: sent.method,
        headers: { 'accept-encoding': ACCEPTED_ENCODINGS, ...sent.headers },
        signal: sent.signal,
        ...(sent.body === undefined ? {} : { body: sent.body }),
      })
      // The driver does not end a request whose connection is being made: a server that is silent to a handshake would hold it.
      // An answer that came when nobody waited for it any more must have somebody who hears of its end.
      answer.then(({ body }) => body.on('error', () => undefined)).catch(() => undefined)
      const { statusCode, headers, body } = await untilAborted(answer, sent.signal)
      return {
        status: statusCode,
        headers: joined(headers),
        body: mappedBody(body, mapped),
        discard: () => void body.dump({ limit: DISCARDED_BYTES }).catch(() => undefined),
      }
    } catch (error) {
      throw mapped(error)
    }
  }
  return {
    open,
    async send(sent) {
      const { status, headers, body } = await open(sent)
      const encoded = await gathered(body, sent, maxBodyBytes)
      const encoding = headers['content-encoding'] ?? ''
      // Nothing is no encoded nothing: the answer to HEAD, 204, 304.
      const content = encoded.byteLength === 0 ? toChunks(encoded) : decode(toChunks(encoded), encoding)
      if (content === undefined) throw answerUnusable(sent, `the answer is encoded as "${encoding}", which was not asked for`)
      try {
        return { status, headers, bytes: await gathered(content, sent, maxBodyBytes) }
      } catch (error) {
        throw isDecoderError(error) ? answerUnusable(sent, `the answer is not the ${encoding} it says it is`, error) : error
      }
    },
    // Who calls this has waited for all requests; closing would wait for a handshake, too, that nobody waits for any more.
    close: () => dispatcher.destroy(),
  }
}

function createDispatcher({ ca, timeoutMs, proxyUrl, proxyUsername, proxyPassword }: HttpConfig): Dispatcher {
  const connect = { timeout: timeoutMs, ...(ca === undefined ? {} : { ca }) }
  // What is not TLS is asked for in clear, as proxies expect it: a tunnel to port 80 is often refused.
  const options = { headersTimeout: timeoutMs, bodyTimeout: timeoutMs, connect, requestTls: connect, proxyTunnel: false }
  if (proxyUrl === undefined) return new Agent(options)
  if (proxyUrl === 'environment') return new EnvHttpProxyAgent(options)
  const login = proxyUsername === undefined ? undefined : basicLogin(proxyUsername, proxyPassword?.expose() ?? '')
  return new ProxyAgent({ ...options, uri: proxyUrl, proxyTls: connect, ...(login === undefined ? {} : { token: login }) })
}

async function* mappedBody(body: AsyncIterable<Buffer>, mapped: (error: unknown) => unknown): AsyncGenerator<Buffer> {
  try {
    yield* body
  } catch (error) {
    throw mapped(error)
  }
}

async function gathered(body: AsyncIterable<Uint8Array>, place: HttpPlace, maxBodyBytes: number): Promise<Buffer> {
  const chunks: Uint8Array[] = []
  let length = 0
  for await (const chunk of body) {
    length += chunk.byteLength
    if (length > maxBodyBytes) throw bodyTooLarge(place, maxBodyBytes)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

async function* toChunks(bytes: Buffer): AsyncGenerator<Buffer> {
  yield bytes
}

function joined(headers: Readonly<Record<string, string | string[] | undefined>>): Record<string, string> {
  const entries = Object.entries(headers).filter(([, value]) => value !== undefined)
  return Object.fromEntries(entries.map(([name, value]) => [name.toLowerCase(), String(value)]))
}
