import { ConnectionError, HandlerError } from '@common-handlers/core'
import { describe, expect, it } from 'vitest'
import { type FailedAnswer, type RequestFacts, toAnswerError, toTransportError, unreadableAnswer } from '../src/errors.ts'

const read: RequestFacts = { method: 'GET', path: 'secret/data/app' }
const write: RequestFacts = { method: 'POST', path: 'secret/data/app', sent: { data: { password: 'horse-battery' } } }
const login: RequestFacts = {
  method: 'POST',
  path: 'auth/approle/login',
  sent: { role_id: 'role-1234', secret_id: 'secret-5678' },
}
const says = (...errors: string[]): object => ({ errors })
const deleted = { data: { data: null, metadata: { version: 3, destroyed: false, deletion_time: '2026-11-21T10:48:21Z' } } }
const destroyed = { data: { data: null, metadata: { version: 3, destroyed: true, deletion_time: '' } } }
const withoutData = { data: null, warnings: ['Invalid path for a versioned K/V secrets engine. See the API docs'] }

// What OpenBao 2.7.2 answers, but for the states of a cluster and of a proxy, which are taken from the API documentation.
const answers: [string, RequestFacts, FailedAnswer, { name: string; code: string; retry: string }][] = [
  ['sealed', read, { status: 503, body: says('Vault is sealed') }, { name: 'RemoteError', code: 'VAULT_SEALED', retry: 'safe' }],
  [
    'sealed at login',
    login,
    { status: 503, body: says('Vault is sealed') },
    { name: 'RemoteError', code: 'VAULT_SEALED', retry: 'safe' },
  ],
  ['uninitialised', read, { status: 501, body: undefined }, { name: 'RemoteError', code: 'VAULT_UNINITIALIZED', retry: 'never' }],
  [
    'standby',
    read,
    { status: 500, body: says('local node not active but active cluster node not found') },
    { name: 'RemoteError', code: 'VAULT_STANDBY', retry: 'safe' },
  ],
  [
    'disaster recovery secondary',
    read,
    { status: 472, body: undefined },
    { name: 'RemoteError', code: 'VAULT_STANDBY', retry: 'safe' },
  ],
  ['performance standby', read, { status: 473, body: undefined }, { name: 'RemoteError', code: 'VAULT_STANDBY', retry: 'safe' }],
  [
    'behind the latest write',
    read,
    { status: 412, body: says('required index state not present') },
    { name: 'RemoteError', code: 'VAULT_STALE_NODE', retry: 'safe' },
  ],
  [
    'too many requests',
    read,
    { status: 429, body: says('request path "x": rate limit quota exceeded'), retryAfter: '7' },
    { name: 'CapacityError', code: 'VAULT_RATE_LIMITED', retry: 'safe' },
  ],
  [
    'wrapping token used or expired',
    { method: 'POST', path: 'sys/wrapping/unwrap' },
    { status: 400, body: says('wrapping token is not valid or does not exist') },
    { name: 'AuthError', code: 'VAULT_WRAPPING_TOKEN_INVALID', retry: 'never' },
  ],
  [
    'server fault',
    read,
    { status: 500, body: says('internal error') },
    { name: 'RemoteError', code: 'VAULT_SERVER_ERROR', retry: 'if-idempotent' },
  ],
  [
    'proxy fault',
    read,
    { status: 502, body: undefined },
    { name: 'RemoteError', code: 'VAULT_SERVER_ERROR', retry: 'if-idempotent' },
  ],
  [
    'policy',
    read,
    { status: 403, body: says('1 error occurred:\n\t* permission denied\n\n') },
    { name: 'PermissionError', code: 'VAULT_PERMISSION_DENIED', retry: 'never' },
  ],
  [
    'bad login',
    login,
    { status: 400, body: says('invalid role or secret ID') },
    { name: 'AuthError', code: 'VAULT_LOGIN_FAILED', retry: 'never' },
  ],
  [
    'login at no mount',
    login,
    { status: 403, body: says('permission denied') },
    { name: 'AuthError', code: 'VAULT_LOGIN_FAILED', retry: 'never' },
  ],
  [
    'no namespace',
    { ...read, namespace: 'team' },
    { status: 404, body: says('namespace not found') },
    { name: 'NotFoundError', code: 'VAULT_NAMESPACE_NOT_FOUND', retry: 'never' },
  ],
  ['no secret', read, { status: 404, body: says() }, { name: 'NotFoundError', code: 'VAULT_SECRET_NOT_FOUND', retry: 'never' }],
  [
    'deleted version',
    read,
    { status: 404, body: deleted },
    { name: 'NotFoundError', code: 'VAULT_VERSION_DELETED', retry: 'never' },
  ],
  [
    'destroyed version',
    read,
    { status: 404, body: destroyed },
    { name: 'NotFoundError', code: 'VAULT_VERSION_DESTROYED', retry: 'never' },
  ],
  [
    'no data/ in the path',
    read,
    { status: 404, body: withoutData },
    { name: 'NotFoundError', code: 'VAULT_PATH_WITHOUT_DATA', retry: 'never' },
  ],
  [
    'no mount',
    read,
    { status: 404, body: says('no handler for route "nomount/x". route entry not found.') },
    { name: 'NotFoundError', code: 'VAULT_MOUNT_NOT_FOUND', retry: 'never' },
  ],
  [
    'no such path',
    read,
    { status: 404, body: says('1 error occurred:\n\t* unsupported path\n\n') },
    { name: 'NotFoundError', code: 'VAULT_PATH_UNSUPPORTED', retry: 'never' },
  ],
  [
    'lost check-and-set',
    write,
    { status: 400, body: says('check-and-set parameter did not match the current version') },
    { name: 'ConflictError', code: 'VAULT_CAS_MISMATCH', retry: 'never' },
  ],
  ...['lease not found', 'lease expired', 'invalid lease'].map((text): (typeof answers)[number] => [
    text,
    write,
    { status: 400, body: says(text) },
    { name: 'NotFoundError', code: 'VAULT_LEASE_NOT_FOUND', retry: 'never' },
  ]),
  [
    'write without check-and-set where it is required',
    write,
    { status: 400, body: says('check-and-set parameter required for this call') },
    { name: 'ConfigError', code: 'VAULT_CAS_REQUIRED', retry: 'never' },
  ],
  [
    'patch of a deleted version',
    { ...write, method: 'PATCH' },
    { status: 404, body: { data: { version: 3, destroyed: false, deletion_time: '2026-11-21T10:48:21Z' } } },
    { name: 'NotFoundError', code: 'VAULT_VERSION_DELETED', retry: 'never' },
  ],
  ...['encryption key not found', 'signing key not found', 'signature verification key not found', 'key not found'].map(
    (text): (typeof answers)[number] => [
      text,
      write,
      { status: 400, body: says(text) },
      { name: 'NotFoundError', code: 'VAULT_KEY_NOT_FOUND', retry: 'never' },
    ],
  ),
  ...['invalid ciphertext: no prefix', 'invalid ciphertext: version is too new', 'cipher: message authentication failed'].map(
    (text): (typeof answers)[number] => [
      text,
      write,
      { status: 400, body: says(text) },
      { name: 'DataError', code: 'VAULT_CIPHERTEXT_INVALID', retry: 'never' },
    ],
  ),
  ...['invalid signature: no prefix', 'invalid base64 signature value', 'invalid HMAC to verify: no prefix'].map(
    (text): (typeof answers)[number] => [
      text,
      write,
      { status: 400, body: says(text) },
      { name: 'DataError', code: 'VAULT_SIGNATURE_INVALID', retry: 'never' },
    ],
  ),
  [
    'bad request',
    write,
    { status: 400, body: says('no data provided') },
    { name: 'RemoteError', code: 'VAULT_REQUEST_REFUSED', retry: 'never' },
  ],
  [
    'plain text to TLS',
    read,
    { status: 400, body: says('Client sent an HTTP request to an HTTPS server.') },
    { name: 'ConnectionError', code: 'VAULT_TLS', retry: 'never' },
  ],
]

