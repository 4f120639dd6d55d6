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
  type Retry,
} from '@common-handlers/core'

/** What the code of each error begins with, and each variable of the environment. */
export const MSSQL = 'MSSQL'

export interface Circumstances {
  /** `connect`: nothing was sent yet. */
  readonly phase: 'connect' | 'statement'
  /** `user@host:port/database` */
  readonly target: string
}

type Kind = new (message: string, options: HandlerErrorOptions & { readonly serverCode: string }) => HandlerError
type Rule = readonly [numbers: readonly number[], kind: Kind, reason: string, retry?: Retry]

/** By error number (SQL Server, "Database Engine events and errors"; sys.messages). */
const rules: readonly Rule[] = [
  [[208, 3701, 4902], NotFoundError, 'TABLE_NOT_FOUND'],
  [[207], NotFoundError, 'COLUMN_NOT_FOUND'],
  [[911], NotFoundError, 'DATABASE_NOT_FOUND'],
  [[195, 2812, 4121], NotFoundError, 'OBJECT_NOT_FOUND'],
  [[229, 230, 262, 297, 300, 916], PermissionError, 'PERMISSION_DENIED'],
  [[3906, 3908], PermissionError, 'READ_ONLY'],
  [[1801, 2601, 2627, 2705, 2714], ConflictError, 'ALREADY_EXISTS'],
  [[515, 547], DataError, 'CONSTRAINT_VIOLATED'],
  [[206, 220, 241, 242, 244, 245, 248, 295, 2628, 8114, 8115, 8134, 8152, 8169], DataError, 'DATA_INVALID'],
  [[1205], ConflictError, 'DEADLOCK', 'safe'],
  [[1222], ConflictError, 'LOCK_NOT_AVAILABLE', 'safe'],
  [[3960, 3961], ConflictError, 'SERIALIZATION_FAILED', 'safe'],
  [[701, 802, 1101, 1105, 8645, 8651, 9002, 10_928, 10_929, 40_501], CapacityError, 'NO_CAPACITY', 'safe'],
  [[596, 6005, 40_197, 40_613], ConnectionError, 'CONNECTION_LOST', 'if-idempotent'],
  [[102, 105, 109, 137, 156, 170, 213, 8120], RemoteError, 'STATEMENT_INVALID'],
]

const CERTIFICATE = /^(ERR_TLS_|CERT_|UNABLE_TO_|SELF_SIGNED|DEPTH_ZERO|ERR_SSL|HOSTNAME_MISMATCH|INVALID_CA)/

/** An error of tedious as one of ours: by number where the server spoke, by tedious's code where it did not. */
export function toMssqlError(error: unknown, circumstances: Circumstances): HandlerError {
  if (HandlerError.is(error)) return error
  // Several errors of one statement: the last is what ended it.
  if (error instanceof AggregateError && error.errors.length > 0) return toMssqlError(error.errors.at(-1), circumstances)
  const { number, code, lineNumber, procName } = error as {
    readonly number?: number
    readonly code?: string
    readonly lineNumber?: number
    readonly procName?: string
  }
  const { phase, target } = circumstances
  const message = error instanceof Error ? error.message : String(error)
  if (number === undefined || phase === 'connect') return fromClient(error, message, code ?? '', circumstances)
  const [, Kind, reason, retry = 'never'] = rules.find(([numbers]) => numbers.includes(number)) ?? [[], RemoteError, 'FAILED']
  return new Kind(`${message} [${number}]`, {
    code: `${MSSQL}_${reason}`,
    retry,
    context: {
      server: target,
      number,
      ...(lineNumber === undefined ? {} : { lineNumber }),
      ...(procName === undefined || procName === '' ? {} : { procedure: procName }),
    },
    cause: error,
    serverCode: String(number),
  })
}

function fromClient(error: unknown, message: string, code: string, { phase, target }: Circumstances): HandlerError {
  const base = { context: { server: target }, cause: error }
  if (code === 'ELOGIN' && message.startsWith('Cannot open database')) {
    return new NotFoundError(`${target}: ${message}`, { ...base, code: 'MSSQL_DATABASE_NOT_FOUND' })
  }
  if (code === 'ELOGIN') return new AuthError(`${target}: ${message}`, { ...base, code: 'MSSQL_LOGIN_REFUSED' })
  if (code === 'EENCRYPT') {
    const why = message.includes('requires encryption')
      ? 'the server wants TLS; give another sslMode than disable'
      : 'the server does not offer TLS; it was asked for with sslMode'
    return new ConnectionError(`${target}: ${why}`, { ...base, code: 'MSSQL_TLS_NOT_AGREED' })
  }
  if (CERTIFICATE.test(codeBelow(error))) {
    return new ConnectionError(`${target}: the server's certificate is not trusted: ${message}`, {
      ...base,
      code: 'MSSQL_TLS_UNTRUSTED',
    })
  }
  if (code === 'ECANCEL') {
    return new OperationTimeoutError(`the statement was cancelled`, { ...base, code: 'MSSQL_STATEMENT_CANCELLED', retry: 'safe' })
  }
  if (code === 'EPARAM') return new ConfigError(message, { ...base, code: 'MSSQL_PARAMETER_INVALID' })
  if (phase === 'connect') {
    return new ConnectionError(`cannot connect to ${target}: ${message}`, {
      ...base,
      code: 'MSSQL_CONNECT_FAILED',
      retry: 'safe',
    })
  }
  return new ConnectionError(`the connection to ${target} was lost: ${message}`, {
    ...base,
    code: 'MSSQL_CONNECTION_LOST',
    retry: 'if-idempotent',
  })
}

/** tedious wraps the error of a handshake. */
function codeBelow(error: unknown): string {
  for (let at = error, depth = 0; at instanceof Error && depth < 5; at = at.cause, depth++) {
    if ('code' in at && CERTIFICATE.test(String(at.code))) return String(at.code)
  }
  return ''
}

export const certificateUnreadable = (cause: unknown): ConfigError =>
  new ConfigError(`cannot read the file of sslRootCert: ${(cause as Error).message}`, { code: 'MSSQL_CERT_UNREADABLE', cause })

export const parameterInvalid = (position: number, why: string): ConfigError =>
  new ConfigError(`parameter @p${position}: ${why}`, { code: 'MSSQL_PARAMETER_INVALID', context: { parameter: position } })

export const valueInexact = (column: string, type: string, cast: string): DataError =>
  new DataError(`the column "${column}" is ${type}, which the driver would round: select ${cast} in its place`, {
    code: 'MSSQL_VALUE_INEXACT',
    where: { column },
  })

export const severalResults = (): ConfigError =>
  new ConfigError('the statement gives several results: query and stream take one', { code: 'MSSQL_QUERY_INVALID' })
