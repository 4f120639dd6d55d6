import { ConnectionError, HandlerError, Secret } from '@common-handlers/core'
import { inspect } from 'node:util'
import { describe, expect, it } from 'vitest'
import { toS3Error } from '../src/errors.ts'

const request = { action: 'PutObject', bucket: 'lake', key: 'a/b', endpoint: 'http://store:9000' }

const answer = (name: string, status: number, headers: Record<string, string> = {}): Error =>
  Object.assign(new Error(`message of ${name}`), {
    name,
    $metadata: { httpStatusCode: status, requestId: 'R1' },
    $response: { statusCode: status, headers },
  })

const socket = (code: string, more: Record<string, unknown> = {}): Error =>
  Object.assign(new Error(`socket ${code}`), { code, ...more })

describe('what the server answers', () => {
  it.each([
    ['NoSuchKey', 404, 'NotFoundError', 'S3_OBJECT_NOT_FOUND', 'never'],
    ['NotFound', 404, 'NotFoundError', 'S3_OBJECT_NOT_FOUND', 'never'],
    ['UnknownError', 404, 'NotFoundError', 'S3_OBJECT_NOT_FOUND', 'never'],
    ['NoSuchBucket', 404, 'NotFoundError', 'S3_BUCKET_NOT_FOUND', 'never'],
    ['NoSuchUpload', 404, 'NotFoundError', 'S3_UPLOAD_NOT_FOUND', 'never'],
    ['NoSuchSomethingElse', 404, 'RemoteError', 'S3_REQUEST_FAILED', 'never'],
    ['AccessDenied', 403, 'PermissionError', 'S3_ACCESS_DENIED', 'never'],
    ['UnknownError', 403, 'PermissionError', 'S3_ACCESS_DENIED', 'never'],
    ['InvalidAccessKeyId', 403, 'AuthError', 'S3_ACCESS_KEY_UNKNOWN', 'never'],
    ['XAdminUserNotFound', 404, 'AuthError', 'S3_ACCESS_KEY_UNKNOWN', 'never'],
    ['SignatureDoesNotMatch', 403, 'AuthError', 'S3_SIGNATURE_REJECTED', 'never'],
    ['AuthorizationHeaderMalformed', 400, 'AuthError', 'S3_SIGNATURE_REJECTED', 'never'],
    ['InvalidToken', 400, 'AuthError', 'S3_TOKEN_INVALID', 'never'],
    ['ExpiredToken', 400, 'AuthError', 'S3_TOKEN_EXPIRED', 'never'],
    ['RequestTimeTooSkewed', 403, 'AuthError', 'S3_CLOCK_SKEWED', 'never'],
    ['PreconditionFailed', 412, 'ConflictError', 'S3_PRECONDITION_FAILED', 'never'],
    ['ConditionalRequestConflict', 409, 'ConflictError', 'S3_CONDITIONAL_CONFLICT', 'safe'],
    ['OperationAborted', 409, 'ConflictError', 'S3_CONDITIONAL_CONFLICT', 'safe'],
    ['BucketAlreadyOwnedByYou', 409, 'ConflictError', 'S3_BUCKET_EXISTS', 'never'],
    ['BucketNotEmpty', 409, 'RemoteError', 'S3_REQUEST_FAILED', 'never'],
    ['SlowDown', 503, 'CapacityError', 'S3_SLOW_DOWN', 'safe'],
    ['UnknownError', 503, 'CapacityError', 'S3_SLOW_DOWN', 'safe'],
    ['UnknownError', 429, 'CapacityError', 'S3_SLOW_DOWN', 'safe'],
    ['EntityTooLarge', 400, 'CapacityError', 'S3_STORAGE_FULL', 'never'],
    ['UnknownError', 507, 'CapacityError', 'S3_STORAGE_FULL', 'never'],
    ['InternalError', 500, 'RemoteError', 'S3_SERVER_ERROR', 'if-idempotent'],
    ['UnknownError', 502, 'RemoteError', 'S3_SERVER_ERROR', 'if-idempotent'],
    ['RequestTimeout', 400, 'OperationTimeoutError', 'S3_REQUEST_TIMEOUT', 'safe'],
    ['BadDigest', 400, 'RemoteError', 'S3_CHECKSUM_MISMATCH', 'safe'],
    ['InvalidRange', 416, 'RemoteError', 'S3_RANGE_NOT_SATISFIABLE', 'never'],
    ['InvalidBucketName', 400, 'ConfigError', 'S3_BUCKET_NAME_INVALID', 'never'],
    ['KeyTooLongError', 400, 'ConfigError', 'S3_KEY_INVALID', 'never'],
    ['PermanentRedirect', 301, 'ConfigError', 'S3_WRONG_REGION', 'never'],
    ['NoSuchVersion', 404, 'NotFoundError', 'S3_OBJECT_NOT_FOUND', 'never'],
    ['NotImplemented', 501, 'RemoteError', 'S3_NOT_SUPPORTED', 'never'],
    ['VersioningNotConfigured', 501, 'RemoteError', 'S3_NOT_SUPPORTED', 'never'],
    ['InvalidTag', 400, 'RemoteError', 'S3_REQUEST_FAILED', 'never'],
    ['MalformedXML', 400, 'RemoteError', 'S3_REQUEST_FAILED', 'never'],
  ])('%s (%i) is %s %s, retry %s', (name, status, kind, code, retry) => {
    const error = toS3Error(answer(name, status), request)
    expect({ name: error.name, code: error.code, retry: error.retry }).toEqual({ name: kind, code, retry })
    expect(error.context).toMatchObject({
      action: 'PutObject',
      bucket: 'lake',
      key: 'a/b',
      status,
      requestId: 'R1',
      serverCode: name,
    })
  })

  it('names bucket, key and action', () => {
    expect(toS3Error(answer('NoSuchKey', 404), request).message).toBe('no object "a/b" in bucket "lake"')
    expect(toS3Error(answer('NoSuchBucket', 404), request).message).toBe('no bucket "lake" at http://store:9000')
    expect(toS3Error(answer('NotFound', 404), { action: 'HeadBucket', bucket: 'lake' }).code).toBe('S3_BUCKET_NOT_FOUND')
    expect(toS3Error(answer('AccessDenied', 403), request).message).toBe('not allowed: PutObject on s3://lake/a/b')
  })

  it('says when to come back', () => {
    expect(toS3Error(answer('SlowDown', 503, { 'retry-after': '7' }), request).retryAfterMs).toBe(7000)
    expect(toS3Error(answer('SlowDown', 503), request).retryAfterMs).toBeUndefined()
  })
})

