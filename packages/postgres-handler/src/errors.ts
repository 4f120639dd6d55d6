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

/** What was going on when it failed. */
export interface Circumstances {
  /**
   * `connect`: nothing was sent yet. `statement`: a statement on its own. `transaction`: a statement inside a
   * transaction, which the loss of its connection undoes. `commit`: the end of one.
   */
  readonly phase: 'connect' | 'statement' | 'transaction' | 'commit'
  /** `user@host:port/database` */
  readonly target: string
  readonly user: string
  readonly statement?: string | undefined
  /** Which of several statements: `statement 2 of 3`. */
  readonly place?: string | undefined
  /** The file that COPY read from. */
  readonly file?: string | undefined
}

/** The fields of an ErrorResponse that are used, as pg gives them (PostgreSQL, "Error and Notice Message Fields"). */
interface ServerError extends Error {
  readonly code: string
  readonly severity?: string
  readonly detail?: string
  readonly hint?: string
  readonly position?: string
  readonly where?: string
  readonly schema?: string
  readonly table?: string
  readonly column?: string
  readonly constraint?: string
}

export const connectionBusy = (why: string): ConflictError =>
  new ConflictError(`${why} on this connection: let it come to its end, or leave it, before the next statement`, {
    code: 'POSTGRES_CONNECTION_BUSY',
  })

export const scopeEnded = (): ConflictError =>
  new ConflictError('the transaction, snapshot or lock that this was asked of has ended', { code: 'POSTGRES_SCOPE_ENDED' })

export const transactionEnded = (cause?: unknown): ConflictError =>
  new ConflictError('a statement of the work, such as COMMIT or ROLLBACK, has ended its transaction; transaction() does that', {
    code: 'POSTGRES_TRANSACTION_ENDED',
    ...(cause === undefined ? {} : { cause }),
  })

/** A driver's error as the handler's own: by SQLSTATE where the server spoke, by what happened to the socket where it did not. */
export function toHandlerError(error: unknown, circumstances: Circumstances): HandlerError {
  if (HandlerError.is(error)) return error
  return isServerError(error) ? fromServer(error, circumstances) : fromSocket(error, circumstances)
}

function isServerError(error: unknown): error is ServerError {
  return error instanceof Error && 'severity' in error && 'code' in error && typeof error.code === 'string'
}

/** Nothing of a failed statement stays, so the only question is whether the same call would fail again. */
type Verdict = (error: ServerError, base: Base, circumstances: Circumstances) => HandlerError

/** `where` is for DataError alone; the others leave it out. */
type Base = HandlerErrorOptions & { readonly where?: DataLocation }

const remote =
  (reason: string, retry: Retry = 'never'): Verdict =>
  (error, base, circumstances) =>
    new RemoteError(explain(error, circumstances), { ...base, code: `POSTGRES_${reason}`, retry, serverCode: error.code })

const kind =
  (Kind: new (message: string, options: Base) => HandlerError, reason: string, retry: Retry | 'by-phase' = 'never'): Verdict =>
  (error, base, circumstances) =>
    new Kind(explain(error, circumstances), {
      ...base,
      code: `POSTGRES_${reason}`,
      retry: retry === 'by-phase' ? afterLoss(circumstances) : retry,
    })

/** May the call be made again after its connection was lost? A transaction that was not being committed is gone with it. */
function afterLoss({ phase }: Circumstances): Retry {
  return phase === 'connect' || phase === 'transaction' ? 'safe' : 'if-idempotent'
}

/** By SQLSTATE, else by its class (PostgreSQL documentation, appendix A). */
const lost = kind(ConnectionError, 'CONNECTION_LOST', 'by-phase')

