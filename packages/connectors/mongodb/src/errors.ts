import {
  AuthError,
  CapacityError,
  ConfigError,
  ConflictError,
  ConnectionError,
  DataError,
  HandlerError,
  type HandlerErrorOptions,
  NotFoundError,
  OperationTimeoutError,
  PermissionError,
  RemoteError,
} from '@common-handlers/core'

type Build = (message: string, options: HandlerErrorOptions & { readonly serverCode: string }) => HandlerError

const auth: Build = (message, options) => new AuthError(message, options)
const forbidden: Build = (message, options) => new PermissionError(message, options)
const missing: Build = (message, options) => new NotFoundError(message, options)
const conflict: Build = (message, options) => new ConflictError(message, options)
const capacity: Build = (message, options) => new CapacityError(message, options)
const data: Build = (message, options) => new DataError(message, options)
const config: Build = (message, options) => new ConfigError(message, options)
const timeout: Build = (message, options) => new OperationTimeoutError(message, options)
const connection: Build = (message, options) => new ConnectionError(message, options)
const remote: Build = (message, options) => new RemoteError(message, options)

interface Rule {
  readonly code: string
  readonly retry?: HandlerErrorOptions['retry']
  readonly build: Build
  /** Codes of the server (https://www.mongodb.com/docs/manual/reference/error-codes/). */
  readonly codes: readonly number[]
}

const rules: readonly Rule[] = [
  { codes: [11, 18, 8000], code: 'MONGODB_LOGIN_REFUSED', build: auth },
  { codes: [13], code: 'MONGODB_FORBIDDEN', build: forbidden },
  { codes: [26, 27, 28], code: 'MONGODB_NOT_FOUND', build: missing },
  { codes: [48, 11000], code: 'MONGODB_EXISTS', build: conflict },
  { codes: [112, 251], code: 'MONGODB_CONFLICT', retry: 'safe', build: conflict },
  { codes: [24, 50, 89, 202, 262], code: 'MONGODB_SERVER_TIMEOUT', retry: 'if-idempotent', build: timeout },
  { codes: [43, 237, 11601], code: 'MONGODB_CURSOR_LOST', retry: 'if-idempotent', build: connection },
  // It stops, or has become another member of its set: the same call will find the new one.
  {
    codes: [6, 7, 9001, 91, 189, 10058, 10107, 11600, 11602, 13435, 13436],
    code: 'MONGODB_NOT_READY',
    retry: 'if-idempotent',
    build: connection,
  },
  { codes: [136, 234, 286], code: 'MONGODB_CHANGES_LOST', build: missing },
  { codes: [260], code: 'MONGODB_WATERMARK_INVALID', build: config },
  { codes: [39, 146, 292, 10334, 16945, 17280], code: 'MONGODB_TOO_LARGE', build: capacity },
  { codes: [121], code: 'MONGODB_DOCUMENT_REFUSED', build: data },
  { codes: [59, 115, 303, 40573], code: 'MONGODB_NOT_SUPPORTED', build: remote },
]

const tls = /^(CERT_|ERR_TLS_|ERR_SSL_|UNABLE_TO_|SELF_SIGNED|DEPTH_ZERO|EPROTO$|HOSTNAME_MISMATCH)/

