import { createHash, timingSafeEqual } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { ConfigError, HandlerError, type Logger, type Outcome, silentLogger } from '@common-handlers/core'
import { type EventState, OutboxAdmin, type OutboxAdminOptions } from './admin.ts'
import { dashboardPage, dashboardScript, dashboardStyle } from './dashboard-page.ts'

export interface DashboardOptions extends OutboxAdminOptions {
  /**
   * Who has it may redrive, pause and resume: `Authorization: Bearer …`, 16 characters at least. Without one nobody may;
   * everybody who reaches the page may look, and payloads are not shown.
   */
  readonly token?: string | undefined
  /** Where the dashboard is on its server, with a slash at both ends. Default `/`. */
  readonly path?: string | undefined
  /** Default: silent. */
  readonly logger?: Logger | undefined
}

const MAX_BODY = 65_536
const FRESH_MS = 1000

const hash = (inline: string): string => `'sha256-${createHash('sha256').update(inline).digest('base64')}'`

const HEADERS = {
  'content-security-policy': [
    "default-src 'none'",
    `script-src ${hash(dashboardScript)}`,
    `style-src ${hash(dashboardStyle)}`,
    "connect-src 'self'",
    'img-src data:',
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
  ].join('; '),
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cross-origin-resource-policy': 'same-origin',
  'cache-control': 'no-store',
}

const STATUS: Partial<Record<Outcome, number>> = {
  config: 400,
  data: 400,
  auth: 401,
  permission: 403,
  'not-found': 404,
  conflict: 409,
}

/**
 * A page that shows an outbox and lets whoever has the token put things right: a listener for `node:http`.
 *
 * @example createServer(dashboard({ pool, token: process.env.OUTBOX_TOKEN })).listen(8080, '127.0.0.1')
 * @throws ConfigError `OUTBOX_CONFIG_INVALID`
 */
export function dashboard(options: DashboardOptions): (request: IncomingMessage, response: ServerResponse) => void {
  const { token, path = '/', logger = silentLogger, ...outbox } = options
  if (!path.startsWith('/') || !path.endsWith('/')) throw invalid('path begins and ends with a slash')
  if (token !== undefined && token.length < 16) throw invalid('token has 16 characters at least')
  const admin = new OutboxAdmin(outbox)
  const stats = new Shared(() => admin.stats())
  const blocked = new Shared(() => admin.blockedKeys())
  const reads: Readonly<Record<string, (query: URLSearchParams) => Promise<unknown>>> = {
    'api/stats': async () => ({ stats: await stats.get(), mayChange: token !== undefined }),
    'api/events': (query) =>
      admin.list({
        type: query.get('type') ?? undefined,
        state: (query.get('state') as EventState | null) ?? undefined,
        key: query.get('key') ?? undefined,
        limit: Number(query.get('limit') ?? 50),
        after: idOf(query.get('after') ?? '0'),
      }),
    'api/blocked-keys': () => blocked.get(),
  }
  const writes: Readonly<Record<string, (body: Body) => Promise<unknown>>> = {
    'api/redrive': (body) =>
      admin.redrive({
        type: text(body, 'type'),
        reason: text(body, 'reason'),
        ...(Array.isArray(body['ids']) ? { ids: body['ids'].map((id) => idOf(String(id))) } : {}),
        dryRun: body['dryRun'] !== false,
      }),
    'api/pause': async (body) => ({ changed: await admin.pause(text(body, 'type') ?? '') }),
    'api/resume': async (body) => ({ changed: await admin.resume(text(body, 'type') ?? '') }),
  }

  const answer = async (request: IncomingMessage): Promise<Answer> => {
    const { pathname, searchParams } = new URL(request.url ?? '/', 'http://outbox')
    if (`${pathname}/` === path && request.method === 'GET') return { status: 308, headers: { location: path } }
    if (!pathname.startsWith(path)) return json(404, { message: 'there is nothing here' })
    const place = pathname.slice(path.length)
    if (request.method === 'GET' || request.method === 'HEAD') {
      if (place === '') return { status: 200, headers: { 'content-type': 'text/html; charset=utf-8' }, body: dashboardPage }
      const read = Object.hasOwn(reads, place) ? reads[place] : undefined
      return read === undefined ? json(404, { message: 'there is nothing here' }) : json(200, await read(searchParams))
    }
    const write = request.method === 'POST' && Object.hasOwn(writes, place) ? writes[place] : undefined
    if (write === undefined) return json(405, { message: 'that cannot be done here' })
    if (token === undefined)
      return json(403, { code: 'OUTBOX_READ_ONLY', message: 'this dashboard has no token: it can only be looked at' })
    if (!carries(request, token))
      return { ...json(401, { code: 'OUTBOX_TOKEN_WRONG', message: 'the token is wrong' }), challenge: true }
    const body = await readBody(request)
    const result = await write(body)
    logger.info({ action: place, body }, 'changed from the dashboard')
    for (const shared of [stats, blocked]) shared.forget()
    return json(200, result)
  }

  return (request, response) => {
    void answer(request)
      .catch((error: unknown): Answer => {
        const { status, code, message } = described(error)
        if (status >= 500) logger.error({ err: error }, 'the dashboard could not answer')
        return json(status, { code, message })
      })
      .then(({ status, headers = {}, body = '', challenge }) => {
        response.writeHead(status, { ...HEADERS, ...headers, ...(challenge === true ? { 'www-authenticate': 'Bearer' } : {}) })
        response.end(request.method === 'HEAD' ? '' : body)
      })
  }
}