const verdicts: Readonly<Record<string, Verdict>> = {
  '08': lost,
  '08001': kind(ConnectionError, 'CONNECT_FAILED', 'safe'),
  '08004': kind(ConnectionError, 'CONNECT_REFUSED', 'safe'),
  '08P01': protocolViolation,
  '22': kind(DataError, 'DATA_INVALID'),
  '23': kind(DataError, 'CONSTRAINT_VIOLATED'),
  '23505': kind(ConflictError, 'ALREADY_EXISTS'),
  '23P01': kind(ConflictError, 'ALREADY_EXISTS'),
  '25006': kind(PermissionError, 'READ_ONLY'),
  '25P02': remote('TRANSACTION_FAILED'),
  '25P03': kind(ConnectionError, 'IDLE_IN_TRANSACTION', 'safe'),
  '25P04': kind(OperationTimeoutError, 'TRANSACTION_TIMEOUT', 'safe'),
  '28': kind(AuthError, 'LOGIN_REFUSED'),
  '3D000': kind(NotFoundError, 'DATABASE_NOT_FOUND'),
  '3F000': kind(NotFoundError, 'SCHEMA_NOT_FOUND'),
  '40': remote('TRANSACTION_ROLLED_BACK', 'safe'),
  '40001': kind(ConflictError, 'SERIALIZATION_FAILED', 'safe'),
  '40003': remote('COMPLETION_UNKNOWN', 'if-idempotent'),
  '40P01': kind(ConflictError, 'DEADLOCK', 'safe'),
  '42': remote('STATEMENT_INVALID'),
  '42501': denied,
  '42601': remote('SYNTAX'),
  '42703': kind(NotFoundError, 'COLUMN_NOT_FOUND'),
  '42704': kind(NotFoundError, 'OBJECT_NOT_FOUND'),
  '42883': kind(NotFoundError, 'FUNCTION_NOT_FOUND'),
  '42P01': kind(NotFoundError, 'TABLE_NOT_FOUND'),
  '42701': kind(ConflictError, 'ALREADY_EXISTS'),
  '42710': kind(ConflictError, 'ALREADY_EXISTS'),
  '42723': kind(ConflictError, 'ALREADY_EXISTS'),
  '42P04': kind(ConflictError, 'ALREADY_EXISTS'),
  '42P06': kind(ConflictError, 'ALREADY_EXISTS'),
  '42P07': kind(ConflictError, 'ALREADY_EXISTS'),
  '53': kind(CapacityError, 'NO_CAPACITY', 'safe'),
  '53300': kind(CapacityError, 'TOO_MANY_CONNECTIONS', 'safe'),
  '54': kind(CapacityError, 'LIMIT_EXCEEDED'),
  '55P03': kind(ConflictError, 'LOCK_NOT_AVAILABLE', 'safe'),
  '55006': kind(ConflictError, 'OBJECT_IN_USE', 'safe'),
  '57014': kind(OperationTimeoutError, 'STATEMENT_CANCELLED', 'safe'),
  '57P01': lost,
  '57P02': lost,
  '57P03': kind(ConnectionError, 'NOT_READY', 'safe'),
  '57P04': kind(NotFoundError, 'DATABASE_NOT_FOUND'),
  '57P05': lost,
}

function fromServer(error: ServerError, circumstances: Circumstances): HandlerError {
  const verdict = verdicts[error.code] ?? verdicts[error.code.slice(0, 2)] ?? remote('FAILED')
  const { detail, hint, position, where, schema, table, column, constraint } = error
  const statement = circumstances.statement === undefined ? undefined : excerpt(circumstances.statement)
  const { place } = circumstances
  const copied = copyLocation(error, circumstances)
  const facts = {
    sqlState: error.code,
    server: circumstances.target,
    detail,
    hint,
    position,
    where,
    place,
    line: copied?.line,
    schema,
    table,
    column,
    constraint,
    statement,
  }
  const context = Object.fromEntries(Object.entries(facts).filter(([, value]) => value !== undefined))
  return verdict(error, { code: '', context, cause: error, where: copied ?? {} }, circumstances)
}

/** PostgreSQL's message, its hint and its SQLSTATE in one line, and where it happened. */
function explain(error: ServerError, circumstances: Circumstances): string {
  const before = circumstances.place === undefined ? '' : `${circumstances.place}: `
  const { line, column } = copyLocation(error, circumstances) ?? {}
  const at = line === undefined ? '' : `line ${line}${column === undefined ? '' : `, column ${column}`}: `
  return `${before}${at}${error.message}${error.hint === undefined ? '' : ` (${error.hint})`} [${error.code}]`
}

