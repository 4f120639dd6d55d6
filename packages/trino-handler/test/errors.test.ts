import { HandlerError } from '@common-handlers/core'
import { describe, expect, it } from 'vitest'
import { fromServer, fromStatus, fromTransport, isNotReady } from '../src/errors.ts'
import { trinoErrorFacts } from '../src/index.ts'
import type { WireError } from '../src/protocol.ts'

const wire = (errorName: string, errorType: string, more: Partial<WireError> = {}): WireError => ({
  message: 'line 2:5: it went wrong',
  errorCode: 1,
  errorName,
  errorType,
  ...more,
})

describe('errors of a statement', () => {
  it.each([
    ['SYNTAX_ERROR', 'USER_ERROR', 'remote', 'never'],
    ['TYPE_MISMATCH', 'USER_ERROR', 'remote', 'never'],
    ['NOT_SUPPORTED', 'USER_ERROR', 'remote', 'never'],
    ['GENERIC_USER_ERROR', 'USER_ERROR', 'remote', 'never'],
    ['USER_CANCELED', 'USER_ERROR', 'remote', 'never'],
    ['TABLE_NOT_FOUND', 'USER_ERROR', 'not-found', 'never'],
    ['COLUMN_NOT_FOUND', 'USER_ERROR', 'not-found', 'never'],
    ['SCHEMA_NOT_FOUND', 'USER_ERROR', 'not-found', 'never'],
    ['CATALOG_NOT_FOUND', 'USER_ERROR', 'not-found', 'never'],
    ['TABLE_ALREADY_EXISTS', 'USER_ERROR', 'conflict', 'never'],
    ['PERMISSION_DENIED', 'USER_ERROR', 'permission', 'never'],
    ['INVALID_CAST_ARGUMENT', 'USER_ERROR', 'data', 'never'],
    ['INVALID_FUNCTION_ARGUMENT', 'USER_ERROR', 'data', 'never'],
    ['DIVISION_BY_ZERO', 'USER_ERROR', 'data', 'never'],
    ['CONSTRAINT_VIOLATION', 'USER_ERROR', 'data', 'never'],
    ['MERGE_TARGET_ROW_MULTIPLE_MATCHES', 'USER_ERROR', 'data', 'never'],
    ['EXCEEDED_LOCAL_MEMORY_LIMIT', 'INSUFFICIENT_RESOURCES', 'capacity', 'never'],
    ['EXCEEDED_TIME_LIMIT', 'INSUFFICIENT_RESOURCES', 'capacity', 'never'],
    ['QUERY_QUEUE_FULL', 'INSUFFICIENT_RESOURCES', 'capacity', 'safe'],
    ['CLUSTER_OUT_OF_MEMORY', 'INSUFFICIENT_RESOURCES', 'capacity', 'if-idempotent'],
    ['ADMINISTRATIVELY_PREEMPTED', 'INSUFFICIENT_RESOURCES', 'capacity', 'if-idempotent'],
    ['ICEBERG_COMMIT_ERROR', 'EXTERNAL', 'conflict', 'safe'],
    ['SERVER_STARTING_UP', 'INTERNAL_ERROR', 'connection', 'safe'],
    ['NO_NODES_AVAILABLE', 'INTERNAL_ERROR', 'connection', 'safe'],
    ['REMOTE_HOST_GONE', 'INTERNAL_ERROR', 'connection', 'if-idempotent'],
    ['ABANDONED_QUERY', 'USER_ERROR', 'connection', 'if-idempotent'],
    ['GENERIC_INTERNAL_ERROR', 'INTERNAL_ERROR', 'remote', 'if-idempotent'],
    ['ICEBERG_FILESYSTEM_ERROR', 'EXTERNAL', 'remote', 'if-idempotent'],
    ['SOMETHING_OF_A_LATER_VERSION', 'A_LATER_TYPE', 'remote', 'if-idempotent'],
  ])('%s (%s) is %s, retry %s', (name, type, outcome, retry) => {
    const error = fromServer(wire(name, type), 'q1')
    expect(error).toMatchObject({ code: `TRINO_${name}`, outcome, retry })
    expect(trinoErrorFacts(error)).toEqual({ queryId: 'q1', errorName: name, errorType: type, errorCode: 1 })
  })

  it('a commit whose outcome the catalog did not tell is not safe to repeat', () => {
    const failureInfo = {
      type: 'io.trino.spi.TrinoException',
      cause: { type: 'org.apache.iceberg.exceptions.CommitStateUnknownException' },
    }
    expect(fromServer(wire('ICEBERG_COMMIT_ERROR', 'EXTERNAL', { failureInfo }), 'q1').retry).toBe('if-idempotent')
  })

  it('a server without nodes is one that is not ready', () => {
    const error = fromServer(wire('GENERIC_INTERNAL_ERROR', 'INTERNAL_ERROR', { message: 'nodes is empty' }), 'q1')
    expect(error).toMatchObject({ outcome: 'connection', retry: 'safe' })
    expect(isNotReady(error)).toBe(true)
    expect(isNotReady(fromTransport(Object.assign(new Error('no'), { code: 'ECONNREFUSED' }), 't'))).toBe(false)
  })

  it('says the place in the caller’s text', () => {
    const errorLocation = { lineNumber: 2, columnNumber: 26 }
    const shifted = fromServer(wire('SYNTAX_ERROR', 'USER_ERROR', { errorLocation }), 'q1', 19)
    expect(trinoErrorFacts(shifted)).toMatchObject({ line: 2, column: 7 })
    expect(shifted.message).toContain('line 2:7: it went wrong')
    expect(trinoErrorFacts(fromServer(wire('TABLE_NOT_FOUND', 'USER_ERROR', { errorLocation }), 'q1', 19))).toMatchObject({
      column: 26,
    })
  })
})

