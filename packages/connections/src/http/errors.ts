import {
  AuthError,
  CapacityError,
  ConflictError,
  ConnectionError,
  DataError,
  HandlerError,
  type HandlerErrorOptions,
  NotFoundError,
  OperationTimeoutError,
  parseRetryAfter,
  PermissionError,
  RemoteError,
} from '@common-handlers/core'

type Build = (message: string, options: HandlerErrorOptions & { readonly serverCode: string }) => HandlerError

const auth: Build = (message, options) => new AuthError(message, options)
const forbidden: Build = (message, options) => new PermissionError(message, options)
const missing: Build = (message, options) => new NotFoundError(message, options)
const conflict: Build = (message, options) => new ConflictError(message, options)
const capacity: Build = (message, options) => new CapacityError(message, options)
const timeout: Build = (message, options) => new OperationTimeoutError(message, options)
const remote: Build = (message, options) => new RemoteError(message, options)

interface Rule {
  readonly statuses: readonly number[]
  readonly code: string
  readonly retry?: HandlerErrorOptions['retry']
  readonly build: Build
}

const rules: readonly Rule[] = [
  { statuses: [401], code: 'HTTP_UNAUTHORIZED', build: auth },
  { statuses: [407], code: 'HTTP_PROXY_REFUSED', build: auth },
  { statuses: [403], code: 'HTTP_FORBIDDEN', build: forbidden },
  { statuses: [404, 410], code: 'HTTP_NOT_FOUND', build: missing },
  { statuses: [409, 412], code: 'HTTP_CONFLICT', build: conflict },
  { statuses: [408], code: 'HTTP_SERVER_TIMEOUT', retry: 'if-idempotent', build: timeout },
  // RFC 6585 section 4: the request was not served.
  { statuses: [429], code: 'HTTP_RATE_LIMITED', retry: 'safe', build: capacity },
  { statuses: [500, 502, 503, 504], code: 'HTTP_SERVER_FAILED', retry: 'if-idempotent', build: remote },
]

/** What was asked, for messages: the path without its query, where keys and tokens may stand. */
export interface HttpPlace {
  readonly method: string
  readonly url: URL
}

const shown = ({ method, url }: HttpPlace): string => `${method} ${url.origin}${url.pathname}`

/** An answer that is none. */
export function toStatusError(status: number, place: HttpPlace, retryAfter: string | undefined, said: string): HandlerError {
  const rule = rules.find(({ statuses }) => statuses.includes(status)) ?? { code: 'HTTP_STATUS', build: remote }
  const retryAfterMs = parseRetryAfter(retryAfter)
  const text = said.replace(/\s+/g, ' ').trim().slice(0, 300)
  return rule.build(`${shown(place)} answered ${status}${text === '' ? '' : `: ${text}`}`, {
    code: rule.code,
    ...('retry' in rule && rule.retry !== undefined ? { retry: rule.retry } : {}),
    context: { method: place.method, url: `${place.url.origin}${place.url.pathname}`, status },
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
    serverCode: String(status),
  })
}

/** Nothing was sent: there is nobody to send it to. */
const unreachable = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH', 'UND_ERR_CONNECT_TIMEOUT'])
const tls = /^(CERT_|ERR_TLS_|ERR_SSL_|UNABLE_TO_|SELF_SIGNED|DEPTH_ZERO|EPROTO$)/

/** An error of the driver as one of ours. What is ours already is given back. */
export function toHttpError(error: unknown, place: HttpPlace): unknown {
  if (HandlerError.is(error) || !(error instanceof Error)) return error
  const found = (error as { readonly code?: unknown }).code
  const code = typeof found === 'string' ? found : ''
  const context = { method: place.method, url: `${place.url.origin}${place.url.pathname}` }
  const message = `${shown(place)}: ${error.message === '' ? code : error.message}`
  if (code === 'UND_ERR_HEADERS_TIMEOUT' || code === 'UND_ERR_BODY_TIMEOUT') {
    return new OperationTimeoutError(message, { code: 'HTTP_TIMEOUT', retry: 'if-idempotent', context, cause: error })
  }
  const [, proxyStatus] = /^Proxy .*\((\d{3})\)/.exec(error.message) ?? []
  if (proxyStatus !== undefined) {
    const options = { code: 'HTTP_PROXY_REFUSED', context, cause: error }
    const refusal = `${shown(place)}: the proxy answered ${proxyStatus}`
    return proxyStatus === '407' ? new AuthError(refusal, options) : new ConnectionError(refusal, options)
  }
  if (tls.test(code)) {
    return new ConnectionError(`${message} (give the certificate that signed the server's as ca)`, {
      code: 'HTTP_TLS_FAILED',
      retry: 'never',
      context,
      cause: error,
    })
  }
  const isUnreachable = unreachable.has(code)
  return new ConnectionError(message, {
    code: isUnreachable ? 'HTTP_UNREACHABLE' : 'HTTP_CONNECTION_LOST',
    retry: isUnreachable ? 'safe' : 'if-idempotent',
    context,
    cause: error,
  })
}

export const cannotGoOn = (place: HttpPlace, why: string): RemoteError =>
  new RemoteError(`${shown(place)} was cut and cannot be gone on with: ${why}`, {
    code: 'HTTP_CANNOT_RESUME',
    context: { method: place.method, url: `${place.url.origin}${place.url.pathname}` },
    serverCode: '200',
  })

export const redirectRefused = (place: HttpPlace, why: string): RemoteError =>
  new RemoteError(`${shown(place)} redirects ${why}`, {
    code: 'HTTP_REDIRECT_REFUSED',
    context: { method: place.method, url: `${place.url.origin}${place.url.pathname}` },
    serverCode: '3xx',
  })

export const bodyTooLarge = (place: HttpPlace, maxBodyBytes: number): CapacityError =>
  new CapacityError(`${shown(place)}: the body is larger than maxBodyBytes (${maxBodyBytes})`, {
    code: 'HTTP_BODY_TOO_LARGE',
    context: { maxBodyBytes },
  })

export const answerUnusable = (place: HttpPlace, why: string, cause?: unknown): DataError =>
  new DataError(`${shown(place)}: ${why}`, {
    code: 'HTTP_ANSWER_INVALID',
    where: { file: `${place.url.origin}${place.url.pathname}` },
    ...(cause === undefined ? {} : { cause }),
  })