describe('an answer that is not a good one', () => {
  it.each(answers)('%s', (_title, facts, answer, expected) => {
    const { name, code, retry } = toAnswerError(facts, answer)
    expect({ name, code, retry }).toEqual(expected)
  })

  it('names what to do: the policy, the version, the operator', () => {
    const message = (facts: RequestFacts, status: number, body: unknown): string => toAnswerError(facts, { status, body }).message
    const denied = says('permission denied')
    expect(message(read, 403, denied)).toContain('path "secret/data/app" { capabilities = ["read"] }')
    expect(message(write, 403, denied)).toContain('capabilities = ["create", "update"]')
    expect(message({ ...read, list: true }, 403, denied)).toContain('capabilities = ["list"]')
    expect(message({ ...read, method: 'DELETE' }, 403, denied)).toContain('capabilities = ["delete"]')
    expect(message({ ...read, method: 'PATCH' }, 403, denied)).toContain('capabilities = ["patch"]')
    expect(message(read, 404, deleted)).toBe('secret/data/app: version 3 was deleted; "kv undelete" brings it back')
    expect(message({ ...read, namespace: 'team/a' }, 404, says())).toContain('in namespace team/a')
    expect(message(read, 503, says('Vault is sealed'))).toContain('an operator must unseal it')
  })

  it('keeps what the server says about when to come back', () => {
    const error = toAnswerError(read, { status: 429, body: undefined, retryAfter: '7' })
    expect(error.retryAfterMs).toBe(7_000)
    expect(toAnswerError(read, { status: 503, body: undefined, retryAfter: '2' }).retryAfterMs).toBe(2_000)
  })

  it('shows what the server says on one line, and nothing of what was sent', () => {
    const body = says('2 errors occurred:\n\t* cannot use "horse-battery"\n\t* try again\n\n')
    expect(toAnswerError(write, { status: 400, body }).message).toContain('status 400: cannot use "[secret]"; try again')
  })

  it('tells whether the server knows the token, as far as its words do', () => {
    const known = (...errors: string[]): unknown =>
      toAnswerError(read, { status: 403, body: says(...errors) }).context['tokenKnown']
    expect(known('1 error occurred:\n\t* permission denied\n\n')).toBe(true)
    expect(known('2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n')).toBe(false)
    expect(known('permission denied')).toBeUndefined()
  })
})

