import { HandlerError } from '@common-handlers/core'
import { AuthenticationError, MultipleErrors, NetworkError, ProtocolError, TimeoutError, UserError } from '@platformatic/kafka'
import { expect, it } from 'vitest'
import { toKafkaError } from '../src/errors.ts'

const coded = (message: string, code: string): Error => Object.assign(new Error(message), { code })
const network = (message: string, code: string): Error => new NetworkError(message, { cause: coded(message, code) })
const failed = (error: Error): Error => new MultipleErrors('metadata failed 1 times.', [error])

it.each([
  [failed(network('Connection to 127.0.0.1:1 failed.', 'ECONNREFUSED')), 'KAFKA_UNREACHABLE', 'connection', 'safe'],
  [network('getaddrinfo', 'ENOTFOUND'), 'KAFKA_UNREACHABLE', 'connection', 'safe'],
  [network('self-signed certificate', 'SELF_SIGNED_CERT_IN_CHAIN'), 'KAFKA_TLS_FAILED', 'connection', 'never'],
  [network('read', 'ECONNRESET'), 'KAFKA_CONNECTION_LOST', 'connection', 'if-idempotent'],
  [new NetworkError('Connection closed'), 'KAFKA_CONNECTION_LOST', 'connection', 'if-idempotent'],
  [new TimeoutError('Request timed out'), 'KAFKA_TIMEOUT', 'timeout', 'if-idempotent'],
  [failed(new AuthenticationError('SASL authentication failed.')), 'KAFKA_UNAUTHORIZED', 'auth', 'never'],
  [failed(new ProtocolError('SASL_AUTHENTICATION_FAILED')), 'KAFKA_UNAUTHORIZED', 'auth', 'never'],
  [new ProtocolError('UNSUPPORTED_SASL_MECHANISM'), 'KAFKA_UNAUTHORIZED', 'auth', 'never'],
  [new ProtocolError('UNKNOWN_TOPIC_OR_PARTITION'), 'KAFKA_TOPIC_NOT_FOUND', 'not-found', 'never'],
  [new UserError('Unknown topic none.'), 'KAFKA_TOPIC_NOT_FOUND', 'not-found', 'never'],
  [new ProtocolError('TOPIC_AUTHORIZATION_FAILED'), 'KAFKA_FORBIDDEN', 'permission', 'never'],
  [new ProtocolError('GROUP_AUTHORIZATION_FAILED'), 'KAFKA_FORBIDDEN', 'permission', 'never'],
  [new ProtocolError('OFFSET_OUT_OF_RANGE'), 'KAFKA_OFFSET_GONE', 'not-found', 'never'],
  [failed(new ProtocolError('REBALANCE_IN_PROGRESS')), 'KAFKA_REBALANCED', 'connection', 'if-idempotent'],
  [new ProtocolError('ILLEGAL_GENERATION'), 'KAFKA_REBALANCED', 'connection', 'if-idempotent'],
  [new ProtocolError('COORDINATOR_NOT_AVAILABLE'), 'KAFKA_REFUSED', 'remote', 'if-idempotent'],
  [new ProtocolError('INVALID_GROUP_ID'), 'KAFKA_REFUSED', 'remote', 'never'],
  [new UserError('wrong'), 'KAFKA_FAILED', 'remote', 'never'],
])('%s is %s', (error, code, outcome, retry) => {
  expect(toKafkaError(error, 'host:9092')).toMatchObject({ code, outcome, retry, context: { brokers: 'host:9092' } })
})

it('leaves what is ours, and what is no error, as it is', () => {
  const ours = toKafkaError(new Error('x'), 'p')
  expect(HandlerError.is(ours)).toBe(true)
  expect(toKafkaError(ours, 'q')).toBe(ours)
  expect(toKafkaError('text', 'p')).toBe('text')
})
