import { HandlerError } from '@common-handlers/core'
import { expect, it } from 'vitest'
import { toNewprotocolError, toServerError } from '../src/errors.ts'

it.each([
  ['LOGIN', 'NEWPROTOCOL_LOGIN_REFUSED', 'auth', 'never'],
  ['TABLE', 'NEWPROTOCOL_NOT_FOUND', 'not-found', 'never'],
  ['ANYTHING', 'NEWPROTOCOL_FAILED', 'remote', 'never'],
])('the answer %s is %s', (name, code, outcome, retry) => {
  expect(toServerError(name, 'said so', 'newprotocol://h:1')).toMatchObject({
    code,
    outcome,
    retry,
    message: 'newprotocol://h:1: said so',
  })
})

it.each([
  ['ECONNREFUSED', 'NEWPROTOCOL_UNREACHABLE', 'safe'],
  ['ENOTFOUND', 'NEWPROTOCOL_UNREACHABLE', 'safe'],
  ['ECONNRESET', 'NEWPROTOCOL_CONNECTION_LOST', 'if-idempotent'],
  ['EPIPE', 'NEWPROTOCOL_CONNECTION_LOST', 'if-idempotent'],
])('the error %s of the network is %s', (found, code, retry) => {
  const error = toNewprotocolError(Object.assign(new Error('no'), { code: found }), 'newprotocol://h:1')
  expect(error).toMatchObject({ code, outcome: 'connection', retry, context: { target: 'newprotocol://h:1' } })
})

it('leaves what is ours, and what is no error, as it is', () => {
  const ours = toNewprotocolError(new Error('x'), 't')
  expect(HandlerError.is(ours)).toBe(true)
  expect(toNewprotocolError(ours, 'u')).toBe(ours)
  expect(toNewprotocolError('text', 't')).toBe('text')
})
