import { HandlerError } from '@common-handlers/core'
import { expect, it } from 'vitest'
import { toAmqpError } from '../src/errors.ts'

const coded = (message: string, code: number | string): Error => Object.assign(new Error(message), { code })

// As amqplib 2.3.1 gives them, with RabbitMQ 3.10.
it.each([
  [new Error('Handshake terminated by server: 403 (ACCESS-REFUSED) with message "…"'), 'AMQP_UNAUTHORIZED', 'auth', 'never'],
  [new Error('Expected ConnectionOpenOk; got <ConnectionClose channel:0>'), 'AMQP_VHOST_REFUSED', 'permission', 'never'],
  [new Error('connect ETIMEDOUT'), 'AMQP_TIMEOUT', 'timeout', 'safe'],
  [coded('connect ECONNREFUSED 127.0.0.1:1', 'ECONNREFUSED'), 'AMQP_UNREACHABLE', 'connection', 'safe'],
  [coded('getaddrinfo ENOTFOUND nosuch', 'ENOTFOUND'), 'AMQP_UNREACHABLE', 'connection', 'safe'],
  [coded('self-signed certificate', 'SELF_SIGNED_CERT_IN_CHAIN'), 'AMQP_TLS_FAILED', 'connection', 'never'],
  [coded('wrong version number', 'ERR_SSL_WRONG_VERSION_NUMBER'), 'AMQP_TLS_FAILED', 'connection', 'never'],
  [coded('read ECONNRESET', 'ECONNRESET'), 'AMQP_CONNECTION_LOST', 'connection', 'if-idempotent'],
  [new Error('Heartbeat timeout'), 'AMQP_CONNECTION_LOST', 'connection', 'if-idempotent'],
  [new Error('Channel closed'), 'AMQP_CONNECTION_LOST', 'connection', 'if-idempotent'],
  [coded('CONNECTION_FORCED - broker forced connection closure', 320), 'AMQP_CONNECTION_LOST', 'connection', 'if-idempotent'],
  [coded('ACCESS_REFUSED - access to queue refused', 403), 'AMQP_FORBIDDEN', 'permission', 'never'],
  [coded("NOT_FOUND - no queue 'x'", 404), 'AMQP_NOT_FOUND', 'not-found', 'never'],
  [coded('RESOURCE_LOCKED - exclusive', 405), 'AMQP_LOCKED', 'conflict', 'never'],
  [
    coded('PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out', 406),
    'AMQP_ACKNOWLEDGED_TOO_LATE',
    'connection',
    'if-idempotent',
  ],
  [coded('PRECONDITION_FAILED - inequivalent arg', 406), 'AMQP_PRECONDITION_FAILED', 'conflict', 'never'],
  [coded('RESOURCE_ERROR', 506), 'AMQP_CAPACITY', 'capacity', 'never'],
  [coded('NOT_IMPLEMENTED', 540), 'AMQP_REFUSED', 'remote', 'never'],
])('%s is %s', (error, code, outcome, retry) => {
  expect(toAmqpError(error, 'amqp://host:5672/%2F')).toMatchObject({
    code,
    outcome,
    retry,
    context: { server: 'amqp://host:5672/%2F' },
  })
})

it('leaves what is ours, and what is no error, as it is', () => {
  const ours = toAmqpError(new Error('x'), 'p')
  expect(HandlerError.is(ours)).toBe(true)
  expect(toAmqpError(ours, 'q')).toBe(ours)
  expect(toAmqpError('text', 'p')).toBe('text')
})
