import { HandlerError } from '@common-handlers/core'
import { expect, it } from 'vitest'
import { toSqliteError } from '../src/errors.ts'

// Extended codes hold the primary one in their low byte: 261 is SQLITE_BUSY_RECOVERY.
it.each([
  [5, 'database is locked', 'SQLITE_LOCKED', 'conflict', 'safe'],
  [261, 'database is locked', 'SQLITE_LOCKED', 'conflict', 'safe'],
  [6, 'database table is locked', 'SQLITE_LOCKED', 'conflict', 'safe'],
  [14, 'unable to open database file', 'SQLITE_CANNOT_OPEN', 'not-found', 'never'],
  [3, 'access permission denied', 'SQLITE_FORBIDDEN', 'permission', 'never'],
  [23, 'not authorized', 'SQLITE_FORBIDDEN', 'permission', 'never'],
  [8, 'attempt to write a readonly database', 'SQLITE_READ_ONLY', 'permission', 'never'],
  [13, 'database or disk is full', 'SQLITE_DISK_FULL', 'capacity', 'never'],
  [7, 'out of memory', 'SQLITE_OUT_OF_MEMORY', 'capacity', 'never'],
  [11, 'database disk image is malformed', 'SQLITE_FILE_UNUSABLE', 'data', 'never'],
  [26, 'file is not a database', 'SQLITE_FILE_UNUSABLE', 'data', 'never'],
  [1555, 'UNIQUE constraint failed: t.i', 'SQLITE_CONSTRAINT', 'conflict', 'never'],
  [18, 'string or blob too big', 'SQLITE_VALUE_INVALID', 'data', 'never'],
  [20, 'datatype mismatch', 'SQLITE_VALUE_INVALID', 'data', 'never'],
  [25, 'column index out of range', 'SQLITE_VALUE_INVALID', 'data', 'never'],
  [9, 'interrupted', 'SQLITE_INTERRUPTED', 'connection', 'if-idempotent'],
  [778, 'disk I/O error', 'SQLITE_IO', 'remote', 'if-idempotent'],
  [1, 'no such table: t', 'SQLITE_NOT_FOUND', 'not-found', 'never'],
  [1, 'table t already exists', 'SQLITE_EXISTS', 'conflict', 'never'],
  [1, 'near "x": syntax error', 'SQLITE_STATEMENT_INVALID', 'remote', 'never'],
  [21, 'bad parameter or other API misuse', 'SQLITE_FAILED', 'remote', 'never'],
])('%i %s is %s', (errcode, message, code, outcome, retry) => {
  const error = toSqliteError(Object.assign(new Error(message), { code: 'ERR_SQLITE_ERROR', errcode }), '/data/app.db')
  expect(error).toMatchObject({ code, outcome, retry, context: { path: '/data/app.db' } })
  expect((error as Error).message).toContain(message)
})

it('leaves what is ours, and what is no error, as it is', () => {
  const ours = toSqliteError(new Error('x'), 'p')
  expect(HandlerError.is(ours)).toBe(true)
  expect(toSqliteError(ours, 'q')).toBe(ours)
  expect(toSqliteError('text', 'p')).toBe('text')
})
