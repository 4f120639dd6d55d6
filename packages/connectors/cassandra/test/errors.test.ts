import { HandlerError } from '@common-handlers/core'
import { expect, it } from 'vitest'
import { toCassandraError } from '../src/errors.ts'

const failure = (name: string, more: object = {}, message = 'it says why'): Error =>
  Object.assign(new Error(message), { name }, more)
const server = (code: number, message?: string): Error => failure('ResponseError', { code }, message)
const socket = (code: string): Error => failure('Error', { code })
const noHost = (...inner: readonly Error[]): Error =>
  failure('NoHostAvailableError', { innerErrors: Object.fromEntries(inner.map((one, index) => [`host${index}:9042`, one])) })

it.each([
  [server(0x01_00), 'CASSANDRA_LOGIN_REFUSED', 'auth', 'never'],
  [server(0x21_00), 'CASSANDRA_FORBIDDEN', 'permission', 'never'],
  [server(0x10_00), 'CASSANDRA_UNAVAILABLE', 'connection', 'safe'],
  [server(0x10_01), 'CASSANDRA_OVERLOADED', 'capacity', 'safe'],
  [server(0x10_02), 'CASSANDRA_NOT_READY', 'connection', 'safe'],
  [server(0x11_00), 'CASSANDRA_SERVER_TIMEOUT', 'timeout', 'if-idempotent'],
  [server(0x12_00), 'CASSANDRA_SERVER_TIMEOUT', 'timeout', 'if-idempotent'],
  [server(0x13_00), 'CASSANDRA_REPLICA_FAILED', 'remote', 'if-idempotent'],
  [server(0x20_00), 'CASSANDRA_STATEMENT_INVALID', 'remote', 'never'],
  [server(0x22_00), 'CASSANDRA_STATEMENT_INVALID', 'remote', 'never'],
  [server(0x22_00, 'it says why: table t does not exist'), 'CASSANDRA_NOT_FOUND', 'not-found', 'never'],
  [server(0x24_00), 'CASSANDRA_EXISTS', 'conflict', 'never'],
  [server(0), 'CASSANDRA_FAILED', 'remote', 'never'],
  [failure('AuthenticationError'), 'CASSANDRA_LOGIN_REFUSED', 'auth', 'never'],
  [failure('OperationTimedOutError'), 'CASSANDRA_NO_ANSWER', 'timeout', 'if-idempotent'],
  [failure('BusyConnectionError'), 'CASSANDRA_CONNECTIONS_BUSY', 'capacity', 'safe'],
  [failure('ArgumentError'), 'CASSANDRA_OPTION_INVALID', 'config', 'never'],
  [failure('TypeError'), 'CASSANDRA_PARAMETER_INVALID', 'config', 'never'],
  [failure('DriverError', { isSocketError: true }), 'CASSANDRA_CONNECTION_LOST', 'connection', 'if-idempotent'],
  [failure('DriverInternalError'), 'CASSANDRA_FAILED', 'remote', 'never'],
  [socket('ECONNREFUSED'), 'CASSANDRA_UNREACHABLE', 'connection', 'safe'],
  [socket('ECONNRESET'), 'CASSANDRA_CONNECTION_LOST', 'connection', 'if-idempotent'],
  [socket('SELF_SIGNED_CERT_IN_CHAIN'), 'CASSANDRA_TLS_FAILED', 'connection', 'never'],
  [noHost(), 'CASSANDRA_UNREACHABLE', 'connection', 'safe'],
  [noHost(socket('ECONNREFUSED'), failure('AuthenticationError')), 'CASSANDRA_LOGIN_REFUSED', 'auth', 'never'],
  [noHost(socket('ECONNREFUSED'), socket('ECONNREFUSED')), 'CASSANDRA_UNREACHABLE', 'connection', 'safe'],
  // A write may have been done before the connection broke.
  [noHost(socket('ECONNREFUSED'), socket('ECONNRESET')), 'CASSANDRA_CONNECTION_LOST', 'connection', 'if-idempotent'],
  [noHost(failure('DriverInternalError')), 'CASSANDRA_CONNECTION_LOST', 'connection', 'if-idempotent'],
])('%s is %s', (error, code, outcome, retry) => {
  const mapped = toCassandraError(error, 'cassandra://host/shop')
  expect(mapped).toMatchObject({ code, outcome, retry, context: { target: 'cassandra://host/shop' } })
  expect((mapped as Error).message).toContain('it says why')
})

it('leaves what is ours, and what is no error, as it is', () => {
  const ours = toCassandraError(new Error('x'), 't')
  expect(HandlerError.is(ours)).toBe(true)
  expect(toCassandraError(ours, 'u')).toBe(ours)
  expect(toCassandraError('text', 't')).toBe('text')
})
