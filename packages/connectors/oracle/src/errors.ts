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
export const ORACLE = 'ORACLE'

export interface Circumstances {
  /** `connect`: nothing was sent yet. */
  readonly phase: 'connect' | 'statement'
  /** `user@host:port/service` */
  readonly target: string
}

type Kind = new (message: string, options: HandlerErrorOptions & { readonly serverCode: string }) => HandlerError
type Rule = readonly [codes: readonly string[], kind: Kind, reason: string, retry?: Retry]

/** By ORA number (Oracle, "Database Error Messages") and by the driver's own NJS number. */
const rules: readonly Rule[] = [
  [['ORA-01005', 'ORA-01017', 'ORA-01045', 'ORA-28000', 'ORA-28001'], AuthError, 'LOGIN_REFUSED'],
  [['NJS-518', 'NJS-519', 'ORA-12514', 'ORA-12505'], NotFoundError, 'DATABASE_NOT_FOUND'],
  [['ORA-00942', 'ORA-04043'], NotFoundError, 'TABLE_NOT_FOUND'],
  [['ORA-00904'], NotFoundError, 'COLUMN_NOT_FOUND'],
  [['ORA-00990', 'ORA-01031', 'ORA-41900'], PermissionError, 'PERMISSION_DENIED'],
  [['ORA-01456', 'ORA-16000'], PermissionError, 'READ_ONLY'],
  [['ORA-00001', 'ORA-00955'], ConflictError, 'ALREADY_EXISTS'],
  [['ORA-01400', 'ORA-01407', 'ORA-02290', 'ORA-02291', 'ORA-02292'], DataError, 'CONSTRAINT_VIOLATED'],
  [
    [
      'ORA-00932',
      'ORA-01438',
      'ORA-01426',
      'ORA-01476',
      'ORA-01722',
      'ORA-01830',
      'ORA-01843',
      'ORA-01858',
      'ORA-01861',
      'ORA-12899',
    ],
    DataError,
    'DATA_INVALID',
  ],
  [['ORA-00060'], ConflictError, 'DEADLOCK', 'safe'],
  [['ORA-00054', 'ORA-30006'], ConflictError, 'LOCK_NOT_AVAILABLE', 'safe'],
  [['ORA-08177'], ConflictError, 'SERIALIZATION_FAILED', 'safe'],
  [['ORA-01555'], RemoteError, 'SNAPSHOT_TOO_OLD', 'safe'],
  [
    ['ORA-00018', 'ORA-00020', 'ORA-01653', 'ORA-01654', 'ORA-04031', 'ORA-12516', 'ORA-12519', 'ORA-12520'],
    CapacityError,
    'NO_CAPACITY',
    'safe',
  ],
  [['ORA-01013'], OperationTimeoutError, 'STATEMENT_CANCELLED', 'safe'],
  [['ORA-01033', 'ORA-01034', 'ORA-01089', 'ORA-12528'], ConnectionError, 'NOT_READY', 'safe'],
  [['NJS-505', 'NJS-529'], ConfigError, 'WALLET_UNUSABLE'],
  [['NJS-506', 'NJS-507', 'NJS-508'], ConnectionError, 'TLS_UNTRUSTED'],
  [
    ['NJS-003', 'NJS-500', 'NJS-501', 'NJS-513', 'NJS-521', 'ORA-00028', 'ORA-02396', 'ORA-03113', 'ORA-03114', 'ORA-03135'],
    ConnectionError,
    'CONNECTION_LOST',
    'if-idempotent',
  ],
  [['ORA-00900', 'ORA-00911', 'ORA-00923', 'ORA-00933', 'ORA-00936', 'ORA-01008'], RemoteError, 'STATEMENT_INVALID'],
]

/** What goes wrong before a session is there, whatever its number. */
const CONNECTING = /^NJS-5\d\d$/

/** An error of oracledb as one of ours. */
export function toOracleError(error: unknown, { phase, target }: Circumstances): HandlerError {
  if (HandlerError.is(error)) return error
  const message = error instanceof Error ? error.message : String(error)
  const { offset, ...rest } = error as { readonly code?: unknown; readonly offset?: unknown }
  const code = typeof rest.code === 'string' ? rest.code : (/^(?:ORA|NJS)-\d+/.exec(message)?.[0] ?? 'UNKNOWN')
  const found = rules.find(([codes]) => codes.includes(code))
  const isRefusal = found?.[1] === ConnectionError && found[2] === 'CONNECTION_LOST'
  const base = {
    context: { server: target, oracleCode: code, ...(typeof offset === 'number' && offset > 0 ? { offset } : {}) },
    cause: error,
  }
  if (phase === 'connect' && (found === undefined ? CONNECTING.test(code) || code === 'UNKNOWN' : isRefusal)) {
    return new ConnectionError(`cannot connect to ${target}: ${message}`, {
      ...base,
      code: 'ORACLE_CONNECT_FAILED',
      retry: 'safe',
    })
  }
  const [, Kind, reason, retry = 'never'] = found ?? [[], RemoteError, 'FAILED']
  return new Kind(message, { ...base, code: `${ORACLE}_${reason}`, retry, serverCode: code })
}

export const walletUnreadable = (cause: unknown): ConfigError =>
  new ConfigError(`cannot read the file of the wallet: ${(cause as Error).message}`, { code: 'ORACLE_WALLET_UNREADABLE', cause })

export const parameterInvalid = (position: number, why: string): ConfigError =>
  new ConfigError(`parameter :${position}: ${why}`, { code: 'ORACLE_PARAMETER_INVALID', context: { parameter: position } })

export const valueInexact = (column: string, type: string, advice: string): DataError =>
  new DataError(`the column "${column}" is ${type}, which the driver does not give exactly: select ${advice} in its place`, {
    code: 'ORACLE_VALUE_INEXACT',
    where: { column },
  })