describe('errors of the connection', () => {
  it.each([
    ['ECONNREFUSED', 'TRINO_UNREACHABLE', 'safe'],
    ['ENOTFOUND', 'TRINO_UNREACHABLE', 'safe'],
    ['UND_ERR_CONNECT_TIMEOUT', 'TRINO_UNREACHABLE', 'safe'],
    ['ECONNRESET', 'TRINO_CONNECTION_LOST', 'if-idempotent'],
    ['UND_ERR_SOCKET', 'TRINO_CONNECTION_LOST', 'if-idempotent'],
    ['UND_ERR_HEADERS_TIMEOUT', 'TRINO_CONNECTION_LOST', 'if-idempotent'],
    ['UND_ERR_BODY_TIMEOUT', 'TRINO_CONNECTION_LOST', 'if-idempotent'],
    ['SELF_SIGNED_CERT_IN_CHAIN', 'TRINO_TLS', 'never'],
    ['ERR_TLS_CERT_ALTNAME_INVALID', 'TRINO_TLS', 'never'],
    ['CERT_HAS_EXPIRED', 'TRINO_TLS', 'never'],
    ['ERR_OSSL_PEM_BAD_BASE64_DECODE', 'TRINO_TLS', 'never'],
  ])('%s is %s, retry %s', (driverCode, code, retry) => {
    expect(fromTransport(Object.assign(new Error('x'), { code: driverCode }), 'http://t')).toMatchObject({
      code,
      retry,
      outcome: 'connection',
    })
  })

  it('looks into the tries of a name with several addresses', () => {
    const error = fromTransport(new AggregateError([Object.assign(new Error('refused'), { code: 'ECONNREFUSED' })]), 'http://t')
    expect(error).toMatchObject({ code: 'TRINO_UNREACHABLE', retry: 'safe' })
    expect(error.message).toContain('refused')
  })

  it.each([
    [401, 'auth', 'TRINO_UNAUTHENTICATED', 'never'],
    [403, 'permission', 'TRINO_FORBIDDEN', 'never'],
    [429, 'capacity', 'TRINO_BUSY', 'safe'],
    [502, 'connection', 'TRINO_UNAVAILABLE', 'safe'],
    [503, 'connection', 'TRINO_UNAVAILABLE', 'safe'],
    [504, 'connection', 'TRINO_UNAVAILABLE', 'safe'],
    [500, 'remote', 'TRINO_HTTP_ERROR', 'if-idempotent'],
    [302, 'remote', 'TRINO_HTTP_ERROR', 'never'],
  ])('status %i is %s, %s, retry %s', (status, outcome, code, retry) => {
    const error = fromStatus(status, '<h1>no</h1>', 'http://t', 1500)
    expect(HandlerError.is(error)).toBe(true)
    expect(error).toMatchObject({ outcome, code, retry })
    expect(error.retryAfterMs).toBe(retry === 'safe' ? 1500 : undefined)
  })
})