/** An error of the driver as one of ours; `target` is the servers. What is ours already, and what is no error, is given back. */
export function toMongodbError(error: unknown, target: string): unknown {
  if (HandlerError.is(error) || !(error instanceof Error)) return error
  const { name } = error
  const { code, codeName } = error as { readonly code?: unknown; readonly codeName?: unknown }
  const options = { context: { target }, cause: error }
  if (name === 'MongoServerSelectionError') return toSelectionError(error, target)
  if (name === 'MongoNetworkTimeoutError' || name === 'MongoOperationTimeoutError' || name === 'MongoWaitQueueTimeoutError') {
    return new OperationTimeoutError(error.message, { ...options, code: 'MONGODB_NO_ANSWER', retry: 'if-idempotent' })
  }
  // What a socket says reaches us at times as it is.
  if (name === 'MongoNetworkError' || name === 'MongoPoolClearedError' || (typeof code === 'string' && /^E[A-Z]+$/.test(code))) {
    const reason = causeCode(error)
    if (tls.test(reason)) return tlsFailed(error, target)
    const isUnreachable = name === 'MongoPoolClearedError' || unreachable.has(reason)
    return new ConnectionError(error.message, {
      ...options,
      code: isUnreachable ? 'MONGODB_UNREACHABLE' : 'MONGODB_CONNECTION_LOST',
      retry: isUnreachable ? 'safe' : 'if-idempotent',
    })
  }
  if (typeof code === 'number') {
    const rule = rules.find(({ codes }) => codes.includes(code)) ?? { code: 'MONGODB_REFUSED', build: remote }
    const serverCode = typeof codeName === 'string' ? codeName : String(code)
    return rule.build(`${error.message} (${serverCode})`, {
      ...options,
      code: rule.code,
      ...('retry' in rule && rule.retry !== undefined ? { retry: rule.retry } : {}),
      serverCode,
    })
  }
  if (/^Mongo(ClientClosed|TopologyClosed|NotConnected|CursorExhausted)/.test(name)) {
    return new ConnectionError(error.message, { ...options, code: 'MONGODB_CONNECTION_LOST', retry: 'if-idempotent' })
  }
  if (/^(BSON|MongoInvalidArgument|MongoParse|MongoMissing)/.test(name)) {
    return new ConfigError(error.message, { ...options, code: 'MONGODB_QUERY_INVALID' })
  }
  return new RemoteError(error.message, { ...options, code: 'MONGODB_FAILED', serverCode: name })
}

/** What of a write was not done stands in an answer that is otherwise good. */
export function refusedWrite(answer: Readonly<Record<string, unknown>>): Error | undefined {
  const { writeErrors, writeConcernError } = answer as {
    readonly writeErrors?: readonly WriteError[]
    readonly writeConcernError?: WriteError
  }
  const [first = writeConcernError, ...more] = writeErrors ?? []
  if (first === undefined) return undefined
  const { errmsg, code, codeName } = first
  return Object.assign(new Error(more.length === 0 ? errmsg : `${errmsg}; and ${more.length} more`), { code, codeName })
}

interface WriteError {
  readonly errmsg: string
  readonly code: number
  readonly codeName?: string
}

/** Nothing was sent: there is nobody to send it to. */
const unreachable = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH'])

/** No server fits; what went wrong with each of them stands in the description of the topology. */
function toSelectionError(error: Error, target: string): HandlerError {
  const { reason } = error as { readonly reason?: { readonly servers?: ReadonlyMap<string, { readonly error?: unknown }> } }
  const causes = [...(reason?.servers?.values() ?? [])].map((server) => server.error).filter((cause) => cause instanceof Error)
  const untrusted = causes.find((cause) => tls.test(causeCode(cause)))
  if (untrusted !== undefined) return tlsFailed(untrusted, target)
  return new ConnectionError(`no server at ${target} can be used: ${error.message}`, {
    code: 'MONGODB_UNREACHABLE',
    retry: 'safe',
    context: { target },
    cause: causes[0] ?? error,
  })
}

function tlsFailed(cause: Error, target: string): ConnectionError {
  return new ConnectionError(`${target}: ${cause.message} (give the certificate that signed the server's as ca)`, {
    code: 'MONGODB_TLS_FAILED',
    retry: 'never',
    context: { target },
    cause,
  })
}

/** The code of the error at the bottom. */
function causeCode(error: Error): string {
  if (error.cause instanceof Error) return causeCode(error.cause)
  const { code } = error as { readonly code?: unknown }
  return typeof code === 'string' ? code : ''
}

export const queryInvalid = (why: string): ConfigError => new ConfigError(why, { code: 'MONGODB_QUERY_INVALID' })

export const watermarkInvalid = (why: string): ConfigError =>
  new ConfigError(`the watermark cannot be used: ${why}`, { code: 'MONGODB_WATERMARK_INVALID' })

export const watermarkUnusable = (field: string): DataError =>
  new DataError(
    `a list, a NaN or another value without a place in the order in the field "${field}" can be no place to go on from`,
    {
      code: 'MONGODB_WATERMARK_UNUSABLE',
      where: { column: field },
    },
  )

export const valueInvalid = (path: string, what: string): DataError =>
  new DataError(`the field "${path}" holds ${what}`, { code: 'MONGODB_VALUE_INVALID', where: { column: path } })