const failures: [string, { code: string; retry: string }][] = [
  ['ECONNREFUSED', { code: 'VAULT_CONNECTION_REFUSED', retry: 'safe' }],
  ['ENOENT', { code: 'VAULT_CONNECTION_REFUSED', retry: 'safe' }],
  ['EACCES', { code: 'VAULT_CONNECTION_REFUSED', retry: 'never' }],
  ['ENOTFOUND', { code: 'VAULT_HOST_NOT_FOUND', retry: 'safe' }],
  ['EAI_AGAIN', { code: 'VAULT_HOST_NOT_FOUND', retry: 'safe' }],
  ['ETIMEDOUT', { code: 'VAULT_UNREACHABLE', retry: 'safe' }],
  ['EHOSTUNREACH', { code: 'VAULT_UNREACHABLE', retry: 'safe' }],
  ['ENETUNREACH', { code: 'VAULT_UNREACHABLE', retry: 'safe' }],
  ['ECONNRESET', { code: 'VAULT_CONNECTION_LOST', retry: 'if-idempotent' }],
  ['EPIPE', { code: 'VAULT_CONNECTION_LOST', retry: 'if-idempotent' }],
  ['DEPTH_ZERO_SELF_SIGNED_CERT', { code: 'VAULT_TLS', retry: 'never' }],
  ['SELF_SIGNED_CERT_IN_CHAIN', { code: 'VAULT_TLS', retry: 'never' }],
  ['UNABLE_TO_VERIFY_LEAF_SIGNATURE', { code: 'VAULT_TLS', retry: 'never' }],
  ['CERT_HAS_EXPIRED', { code: 'VAULT_TLS', retry: 'never' }],
  ['ERR_TLS_CERT_ALTNAME_INVALID', { code: 'VAULT_TLS', retry: 'never' }],
  ['ERR_SSL_WRONG_VERSION_NUMBER', { code: 'VAULT_TLS', retry: 'never' }],
  ['EPROTO', { code: 'VAULT_TLS', retry: 'never' }],
]

describe('a request without an answer', () => {
  it.each(failures)('%s', (driverCode, expected) => {
    const cause = Object.assign(new Error('it failed'), { code: driverCode, syscall: 'connect' })
    const error = toTransportError(read, 'https://vault:8200', cause)
    if (!(error instanceof ConnectionError)) throw new Error('expected a ConnectionError')
    expect({ code: error.code, retry: error.retry }).toEqual(expected)
    expect(error.message).toContain('https://vault:8200')
    expect(error.context).toMatchObject({ path: 'secret/data/app', driverCode })
  })

  it.each(['ETIMEDOUT', 'EHOSTUNREACH', 'ENETUNREACH'])('%s after the request was sent may have been applied', (code) => {
    const cause = Object.assign(new Error(`read ${code}`), { code, syscall: 'read' })
    expect(toTransportError(read, 'https://vault:8200', cause)).toMatchObject({
      code: 'VAULT_CONNECTION_LOST',
      retry: 'if-idempotent',
    })
  })

  it('looks into the error of a host with several addresses', () => {
    const refused = Object.assign(new Error('connect ECONNREFUSED ::1:8200'), { code: 'ECONNREFUSED', syscall: 'connect' })
    expect(toTransportError(read, 'http://vault:8200', new AggregateError([refused]))).toMatchObject({
      code: 'VAULT_CONNECTION_REFUSED',
    })
  })

  it('leaves our own errors as they are', () => {
    const ours = new HandlerError('capacity', 'too large', { code: 'VAULT_ANSWER_TOO_LARGE' })
    expect(toTransportError(read, 'http://vault:8200', ours)).toBe(ours)
  })
})

it('an answer that is no JSON is described, not shown', () => {
  const error = unreadableAnswer(read, 200, 'text/html')
  expect(error).toMatchObject({ code: 'VAULT_ANSWER_UNREADABLE', retry: 'never', serverCode: '200' })
  expect(error.message).toBe(
    'GET secret/data/app: the answer (status 200, text/html) is not JSON; does the address name a vault?',
  )
})
