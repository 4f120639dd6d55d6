import { HandlerError } from '@common-handlers/core'
import { expect, it } from 'vitest'
import { toFtpError } from '../src/errors.ts'

const place = { server: 'ftp://etl@host:21', path: '/a' }

it.each([
  // What ProFTPD, vsftpd and rclone say.
  [550, '550 /a: No such file or directory', 'FTP_NOT_FOUND', 'not-found', 'never'],
  [550, '550 Failed to open file.', 'FTP_NOT_FOUND', 'not-found', 'never'],
  [551, '551 File not available for download', 'FTP_NOT_FOUND', 'not-found', 'never'],
  [550, '550 /a: Permission denied', 'FTP_FORBIDDEN', 'permission', 'never'],
  [553, '553 Could not create file.', 'FTP_FORBIDDEN', 'permission', 'never'],
  [450, '450 File busy', 'FTP_FILE_BUSY', 'conflict', 'safe'],
  [421, '421 Timeout.', 'FTP_CONNECTION_LOST', 'connection', 'if-idempotent'],
  [425, '425 Cannot open data connection', 'FTP_CONNECTION_LOST', 'connection', 'if-idempotent'],
  [426, '426 Failure writing network stream.', 'FTP_CONNECTION_LOST', 'connection', 'if-idempotent'],
  [451, '451 Local error', 'FTP_FAILED', 'remote', 'if-idempotent'],
  [502, '502 Not implemented', 'FTP_FAILED', 'remote', 'never'],
  [550, '550 SSL/TLS required on the control channel', 'FTP_TLS_REQUIRED', 'connection', 'never'],
  [530, '530 Non-anonymous sessions must use encryption.', 'FTP_TLS_REQUIRED', 'connection', 'never'],
  ['ECONNREFUSED', 'connect ECONNREFUSED', 'FTP_UNREACHABLE', 'connection', 'safe'],
  ['ENOTFOUND', 'getaddrinfo ENOTFOUND', 'FTP_UNREACHABLE', 'connection', 'safe'],
  ['ECONNRESET', 'read ECONNRESET (data socket)', 'FTP_CONNECTION_LOST', 'connection', 'if-idempotent'],
  ['SELF_SIGNED_CERT_IN_CHAIN', 'self-signed certificate', 'FTP_TLS_FAILED', 'connection', 'never'],
  ['ERR_TLS_CERT_ALTNAME_INVALID', 'Hostname does not match', 'FTP_TLS_FAILED', 'connection', 'never'],
  [undefined, 'Timeout (control socket)', 'FTP_TIMEOUT', 'timeout', 'if-idempotent'],
  [undefined, 'Invalid command: Contains control characters. (CWD a)', 'FTP_PATH_INVALID', 'config', 'never'],
  [undefined, 'StringWriter: Maximum bytes exceeded, maxByteLength=1.', 'FTP_LIST_TOO_LARGE', 'capacity', 'never'],
  [undefined, 'This library only supports MLSD, Unix- or DOS-style', 'FTP_ANSWER_INVALID', 'data', 'never'],
  [undefined, "Can't parse response to command 'PWD': 257", 'FTP_ANSWER_INVALID', 'data', 'never'],
  [undefined, 'None of the available transfer strategies work.', 'FTP_NO_DATA_CONNECTION', 'connection', 'if-idempotent'],
  [undefined, 'Server sent FIN packet unexpectedly', 'FTP_CONNECTION_LOST', 'connection', 'if-idempotent'],
])('%s %s is %s', (code, message, ours, outcome, retry) => {
  const error = toFtpError(Object.assign(new Error(message), code === undefined ? {} : { code }), place)
  expect(error).toMatchObject({ code: ours, outcome, retry, context: place })
  expect((error as Error).message).toContain(`ftp://etl@host:21, /a: ${message}`)
})

it.each([
  ['login', 530, '530 Login incorrect.', 'FTP_LOGIN_REFUSED', 'auth', 'never'],
  ['login', 430, '430 Invalid username or password', 'FTP_LOGIN_REFUSED', 'auth', 'never'],
  ['connect', 421, '421 Too many connections', 'FTP_BUSY', 'capacity', 'safe'],
  ['tls', 500, '500 AUTH not understood', 'FTP_TLS_UNAVAILABLE', 'connection', 'never'],
  ['tls', 530, '530 Please login with USER and PASS.', 'FTP_TLS_UNAVAILABLE', 'connection', 'never'],
] as const)('at %s %s %s is %s', (phase, code, message, ours, outcome, retry) => {
  const error = toFtpError(Object.assign(new Error(message), { code }), { server: place.server, phase })
  expect(error).toMatchObject({ code: ours, outcome, retry })
})

it('leaves what is ours, and what is no error, as it is', () => {
  const ours = toFtpError(new Error('x'), place)
  expect(HandlerError.is(ours)).toBe(true)
  expect(toFtpError(ours, place)).toBe(ours)
  expect(toFtpError('text', place)).toBe('text')
})
