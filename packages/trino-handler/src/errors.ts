import {
  AuthError,
  CapacityError,
  ConflictError,
  ConnectionError,
  DataError,
  HandlerError,
  type HandlerErrorOptions,
  NotFoundError,
  PermissionError,
  RemoteError,
  type Retry,
} from '@common-handlers/core'
import type { WireError, WireFailure } from './protocol.ts'

/** What the server said about a failure. Stands in `error.context` of every error that a statement ends with. */
export interface TrinoErrorFacts {
  readonly queryId: string
  /** `TABLE_NOT_FOUND` */
  readonly errorName: string
  readonly errorCode: number
  /** `USER_ERROR`, `INTERNAL_ERROR`, `INSUFFICIENT_RESOURCES`, `EXTERNAL`. */
  readonly errorType: string
  /** Place in the statement, from 1; absent when the failure has none. */
  readonly line?: number
  readonly column?: number
}

/** The facts of a failed statement; undefined for any other error. */
export function trinoErrorFacts(error: unknown): TrinoErrorFacts | undefined {
  if (!HandlerError.is(error) || typeof error.context['errorName'] !== 'string') return undefined
  return error.context as unknown as TrinoErrorFacts
}

type Kind = 'not-found' | 'conflict' | 'permission' | 'capacity' | 'data' | 'connection' | 'remote'

/** What an error name means, where its type alone would not say it. The default is {@link byType}. */
const byName: Readonly<Record<string, readonly [Kind, Retry]>> = {
  TABLE_NOT_FOUND: ['not-found', 'never'],
  COLUMN_NOT_FOUND: ['not-found', 'never'],
  SCHEMA_NOT_FOUND: ['not-found', 'never'],
  CATALOG_NOT_FOUND: ['not-found', 'never'],
  FUNCTION_NOT_FOUND: ['not-found', 'never'],
  PROCEDURE_NOT_FOUND: ['not-found', 'never'],
  ROLE_NOT_FOUND: ['not-found', 'never'],
  TYPE_NOT_FOUND: ['not-found', 'never'],
  NOT_FOUND: ['not-found', 'never'],
  TABLE_ALREADY_EXISTS: ['conflict', 'never'],
  SCHEMA_ALREADY_EXISTS: ['conflict', 'never'],
  COLUMN_ALREADY_EXISTS: ['conflict', 'never'],
  ROLE_ALREADY_EXISTS: ['conflict', 'never'],
  ALREADY_EXISTS: ['conflict', 'never'],
  TRANSACTION_CONFLICT: ['conflict', 'safe'],
  // See fromServer: not safe when the catalog did not answer.
  ICEBERG_COMMIT_ERROR: ['conflict', 'safe'],
  PERMISSION_DENIED: ['permission', 'never'],
  QUERY_QUEUE_FULL: ['capacity', 'safe'],
  // Ended while they ran: what they were writing may be on its way to the catalog, or half written by a connector that cannot take it back.
  CLUSTER_OUT_OF_MEMORY: ['capacity', 'if-idempotent'],
  ADMINISTRATIVELY_PREEMPTED: ['capacity', 'if-idempotent'],
  INVALID_CAST_ARGUMENT: ['data', 'never'],
  INVALID_FUNCTION_ARGUMENT: ['data', 'never'],
  DIVISION_BY_ZERO: ['data', 'never'],
  NUMERIC_VALUE_OUT_OF_RANGE: ['data', 'never'],
  CONSTRAINT_VIOLATION: ['data', 'never'],
  SUBQUERY_MULTIPLE_ROWS: ['data', 'never'],
  MERGE_TARGET_ROW_MULTIPLE_MATCHES: ['data', 'never'],
  JSON_INPUT_CONVERSION_ERROR: ['data', 'never'],
  HIVE_BAD_DATA: ['data', 'never'],
  ICEBERG_BAD_DATA: ['data', 'never'],
  SERVER_STARTING_UP: ['connection', 'safe'],
  NO_NODES_AVAILABLE: ['connection', 'safe'],
  SERVER_SHUTTING_DOWN: ['connection', 'if-idempotent'],
  REMOTE_HOST_GONE: ['connection', 'if-idempotent'],
  ABANDONED_QUERY: ['connection', 'if-idempotent'],
  USER_CANCELED: ['remote', 'never'],
  ADMINISTRATIVELY_KILLED: ['remote', 'never'],
}

const byType: Readonly<Record<string, readonly [Kind, Retry]>> = {
  USER_ERROR: ['remote', 'never'],
  INSUFFICIENT_RESOURCES: ['capacity', 'never'],
  INTERNAL_ERROR: ['remote', 'if-idempotent'],
  EXTERNAL: ['remote', 'if-idempotent'],
}

