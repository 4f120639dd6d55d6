import { inspect } from 'node:util'
import { describe, expect, it, vi } from 'vitest'
import {
  AuthError,
  CapacityError,
  ConfigError,
  ConflictError,
  ConnectionError,
  DataError,
  HandlerError,
  NotFoundError,
  OperationTimeoutError,
  PermissionError,
  registerSecretValue,
  RemoteError,
} from '../src/index.ts'

describe('HandlerError', () => {
  it.each([
    [ConfigError, 'config'],
    [AuthError, 'auth'],
    [NotFoundError, 'not-found'],
    [ConflictError, 'conflict'],
    [PermissionError, 'permission'],
    [ConnectionError, 'connection'],
    [OperationTimeoutError, 'timeout'],
    [CapacityError, 'capacity'],
  ] as const)('%o stands for its outcome', (Kind, outcome) => {
    const error = new Kind('x', { code: 'TEST_X' })
    expect([error.name, error.outcome, error.code, error.retry]).toEqual([Kind.name, outcome, 'TEST_X', 'never'])
    expect(error).toBeInstanceOf(HandlerError)
  })

  it('is known across two copies of the package by its brand', async () => {
    vi.resetModules()
    const copy = await import('../src/errors.ts')
    const foreign = new copy.NotFoundError('gone', { code: 'TEST_GONE' })
    expect(foreign).not.toBeInstanceOf(HandlerError)
    expect(HandlerError.is(foreign)).toBe(true)
    expect(HandlerError.is(new Error('x'))).toBe(false)
    expect(HandlerError.is(undefined)).toBe(false)
  })

  it('keeps of its cause what is safe: no request, no headers, no body', () => {
    registerSecretValue('planted-token-1')
    const cause = Object.assign(new Error('connect failed for planted-token-1', { cause: new Error('inner planted-token-1') }), {
      code: 'ECONNREFUSED',
      config: { headers: { 'X-Vault-Token': 'never-registered-secret' }, data: '{"password":"never-registered-secret"}' },
    })
    const error = new ConnectionError('could not reach the server with planted-token-1', {
      code: 'TEST_REFUSED',
      cause,
      context: { url: 'http://u:pw12@host/' },
    })
    for (const printed of [inspect(error, { depth: 10, showHidden: true }), JSON.stringify(error), String(error.stack)]) {
      expect(printed).not.toContain('planted-token-1')
      expect(printed).not.toContain('never-registered-secret')
      expect(printed).not.toContain('pw12')
    }
    expect((error.cause as Error & { code: string }).code).toBe('ECONNREFUSED')
    expect(JSON.parse(JSON.stringify(error))).toMatchObject({
      code: 'TEST_REFUSED',
      outcome: 'connection',
      cause: { code: 'ECONNREFUSED' },
    })
  })

  it('says in JSON what the server said and where the data is broken', () => {
    expect(new RemoteError('x', { code: 'TEST', serverCode: '22012' }).toJSON()).toMatchObject({ serverCode: '22012' })
    const where = { file: 'part-00000.csv.gz', line: 7, column: 'amount' }
    expect(new DataError('x', { code: 'TEST', where }).toJSON()).toMatchObject({ where })
  })
})
