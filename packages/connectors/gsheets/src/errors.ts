import {
  AuthError,
  CapacityError,
  ConfigError,
  ConnectionError,
  DataError,
  HandlerError,
  type HandlerErrorOptions,
  NotFoundError,
  parseRetryAfter,
  PermissionError,
  RemoteError,
} from '@common-handlers/core'

/** What the code of each error begins with, and each variable of the environment. */
export const GSHEETS = 'GSHEETS'

type Build = (message: string, options: HandlerErrorOptions & { readonly serverCode: string }) => HandlerError

const auth: Build = (message, options) => new AuthError(message, options)
const remote: Build = (message, options) => new RemoteError(message, options)

interface Rule {
  readonly statuses: readonly number[]
  readonly code: string
  readonly retry?: HandlerErrorOptions['retry']
  readonly build: Build
  readonly advice?: string
}

const rules: readonly Rule[] = [
  { statuses: [400], code: 'GSHEETS_REQUEST_INVALID', build: remote },
  { statuses: [401], code: 'GSHEETS_UNAUTHORIZED', build: auth },
  {
    statuses: [403],
    code: 'GSHEETS_FORBIDDEN',
    build: (message, options) => new PermissionError(message, options),
    advice: 'share the spreadsheet with the service account, and switch the Google Sheets API on in its project',
  },
  { statuses: [404], code: 'GSHEETS_NOT_FOUND', build: (message, options) => new NotFoundError(message, options) },
  // https://developers.google.com/workspace/sheets/api/limits: wait and try again. The request was not served.
  {
    statuses: [429],
    code: 'GSHEETS_QUOTA',
    retry: 'safe',
    build: (message, options) => new CapacityError(message, options),
  },
  { statuses: [500, 502, 503, 504], code: 'GSHEETS_SERVER_FAILED', retry: 'if-idempotent', build: remote },
]

/** An answer of the API that is none: https://cloud.google.com/apis/design/errors. */
export function toStatusError(status: number, body: string, place: string, retryAfter: string | undefined): HandlerError {
  const { message, name } = said(body)
  const rule = rules.find(({ statuses }) => statuses.includes(status))
  const retryAfterMs = parseRetryAfter(retryAfter)
  const text = [`${place} answered ${status}`, message, rule?.advice].filter((part) => part !== undefined).join(': ')
  return (rule?.build ?? remote)(text, {
    code: rule?.code ?? 'GSHEETS_STATUS',
    ...(rule?.retry === undefined ? {} : { retry: rule.retry }),
    context: { place, status },
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
    serverCode: name ?? String(status),
  })
}

/** The key was not exchanged for a token: RFC 6749 section 5.2. */
export function toLoginError(status: number, body: string, clientEmail: string, retryAfter: string | undefined): HandlerError {
  if (status === 429 || status >= 500) return toStatusError(status, body, `the login of ${clientEmail}`, retryAfter)
  const { message = `status ${status}` } = said(body)
  return new AuthError(`${clientEmail} was not let in: ${message}`, {
    code: 'GSHEETS_LOGIN_REFUSED',
    context: { clientEmail, status },
  })
}

function said(body: string): { readonly message?: string; readonly name?: string } {
  try {
    const { error, error_description: description } = JSON.parse(body) as { error?: unknown; error_description?: unknown }
    if (typeof error === 'string') return { message: typeof description === 'string' ? `${error}, ${description}` : error }
    const { message, status } = (error ?? {}) as { message?: unknown; status?: unknown }
    return {
      ...(typeof message === 'string' ? { message } : {}),
      ...(typeof status === 'string' ? { name: status } : {}),
    }
  } catch {
    return {}
  }
}

/** Nothing was sent: there is nobody to send it to. */
const unreachable = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH', 'UND_ERR_CONNECT_TIMEOUT'])
const tls = /^(CERT_|ERR_TLS_|ERR_SSL_|UNABLE_TO_|SELF_SIGNED|DEPTH_ZERO|EPROTO$)/

/** An error of the driver as one of ours. What is ours already, or no error, is given back. */
export function toNetworkError(error: unknown, place: string): unknown {
  if (HandlerError.is(error) || !(error instanceof Error)) return error
  const { code: found } = error as { readonly code?: unknown }
  const code = typeof found === 'string' ? found : ''
  const message = `${place}: ${error.message === '' ? code : error.message}`
  const options = { context: { place }, cause: error }
  if (tls.test(code)) {
    const advice = " (give the certificate that signed the server's as ca)"
    return new ConnectionError(`${message}${advice}`, { code: 'GSHEETS_TLS_FAILED', ...options })
  }
  const isUnreachable = unreachable.has(code)
  return new ConnectionError(message, {
    code: isUnreachable ? 'GSHEETS_UNREACHABLE' : 'GSHEETS_CONNECTION_LOST',
    retry: isUnreachable ? 'safe' : 'if-idempotent',
    ...options,
  })
}

export const answerUnusable = (place: string, why: string): DataError =>
  new DataError(`${place}: ${why}`, { code: 'GSHEETS_ANSWER_INVALID', context: { place } })

export const headerUnusable = (sheet: string, row: number, why: string): DataError =>
  new DataError(`the header line of "${sheet}" ${why}: mend it, or read with header: false`, {
    code: 'GSHEETS_HEADER_INVALID',
    where: { file: sheet, line: row },
  })

export const rangeUnusable = (range: string, why: string): ConfigError =>
  new ConfigError(`the range "${range}" ${why}`, { code: 'GSHEETS_RANGE_INVALID', context: { range } })

export const watermarkUnusable = (watermark: string): ConfigError =>
  new ConfigError(`the watermark "${watermark}" is no row number: give that of an earlier item`, {
    code: 'GSHEETS_WATERMARK_INVALID',
  })
