import { describe, expect, it } from 'vitest'
import { type Circumstances, toHandlerError } from '../src/errors.ts'

const at = (phase: Circumstances['phase'], statement = 'select 1'): Circumstances => ({
  phase,
  target: 'app@db:5432/main',
  user: 'app',
  statement,
})
const server = (code: string, fields: object = {}): Error =>
  Object.assign(new Error(`message of ${code}`), { severity: 'ERROR', code, ...fields })
const pooler = (message: string): Error => Object.assign(new Error(message), { severity: 'FATAL', code: '08P01' })
const socket = (message: string, code?: string): Error => Object.assign(new Error(message), code === undefined ? {} : { code })

describe('the error table', () => {
  it.each([
    // what the server says, and when → class, code, retry
    [server('08006'), at('statement'), 'ConnectionError', 'POSTGRES_CONNECTION_LOST', 'if-idempotent'],
    [server('08006'), at('transaction'), 'ConnectionError', 'POSTGRES_CONNECTION_LOST', 'safe'],
    [server('08006'), at('commit'), 'ConnectionError', 'POSTGRES_CONNECTION_LOST', 'if-idempotent'],
    [server('08001'), at('connect'), 'ConnectionError', 'POSTGRES_CONNECT_FAILED', 'safe'],
    [server('08004'), at('connect'), 'ConnectionError', 'POSTGRES_CONNECT_REFUSED', 'safe'],
    [server('08P01'), at('statement'), 'RemoteError', 'POSTGRES_PROTOCOL_VIOLATION', 'never'],
    [
      socket('ssl3_read_bytes:tlsv1 alert unknown ca', 'ERR_SSL_TLSV1_ALERT_UNKNOWN_CA'),
      at('connect'),
      'AuthError',
      'POSTGRES_CLIENT_CERT_REFUSED',
      'never',
    ],
    [pooler('server conn crashed?'), at('statement'), 'ConnectionError', 'POSTGRES_CONNECTION_LOST', 'if-idempotent'],
    [pooler('server conn crashed?'), at('transaction'), 'ConnectionError', 'POSTGRES_CONNECTION_LOST', 'safe'],
    [pooler('unsupported startup parameter: options'), at('connect'), 'ConfigError', 'POSTGRES_POOLER_MODE', 'never'],
    [server('22012'), at('statement'), 'DataError', 'POSTGRES_DATA_INVALID', 'never'],
    [server('23502'), at('statement'), 'DataError', 'POSTGRES_CONSTRAINT_VIOLATED', 'never'],
    [server('23505'), at('statement'), 'ConflictError', 'POSTGRES_ALREADY_EXISTS', 'never'],
    [server('23P01'), at('statement'), 'ConflictError', 'POSTGRES_ALREADY_EXISTS', 'never'],
    [server('25006'), at('statement'), 'PermissionError', 'POSTGRES_READ_ONLY', 'never'],
    [server('25P02'), at('transaction'), 'RemoteError', 'POSTGRES_TRANSACTION_FAILED', 'never'],
    [server('25P03'), at('transaction'), 'ConnectionError', 'POSTGRES_IDLE_IN_TRANSACTION', 'safe'],
    [server('25P04'), at('transaction'), 'OperationTimeoutError', 'POSTGRES_TRANSACTION_TIMEOUT', 'safe'],
    [server('28P01'), at('connect'), 'AuthError', 'POSTGRES_LOGIN_REFUSED', 'never'],
    [server('28000'), at('connect'), 'AuthError', 'POSTGRES_LOGIN_REFUSED', 'never'],
    [server('3D000'), at('connect'), 'NotFoundError', 'POSTGRES_DATABASE_NOT_FOUND', 'never'],
    [server('3F000'), at('statement'), 'NotFoundError', 'POSTGRES_SCHEMA_NOT_FOUND', 'never'],
    [server('40001'), at('transaction'), 'ConflictError', 'POSTGRES_SERIALIZATION_FAILED', 'safe'],
    [server('40001'), at('commit'), 'ConflictError', 'POSTGRES_SERIALIZATION_FAILED', 'safe'],
    [server('40002'), at('commit'), 'RemoteError', 'POSTGRES_TRANSACTION_ROLLED_BACK', 'safe'],
    [server('40003'), at('commit'), 'RemoteError', 'POSTGRES_COMPLETION_UNKNOWN', 'if-idempotent'],
    [server('40P01'), at('statement'), 'ConflictError', 'POSTGRES_DEADLOCK', 'safe'],
    [server('42501'), at('statement'), 'PermissionError', 'POSTGRES_PERMISSION_DENIED', 'never'],
    [server('42601'), at('statement'), 'RemoteError', 'POSTGRES_SYNTAX', 'never'],
    [server('42703'), at('statement'), 'NotFoundError', 'POSTGRES_COLUMN_NOT_FOUND', 'never'],
    [server('42704'), at('statement'), 'NotFoundError', 'POSTGRES_OBJECT_NOT_FOUND', 'never'],
    [server('42883'), at('statement'), 'NotFoundError', 'POSTGRES_FUNCTION_NOT_FOUND', 'never'],
    [server('42P01'), at('statement'), 'NotFoundError', 'POSTGRES_TABLE_NOT_FOUND', 'never'],
    [server('42P07'), at('statement'), 'ConflictError', 'POSTGRES_ALREADY_EXISTS', 'never'],
    [server('42804'), at('statement'), 'RemoteError', 'POSTGRES_STATEMENT_INVALID', 'never'],
    [server('53100'), at('statement'), 'CapacityError', 'POSTGRES_NO_CAPACITY', 'safe'],
    [server('53300'), at('connect'), 'CapacityError', 'POSTGRES_TOO_MANY_CONNECTIONS', 'safe'],
    [server('54001'), at('statement'), 'CapacityError', 'POSTGRES_LIMIT_EXCEEDED', 'never'],
    [server('55P03'), at('statement'), 'ConflictError', 'POSTGRES_LOCK_NOT_AVAILABLE', 'safe'],
    [server('55006'), at('statement'), 'ConflictError', 'POSTGRES_OBJECT_IN_USE', 'safe'],
    [server('57014'), at('statement'), 'OperationTimeoutError', 'POSTGRES_STATEMENT_CANCELLED', 'safe'],
    [server('57P01'), at('statement'), 'ConnectionError', 'POSTGRES_CONNECTION_LOST', 'if-idempotent'],
    [server('57P02'), at('transaction'), 'ConnectionError', 'POSTGRES_CONNECTION_LOST', 'safe'],
    [server('57P03'), at('connect'), 'ConnectionError', 'POSTGRES_NOT_READY', 'safe'],
    [server('57P04'), at('statement'), 'NotFoundError', 'POSTGRES_DATABASE_NOT_FOUND', 'never'],
    [server('57P05'), at('statement'), 'ConnectionError', 'POSTGRES_CONNECTION_LOST', 'if-idempotent'],
    [server('58030'), at('statement'), 'RemoteError', 'POSTGRES_FAILED', 'never'],
    [server('XX000'), at('statement'), 'RemoteError', 'POSTGRES_FAILED', 'never'],
    // what happened to the socket, or what pg says
    [
      socket('connect ECONNREFUSED 127.0.0.1:1', 'ECONNREFUSED'),
      at('connect'),
      'ConnectionError',
      'POSTGRES_CONNECT_FAILED',
      'safe',
    ],
    [socket('getaddrinfo ENOTFOUND nowhere', 'ENOTFOUND'), at('connect'), 'ConnectionError', 'POSTGRES_CONNECT_FAILED', 'safe'],
    [
      socket('Connection terminated unexpectedly'),
      at('statement'),
      'ConnectionError',
      'POSTGRES_CONNECTION_LOST',
      'if-idempotent',
    ],
    [socket('read ECONNRESET', 'ECONNRESET'), at('transaction'), 'ConnectionError', 'POSTGRES_CONNECTION_LOST', 'safe'],
    [socket('read ECONNRESET', 'ECONNRESET'), at('commit'), 'ConnectionError', 'POSTGRES_CONNECTION_LOST', 'if-idempotent'],
    [
      socket('Client has encountered a connection error and is not queryable'),
      at('statement'),
      'ConnectionError',
      'POSTGRES_CONNECTION_LOST',
      'safe',
    ],
    [
      socket('The server does not support SSL connections'),
      at('connect'),
      'ConnectionError',
      'POSTGRES_TLS_NOT_OFFERED',
      'never',
    ],
    [
      socket('self-signed certificate', 'DEPTH_ZERO_SELF_SIGNED_CERT'),
      at('connect'),
      'ConnectionError',
      'POSTGRES_TLS_UNTRUSTED',
      'never',
    ],
    [
      socket("Host: x. is not in the cert's altnames", 'ERR_TLS_CERT_ALTNAME_INVALID'),
      at('connect'),
      'ConnectionError',
      'POSTGRES_TLS_UNTRUSTED',
      'never',
    ],
    [
      socket('SASL: SCRAM-SERVER-FIRST-MESSAGE: client password must be a string'),
      at('connect'),
      'AuthError',
      'POSTGRES_LOGIN_REFUSED',
      'never',
    ],
  ] as const)('%s, %o', (thrown, circumstances, name, code, retry) => {
    const error = toHandlerError(thrown, circumstances)
    expect({ name: error.name, code: error.code, retry: error.retry }).toEqual({ name, code, retry })
    expect(error.context).toMatchObject({ server: 'app@db:5432/main' })
  })

  it('names the GRANT that is missing', () => {
    const denied = (object: string, statement: string): string =>
      toHandlerError(server('42501', { message: `permission denied for ${object}` }), at('statement', statement)).message
    expect(denied('table audit_log', 'select 1')).toContain('GRANT SELECT ON audit_log TO app')
    expect(denied('table audit_log', 'insert into audit_log')).toContain('GRANT INSERT ON audit_log TO app')
    expect(denied('view v', 'COPY (select * from v) TO STDOUT')).toContain('GRANT SELECT ON v TO app')
    expect(denied('schema app', 'select 1')).toContain('GRANT USAGE ON SCHEMA app TO app')
    expect(denied('sequence s', 'select 1')).toContain('GRANT USAGE ON SEQUENCE s TO app')
    expect(denied('function f', 'select 1')).toContain('GRANT EXECUTE ON FUNCTION f TO app')
    expect(denied('database d', 'create schema x')).toContain('GRANT CREATE ON DATABASE d TO app')
    expect(denied('tablespace t', 'select 1')).not.toContain('GRANT')
  })

  it('carries the hint and the place, and no password of a statement', () => {
    const statement = `ALTER ROLE app PASSWORD 'hush hush' VALID UNTIL 'tomorrow'`
    const error = toHandlerError(server('42703', { hint: 'Perhaps you meant x.', position: '8' }), at('statement', statement))
    expect(error.message).toBe('message of 42703 (Perhaps you meant x.) [42703]')
    expect(error.context).toMatchObject({ hint: 'Perhaps you meant x.', position: '8', sqlState: '42703' })
    expect(JSON.stringify(error)).not.toContain('hush')
    expect(error.context['statement']).toContain('VALID UNTIL')
  })
})
