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
  parseRetryAfter,
  PermissionError,
  RemoteError,
} from '@common-handlers/core'

/** What was being done; named in the message and kept in the error's context. */
export interface S3Request {
  /** The action as S3 and IAM name it: `GetObject`. */
  readonly action: string
  readonly bucket: string
  /** The whole key, prefix included. */
  readonly key?: string | undefined
  readonly endpoint?: string | undefined
}

/** The parts of the SDK's exceptions that are read. */
interface DriverError {
  readonly name?: unknown
  readonly message?: unknown
  readonly code?: unknown
  readonly Code?: unknown
  readonly syscall?: unknown
  readonly $metadata?: { readonly httpStatusCode?: number; readonly requestId?: string; readonly extendedRequestId?: string }
  readonly $response?: { readonly statusCode?: number; readonly headers?: Readonly<Record<string, string>> }
  readonly errors?: readonly unknown[]
}

/** With the prefix (Amazon S3 User Guide, "Naming Amazon S3 objects"). */
const MAX_KEY_BYTES = 1024

type Mapping = (message: string, options: HandlerErrorOptions & { serverCode: string }, request: S3Request) => HandlerError

const place = (request: S3Request): string =>
  request.key === undefined ? `bucket ${request.bucket}` : `s3://${request.bucket}/${request.key}`

const objectNotFound: Mapping = (_, options, request) =>
  request.key === undefined
    ? bucketNotFound(_, options, request)
    : new NotFoundError(`no object "${request.key}" in bucket "${request.bucket}"`, { ...options, code: 'S3_OBJECT_NOT_FOUND' })

const bucketNotFound: Mapping = (_, options, request) =>
  new NotFoundError(`no bucket "${request.bucket}"${request.endpoint === undefined ? '' : ` at ${request.endpoint}`}`, {
    ...options,
    code: 'S3_BUCKET_NOT_FOUND',
  })

const uploadNotFound: Mapping = (_, options, request) =>
  new NotFoundError(`the upload of ${place(request)} is no longer there: it was completed or aborted`, {
    ...options,
    code: 'S3_UPLOAD_NOT_FOUND',
  })

const accessDenied: Mapping = (_, options, request) =>
  new PermissionError(`not allowed: ${request.action} on ${place(request)}`, { ...options, code: 'S3_ACCESS_DENIED' })

const auth =
  (code: string, text: string): Mapping =>
  (_, options, request) =>
    new AuthError(`${request.action} on ${place(request)}: ${text}`, { ...options, code })

const preconditionFailed: Mapping = (_, options, request) =>
  new ConflictError(`${place(request)} is not in the state that ${request.action} asked for`, {
    ...options,
    code: 'S3_PRECONDITION_FAILED',
  })

const conditionalConflict: Mapping = (_, options, request) =>
  new ConflictError(`another write to ${place(request)} was under way`, {
    ...options,
    code: 'S3_CONDITIONAL_CONFLICT',
    retry: 'safe',
  })

const bucketExists: Mapping = (_, options, request) =>
  new ConflictError(`bucket "${request.bucket}" exists already`, { ...options, code: 'S3_BUCKET_EXISTS' })

const slowDown: Mapping = (_, options, request) =>
  new CapacityError(`the server asks to slow down (${request.action} on ${place(request)})`, {
    ...options,
    code: 'S3_SLOW_DOWN',
    retry: 'safe',
  })

const storageFull: Mapping = (message, options, request) =>
  new CapacityError(`${request.action} on ${place(request)}: ${message}`, { ...options, code: 'S3_STORAGE_FULL' })

const rejected =
  (code: string): Mapping =>
  (message, options, request) =>
    new ConfigError(`${request.action} on ${place(request)}: ${message}`, { ...options, code })

const badRange: Mapping = (_, options, request) =>
  new RemoteError(`${place(request)} has no byte in the range asked for`, { ...options, code: 'S3_RANGE_NOT_SATISFIABLE' })

const requestTimedOut: Mapping = (_, options, request) =>
  new OperationTimeoutError(`the server gave up waiting for the body of ${request.action} on ${place(request)}`, {
    ...options,
    code: 'S3_REQUEST_TIMEOUT',
    retry: 'safe',
  })

const badChecksum: Mapping = (message, options, request) =>
  // Sent bytes that arrive changed were not stored; sending them again is the cure.
  new RemoteError(`${request.action} on ${place(request)}: ${message}`, {
    ...options,
    code: 'S3_CHECKSUM_MISMATCH',
    retry: 'safe',
  })

