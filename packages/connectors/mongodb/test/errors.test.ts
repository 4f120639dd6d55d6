import { HandlerError } from '@common-handlers/core'
import { expect, it } from 'vitest'
import { toMongodbError } from '../src/errors.ts'

const driverError = (name: string, more: object = {}): Error => Object.assign(new Error('it says why'), { name }, more)
const server = (code: number): Error => driverError('MongoServerError', { code, codeName: `Code${code}` })
const network = (code: string): Error => driverError('MongoNetworkError', { cause: Object.assign(new Error('socket'), { code }) })
const selection = (cause: Error): Error =>
  driverError('MongoServerSelectionError', { reason: { servers: new Map([['host:27017', { error: cause }]]) } })

it.each([
  [server(18), 'MONGODB_LOGIN_REFUSED', 'auth', 'never'],
  [server(8000), 'MONGODB_LOGIN_REFUSED', 'auth', 'never'],
  [server(13), 'MONGODB_FORBIDDEN', 'permission', 'never'],
  [server(26), 'MONGODB_NOT_FOUND', 'not-found', 'never'],
  [server(11_000), 'MONGODB_EXISTS', 'conflict', 'never'],
  [server(112), 'MONGODB_CONFLICT', 'conflict', 'safe'],
  [server(50), 'MONGODB_SERVER_TIMEOUT', 'timeout', 'if-idempotent'],
  [server(43), 'MONGODB_CURSOR_LOST', 'connection', 'if-idempotent'],
  [server(11_600), 'MONGODB_NOT_READY', 'connection', 'if-idempotent'],
  [server(286), 'MONGODB_CHANGES_LOST', 'not-found', 'never'],
  [server(260), 'MONGODB_WATERMARK_INVALID', 'config', 'never'],
  [server(292), 'MONGODB_TOO_LARGE', 'capacity', 'never'],
  [server(121), 'MONGODB_DOCUMENT_REFUSED', 'data', 'never'],
  [server(40_573), 'MONGODB_NOT_SUPPORTED', 'remote', 'never'],
  [server(2), 'MONGODB_REFUSED', 'remote', 'never'],
  [network('ECONNRESET'), 'MONGODB_CONNECTION_LOST', 'connection', 'if-idempotent'],
  [network('ECONNREFUSED'), 'MONGODB_UNREACHABLE', 'connection', 'safe'],
  [network('DEPTH_ZERO_SELF_SIGNED_CERT'), 'MONGODB_TLS_FAILED', 'connection', 'never'],
  [driverError('Error', { code: 'ECONNRESET' }), 'MONGODB_CONNECTION_LOST', 'connection', 'if-idempotent'],
  [driverError('MongoPoolClearedError'), 'MONGODB_UNREACHABLE', 'connection', 'safe'],
  [selection(network('ECONNREFUSED')), 'MONGODB_UNREACHABLE', 'connection', 'safe'],
  [selection(network('CERT_HAS_EXPIRED')), 'MONGODB_TLS_FAILED', 'connection', 'never'],
  [driverError('MongoNetworkTimeoutError'), 'MONGODB_NO_ANSWER', 'timeout', 'if-idempotent'],
  [driverError('MongoClientClosedError'), 'MONGODB_CONNECTION_LOST', 'connection', 'if-idempotent'],
  [driverError('MongoInvalidArgumentError'), 'MONGODB_QUERY_INVALID', 'config', 'never'],
  [driverError('BSONError'), 'MONGODB_QUERY_INVALID', 'config', 'never'],
  [driverError('MongoChangeStreamError'), 'MONGODB_FAILED', 'remote', 'never'],
])('%s is %s', (error, code, outcome, retry) => {
  const mapped = toMongodbError(error, 'mongodb://host/shop')
  expect(mapped).toMatchObject({ code, outcome, retry, context: { target: 'mongodb://host/shop' } })
  expect((mapped as Error).message).toContain('it says why')
})

it('leaves what is ours, and what is no error, as it is', () => {
  const ours = toMongodbError(new Error('x'), 't')
  expect(HandlerError.is(ours)).toBe(true)
  expect(toMongodbError(ours, 'u')).toBe(ours)
  expect(toMongodbError('text', 't')).toBe('text')
})
