import { request as requestHttp } from 'node:http'
import { request as requestHttps } from 'node:https'
import type { SoapConfig } from './config.ts'
import { bodyTooLarge, placeOf, type SoapPlace, toNetworkError, toStatusError } from './errors.ts'

/** An envelope, or a description. */
export interface SoapAnswer {
  readonly status: number
  readonly text: string
}

export interface SoapRequest {
  readonly url: string
  /** Absent for a GET. */
  readonly body?: string | undefined
  readonly headers: Readonly<Record<string, string>>
  readonly operation?: string | undefined
  readonly signal: AbortSignal
}

/** Asks once, over a connection of its own; the login goes to the service and its description alone. */
export async function ask(config: SoapConfig, origins: ReadonlySet<string>, asked: SoapRequest): Promise<SoapAnswer> {
  const { url, body, operation, signal } = asked
  const place = placeOf(url, operation)
  const target = new URL(url)
  const authorization = origins.has(target.origin) ? basicLogin(config) : undefined
  const headers = {
    ...asked.headers,
    ...(body === undefined ? {} : { 'content-length': String(Buffer.byteLength(body)) }),
    ...(authorization === undefined ? {} : { authorization }),
  }
  signal.throwIfAborted()
  const { promise, resolve, reject } = Promise.withResolvers<SoapAnswer>()
  const send = target.protocol === 'https:' ? requestHttps : requestHttp
  const options = { method: body === undefined ? 'GET' : 'POST', headers, agent: false, signal, ...trust(config) }
  const request = send(target, options, (response) => {
    read(response, config.maxBodyBytes, place).then((text) => {
      const { statusCode: status = 0, headers: answered } = response
      // A fault comes with 500, from some with 400; so does a server that has failed before it got so far.
      const isFault =
        (status === 500 || status === 400) && /^(text|application)\/(soap\+)?xml\b/.test(answered['content-type'] ?? '')
      if ((status >= 200 && status < 300) || (isFault && body !== undefined)) resolve({ status, text })
      else reject(toStatusError(status, place, answered['retry-after']))
    }, reject)
  })
  request.on('error', reject)
  request.end(body)
  try {
    return await promise
  } catch (error) {
    request.destroy()
    signal.throwIfAborted()
    throw toNetworkError(error, place)
  }
}

const trust = ({ ca }: SoapConfig): { ca?: string } => (ca === undefined ? {} : { ca })

function basicLogin({ login, username, password }: SoapConfig): string | undefined {
  if (login !== 'basic' || username === undefined || password === undefined) return undefined
  return `Basic ${Buffer.from(`${username}:${password.expose()}`).toString('base64')}`
}

async function read(response: AsyncIterable<Buffer>, maxBodyBytes: number, place: SoapPlace): Promise<string> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of response) {
    bytes += chunk.length
    if (bytes > maxBodyBytes) throw bodyTooLarge(place, maxBodyBytes)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}