const serverError: Mapping = (message, options, request) =>
  new RemoteError(`${request.action} on ${place(request)}: ${message}`, {
    ...options,
    code: 'S3_SERVER_ERROR',
    retry: 'if-idempotent',
  })

const requestFailed: Mapping = (message, options, request) =>
  new RemoteError(`${request.action} on ${place(request)}: ${message}`, { ...options, code: 'S3_REQUEST_FAILED' })

const notSupported: Mapping = (message, options, request) =>
  new RemoteError(`the server does not do ${request.action} (${place(request)}): ${message}`, {
    ...options,
    code: 'S3_NOT_SUPPORTED',
  })

/** By the code in the answer (Amazon S3 API Reference, "Error responses"). */
const byCode: Readonly<Record<string, Mapping>> = {
  NoSuchKey: objectNotFound,
  NotFound: objectNotFound,
  NoSuchVersion: objectNotFound,
  NoSuchBucket: bucketNotFound,
  NoSuchUpload: uploadNotFound,
  AccessDenied: accessDenied,
  AllAccessDisabled: accessDenied,
  Forbidden: accessDenied,
  XAdminUserNotFound: auth('S3_ACCESS_KEY_UNKNOWN', 'the server does not know this access key id'), // versitygw
  InvalidAccessKeyId: auth('S3_ACCESS_KEY_UNKNOWN', 'the server does not know this access key id'),
  SignatureDoesNotMatch: auth('S3_SIGNATURE_REJECTED', 'the signature is wrong; look at the secret access key and the region'),
  AuthorizationHeaderMalformed: auth('S3_SIGNATURE_REJECTED', 'the signature is for another region or service'),
  InvalidToken: auth('S3_TOKEN_INVALID', 'the session token is not valid'),
  ExpiredToken: auth('S3_TOKEN_EXPIRED', 'the session token has expired'),
  TokenRefreshRequired: auth('S3_TOKEN_EXPIRED', 'the session token has expired'),
  RequestTimeTooSkewed: auth('S3_CLOCK_SKEWED', 'the clock of this machine is more than 15 minutes off'),
  CredentialsProviderError: auth(
    'S3_NO_CREDENTIALS',
    'no credentials: give accessKeyId and secretAccessKey, or set up the AWS chain',
  ),
  PreconditionFailed: preconditionFailed,
  ConditionalRequestConflict: conditionalConflict,
  OperationAborted: conditionalConflict,
  BucketAlreadyExists: bucketExists,
  BucketAlreadyOwnedByYou: bucketExists,
  SlowDown: slowDown,
  ServiceUnavailable: slowDown,
  Throttling: slowDown,
  ThrottlingException: slowDown,
  RequestLimitExceeded: slowDown,
  TooManyRequests: slowDown,
  EntityTooLarge: storageFull,
  QuotaExceeded: storageFull,
  InsufficientStorage: storageFull,
  InvalidBucketName: rejected('S3_BUCKET_NAME_INVALID'),
  KeyTooLongError: rejected('S3_KEY_INVALID'),
  PermanentRedirect: rejected('S3_WRONG_REGION'),
  TemporaryRedirect: rejected('S3_WRONG_REGION'),
  IllegalLocationConstraintException: rejected('S3_WRONG_REGION'),
  InvalidRange: badRange,
  RequestTimeout: requestTimedOut,
  BadDigest: badChecksum,
  XAmzContentSHA256Mismatch: badChecksum,
  IncompleteBody: badChecksum,
  InternalError: serverError,
  NotImplemented: notSupported,
}

/** By HTTP status, where the answer has no code (HEAD) or one that is not known. */
const byStatus: Readonly<Record<number, Mapping>> = {
  301: rejected('S3_WRONG_REGION'),
  307: rejected('S3_WRONG_REGION'),
  401: auth('S3_SIGNATURE_REJECTED', 'the server refuses the credentials'),
  403: accessDenied,
  404: objectNotFound,
  408: requestTimedOut,
  412: preconditionFailed,
  416: badRange,
  429: slowDown,
  503: slowDown,
  501: notSupported,
  507: storageFull,
}

/** What the SDK calls an answer without a code. */
const withoutCode = new Set(['UnknownError', 'Unknown', 'Error', '404'])

