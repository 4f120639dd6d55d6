import {
  AuthError,
  CapacityError,
  ConfigError,
  ConflictError,
  ConnectionError,
  DataError,
  type DataLocation,
  HandlerError,
  type HandlerErrorOptions,
  NotFoundError,
  OperationTimeoutError,
  PermissionError,
  RemoteError,
  type Retry,
} from '@common-handlers/core'

/** What the code of each error begins with. */
export const POSTGRES = 'POSTGRES'

/** What was going on when it failed. `transaction`: its loss undoes everything. `commit`: whether it was done is not known. */
export interface Circumstances {
  readonly phase: 'connect' | 'statement' | 'transaction' | 'commit'
  /** `user@host:port/database` */
  readonly target: string
}

/** The fields of an ErrorResponse that are used, as pg gives them (PostgreSQL, "Error and Notice Message Fields"). */
interface ServerError extends Error {
  readonly code: string
  readonly severity: string
  readonly detail?: string
  readonly hint?: string
  readonly position?: string
  readonly where?: string
  readonly schema?: string
  readonly table?: string
  readonly column?: string
  readonly constraint?: string
}

type Options = HandlerErrorOptions & { readonly serverCode: string; readonly where?: DataLocation }
type Kind = new (message: string, options: Options) => HandlerError
type Rule = readonly [kind: Kind, reason: string, retry?: Retry | 'by-phase']

/** By SQLSTATE, else by its class (PostgreSQL, appendix A). */
const rules: Readonly<Record<string, Rule>> = {
  '08': [ConnectionError, 'CONNECTION_LOST', 'by-phase'],
  '08001': [ConnectionError, 'CONNECT_FAILED', 'safe'],
  '08004': [ConnectionError, 'CONNECT_FAILED', 'safe'],
  '08P01': [RemoteError, 'PROTOCOL_VIOLATION'],
  '21': [DataError, 'DATA_INVALID'],
  '22': [DataError, 'DATA_INVALID'],
  '23': [DataError, 'CONSTRAINT_VIOLATED'],
  '23505': [ConflictError, 'ALREADY_EXISTS'],
  '23P01': [ConflictError, 'ALREADY_EXISTS'],
  '25006': [PermissionError, 'READ_ONLY'],
  '28': [AuthError, 'LOGIN_REFUSED'],
  '3D000': [NotFoundError, 'DATABASE_NOT_FOUND'],
  '3F000': [NotFoundError, 'SCHEMA_NOT_FOUND'],
  '40': [RemoteError, 'TRANSACTION_ROLLED_BACK', 'safe'],
  '40001': [ConflictError, 'SERIALIZATION_FAILED', 'safe'],
  '40P01': [ConflictError, 'DEADLOCK', 'safe'],
  '42': [RemoteError, 'STATEMENT_INVALID'],
  '42501': [PermissionError, 'PERMISSION_DENIED'],
  '42703': [NotFoundError, 'COLUMN_NOT_FOUND'],
  '42704': [NotFoundError, 'OBJECT_NOT_FOUND'],
  '42883': [NotFoundError, 'FUNCTION_NOT_FOUND'],
  '42P10': [ConfigError, 'KEY_UNUSABLE'],
  '42P01': [NotFoundError, 'TABLE_NOT_FOUND'],
  '42710': [ConflictError, 'ALREADY_EXISTS'],
  '42P06': [ConflictError, 'ALREADY_EXISTS'],
  '42P07': [ConflictError, 'ALREADY_EXISTS'],
  '53': [CapacityError, 'NO_CAPACITY', 'safe'],
  '53300': [CapacityError, 'TOO_MANY_CONNECTIONS', 'safe'],
  '54': [CapacityError, 'LIMIT_EXCEEDED'],
  '55P03': [ConflictError, 'LOCK_NOT_AVAILABLE', 'safe'],
  '57014': [OperationTimeoutError, 'STATEMENT_CANCELLED', 'safe'],
  '57P01': [ConnectionError, 'CONNECTION_LOST', 'by-phase'],
  '57P02': [ConnectionError, 'CONNECTION_LOST', 'by-phase'],
  '57P03': [ConnectionError, 'NOT_READY', 'safe'],
  '57P05': [ConnectionError, 'CONNECTION_LOST', 'by-phase'],
}

