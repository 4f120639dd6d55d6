import { HandlerError } from '@common-handlers/core'
import { expect, it } from 'vitest'
import { toNeo4jError } from '../src/errors.ts'

const failed =
  'Failed to connect to server. Please ensure that your database is listening on the correct host and port and that you have compatible encryption settings both on Neo4j server and driver. Note that the default encryption setting has changed in Neo4j 4.0. Caused by: '
const untrusted =
  'Server certificate is not trusted. If you trust the database you are connecting to, add it. Socket responded with: SELF_SIGNED_CERT_IN_CHAIN'

it.each([
  ['Neo.ClientError.Security.Unauthorized', 'no', 'NEO4J_LOGIN_REFUSED', 'auth', 'never'],
  ['Neo.ClientError.Security.AuthenticationRateLimit', 'no', 'NEO4J_LOGIN_REFUSED', 'auth', 'never'],
  ['Neo.ClientError.Security.TokenExpired', 'no', 'NEO4J_LOGIN_REFUSED', 'auth', 'never'],
  ['Neo.ClientError.Security.CredentialsExpired', 'no', 'NEO4J_PASSWORD_EXPIRED', 'auth', 'never'],
  ['Neo.ClientError.Security.Forbidden', 'no', 'NEO4J_FORBIDDEN', 'permission', 'never'],
  ['Neo.ClientError.Statement.AccessMode', 'no', 'NEO4J_FORBIDDEN', 'permission', 'never'],
  ['Neo.ClientError.Database.DatabaseNotFound', 'no', 'NEO4J_NOT_FOUND', 'not-found', 'never'],
  ['Neo.ClientError.Procedure.ProcedureNotFound', 'no', 'NEO4J_NOT_FOUND', 'not-found', 'never'],
  ['Neo.ClientError.Schema.ConstraintAlreadyExists', 'no', 'NEO4J_EXISTS', 'conflict', 'never'],
  ['Neo.ClientError.Schema.EquivalentSchemaRuleAlreadyExists', 'no', 'NEO4J_EXISTS', 'conflict', 'never'],
  ['Neo.ClientError.Schema.ConstraintValidationFailed', 'no', 'NEO4J_CONSTRAINT', 'conflict', 'never'],
  ['Neo.ClientError.Transaction.TransactionTimedOut', 'no', 'NEO4J_SERVER_TIMEOUT', 'timeout', 'if-idempotent'],
  [
    'Neo.ClientError.Transaction.TransactionTimedOutClientConfiguration',
    'no',
    'NEO4J_SERVER_TIMEOUT',
    'timeout',
    'if-idempotent',
  ],
  ['Neo.TransientError.Transaction.Terminated', 'no', 'NEO4J_NOT_READY', 'connection', 'if-idempotent'],
  ['Neo.TransientError.General.DatabaseUnavailable', 'no', 'NEO4J_NOT_READY', 'connection', 'if-idempotent'],
  ['Neo.ClientError.Cluster.NotALeader', 'no', 'NEO4J_NOT_READY', 'connection', 'if-idempotent'],
  ['Neo.TransientError.General.MemoryPoolOutOfMemoryError', 'no', 'NEO4J_OUT_OF_MEMORY', 'capacity', 'never'],
  ['Neo.TransientError.Transaction.DeadlockDetected', 'no', 'NEO4J_CONFLICT', 'conflict', 'safe'],
  ['Neo.ClientError.Statement.SyntaxError', 'no', 'NEO4J_STATEMENT_INVALID', 'remote', 'never'],
  ['ServiceUnavailable', `${failed}connect ECONNREFUSED 127.0.0.1:1`, 'NEO4J_UNREACHABLE', 'connection', 'safe'],
  ['ServiceUnavailable', `${failed}read ECONNRESET`, 'NEO4J_CONNECTION_LOST', 'connection', 'if-idempotent'],
  ['ServiceUnavailable', 'Connection was closed by server', 'NEO4J_CONNECTION_LOST', 'connection', 'if-idempotent'],
  ['SessionExpired', 'Connection was closed by server', 'NEO4J_CONNECTION_LOST', 'connection', 'if-idempotent'],
  ['ServiceUnavailable', `${failed}${untrusted}`, 'NEO4J_TLS_FAILED', 'connection', 'never'],
  ['N/A', 'Connection acquisition timed out in 10 ms.', 'NEO4J_NO_CONNECTION', 'timeout', 'safe'],
  ['N/A', 'Server responded HTTP.', 'NEO4J_FAILED', 'remote', 'never'],
])('%s %s is %s', (code, message, ours, outcome, retry) => {
  const error = toNeo4jError(Object.assign(new Error(message), { code }), 'neo4j://host:7687')
  expect(error).toMatchObject({ code: ours, outcome, retry, context: { target: 'neo4j://host:7687' } })
  expect((error as Error).message).not.toContain('Please ensure')
})

it('says of a certificate what is wrong with it', () => {
  const error = toNeo4jError(Object.assign(new Error(`${failed}${untrusted}`), { code: 'ServiceUnavailable' }), 't')
  expect((error as Error).message).toBe(
    "Failed to connect to server. Server certificate is not trusted. SELF_SIGNED_CERT_IN_CHAIN (give the certificate that signed the server's as ca)",
  )
})

it('leaves what is ours, and what is no error, as it is', () => {
  const ours = toNeo4jError(new Error('x'), 't')
  expect(HandlerError.is(ours)).toBe(true)
  expect(toNeo4jError(ours, 'u')).toBe(ours)
  expect(toNeo4jError('text', 't')).toBe('text')
})