const refused = new Set(['ECONNREFUSED'])
const unknownHost = new Set(['ENOTFOUND', 'EAI_AGAIN', 'EAI_FAIL', 'EAI_NODATA', 'EAI_NONAME'])
const unreachable = new Set(['EHOSTUNREACH', 'ENETUNREACH', 'EHOSTDOWN', 'ENETDOWN', 'EADDRNOTAVAIL'])
// The SDK calls these time-outs, but they are answers: the other side ended the connection.
const lost = new Set(['ECONNRESET', 'EPIPE', 'ECONNABORTED'])
const tls = /^(CERT_|ERR_TLS|ERR_SSL|UNABLE_TO_|SELF_SIGNED|DEPTH_ZERO|HOSTNAME_MISMATCH|EPROTO)/

/** Turns whatever the SDK, the socket or the response's body threw into one of core's errors. */
export function toS3Error(thrown: unknown, request: S3Request): HandlerError {
  if (HandlerError.is(thrown)) return thrown
  const error = (typeof thrown === 'object' && thrown !== null ? thrown : { message: String(thrown) }) as DriverError
  const status = error.$metadata?.httpStatusCode ?? error.$response?.statusCode
  const name = typeof error.Code === 'string' ? error.Code : typeof error.name === 'string' ? error.name : 'Unknown'
  const context = {
    action: request.action,
    bucket: request.bucket,
    ...(request.key === undefined ? {} : { key: request.key }),
    ...(request.endpoint === undefined ? {} : { endpoint: request.endpoint }),
    ...(status === undefined ? {} : { status, serverCode: name }),
    ...(error.$metadata?.requestId === undefined ? {} : { requestId: error.$metadata.requestId }),
  }
  const mapping = byCode[name] ?? mappingOf(status, name)
  if (mapping === undefined) return toConnectionError(thrown, error, request, context)
  const retryAfterMs = parseRetryAfter(error.$response?.headers?.['retry-after'])
  const message = typeof error.message === 'string' && error.message !== '' ? error.message : name
  const shown = status === undefined || message.includes(name) ? message : `${name}: ${message} (HTTP ${status})`
  const options = { code: '', serverCode: name, context, cause: thrown, ...(retryAfterMs === undefined ? {} : { retryAfterMs }) }
  return mapping(shown, options, request)
}

/** A status of success on an error means that the answer was cut or cannot be read: that is the connection's story. */
function mappingOf(status: number | undefined, name: string): Mapping | undefined {
  if (status === undefined || status < 300) return undefined
  // A 404 with a code of its own is about something else than the object.
  if (status === 404 && !withoutCode.has(name)) return requestFailed
  return byStatus[status] ?? (status >= 500 ? serverError : requestFailed)
}

function toConnectionError(
  thrown: unknown,
  error: DriverError,
  request: S3Request,
  context: Readonly<Record<string, unknown>>,
): HandlerError {
  // A host with several addresses fails with one error for each.
  const inner = Array.isArray(error.errors) ? (error.errors.at(-1) as DriverError) : error
  const code = typeof inner.code === 'string' ? inner.code : ''
  const message = typeof inner.message === 'string' ? inner.message : String(thrown)
  const server = request.endpoint ?? 'the S3 server'
  const during = `(${request.action} on ${place(request)})`
  const options = { context, cause: thrown }
  if (refused.has(code)) {
    return new ConnectionError(`${server} refuses connections ${during}`, {
      ...options,
      code: 'S3_CONNECTION_REFUSED',
      retry: 'safe',
    })
  }
  if (unknownHost.has(code)) {
    return new ConnectionError(`the name of ${server} cannot be resolved ${during}`, {
      ...options,
      code: 'S3_HOST_UNKNOWN',
      retry: 'safe',
    })
  }
  if (unreachable.has(code)) {
    return new ConnectionError(`${server} cannot be reached ${during}`, { ...options, code: 'S3_UNREACHABLE', retry: 'safe' })
  }
  if (tls.test(code)) {
    return new ConnectionError(`no TLS connection to ${server}: ${message} ${during}`, { ...options, code: 'S3_TLS_FAILED' })
  }
  if ((error.name === 'TimeoutError' && !lost.has(code)) || code === 'ETIMEDOUT' || code === 'ESOCKETTIMEDOUT') {
    const connecting = message.includes('did not establish a connection') || inner.syscall === 'connect'
    return new OperationTimeoutError(`${server} did not answer in time ${during}`, {
      ...options,
      code: connecting ? 'S3_CONNECT_TIMEOUT' : 'S3_TIMEOUT',
      retry: connecting ? 'safe' : 'if-idempotent',
    })
  }
  if (code !== '' || error.name === 'AbortError') {
    return new ConnectionError(`the connection to ${server} was lost ${during}`, {
      ...options,
      code: 'S3_CONNECTION_LOST',
      retry: 'if-idempotent',
    })
  }
  return new RemoteError(`the answer to ${request.action} on ${place(request)} cannot be used: ${message}`, {
    ...options,
    code: 'S3_ANSWER_UNREADABLE',
    retry: 'if-idempotent',
    serverCode: typeof error.name === 'string' ? error.name : 'Unknown',
  })
}

