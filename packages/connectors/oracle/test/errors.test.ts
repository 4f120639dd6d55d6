import { HandlerError } from '@common-handlers/core'
import { expect, it } from 'vitest'
import { toOracleError } from '../src/errors.ts'

const target = 'etl@db:1521/app'

// Numbers of Oracle, "Database Error Messages", and of node-oracledb, lib/errors.js.
it.each([
  ['ORA-01017', 'ORACLE_LOGIN_REFUSED', 'auth', 'never'],
  ['NJS-518', 'ORACLE_DATABASE_NOT_FOUND', 'not-found', 'never'],
  ['ORA-00942', 'ORACLE_TABLE_NOT_FOUND', 'not-found', 'never'],
  ['ORA-00904', 'ORACLE_COLUMN_NOT_FOUND', 'not-found', 'never'],
  ['ORA-01031', 'ORACLE_PERMISSION_DENIED', 'permission', 'never'],
  ['ORA-16000', 'ORACLE_READ_ONLY', 'permission', 'never'],
  ['ORA-00001', 'ORACLE_ALREADY_EXISTS', 'conflict', 'never'],
  ['ORA-02291', 'ORACLE_CONSTRAINT_VIOLATED', 'data', 'never'],
  ['ORA-01722', 'ORACLE_DATA_INVALID', 'data', 'never'],
  ['ORA-00060', 'ORACLE_DEADLOCK', 'conflict', 'safe'],
  ['ORA-00054', 'ORACLE_LOCK_NOT_AVAILABLE', 'conflict', 'safe'],
  ['ORA-08177', 'ORACLE_SERIALIZATION_FAILED', 'conflict', 'safe'],
  ['ORA-01555', 'ORACLE_SNAPSHOT_TOO_OLD', 'remote', 'safe'],
  ['ORA-12516', 'ORACLE_NO_CAPACITY', 'capacity', 'safe'],
  ['ORA-01013', 'ORACLE_STATEMENT_CANCELLED', 'timeout', 'safe'],
  ['ORA-01034', 'ORACLE_NOT_READY', 'connection', 'safe'],
  ['NJS-505', 'ORACLE_WALLET_UNUSABLE', 'config', 'never'],
  ['NJS-508', 'ORACLE_TLS_UNTRUSTED', 'connection', 'never'],
  ['NJS-500', 'ORACLE_CONNECTION_LOST', 'connection', 'if-idempotent'],
  ['ORA-03113', 'ORACLE_CONNECTION_LOST', 'connection', 'if-idempotent'],
  ['ORA-00936', 'ORACLE_STATEMENT_INVALID', 'remote', 'never'],
  ['ORA-20001', 'ORACLE_FAILED', 'remote', 'never'],
])('%s is %s', (code, ours, outcome, retry) => {
  const error = Object.assign(new Error(`${code}: what it says`), { code, offset: 7 })
  const mapped = toOracleError(error, { phase: 'statement', target })
  expect(mapped).toMatchObject({ code: ours, outcome, retry, context: { oracleCode: code, server: target, offset: 7 } })
  expect(mapped.message).toBe(`${code}: what it says`)
})

it.each([
  ['NJS-503', 'ORACLE_CONNECT_FAILED', 'safe'],
  ['NJS-510', 'ORACLE_CONNECT_FAILED', 'safe'],
  ['NJS-511', 'ORACLE_CONNECT_FAILED', 'safe'],
  ['NJS-500', 'ORACLE_CONNECT_FAILED', 'safe'],
  ['NJS-530', 'ORACLE_CONNECT_FAILED', 'safe'],
  ['ORA-01017', 'ORACLE_LOGIN_REFUSED', 'never'],
  ['ORA-12514', 'ORACLE_DATABASE_NOT_FOUND', 'never'],
])('while connecting, %s is %s', (code, ours, retry) => {
  expect(toOracleError(Object.assign(new Error('x'), { code }), { phase: 'connect', target })).toMatchObject({
    code: ours,
    retry,
  })
})

it('finds the number in a message without a code, and leaves what is ours', () => {
  const mapped = toOracleError(new Error('ORA-00942: table or view does not exist'), { phase: 'statement', target })
  expect(mapped.code).toBe('ORACLE_TABLE_NOT_FOUND')
  expect(HandlerError.is(mapped) && toOracleError(mapped, { phase: 'connect', target })).toBe(mapped)
})
