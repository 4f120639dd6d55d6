import { HandlerError } from '@common-handlers/core'
import { expect, it } from 'vitest'
import { toNatsError } from '../src/errors.ts'

const named = (name: string, message: string, more: object = {}): Error => Object.assign(new Error(message), { name }, more)
const caused = (cause: Error): Error => named('ConnectionError', cause.message, { cause })

// As the driver 3.4.0 gives them.
it.each([
  [named('AuthorizationError', "'Authorization Violation'"), 'NATS_UNAUTHORIZED', 'auth', 'never'],
  [named('UserAuthenticationExpiredError', 'expired'), 'NATS_UNAUTHORIZED', 'auth', 'never'],
  [named('PermissionViolationError', 'Permissions Violation for Publish'), 'NATS_FORBIDDEN', 'permission', 'never'],
  [named('TimeoutError', 'timeout'), 'NATS_TIMEOUT', 'timeout', 'if-idempotent'],
  [named('NoRespondersError', 'no responders'), 'NATS_NO_JETSTREAM', 'not-found', 'never'],
  [named('RequestError', 'x', { cause: named('NoRespondersError', 'y') }), 'NATS_NO_JETSTREAM', 'not-found', 'never'],
  [named('JetStreamNotEnabled', 'jetstream is not enabled'), 'NATS_NO_JETSTREAM', 'not-found', 'never'],
  [named('JetStreamApiError', 'not enabled for account', { code: 10_039 }), 'NATS_NO_JETSTREAM', 'not-found', 'never'],
  [named('StreamNotFoundError', 'stream not found', { code: 10_059 }), 'NATS_STREAM_NOT_FOUND', 'not-found', 'never'],
  [named('ConsumerNotFoundError', 'consumer not found', { code: 10_014 }), 'NATS_CONSUMER_NOT_FOUND', 'not-found', 'never'],
  [named('JetStreamApiError', 'insufficient resources', { code: 10_023 }), 'NATS_CAPACITY', 'capacity', 'safe'],
  [named('JetStreamApiError', 'explicit ack', { code: 10_084 }), 'NATS_REFUSED', 'remote', 'never'],
  [named('JetStreamStatusError', 'consumer deleted', { code: 409 }), 'NATS_REFUSED', 'remote', 'never'],
  [named('JetStreamError', 'heartbeats missed'), 'NATS_CONNECTION_LOST', 'connection', 'if-idempotent'],
  [caused(named('Error', 'connect ECONNREFUSED', { code: 'ECONNREFUSED' })), 'NATS_UNREACHABLE', 'connection', 'safe'],
  [named('Error', 'getaddrinfo ENOTFOUND', { code: 'ENOTFOUND' }), 'NATS_UNREACHABLE', 'connection', 'safe'],
  [caused(named('Error', 'self-signed', { code: 'SELF_SIGNED_CERT_IN_CHAIN' })), 'NATS_TLS_FAILED', 'connection', 'never'],
  [named('ConnectionError', "server does not support 'tls'"), 'NATS_TLS_FAILED', 'connection', 'never'],
  [caused(named('Error', 'read ECONNRESET', { code: 'ECONNRESET' })), 'NATS_CONNECTION_LOST', 'connection', 'if-idempotent'],
  [named('ClosedConnectionError', 'closed connection'), 'NATS_CONNECTION_LOST', 'connection', 'if-idempotent'],
  [named('InvalidNameError', 'invalid name'), 'NATS_FAILED', 'remote', 'never'],
])('%s is %s', (error, code, outcome, retry) => {
  expect(toNatsError(error, 'host:4222')).toMatchObject({ code, outcome, retry, context: { servers: 'host:4222' } })
})

it('leaves what is ours, and what is no error, as it is', () => {
  const ours = toNatsError(new Error('x'), 'p')
  expect(HandlerError.is(ours)).toBe(true)
  expect(toNatsError(ours, 'q')).toBe(ours)
  expect(toNatsError('text', 'p')).toBe('text')
})