/** An error of pg as one of ours: by SQLSTATE where the server spoke, by what happened to the socket where it did not. */
export function toPostgresError(error: unknown, circumstances: Circumstances): HandlerError {
  if (HandlerError.is(error)) return error
  return isServerError(error) ? fromServer(error, circumstances) : fromSocket(error, circumstances)
}

const isServerError = (error: unknown): error is ServerError =>
  error instanceof Error && 'severity' in error && 'code' in error && typeof error.code === 'string'

/** May the call be made again after its connection was lost? A transaction that was not being committed is gone with it. */
const afterLoss = (phase: Circumstances['phase']): Retry =>
  phase === 'connect' || phase === 'transaction' ? 'safe' : 'if-idempotent'

function fromServer(error: ServerError, { phase, target }: Circumstances): HandlerError {
  const [Kind, reason, retry = 'never'] = rules[error.code] ?? rules[error.code.slice(0, 2)] ?? [RemoteError, 'FAILED']
  const { detail, position, schema, table, column, constraint } = error
  const copied = copyLocation(error)
  const facts = { sqlState: error.code, server: target, detail, position, schema, table, column, constraint }
  const place = copied === undefined ? '' : `${rowAndColumn(copied)}: `
  return new Kind(`${place}${error.message}${error.hint === undefined ? '' : ` (${error.hint})`} [${error.code}]`, {
    code: `${POSTGRES}_${reason}`,
    retry: retry === 'by-phase' ? afterLoss(phase) : retry,
    context: Object.fromEntries(Object.entries(facts).filter(([, value]) => value !== undefined)),
    where: copied ?? (column === undefined ? {} : { column }),
    cause: error,
    serverCode: error.code,
  })
}