/** COPY FROM says where it stood in the context of its error (src/backend/commands/copyfrom.c): `COPY t, line 3, column x: "a"`. */
function copyLocation(error: ServerError, { file }: Circumstances): DataLocation | undefined {
  const [, line, column] = /^COPY .+?, line (\d+)(?:, column (.+?)(?:: "|: null input$|$))?/m.exec(error.where ?? '') ?? []
  if (line === undefined) return undefined
  return { ...(file === undefined ? {} : { file }), line: Number(line), ...(column === undefined ? {} : { column }) }
}

/** PgBouncer takes none of the options that a session begins with, and has this one code for all that it says itself. */
function protocolViolation(error: ServerError, base: Base, circumstances: Circumstances): HandlerError {
  if (error.message.startsWith('server conn crashed')) return lost(error, base, circumstances)
  if (circumstances.phase !== 'connect' || !error.message.includes('startup parameter')) {
    return remote('PROTOCOL_VIOLATION')(error, base, circumstances)
  }
  return new ConfigError(`${explain(error, circumstances)}: this is a connection pooler, and needs poolerMode "transaction"`, {
    ...base,
    code: 'POSTGRES_POOLER_MODE',
  })
}

const OBJECT = /^permission denied for (\w+(?: \w+)?) (.+)$/

function denied(error: ServerError, base: Base, circumstances: Circumstances): HandlerError {
  const { user, statement } = circumstances
  const [, objectKind = '', name = ''] = OBJECT.exec(error.message) ?? []
  const grant = grantFor(objectKind, name, statement)
  const advice = grant === undefined ? '' : `; an owner can run: GRANT ${grant} TO ${quoteRole(user)}`
  return new PermissionError(`${explain(error, circumstances)}${advice}`, { ...base, code: 'POSTGRES_PERMISSION_DENIED' })
}

function grantFor(objectKind: string, name: string, statement: string | undefined): string | undefined {
  switch (objectKind) {
    case 'table':
    case 'view':
    case 'materialized view':
    case 'foreign table':
    case 'relation':
      return `${tablePrivilege(statement)} ON ${name}`
    case 'schema':
      return `${/^\s*create\b/i.test(statement ?? '') ? 'CREATE' : 'USAGE'} ON SCHEMA ${name}`
    case 'sequence':
      return `USAGE ON SEQUENCE ${name}`
    case 'function':
    case 'procedure':
      return `EXECUTE ON ${objectKind.toUpperCase()} ${name}`
    case 'database':
      return `${/^\s*create\b/i.test(statement ?? '') ? 'CREATE' : 'CONNECT'} ON DATABASE ${name}`
    default:
      return undefined
  }
}

function tablePrivilege(statement: string | undefined): string {
  const [, verb = ''] = /^\s*(insert|update|delete|truncate)\b/i.exec(statement ?? '') ?? []
  if (verb !== '') return verb.toUpperCase()
  return /^\s*copy\b[^()]*(?:\([^()]*\))?\s+from\b/i.test(statement ?? '') ? 'INSERT' : 'SELECT'
}

const quoteRole = (name: string): string => (/^[a-z_][a-z0-9_$]*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`)

/** The beginning of a statement, without the passwords that CREATE ROLE and its like hold. */
function excerpt(statement: string): string {
  const text = statement.replace(/(\bpassword\s+)(?:E?'(?:[^'\\]|\\.|'')*'|\S+)/gi, '$1[secret]')
  return text.length > 300 ? `${text.slice(0, 300)} …` : text
}

const CERTIFICATE = /^(ERR_TLS_|CERT_|UNABLE_TO_|SELF_SIGNED|DEPTH_ZERO|ERR_SSL|HOSTNAME_MISMATCH|INVALID_CA)/

/** No answer of the server: what happened to the socket, or what pg itself has to say. */
function fromSocket(error: unknown, circumstances: Circumstances): HandlerError {
  const message = error instanceof Error ? describeSocketError(error) : String(error)
  const code = error instanceof Error && 'code' in error ? String(error.code) : ''
  const base = { context: { server: circumstances.target }, cause: error }
  if (/^SASL:|client password must be a string/.test(message)) {
    const why = message.includes('client password') ? 'the server asks for a password and none was given' : message
    return new AuthError(`${circumstances.target}: ${why}`, { ...base, code: 'POSTGRES_LOGIN_REFUSED' })
  }
  if (message.includes('does not support SSL')) {
    return new ConnectionError(`${circumstances.target}: the server does not offer TLS; it was asked for with sslMode`, {
      ...base,
      code: 'POSTGRES_TLS_NOT_OFFERED',
    })
  }
  // The server says so in a TLS alert, after the handshake where it is TLS 1.3.
  if (/\balert\b/.test(message)) {
    return new AuthError(`${circumstances.target}: the server does not accept the certificate of the client: ${message}`, {
      ...base,
      code: 'POSTGRES_CLIENT_CERT_REFUSED',
    })
  }
  if (CERTIFICATE.test(code)) {
    return new ConnectionError(`${circumstances.target}: the server's certificate is not trusted: ${message}`, {
      ...base,
      code: 'POSTGRES_TLS_UNTRUSTED',
    })
  }
  if (circumstances.phase === 'connect') {
    return new ConnectionError(`cannot connect to ${circumstances.target}: ${message}`, {
      ...base,
      code: 'POSTGRES_CONNECT_FAILED',
      retry: 'safe',
    })
  }
  // pg says "not queryable" before it has sent anything.
  const retry = message.endsWith('is not queryable') ? 'safe' : afterLoss(circumstances)
  return new ConnectionError(`the connection to ${circumstances.target} was lost: ${message}`, {
    ...base,
    code: 'POSTGRES_CONNECTION_LOST',
    retry,
  })
}

/** A host with several addresses fails with an AggregateError, whose own message is empty. */
function describeSocketError(error: Error): string {
  if (error instanceof AggregateError) {
    return [...new Set(error.errors.map((inner) => (inner instanceof Error ? inner.message : String(inner))))].join('; ')
  }
  return error.message
}
