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
const timeout: Build = (message, options) => new OperationTimeoutError(message, options)
const connection: Build = (message, options) => new ConnectionError(message, options)
const remote: Build = (message, options) => new RemoteError(message, options)

interface Rule {
  /** Codes of the protocol (https://cassandra.apache.org/doc/latest/cassandra/_attachments/native_protocol_v5.html, section 9). */
  readonly codes: readonly number[]
  readonly message?: RegExp
  readonly code: string
  readonly retry?: HandlerErrorOptions['retry']
  readonly build: Build
}

/** The first rule that fits. */
const rules: readonly Rule[] = [
  { codes: [0x100], code: 'CASSANDRA_LOGIN_REFUSED', build: auth },
  { codes: [0x2100], code: 'CASSANDRA_FORBIDDEN', build: forbidden },
  // Too few replicas are there: nothing was done.
  { codes: [0x1000], code: 'CASSANDRA_UNAVAILABLE', retry: 'safe', build: connection },
  { codes: [0x1002], code: 'CASSANDRA_NOT_READY', retry: 'safe', build: connection },
  { codes: [0x1001], code: 'CASSANDRA_OVERLOADED', retry: 'safe', build: capacity },
  { codes: [0x1100, 0x1200, 0x1700], code: 'CASSANDRA_SERVER_TIMEOUT', retry: 'if-idempotent', build: timeout },
  { codes: [0x1300, 0x1500], code: 'CASSANDRA_REPLICA_FAILED', retry: 'if-idempotent', build: remote },
  {
    codes: [0x2200],
    message: /does not exist|unconfigured table|undefined column name|unknown type/i,
    code: 'CASSANDRA_NOT_FOUND',
    build: missing,
  },
  { codes: [0x2200], message: /already exists/i, code: 'CASSANDRA_EXISTS', build: conflict },
  { codes: [0x2400], code: 'CASSANDRA_EXISTS', build: conflict },
  { codes: [0x2000, 0x2200, 0x2300], code: 'CASSANDRA_STATEMENT_INVALID', build: remote },
]

/** Nothing was sent: there is nobody to send it to. */
const unreachable = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH'])
const tls = /^(CERT_|ERR_TLS_|ERR_SSL_|UNABLE_TO_|SELF_SIGNED|DEPTH_ZERO|EPROTO$)/

/** An error of the driver as one of ours; `target` is the nodes. What is ours already, and what is no error, is given back. */
export function toCassandraError(error: unknown, target: string): unknown {
  if (HandlerError.is(error) || !(error instanceof Error)) return error
  const { name, message } = error
  const { code, innerErrors, isSocketError } = error as {
    readonly code?: unknown
    readonly innerErrors?: Readonly<Record<string, unknown>>
    readonly isSocketError?: unknown
  }
  const options = { context: { target }, cause: error }
  if (name === 'NoHostAvailableError') return toHostError(error, Object.values(innerErrors ?? {}), target)
  if (name === 'AuthenticationError') return new AuthError(message, { ...options, code: 'CASSANDRA_LOGIN_REFUSED' })
  if (name === 'OperationTimedOutError') {
    return new OperationTimeoutError(message, { ...options, code: 'CASSANDRA_NO_ANSWER', retry: 'if-idempotent' })
  }
  if (name === 'BusyConnectionError') {
    return new CapacityError(message, { ...options, code: 'CASSANDRA_CONNECTIONS_BUSY', retry: 'safe' })
  }
  if (name === 'ArgumentError') return new ConfigError(message, { ...options, code: 'CASSANDRA_OPTION_INVALID' })
  if (name === 'TypeError' || name === 'RangeError') {
    return new ConfigError(`a parameter cannot be passed to Cassandra: ${message}`, {
      ...options,
      code: 'CASSANDRA_PARAMETER_INVALID',
    })
  }
  if (typeof code === 'string' && tls.test(code)) {
    return new ConnectionError(`${target}: ${message} (give the certificate that signed the server's as ca)`, {
      ...options,
      code: 'CASSANDRA_TLS_FAILED',
    })
  }
  if (isSocketError === true || (typeof code === 'string' && /^E[A-Z]+$/.test(code))) {
    const isUnreachable = unreachable.has(String(code))
    return new ConnectionError(message, {
      ...options,
      code: isUnreachable ? 'CASSANDRA_UNREACHABLE' : 'CASSANDRA_CONNECTION_LOST',
      retry: isUnreachable ? 'safe' : 'if-idempotent',
    })
  }
  const rule = rules.find((one) => one.codes.includes(Number(code)) && (one.message?.test(message) ?? true))
  const { code: ours, build, retry } = rule ?? { code: 'CASSANDRA_FAILED', build: remote }
  return build(message, {
    ...options,
    code: ours,
    ...(retry === undefined ? {} : { retry }),
    serverCode: typeof code === 'number' ? `0x${code.toString(16)}` : name,
  })
}

/** No node did it; what is wrong with each of them is inside. The first that says more than that nobody is there. */
function toHostError(error: Error, inner: readonly unknown[], target: string): HandlerError {
  const mapped = inner
    // The driver closes what has failed, and says so of what waits.
    .map((one) => toCassandraError(one, target))
    .filter((one) => HandlerError.is(one))
  const telling = mapped.find(({ code }) => code !== 'CASSANDRA_UNREACHABLE' && code !== 'CASSANDRA_FAILED') ?? mapped[0]
  if (telling !== undefined && telling.code !== 'CASSANDRA_FAILED') return telling
  // What was on its way when the connection broke may have been done.
  const isLost = telling !== undefined
  return new ConnectionError(`no node of ${target} can be used: ${telling?.message ?? error.message}`, {
    code: isLost ? 'CASSANDRA_CONNECTION_LOST' : 'CASSANDRA_UNREACHABLE',
    retry: isLost ? 'if-idempotent' : 'safe',
    context: { target },
    cause: error,
  })
}

export const queryInvalid = (why: string): ConfigError => new ConfigError(why, { code: 'CASSANDRA_QUERY_INVALID' })

export const watermarkInvalid = (): ConfigError =>
  new ConfigError('the watermark cannot be used: it is not a token that an item had', { code: 'CASSANDRA_WATERMARK_INVALID' })

export const tableMissing = (keyspace: string, table: string): NotFoundError =>
  new NotFoundError(`there is no table or view "${table}" in the keyspace "${keyspace}"`, {
    code: 'CASSANDRA_NOT_FOUND',
    context: { keyspace, table },
  })

export const partitionerUnknown = (partitioner: string): RemoteError =>
  new RemoteError(`a scan needs the Murmur3Partitioner; this cluster has ${partitioner}`, {
    code: 'CASSANDRA_NOT_SUPPORTED',
    serverCode: partitioner,
  })

export const duplicateColumn = (name: string): DataError =>
  new DataError(`two columns of the result are named "${name}": give one of them another name with AS`, {
    code: 'CASSANDRA_DUPLICATE_COLUMN',
    where: { column: name },
  })

export const valueInvalid = (path: string, what: string): DataError =>
  new DataError(`"${path}" holds ${what}`, { code: 'CASSANDRA_VALUE_INVALID', where: { column: path } })