/** One answer for all who ask while it is on its way, and for a second after it. */
class Shared<T> {
  readonly #ask: () => Promise<T>
  #answer: Promise<T> | undefined

  constructor(ask: () => Promise<T>) {
    this.#ask = ask
  }

  get(): Promise<T> {
    if (this.#answer === undefined) {
      const answer = this.#ask()
      this.#answer = answer
      const forget = (): void => {
        if (this.#answer === answer) this.#answer = undefined
      }
      answer.then(() => setTimeout(forget, FRESH_MS).unref(), forget)
    }
    return this.#answer
  }

  forget(): void {
    this.#answer = undefined
  }
}

type Body = Readonly<Record<string, unknown>>

interface Answer {
  readonly status: number
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
  readonly challenge?: boolean
}

function json(status: number, value: unknown): Answer {
  const body = JSON.stringify(value, (_, one: unknown) => (typeof one === 'bigint' ? String(one) : one))
  return { status, headers: { 'content-type': 'application/json' }, body }
}

/** Takes as long for a token that is nearly right as for one that is not. */
function carries(request: IncomingMessage, token: string): boolean {
  const [, given = ''] = /^Bearer (.+)$/i.exec(request.headers.authorization ?? '') ?? []
  const digest = (value: string): Buffer => createHash('sha256').update(value).digest()
  return timingSafeEqual(digest(given), digest(token))
}

async function readBody(request: IncomingMessage): Promise<Body> {
  // What a page of somebody else's can send without being asked for leave is never JSON.
  if (!/^application\/json\b/.test(request.headers['content-type'] ?? '')) throw invalid('the body is application/json')
  const parts: Buffer[] = []
  let size = 0
  for await (const part of request as AsyncIterable<Buffer>) {
    size += part.length
    if (size > MAX_BODY) throw invalid(`the body has ${MAX_BODY} bytes at most`)
    parts.push(part)
  }
  let body: unknown
  try {
    body = JSON.parse(Buffer.concat(parts).toString('utf8'))
  } catch {
    throw invalid('the body is not JSON')
  }
  if (typeof body !== 'object' || body === null || Array.isArray(body)) throw invalid('the body is an object')
  return body as Body
}

function text(body: Body, key: string): string | undefined {
  const value = body[key]
  if (value === undefined) return undefined
  if (typeof value !== 'string' || value === '') throw invalid(`${key} is a text`)
  return value
}

function idOf(value: string): bigint {
  if (!/^\d{1,18}$/.test(value)) throw invalid('an id is a number')
  return BigInt(value)
}

/** What is told of an error: what was asked wrongly, and of all else that it happened. */
function described(error: unknown): { readonly status: number; readonly code: string; readonly message: string } {
  const known = HandlerError.is(error)
  const status = known ? (STATUS[error.outcome] ?? 503) : 500
  const code = known ? error.code : 'OUTBOX_FAILED'
  return { status, code, message: known && status < 500 ? error.message : 'the database did not answer; the log says why' }
}

function invalid(message: string): ConfigError {
  return new ConfigError(message, { code: 'OUTBOX_CONFIG_INVALID' })
}