/** @throws ConfigError `S3_KEY_INVALID` for a key that no server stores as it is. */
export function assertKey(key: string): void {
  const problem = keyProblem(key)
  if (problem === undefined) return
  throw new ConfigError(`the key ${JSON.stringify(key)} cannot be used: ${problem}`, { code: 'S3_KEY_INVALID', context: { key } })
}

function keyProblem(key: string): string | undefined {
  if (key === '') return 'it is empty'
  if (!key.isWellFormed()) return 'it is not well-formed Unicode'
  if (Buffer.byteLength(key) > MAX_KEY_BYTES) return `it is longer than ${MAX_KEY_BYTES} bytes`
  // Servers on file systems resolve these, which would lead out of the prefix.
  return key.split('/').some((part) => part === '.' || part === '..') ? 'it has a part that is "." or ".."' : undefined
}

/** The connection ended before the body did. */
export function bodyCut(request: S3Request, received: number, expected: number): ConnectionError {
  return new ConnectionError(`the body of ${place(request)} ended after ${received} of ${expected} bytes`, {
    code: 'S3_CONNECTION_LOST',
    retry: 'if-idempotent',
    context: { ...request, received, expected },
  })
}

/** The head of the answer gives no length: what comes cannot be told from what was cut. */
export function lengthMissing(request: S3Request): RemoteError {
  return new RemoteError(`the answer to ${request.action} on ${place(request)} does not say how long it is`, {
    code: 'S3_LENGTH_MISSING',
    serverCode: 'OK',
    context: { ...request },
  })
}

/** The answer does not confirm the encryption that was asked for. */
export function encryptionIgnored(request: S3Request, kind: string, stored: boolean): RemoteError {
  const what = stored ? 'it was stored without it, and is there' : 'nothing was stored'
  return new RemoteError(`the server ignores encryption (${kind}) of ${place(request)}: ${what}`, {
    code: 'S3_ENCRYPTION_IGNORED',
    serverCode: 'OK',
    context: { ...request, kind, stored },
  })
}

/** The server says that an upload is complete, and the object is not there. Nothing was stored: it may be written again. */
export function completionLost(request: S3Request): RemoteError {
  return new RemoteError(`${place(request)} is not there, although the server says that its upload is complete: write it again`, {
    code: 'S3_COMPLETION_LOST',
    retry: 'safe',
    serverCode: 'OK',
    context: { ...request },
  })
}

/** One try of a request was given no more time. */
export function tookTooLong(request: S3Request, timeoutMs: number): OperationTimeoutError {
  return new OperationTimeoutError(`${request.action} on ${place(request)} took longer than ${timeoutMs} ms`, {
    code: 'S3_TIMEOUT',
    retry: 'if-idempotent',
    context: { ...request, timeoutMs },
  })
}

/** No byte of the body came for too long. */
export function bodyStalled(request: S3Request, stallTimeoutMs: number): OperationTimeoutError {
  return new OperationTimeoutError(`no byte of ${place(request)} came for ${stallTimeoutMs} ms`, {
    code: 'S3_STALLED',
    retry: 'if-idempotent',
    context: { ...request, stallTimeoutMs },
  })
}

/** The bytes that came are not those that were stored. */
export function bodyCorrupt(
  request: S3Request,
  expected: { readonly algorithm: string; readonly value: string },
  found: { readonly value: string } | undefined,
): DataError {
  return new DataError(`the bytes of ${place(request)} do not have the ${expected.algorithm} that they were stored with`, {
    code: 'S3_BODY_CORRUPT',
    context: { ...request, algorithm: expected.algorithm, expected: expected.value, found: found?.value },
  })
}

/** Another object took the place of the one that was being read, after so many bytes, or copied. */
export function objectChanged(request: S3Request, offset?: number, cause?: unknown): ConflictError {
  const when = offset === undefined ? 'copied' : `read, after ${offset} bytes`
  return new ConflictError(`${place(request)} was changed or deleted while it was being ${when}`, {
    code: 'S3_OBJECT_CHANGED',
    context: { ...request, ...(offset === undefined ? {} : { offset }) },
    cause,
  })
}
