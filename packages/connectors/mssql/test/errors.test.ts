import { HandlerError } from '@common-handlers/core'
import { expect, it } from 'vitest'
import { toMssqlError } from '../src/errors.ts'

const target = 'etl@db:1433/app'

// Numbers of SQL Server, "Database Engine events and errors".
it.each([
  [208, 'MSSQL_TABLE_NOT_FOUND', 'not-found', 'never'],
  [207, 'MSSQL_COLUMN_NOT_FOUND', 'not-found', 'never'],
  [911, 'MSSQL_DATABASE_NOT_FOUND', 'not-found', 'never'],
  [2812, 'MSSQL_OBJECT_NOT_FOUND', 'not-found', 'never'],
  [229, 'MSSQL_PERMISSION_DENIED', 'permission', 'never'],
  [3906, 'MSSQL_READ_ONLY', 'permission', 'never'],
  [2627, 'MSSQL_ALREADY_EXISTS', 'conflict', 'never'],
  [547, 'MSSQL_CONSTRAINT_VIOLATED', 'data', 'never'],
  [245, 'MSSQL_DATA_INVALID', 'data', 'never'],
  [1205, 'MSSQL_DEADLOCK', 'conflict', 'safe'],
  [1222, 'MSSQL_LOCK_NOT_AVAILABLE', 'conflict', 'safe'],
  [3960, 'MSSQL_SERIALIZATION_FAILED', 'conflict', 'safe'],
  [9002, 'MSSQL_NO_CAPACITY', 'capacity', 'safe'],
  [596, 'MSSQL_CONNECTION_LOST', 'connection', 'if-idempotent'],
  [102, 'MSSQL_STATEMENT_INVALID', 'remote', 'never'],
  [50_000, 'MSSQL_FAILED', 'remote', 'never'],
])('error %i is %s', (number, code, outcome, retry) => {
  const error = Object.assign(new Error('what it says'), { code: 'EREQUEST', number, lineNumber: 3, procName: 'dbo.p' })
  const ours = toMssqlError(error, { phase: 'statement', target })
  expect(ours).toMatchObject({ code, outcome, retry, context: { number, server: target, lineNumber: 3, procedure: 'dbo.p' } })
  expect(ours.message).toBe(`what it says [${number}]`)
})

it.each([
  ['connect', 'ELOGIN', 'Login failed for user', 'MSSQL_LOGIN_REFUSED', 'auth', 'never'],
  ['connect', 'ELOGIN', 'Cannot open database "app"', 'MSSQL_DATABASE_NOT_FOUND', 'not-found', 'never'],
  ['connect', 'EENCRYPT', 'Server requires encryption, set', 'MSSQL_TLS_NOT_AGREED', 'connection', 'never'],
  ['connect', 'EENCRYPT', 'Server did not negotiate encryption', 'MSSQL_TLS_NOT_AGREED', 'connection', 'never'],
  ['connect', 'ESOCKET', 'connect ECONNREFUSED', 'MSSQL_CONNECT_FAILED', 'connection', 'safe'],
  ['statement', 'ESOCKET', 'Connection lost', 'MSSQL_CONNECTION_LOST', 'connection', 'if-idempotent'],
  ['statement', 'ECLOSE', 'Connection closed before', 'MSSQL_CONNECTION_LOST', 'connection', 'if-idempotent'],
  ['statement', 'ECANCEL', 'Canceled.', 'MSSQL_STATEMENT_CANCELLED', 'timeout', 'safe'],
  ['statement', 'EPARAM', 'Validation failed', 'MSSQL_PARAMETER_INVALID', 'config', 'never'],
] as const)('while %s, %s of tedious ("%s") is %s', (phase, code, message, ours, outcome, retry) => {
  expect(toMssqlError(Object.assign(new Error(message), { code }), { phase, target })).toMatchObject({
    code: ours,
    outcome,
    retry,
  })
})

it('looks below for a certificate, at the last of several errors, and leaves what is ours', () => {
  const cause = Object.assign(new Error('self-signed certificate'), { code: 'DEPTH_ZERO_SELF_SIGNED_CERT' })
  const wrapped = Object.assign(new Error('Failed to connect', { cause }), { code: 'ESOCKET' })
  const ours = toMssqlError(wrapped, { phase: 'connect', target })
  expect(ours).toMatchObject({ code: 'MSSQL_TLS_UNTRUSTED', retry: 'never' })
  expect(HandlerError.is(ours) && toMssqlError(ours, { phase: 'statement', target })).toBe(ours)
  const several = new AggregateError([new Error('first'), Object.assign(new Error('last'), { number: 208 })])
  expect(toMssqlError(several, { phase: 'statement', target })).toMatchObject({ code: 'MSSQL_TABLE_NOT_FOUND' })
})
