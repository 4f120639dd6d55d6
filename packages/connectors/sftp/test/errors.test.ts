import { HandlerError } from '@common-handlers/core'
import { expect, it } from 'vitest'
import { toSftpError } from '../src/errors.ts'

const place = { server: 'sftp://etl@host:22', path: '/a' }

it.each([
  [{ code: 2 }, 'No such file', 'SFTP_NOT_FOUND', 'not-found', 'never'],
  [{ code: 3 }, 'Permission denied', 'SFTP_FORBIDDEN', 'permission', 'never'],
  [{ code: 4 }, 'Failure', 'SFTP_FAILED', 'remote', 'never'],
  [{ code: 5 }, 'Bad message', 'SFTP_FAILED', 'remote', 'never'],
  [{ code: 8 }, 'Operation unsupported', 'SFTP_FAILED', 'remote', 'never'],
  [{ code: 6 }, 'No connection', 'SFTP_CONNECTION_LOST', 'connection', 'if-idempotent'],
  [{ code: 7 }, 'Connection lost', 'SFTP_CONNECTION_LOST', 'connection', 'if-idempotent'],
  [{ code: 'ECONNREFUSED', level: 'client-socket' }, 'connect ECONNREFUSED', 'SFTP_UNREACHABLE', 'connection', 'safe'],
  [{ code: 'ENOTFOUND', level: 'client-socket' }, 'getaddrinfo ENOTFOUND', 'SFTP_UNREACHABLE', 'connection', 'safe'],
  [{ code: 'ECONNRESET', level: 'client-socket' }, 'read ECONNRESET', 'SFTP_CONNECTION_LOST', 'connection', 'if-idempotent'],
  [{ level: 'client-authentication' }, 'All configured authentication methods failed', 'SFTP_LOGIN_REFUSED', 'auth', 'never'],
  [{ level: 'agent' }, 'Failed to connect to agent', 'SFTP_AGENT_UNUSABLE', 'config', 'never'],
  [{ level: 'client-timeout' }, 'Keepalive timeout', 'SFTP_TIMEOUT', 'timeout', 'if-idempotent'],
  [{ level: 'handshake' }, 'Handshake failed: no matching C->S cipher', 'SFTP_NOTHING_IN_COMMON', 'connection', 'never'],
  [{ level: 'protocol' }, 'Packet length too small', 'SFTP_CONNECTION_LOST', 'connection', 'if-idempotent'],
])('%j %s is %s', (facts, message, code, outcome, retry) => {
  const error = toSftpError(Object.assign(new Error(message), facts), place)
  expect(error).toMatchObject({ code, outcome, retry, context: place })
  expect((error as Error).message).toBe(`sftp://etl@host:22, /a: ${message}`)
})

it('leaves what is ours, and what is no error, as it is', () => {
  const ours = toSftpError(new Error('x'), place)
  expect(HandlerError.is(ours)).toBe(true)
  expect(toSftpError(ours, place)).toBe(ours)
  expect(toSftpError('text', place)).toBe('text')
})
