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
export const SOAP = 'SOAP'

/** What was asked, for messages: an address without its query, where keys may stand, and the operation. */
export interface SoapPlace {
  readonly address: string
  readonly operation?: string | undefined
}

/** The place of a URL. */
export function placeOf(url: string, operation?: string): SoapPlace {
  const { origin, pathname } = URL.canParse(url) ? new URL(url) : { origin: '', pathname: url }
  return { address: `${origin}${pathname}`, operation }
}

const shown = ({ address, operation }: SoapPlace): string => (operation === undefined ? address : `${operation} of ${address}`)
const contextOf = ({ address, operation }: SoapPlace): Record<string, unknown> => ({
  address,
  ...(operation === undefined ? {} : { operation }),
})

type Build = (message: string, options: HandlerErrorOptions & { readonly serverCode: string }) => HandlerError

const auth: Build = (message, options) => new AuthError(message, options)
const remote: Build = (message, options) => new RemoteError(message, options)

interface StatusRule {
  readonly statuses: readonly number[]
  readonly code: string
  readonly retry?: HandlerErrorOptions['retry']
  readonly build: Build
}

const statusRules: readonly StatusRule[] = [
  { statuses: [401], code: 'SOAP_UNAUTHORIZED', build: auth },
  { statuses: [403], code: 'SOAP_FORBIDDEN', build: (message, options) => new PermissionError(message, options) },
  { statuses: [404, 410], code: 'SOAP_NOT_FOUND', build: (message, options) => new NotFoundError(message, options) },
  // RFC 6585 section 4: the request was not served.
  { statuses: [429], code: 'SOAP_RATE_LIMITED', retry: 'safe', build: (message, options) => new CapacityError(message, options) },
  { statuses: [500, 502, 503, 504], code: 'SOAP_SERVER_FAILED', retry: 'if-idempotent', build: remote },
]

/** An answer of HTTP that holds no envelope. */
export function toStatusError(status: number, place: SoapPlace, retryAfter: string | undefined): HandlerError {
  const rule = statusRules.find(({ statuses }) => statuses.includes(status)) ?? { code: 'SOAP_STATUS', build: remote }
  const retryAfterMs = parseRetryAfter(retryAfter)
  return rule.build(`${shown(place)} answered ${status}`, {
    code: rule.code,
    ...('retry' in rule && rule.retry !== undefined ? { retry: rule.retry } : {}),
    context: { ...contextOf(place), status },
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
    serverCode: String(status),
  })
}

/** A fault as the driver hangs it on its error. */
interface Fault {
  readonly faultcode?: unknown
  readonly faultstring?: unknown
}

/** OASIS WS-Security 1.1.1 section 12: the token is refused. */
const refusedTokens = /^(FailedAuthentication|InvalidSecurity|InvalidSecurityToken|FailedCheck|SecurityTokenUnavailable)$/

/** What the service says went wrong. */
export function toFault(fault: Fault, place: SoapPlace): HandlerError {
  const serverCode = textOf(fault.faultcode)
  const name = serverCode.split(':').at(-1) ?? ''
  const message = `${shown(place)}: ${textOf(fault.faultstring)} (fault ${serverCode})`
  const options = { context: contextOf(place), serverCode }
  if (refusedTokens.test(name)) return new AuthError(message, { code: 'SOAP_LOGIN_REFUSED', ...options })
  // SOAP 1.1 section 4.4.1: what failed on the server may succeed at a later point in time.
  return new RemoteError(message, { code: 'SOAP_FAULT', retry: /^Server\b/.test(name) ? 'if-idempotent' : 'never', ...options })
}

/** An element is a text, or an object with its attributes. */
function textOf(element: unknown): string {
  const value = typeof element === 'object' && element !== null && '$value' in element ? element.$value : element
  return typeof value === 'string' || typeof value === 'number' ? String(value) : ''
}

/** Nothing was sent: there is nobody to send it to. */
const unreachable = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH', 'ETIMEDOUT'])
const tls = /^(CERT_|ERR_TLS_|ERR_SSL_|UNABLE_TO_|SELF_SIGNED|DEPTH_ZERO|EPROTO$)/

/** An error of the network as one of ours. What is ours already, or no error, is given back. */
export function toNetworkError(error: unknown, place: SoapPlace): unknown {
  if (HandlerError.is(error) || !(error instanceof Error)) return error
  const { code: found } = error as { readonly code?: unknown }
  const code = typeof found === 'string' ? found : ''
  const message = `${shown(place)}: ${error.message === '' ? code : error.message}`
  const options = { context: contextOf(place), cause: error }
  if (tls.test(code)) {
    const advice = " (give the certificate that signed the server's as ca)"
    return new ConnectionError(`${message}${advice}`, { code: 'SOAP_TLS_FAILED', ...options })
  }
  const isUnreachable = unreachable.has(code)
  return new ConnectionError(message, {
    code: isUnreachable ? 'SOAP_UNREACHABLE' : 'SOAP_CONNECTION_LOST',
    retry: isUnreachable ? 'safe' : 'if-idempotent',
    ...options,
  })
}

/** What the driver throws: a fault, or that it cannot make sense of an answer. */
export function toSoapError(error: unknown, place: SoapPlace): unknown {
  if (HandlerError.is(error)) return error
  const { root, Fault: thrown } = error as {
    readonly root?: { Envelope?: { Body?: { Fault?: Fault } } }
    readonly Fault?: unknown
  }
  const fault = root?.Envelope?.Body?.Fault
  if (fault !== undefined) return toFault(fault, place)
  // It throws an object for XML that cannot be read; what it says of that is the whole text.
  const why = error instanceof Error && thrown === undefined ? error.message.slice(0, 300) : 'it is no XML'
  return new DataError(`${shown(place)}: the answer cannot be used: ${why}`, {
    code: 'SOAP_ANSWER_INVALID',
    context: contextOf(place),
  })
}

export const wsdlUnusable = (place: SoapPlace, why: string): DataError =>
  new DataError(`${shown(place)} is no description of a service: ${why}`, {
    code: 'SOAP_WSDL_INVALID',
    where: { file: place.address },
    context: contextOf(place),
  })

export const fileUnreadable = (place: SoapPlace, cause: unknown): NotFoundError =>
  new NotFoundError(`${place.address} cannot be read: ${(cause as Error).message}`, {
    code: 'SOAP_WSDL_NOT_FOUND',
    context: contextOf(place),
    cause,
  })

export const bodyTooLarge = (place: SoapPlace, maxBodyBytes: number): CapacityError =>
  new CapacityError(`${shown(place)}: the answer is larger than maxBodyBytes (${maxBodyBytes})`, {
    code: 'SOAP_BODY_TOO_LARGE',
    context: { ...contextOf(place), maxBodyBytes },
  })

export const operationUnknown = (operation: string, place: SoapPlace, known: readonly string[]): ConfigError =>
  new ConfigError(`${place.address} has no operation "${operation}"; it has: ${known.join(', ')}`, {
    code: 'SOAP_OPERATION_UNKNOWN',
    context: contextOf(place),
  })

export const recordsUnusable = (place: SoapPlace, path: string): DataError =>
  new DataError(`${shown(place)}: at "${path}" there are no records`, {
    code: 'SOAP_ANSWER_INVALID',
    context: contextOf(place),
  })