describe('what happens on the way', () => {
  it.each([
    ['refused', socket('ECONNREFUSED', { syscall: 'connect' }), 'ConnectionError', 'S3_CONNECTION_REFUSED', 'safe'],
    [
      'refused on each address',
      Object.assign(new AggregateError([socket('ECONNREFUSED')]), { code: 'ECONNREFUSED' }),
      'ConnectionError',
      'S3_CONNECTION_REFUSED',
      'safe',
    ],
    ['no such host', socket('ENOTFOUND', { syscall: 'getaddrinfo' }), 'ConnectionError', 'S3_HOST_UNKNOWN', 'safe'],
    ['no route', socket('EHOSTUNREACH'), 'ConnectionError', 'S3_UNREACHABLE', 'safe'],
    ['reset', socket('ECONNRESET'), 'ConnectionError', 'S3_CONNECTION_LOST', 'if-idempotent'],
    [
      'reset, as the SDK names it',
      socket('ECONNRESET', { name: 'TimeoutError' }),
      'ConnectionError',
      'S3_CONNECTION_LOST',
      'if-idempotent',
    ],
    [
      'cut inside an answer of 200',
      Object.assign(answer('Error', 200), { code: 'ECONNRESET' }),
      'ConnectionError',
      'S3_CONNECTION_LOST',
      'if-idempotent',
    ],
    ['an answer of 200 that is no XML', answer('SyntaxError', 200), 'RemoteError', 'S3_ANSWER_UNREADABLE', 'if-idempotent'],
    [
      'no connection in time',
      Object.assign(new Error('the request socket did not establish a connection'), { name: 'TimeoutError' }),
      'OperationTimeoutError',
      'S3_CONNECT_TIMEOUT',
      'safe',
    ],
    ['connect timed out', socket('ETIMEDOUT', { syscall: 'connect' }), 'OperationTimeoutError', 'S3_CONNECT_TIMEOUT', 'safe'],
    [
      'silence',
      Object.assign(new Error('socket timed out after 1 ms of inactivity'), { name: 'TimeoutError' }),
      'OperationTimeoutError',
      'S3_TIMEOUT',
      'if-idempotent',
    ],
    ['a certificate of its own', socket('DEPTH_ZERO_SELF_SIGNED_CERT'), 'ConnectionError', 'S3_TLS_FAILED', 'never'],
    [
      'no credentials',
      Object.assign(new Error('Could not load credentials from any providers'), { name: 'CredentialsProviderError' }),
      'AuthError',
      'S3_NO_CREDENTIALS',
      'never',
    ],
  ])('%s', (_, thrown, kind, code, retry) => {
    const error = toS3Error(thrown, request)
    expect({ name: error.name, code: error.code, retry: error.retry }).toEqual({ name: kind, code, retry })
  })

  it('passes its own errors on', () => {
    const own = new ConnectionError('x', { code: 'S3_CLOSED' })
    expect(toS3Error(own, request)).toBe(own)
  })

  it('keeps no secret and no part of the request', () => {
    const hidden = new Secret('a-secret-of-the-driver')
    const thrown = Object.assign(answer('InternalError', 500), {
      message: `failed with ${hidden.expose()}`,
      $response: { statusCode: 500, headers: { authorization: 'AWS4-HMAC-SHA256 Credential=x' }, body: 'body-of-the-request' },
    })
    const error = toS3Error(thrown, request)
    expect(HandlerError.is(error)).toBe(true)
    const shown = inspect(error, { depth: 10, showHidden: true }) + JSON.stringify(error)
    expect(shown).not.toContain(hidden.expose())
    expect(shown).not.toContain('AWS4-HMAC')
    expect(shown).not.toContain('body-of-the-request')
  })
})