/** COPY FROM says where it stood (src/backend/commands/copyfrom.c): `COPY t, line 3, column x: "a"`. A line is a row here. */
function copyLocation({ where }: ServerError): { readonly line: number; readonly column?: string } | undefined {
  const [, line, column] = /^COPY .+?, line (\d+)(?:, column (.+?)(?:: "|: null input$|$))?/m.exec(where ?? '') ?? []
  if (line === undefined) return undefined
  return { line: Number(line), ...(column === undefined ? {} : { column }) }
}

const rowAndColumn = ({ line, column }: { readonly line: number; readonly column?: string | undefined }): string =>
  `row ${line}${column === undefined ? '' : `, column "${column}"`}`

const CERTIFICATE = /^(ERR_TLS_|CERT_|UNABLE_TO_|SELF_SIGNED|DEPTH_ZERO|ERR_SSL|HOSTNAME_MISMATCH|INVALID_CA)/

/** No answer of the server: what happened to the socket, or what pg itself has to say. */
function fromSocket(error: unknown, { phase, target }: Circumstances): HandlerError {
  const message = error instanceof Error ? socketMessage(error) : String(error)
  const code = error instanceof Error && 'code' in error ? String(error.code) : ''
  const base = { context: { server: target }, cause: error }
  if (/^SASL:|client password must be a string/.test(message)) {
    const why = message.includes('client password') ? 'the server asks for a password and none was given' : message
    return new AuthError(`${target}: ${why}`, { ...base, code: 'POSTGRES_LOGIN_REFUSED' })
  }
  if (message.includes('does not support SSL')) {
    return tlsNotOffered(target, error)
  }
  // The server says so in a TLS alert, after the handshake where it is TLS 1.3.
  if (/\balert\b/.test(message)) {
    return new AuthError(`${target}: the server does not accept the certificate of the client: ${message}`, {
      ...base,
      code: 'POSTGRES_CLIENT_CERT_REFUSED',
    })
  }
  if (CERTIFICATE.test(code)) {
    return new ConnectionError(`${target}: the server's certificate is not trusted: ${message}`, {
      ...base,
      code: 'POSTGRES_TLS_UNTRUSTED',
    })
  }
  if (phase === 'connect') {
    return new ConnectionError(`cannot connect to ${target}: ${message}`, {
      ...base,
      code: 'POSTGRES_CONNECT_FAILED',
      retry: 'safe',
    })
  }
  return new ConnectionError(`the connection to ${target} was lost: ${message}`, {
    ...base,
    code: 'POSTGRES_CONNECTION_LOST',
    retry: afterLoss(phase),
  })
}

/** A host with several addresses fails with an AggregateError, whose own message is empty. */
function socketMessage(error: Error): string {
  if (!(error instanceof AggregateError)) return error.message
  return [...new Set(error.errors.map((inner) => (inner instanceof Error ? inner.message : String(inner))))].join('; ')
}

export const certificateUnreadable = (option: string, cause: unknown): ConfigError =>
  new ConfigError(`cannot read the file of ${option}: ${(cause as Error).message}`, {
    code: 'POSTGRES_CERT_UNREADABLE',
    context: { option },
    cause,
  })

export const tlsNotOffered = (target: string, cause?: unknown): ConnectionError =>
  new ConnectionError(`${target}: the server does not offer TLS; it was asked for with sslMode`, {
    code: 'POSTGRES_TLS_NOT_OFFERED',
    context: { server: target },
    ...(cause === undefined ? {} : { cause }),
  })

export const parameterInvalid = (position: number, why: string): ConfigError =>
  new ConfigError(`parameter $${position}: ${why}`, {
    code: 'POSTGRES_PARAMETER_INVALID',
    context: { parameter: position },
  })

export const tableNotFound = (table: string): NotFoundError =>
  new NotFoundError(`there is no table ${table}`, { code: 'POSTGRES_TABLE_NOT_FOUND', context: { table } })

export const columnUnknown = (table: string, column: string, known: readonly string[]): NotFoundError =>
  new NotFoundError(`row 1, column "${column}": ${table} has no such column that can be written; it has ${known.join(', ')}`, {
    code: 'POSTGRES_COLUMN_NOT_FOUND',
    context: { table, column, known },
  })

export const rowUnexpected = (row: number, column: string): DataError =>
  new DataError(`row ${row}, column "${column}": the first row had no such column`, {
    code: 'POSTGRES_ROW_INVALID',
    where: { line: row, column },
  })

export const valueInvalid = (row: number, column: string, why: string): DataError =>
  new DataError(`row ${row}, column "${column}": ${why}`, { code: 'POSTGRES_ROW_INVALID', where: { line: row, column } })

export const keyNull = (row: number, column: string): DataError => valueInvalid(row, column, 'NULL in a key tells no rows apart')

export const keyMissing = (column: string): ConfigError =>
  new ConfigError(column === '' ? 'upsert needs a key' : `the key "${column}" is no column of the rows`, {
    code: 'POSTGRES_KEY_UNUSABLE',
    context: { column },
  })

export const keyTwice = (first: number, second: number, key: readonly string[]): DataError =>
  new DataError(`rows ${first} and ${second} have the same ${key.map((name) => `"${name}"`).join(', ')}: keep one of them`, {
    code: 'POSTGRES_KEY_TWICE',
    where: { line: second, ...(key[0] === undefined ? {} : { column: key[0] }) },
  })

/** The target's own reason, with the row that it does not give. */
export function rowRefused(row: number, cause: HandlerError): DataError {
  const { column } = cause.context
  const place = { line: row, ...(typeof column === 'string' ? { column } : {}) }
  return new DataError(`${rowAndColumn(place)}: ${cause.message}`, {
    code: 'POSTGRES_ROW_REFUSED',
    context: cause.context,
    where: place,
    cause,
  })
}