/** Iceberg's word for "the catalog did not answer; the commit may have been made". */
const COMMIT_UNKNOWN = 'org.apache.iceberg.exceptions.CommitStateUnknownException'

/** Found on Trino 476: these two count columns from the start of EXECUTE IMMEDIATE, the others from that of its text. */
const SHIFTED = new Set(['SYNTAX_ERROR', 'INVALID_PARAMETER_USAGE'])

/**
 * A failure that the server reports. The code is `TRINO_` and the server's error name. `shift` is what stands before
 * the caller's text in what was sent.
 */
export function fromServer(error: WireError, queryId: string, shift: number = 0): HandlerError {
  const { errorName, errorCode, errorType } = error
  const said = error.errorLocation ?? undefined
  // It stopped at the text itself: the word IMMEDIATE was taken for the name of a prepared statement.
  if (errorName === 'SYNTAX_ERROR' && shift > 0 && said?.lineNumber === 1 && said.columnNumber <= shift) {
    return new RemoteError(
      "the server does not know EXECUTE IMMEDIATE (Trino before 418): give the option parameters: 'prepared'",
      {
        code: 'TRINO_EXECUTE_IMMEDIATE_UNKNOWN',
        serverCode: errorName,
        retry: 'never',
        context: { queryId },
      },
    )
  }
  const place =
    said === undefined || !SHIFTED.has(errorName) ? said : { ...said, columnNumber: Math.max(1, said.columnNumber - shift) }
  const text = (error.message ?? errorName).replace(
    /^line \d+:\d+: /,
    place === undefined ? '$&' : `line ${place.lineNumber}:${place.columnNumber}: `,
  )
  const [kind, retry] = classify(error)
  const facts: TrinoErrorFacts = {
    queryId,
    errorName,
    errorCode,
    errorType,
    ...(place === undefined ? {} : { line: place.lineNumber, column: place.columnNumber }),
  }
  const options: HandlerErrorOptions = { code: `TRINO_${errorName}`, retry, context: { ...facts } }
  const message = `Trino: ${text} (${errorName}, query ${queryId})`
  switch (kind) {
    case 'not-found':
      return new NotFoundError(message, options)
    case 'conflict':
      return new ConflictError(message, options)
    case 'permission':
      return new PermissionError(message, options)
    case 'capacity':
      return new CapacityError(message, options)
    case 'data':
      return new DataError(message, options)
    case 'connection':
      return new ConnectionError(message, options)
    default:
      return new RemoteError(message, { ...options, serverCode: errorName })
  }
}

/** A prepared statement is parsed with the headers: what is wrong with it comes as a 400, before there is a query. */
export function fromPreparedHeader(error: HandlerError): HandlerError {
  const [, line, column, message] = /Prepared-Statement header: line (\d+):(\d+): (.+)/s.exec(error.message) ?? []
  if (line === undefined || column === undefined) return error
  return fromServer(
    {
      message: `line ${line}:${column}: ${message}`,
      errorCode: 1,
      errorName: 'SYNTAX_ERROR',
      errorType: 'USER_ERROR',
      errorLocation: { lineNumber: Number(line), columnNumber: Number(column) },
    },
    'never made',
  )
}

function classify(error: WireError): readonly [Kind, Retry] {
  // Trino 476 puts CommitStateUnknownException and a lost race under one name; only the race left the table as it was.
  if (error.errorName === 'ICEBERG_COMMIT_ERROR' && causes(error.failureInfo).includes(COMMIT_UNKNOWN)) {
    return ['conflict', 'if-idempotent']
  }
  // A coordinator answers a second or more before it knows a worker, itself included.
  if (error.errorName === 'GENERIC_INTERNAL_ERROR' && error.message === 'nodes is empty') return ['connection', 'safe']
  return byName[error.errorName] ?? byType[error.errorType] ?? ['remote', 'if-idempotent']
}

function causes(failure: WireFailure | null | undefined): string[] {
  const types: string[] = []
  for (let one = failure; one !== null && one !== undefined && types.length < 50; one = one.cause) types.push(one.type ?? '')
  return types
}

/** The server is there and not ready: the statement did not begin, and will when it is sent again a little later. */
export function isNotReady(error: unknown): boolean {
  return (
    HandlerError.is(error) && error.outcome === 'connection' && error.retry === 'safe' && trinoErrorFacts(error) !== undefined
  )
}

/** The connection was never made: whatever was to be sent, nothing was. */
const NEVER_CONNECTED = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENETDOWN',
  'UND_ERR_CONNECT_TIMEOUT',
])

/** The server's certificate, or the talk about it, is wrong; trying again does not help. */
const TLS_CODE = /^(CERT_|ERR_TLS_|ERR_SSL_|ERR_OSSL_|UNABLE_TO_|DEPTH_ZERO_|SELF_SIGNED_|HOSTNAME_MISMATCH|EPROTO$)/

