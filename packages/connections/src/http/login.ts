import { Secret, withDeadline, untilAborted } from '@common-handlers/core'
import type { HttpConfig } from '../config.ts'
import { basicLogin } from './basic-login.ts'
import { answerUnusable, toStatusError } from './errors.ts'
import type { Transport } from './transport.ts'

/** A token is taken for ended so long before its time, for the request that is under way with it. */
const EARLY_MS = 30_000

/** What a request carries to log in, fetched where it must be. */
export interface Login {
  headers(signal: AbortSignal): Promise<Readonly<Record<string, string>>>
  /** The server refused these; true when others can be had. */
  refuse(headers: Readonly<Record<string, string>>): boolean
}

export function createLogin(config: HttpConfig, transport: Transport): Login {
  const { token, username, password, apiKey, apiKeyHeader, tokenUrl, clientId, clientSecret, scope } = config
  if (tokenUrl !== undefined && clientId !== undefined && clientSecret !== undefined) {
    return clientCredentials(transport, { url: new URL(tokenUrl), clientId, clientSecret, scope, timeoutMs: config.timeoutMs })
  }
  const headers = (): Readonly<Record<string, string>> => {
    if (token !== undefined) return { authorization: `Bearer ${token.expose()}` }
    if (username !== undefined) return { authorization: basicLogin(username, password?.expose() ?? '') }
    return apiKey === undefined ? {} : { [apiKeyHeader.toLowerCase()]: apiKey.expose() }
  }
  return { headers: async () => headers(), refuse: () => false }
}

interface Credentials {
  readonly url: URL
  readonly clientId: string
  readonly clientSecret: Secret
  readonly scope: string | undefined
  readonly timeoutMs: number
}

interface Token {
  readonly authorization: string
  readonly endsAt: number
}

/** OAuth 2 client credentials: one request for a token however many wait for it, and a new one before it ends or when it is refused. */
function clientCredentials(transport: Transport, { url, clientId, clientSecret, scope, timeoutMs }: Credentials): Login {
  let current: Token | undefined
  let pending: Promise<Token> | undefined

  async function exchange(signal: AbortSignal): Promise<Token> {
    const place = { method: 'POST', url }
    const form = new URLSearchParams({ grant_type: 'client_credentials', ...(scope === undefined ? {} : { scope }) })
    const answer = await transport.send({
      ...place,
      headers: {
        // RFC 6749 section 2.3.1: both parts are encoded as in a form first.
        authorization: basicLogin(formEncoded(clientId), formEncoded(clientSecret.expose())),
        'content-type': 'application/x-www-form-urlencoded',
        accept: 'application/json',
      },
      body: form.toString(),
      signal,
    })
    const text = answer.bytes.toString()
    if (answer.status !== 200) throw toStatusError(loginStatus(answer.status), place, answer.headers['retry-after'], reason(text))
    const said = parsed(text)
    const value = said['access_token']
    if (typeof value !== 'string' || value === '') throw answerUnusable(place, 'the answer holds no access_token')
    const seconds = Number(said['expires_in'] ?? 300)
    // Short lives are used for half of their time.
    const livesMs = Math.max(seconds * 500, seconds * 1000 - EARLY_MS)
    return { authorization: `Bearer ${new Secret(value).expose()}`, endsAt: performance.now() + livesMs }
  }

  return {
    async headers(signal) {
      if (current === undefined || performance.now() >= current.endsAt) {
        // Several wait for it: none of them ends it for the others.
        pending ??= withDeadline({ timeoutMs }, { prefix: 'HTTP', action: `POST ${url.href}` }, (deadline) =>
          exchange(deadline.signal),
        ).finally(() => (pending = undefined))
        pending.catch(() => undefined)
        current = await untilAborted(pending, signal)
      }
      return { authorization: current.authorization }
    },
    refuse(headers) {
      if (current?.authorization === headers['authorization']) current = undefined
      return true
    },
  }
}

const formEncoded = (text: string): string => new URLSearchParams([['', text]]).toString().slice(1)

/** RFC 6749 section 5.2: a client that is not accepted gets 400 or 401. */
const loginStatus = (status: number): number => (status === 400 ? 401 : status)

function parsed(text: string): Readonly<Record<string, unknown>> {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
  } catch {
    return {}
  }
}

/** The server's own reason, and nothing else of its answer. */
function reason(text: string): string {
  const { error, error_description: description } = parsed(text)
  return [error, description].filter((part) => typeof part === 'string').join(': ')
}
