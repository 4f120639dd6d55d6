import { HandlerError } from '@common-handlers/core'
import { describe, expect, it } from 'vitest'
import { toPostgresError } from '../src/errors.ts'

const target = 'etl@db:5432/app'
const server = (code: string, more: object = {}) => Object.assign(new Error('what it says'), { severity: 'ERROR', code, ...more })
const socket = (message: string, code?: string) => Object.assign(new Error(message), code === undefined ? {} : { code })

// SQLSTATEs of PostgreSQL, appendix A.
it.each([
  ['08006', 'POSTGRES_CONNECTION_LOST', 'connection', 'if-idempotent'],
  ['08001', 'POSTGRES_CONNECT_FAILED', 'connection', 'safe'],
  ['08P01', 'POSTGRES_PROTOCOL_VIOLATION', 'remote', 'never'],
  ['21000', 'POSTGRES_DATA_INVALID', 'data', 'never'],
  ['22P02', 'POSTGRES_DATA_INVALID', 'data', 'never'],
  ['23502', 'POSTGRES_CONSTRAINT_VIOLATED', 'data', 'never'],
  ['23505', 'POSTGRES_ALREADY_EXISTS', 'conflict', 'never'],
  ['25006', 'POSTGRES_READ_ONLY', 'permission', 'never'],
  ['28P01', 'POSTGRES_LOGIN_REFUSED', 'auth', 'never'],
  ['3D000', 'POSTGRES_DATABASE_NOT_FOUND', 'not-found', 'never'],
  ['3F000', 'POSTGRES_SCHEMA_NOT_FOUND', 'not-found', 'never'],
  ['40001', 'POSTGRES_SERIALIZATION_FAILED', 'conflict', 'safe'],
  ['40002', 'POSTGRES_TRANSACTION_ROLLED_BACK', 'remote', 'safe'],
  ['40P01', 'POSTGRES_DEADLOCK', 'conflict', 'safe'],
  ['42501', 'POSTGRES_PERMISSION_DENIED', 'permission', 'never'],
  ['42601', 'POSTGRES_STATEMENT_INVALID', 'remote', 'never'],
  ['42703', 'POSTGRES_COLUMN_NOT_FOUND', 'not-found', 'never'],
  ['42P01', 'POSTGRES_TABLE_NOT_FOUND', 'not-found', 'never'],
  ['42P07', 'POSTGRES_ALREADY_EXISTS', 'conflict', 'never'],
  ['42P10', 'POSTGRES_KEY_UNUSABLE', 'config', 'never'],
  ['53100', 'POSTGRES_NO_CAPACITY', 'capacity', 'safe'],
  ['53300', 'POSTGRES_TOO_MANY_CONNECTIONS', 'capacity', 'safe'],
  ['54000', 'POSTGRES_LIMIT_EXCEEDED', 'capacity', 'never'],
  ['55P03', 'POSTGRES_LOCK_NOT_AVAILABLE', 'conflict', 'safe'],
  ['57014', 'POSTGRES_STATEMENT_CANCELLED', 'timeout', 'safe'],
  ['57P01', 'POSTGRES_CONNECTION_LOST', 'connection', 'if-idempotent'],
  ['57P03', 'POSTGRES_NOT_READY', 'connection', 'safe'],
  ['XX000', 'POSTGRES_FAILED', 'remote', 'never'],
])('%s of the server is %s', (sqlState, code, outcome, retry) => {
  const error = toPostgresError(server(sqlState), { phase: 'statement', target })
  expect(error).toMatchObject({ code, outcome, retry, context: { sqlState, server: target } })
  expect(error.message).toBe(`what it says [${sqlState}]`)
})

it.each([
  ['connect', 'ECONNREFUSED', 'POSTGRES_CONNECT_FAILED', 'connection', 'safe'],
  ['statement', 'ECONNRESET', 'POSTGRES_CONNECTION_LOST', 'connection', 'if-idempotent'],
  ['transaction', 'ECONNRESET', 'POSTGRES_CONNECTION_LOST', 'connection', 'safe'],
  ['commit', 'ECONNRESET', 'POSTGRES_CONNECTION_LOST', 'connection', 'if-idempotent'],
  ['connect', 'SELF_SIGNED_CERT_IN_CHAIN', 'POSTGRES_TLS_UNTRUSTED', 'connection', 'never'],
] as const)('what happens to the socket while %s, %s, is %s', (phase, code, ours, outcome, retry) => {
  expect(toPostgresError(socket('it broke', code), { phase, target })).toMatchObject({ code: ours, outcome, retry })
})

it.each([
  ['SASL: SCRAM-SERVER-FIRST-MESSAGE: client password must be a string', 'POSTGRES_LOGIN_REFUSED', 'none was given'],
  ['The server does not support SSL connections', 'POSTGRES_TLS_NOT_OFFERED', 'sslMode'],
  ['tlsv13 alert certificate required', 'POSTGRES_CLIENT_CERT_REFUSED', 'certificate of the client'],
])('"%s" of pg is %s', (message, code, advice) => {
  const error = toPostgresError(socket(message), { phase: 'connect', target })
  expect(error).toMatchObject({ code, retry: 'never' })
  expect(error.message).toContain(advice)
})

describe('a row of a COPY', () => {
  it.each([
    ['COPY t, line 3, column amount: "ten"', { line: 3, column: 'amount' }, 'row 3, column "amount": what it says [22P02]'],
    ['COPY t, line 3, column id: null input', { line: 3, column: 'id' }, 'row 3, column "id": what it says [22P02]'],
    ['COPY t, line 3: "1	2"', { line: 3 }, 'row 3: what it says [22P02]'],
    ['SQL function "f"', {}, 'what it says [22P02]'],
  ])('is read from %s', (where, location, message) => {
    const error = toPostgresError(server('22P02', { where }), { phase: 'transaction', target })
    expect(error).toMatchObject({ where: location, message })
  })
})

it('leaves what is ours as it is, and explains a host of several addresses', () => {
  const ours = toPostgresError(socket('x'), { phase: 'connect', target })
  expect(HandlerError.is(ours)).toBe(true)
  expect(toPostgresError(ours, { phase: 'statement', target })).toBe(ours)
  const both = new AggregateError([new Error('refused ::1'), new Error('refused 127.0.0.1')])
  expect(toPostgresError(both, { phase: 'connect', target }).message).toContain('refused ::1; refused 127.0.0.1')
})