/** An error of the HTTP driver, before any answer or in the middle of one. `target` is the address without secrets. */
export function fromTransport(cause: unknown, target: string): HandlerError {
  // Several addresses of one name were tried: an AggregateError, whose own message is empty.
  const error = (cause instanceof AggregateError ? cause.errors[0] : cause) as NodeJS.ErrnoException
  const name = error.code ?? ''
  const why = error.message
  if (TLS_CODE.test(name)) {
    return new ConnectionError(`there is no TLS with ${target}: ${why}`, {
      code: 'TRINO_TLS',
      retry: 'never',
      context: { target },
      cause,
    })
  }
  if (NEVER_CONNECTED.has(name)) {
    return new ConnectionError(`Trino at ${target} cannot be reached: ${why}`, {
      code: 'TRINO_UNREACHABLE',
      retry: 'safe',
      context: { target },
      cause,
    })
  }
  return new ConnectionError(`the connection to Trino at ${target} was lost: ${why}`, {
    code: 'TRINO_CONNECTION_LOST',
    retry: 'if-idempotent',
    context: { target },
    cause,
  })
}

/** An answer with a status other than 200. `body` is shortened: it is a page of HTML as often as a sentence. */
export function fromStatus(status: number, body: string, target: string, retryAfterMs: number | undefined): HandlerError {
  const said = body
    .replace(/<[^>]*>/g, ' ')
    .replace(/\s+/g, ' ')
    .trim()
    .slice(0, 300)
  const message = `Trino at ${target} answered ${status}${said === '' ? '' : `: ${said}`}`
  const context = { target, status }
  switch (status) {
    case 401:
      return new AuthError(`${message} (user, password or token is wrong or missing)`, { code: 'TRINO_UNAUTHENTICATED', context })
    case 403:
      return new PermissionError(message, { code: 'TRINO_FORBIDDEN', context })
    case 429:
      return new CapacityError(message, { code: 'TRINO_BUSY', retry: 'safe', context, ...after(retryAfterMs) })
    // The protocol's page says of these three: try again.
    case 502:
    case 503:
    case 504:
      return new ConnectionError(message, { code: 'TRINO_UNAVAILABLE', retry: 'safe', context, ...after(retryAfterMs) })
    default:
      return new RemoteError(message, {
        code: 'TRINO_HTTP_ERROR',
        serverCode: String(status),
        retry: status >= 500 ? 'if-idempotent' : 'never',
        context,
      })
  }
}

const after = (retryAfterMs: number | undefined): { readonly retryAfterMs?: number } =>
  retryAfterMs === undefined ? {} : { retryAfterMs }

/** The server no longer knows a query whose end was never seen; `why` if it could be found out. */
export function queryLost(queryId: string, status: number, why?: 'restarted'): ConnectionError {
  const reason = why === 'restarted' ? ': the server was restarted meanwhile' : ''
  return new ConnectionError(
    `Trino no longer knows query ${queryId} (${status})${reason}; whether it was applied is not known from here`,
    { code: 'TRINO_QUERY_LOST', retry: 'if-idempotent', context: { queryId, status, ...(why === undefined ? {} : { why }) } },
  )
}

/** The store has no such segment any more, or does not give it to us. `target` and `code` are the store's. */
export function segmentGone(target: string, status: number, code: string): RemoteError {
  return new RemoteError(
    `a segment of the spooled result cannot be had from ${target}: it answered ${status}${code === '' ? '' : ` ${code}`}`,
    { code: 'TRINO_SEGMENT_GONE', serverCode: String(status), retry: 'if-idempotent', context: { target, status } },
  )
}

/** A 200 that does not hold what the protocol says. */
export function notTheProtocol(target: string, body: string): RemoteError {
  return new RemoteError(`${target} does not answer like Trino: ${body.slice(0, 100)}`, {
    code: 'TRINO_PROTOCOL',
    serverCode: '200',
    retry: 'never',
    context: { target },
  })
}

/** The same error of the way to the server, or of who gives the login, with another verdict, and the query it belongs to. */
export function withVerdict(error: HandlerError, retry: Retry, queryId?: string): HandlerError {
  const options: HandlerErrorOptions = {
    code: error.code,
    retry,
    context: { ...error.context, ...(queryId === undefined ? {} : { queryId }) },
    cause: error.cause,
    ...after(error.retryAfterMs),
  }
  if (error.outcome === 'connection') return new ConnectionError(error.message, options)
  if (error.outcome === 'capacity') return new CapacityError(error.message, options)
  if (error.outcome === 'auth') return new AuthError(error.message, options)
  return new HandlerError(error.outcome, error.message, options)
}
