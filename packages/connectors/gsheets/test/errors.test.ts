import { HandlerError } from '@common-handlers/core'
import { expect, it } from 'vitest'
import { toLoginError, toNetworkError, toStatusError } from '../src/errors.ts'

it.each([
  [400, 'INVALID_ARGUMENT', 'GSHEETS_REQUEST_INVALID', 'remote', 'never'],
  [401, 'UNAUTHENTICATED', 'GSHEETS_UNAUTHORIZED', 'auth', 'never'],
  [403, 'PERMISSION_DENIED', 'GSHEETS_FORBIDDEN', 'permission', 'never'],
  [404, 'NOT_FOUND', 'GSHEETS_NOT_FOUND', 'not-found', 'never'],
  [429, 'RESOURCE_EXHAUSTED', 'GSHEETS_QUOTA', 'capacity', 'safe'],
  [500, 'INTERNAL', 'GSHEETS_SERVER_FAILED', 'remote', 'if-idempotent'],
  [503, 'UNAVAILABLE', 'GSHEETS_SERVER_FAILED', 'remote', 'if-idempotent'],
  [418, 'UNKNOWN', 'GSHEETS_STATUS', 'remote', 'never'],
])('the answer %i %s is %s', (code, status, expected, outcome, retry) => {
  const error = toStatusError(code, JSON.stringify({ error: { code, message: 'said so', status } }), 'gsheets:x', '7')
  expect(error).toMatchObject({ code: expected, outcome, retry, retryAfterMs: 7000 })
  expect(error.message).toContain(`gsheets:x answered ${code}: said so`)
  expect(toStatusError(code, '<html>', 'gsheets:x', undefined)).toMatchObject({ code: expected })
})

it.each([
  [
    400,
    '{"error":"invalid_grant","error_description":"Invalid JWT Signature."}',
    'GSHEETS_LOGIN_REFUSED',
    'invalid_grant, Invalid JWT',
  ],
  [401, '{"error":"invalid_client"}', 'GSHEETS_LOGIN_REFUSED', 'invalid_client'],
  [403, 'no', 'GSHEETS_LOGIN_REFUSED', 'status 403'],
  [429, '{}', 'GSHEETS_QUOTA', 'answered 429'],
  [503, '{}', 'GSHEETS_SERVER_FAILED', 'answered 503'],
])('the login answered with %i %s is %s', (status, body, code, message) => {
  const error = toLoginError(status, body, 'me@project', undefined)
  expect(error).toMatchObject({ code, message: expect.stringContaining(message) as string })
})

it.each([
  ['ECONNREFUSED', 'GSHEETS_UNREACHABLE', 'safe'],
  ['UND_ERR_CONNECT_TIMEOUT', 'GSHEETS_UNREACHABLE', 'safe'],
  ['UND_ERR_SOCKET', 'GSHEETS_CONNECTION_LOST', 'if-idempotent'],
  ['SELF_SIGNED_CERT_IN_CHAIN', 'GSHEETS_TLS_FAILED', 'never'],
])('the error %s of the network is %s', (found, code, retry) => {
  const error = toNetworkError(Object.assign(new Error('no'), { code: found }), 'gsheets:x')
  expect(error).toMatchObject({ code, outcome: 'connection', retry })
})

it('leaves what is ours, and what is no error, as it is', () => {
  const ours = toNetworkError(new Error('x'), 't')
  expect(HandlerError.is(ours)).toBe(true)
  expect([toNetworkError(ours, 'u'), toNetworkError('text', 't')]).toEqual([ours, 'text'])
})
