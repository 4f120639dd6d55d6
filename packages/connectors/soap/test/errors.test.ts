import { HandlerError } from '@common-handlers/core'
import { expect, it } from 'vitest'
import { placeOf, toFault, toNetworkError, toSoapError, toStatusError } from '../src/errors.ts'

const place = placeOf('https://example.com/orders?key=abc', 'GetOrders')

it.each([
  [401, 'SOAP_UNAUTHORIZED', 'auth', 'never'],
  [403, 'SOAP_FORBIDDEN', 'permission', 'never'],
  [404, 'SOAP_NOT_FOUND', 'not-found', 'never'],
  [429, 'SOAP_RATE_LIMITED', 'capacity', 'safe'],
  [500, 'SOAP_SERVER_FAILED', 'remote', 'if-idempotent'],
  [503, 'SOAP_SERVER_FAILED', 'remote', 'if-idempotent'],
  [302, 'SOAP_STATUS', 'remote', 'never'],
])('the status %i is %s', (status, code, outcome, retry) => {
  const error = toStatusError(status, place, '7')
  expect(error).toMatchObject({ code, outcome, retry, retryAfterMs: 7000 })
  expect(error.message).toBe(`GetOrders of https://example.com/orders answered ${status}`)
})

it.each([
  ['S:Server', 'SOAP_FAULT', 'remote', 'if-idempotent'],
  ['soap:Server.Database', 'SOAP_FAULT', 'remote', 'if-idempotent'],
  ['soap:Client', 'SOAP_FAULT', 'remote', 'never'],
  ['soap:MustUnderstand', 'SOAP_FAULT', 'remote', 'never'],
  ['wsse:FailedAuthentication', 'SOAP_LOGIN_REFUSED', 'auth', 'never'],
  ['wsse:InvalidSecurityToken', 'SOAP_LOGIN_REFUSED', 'auth', 'never'],
])('the fault %s is %s', (faultcode, code, outcome, retry) => {
  const fault = { faultcode: { $value: faultcode, attributes: {} }, faultstring: 'no paper' }
  const error = toSoapError(Object.assign(new Error('x'), { root: { Envelope: { Body: { Fault: fault } } } }), place)
  expect(error).toMatchObject({ code, outcome, retry })
  expect((error as Error).message).toBe(`GetOrders of https://example.com/orders: no paper (fault ${faultcode})`)
})

it.each([
  ['ECONNREFUSED', 'SOAP_UNREACHABLE', 'safe'],
  ['ENOTFOUND', 'SOAP_UNREACHABLE', 'safe'],
  ['ECONNRESET', 'SOAP_CONNECTION_LOST', 'if-idempotent'],
  ['DEPTH_ZERO_SELF_SIGNED_CERT', 'SOAP_TLS_FAILED', 'never'],
  ['ERR_TLS_CERT_ALTNAME_INVALID', 'SOAP_TLS_FAILED', 'never'],
])('the error %s of the network is %s', (found, code, retry) => {
  expect(toNetworkError(Object.assign(new Error('no'), { code: found }), place)).toMatchObject({
    code,
    outcome: 'connection',
    retry,
  })
})

it('keeps what is ours, and makes data errors of what the driver cannot read', () => {
  const ours = toFault({ faultcode: 'Client', faultstring: 'x' }, place)
  expect([toSoapError(ours, place), toNetworkError(ours, place), toNetworkError('text', place)]).toEqual([ours, ours, 'text'])
  for (const thrown of [new TypeError('Cannot read properties'), { Fault: { faultcode: 500, faultstring: 'Invalid XML' } }]) {
    const error = toSoapError(thrown, place)
    expect(HandlerError.is(error) && [error.code, error.outcome]).toEqual(['SOAP_ANSWER_INVALID', 'data'])
  }
})
