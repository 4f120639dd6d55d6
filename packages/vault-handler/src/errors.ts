import {
  AuthError,
  CapacityError,
  ConfigError,
  ConflictError,
  ConnectionError,
  DataError,
  HandlerError,
  NotFoundError,
  parseRetryAfter,
  PermissionError,
  REDACTED,
  RemoteError,
} from '@common-handlers/core'
import { strings } from './secret-data.ts'

/** What was asked, for the text of an error. The path is plain: `secret/data/app`. */
export interface RequestFacts {
  readonly method: string
  readonly path: string
  readonly namespace?: string | undefined
  /** A listing asks for another capability than a read. */
  readonly list?: boolean | undefined
  /** What was sent; its values are struck out of whatever the server says about them. */
  readonly sent?: unknown
}

/** The parts of an answer that tell what went wrong. */
export interface FailedAnswer {
  readonly status: number
  readonly body: unknown
  readonly retryAfter?: string | undefined
}

const LOGIN_PATH = /^auth\/.+\/login(?:\/[^/]+)?$/

/** The error for an answer with a status other than 2xx. */
export function toAnswerError(facts: RequestFacts, answer: FailedAnswer): HandlerError {
  const said = strikeOut(serverMessage(answer.body), facts.sent)
  const { status } = answer
  const what = `${facts.method} ${facts.path}${facts.namespace === undefined ? '' : ` in namespace ${facts.namespace}`}`
  const context = {
    method: facts.method,
    path: facts.path,
    status,
    ...(facts.namespace === undefined ? {} : { namespace: facts.namespace }),
  }
  const remote = (code: string, retry: 'safe' | 'if-idempotent' | 'never', message: string): HandlerError => {
    const retryAfterMs = parseRetryAfter(answer.retryAfter)
    return new RemoteError(message, {
      code,
      retry,
      context,
      serverCode: String(status),
      ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
    })
  }
  // A sealed or standby node refuses a login as it refuses everything else, so these come first.
  if (/\bis sealed\b/i.test(said)) {
    return remote('VAULT_SEALED', 'safe', `${what}: the vault is sealed; an operator must unseal it`)
  }
  if (/not initialized/i.test(said) || status === 501) {
    return remote('VAULT_UNINITIALIZED', 'never', `${what}: the vault is not initialised; an operator must run "operator init"`)
  }
  if (/local node not active|in standby mode/i.test(said) || status === 472 || status === 473) {
    return remote(
      'VAULT_STANDBY',
      'safe',
      `${what}: this node is a standby and does not serve the request${said === '' ? '' : ` (${said})`}`,
    )
  }
  if (/HTTP request to an HTTPS server/i.test(said)) {
    return new ConnectionError(`${what}: the server speaks TLS; write https:// in the address`, { code: 'VAULT_TLS', context })
  }
  if (status === 412) {
    return remote('VAULT_STALE_NODE', 'safe', `${what}: the node has not caught up with the latest write yet`)
  }
  if (status === 429) {
    const retryAfterMs = parseRetryAfter(answer.retryAfter)
    return new CapacityError(`${what}: too many requests${said === '' ? '' : ` (${said})`}`, {
      code: 'VAULT_RATE_LIMITED',
      retry: 'safe',
      context,
      ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
    })
  }
  if (status >= 500) {
    return remote(
      'VAULT_SERVER_ERROR',
      'if-idempotent',
      `${what}: the server failed with status ${status}${said === '' ? '' : `: ${said}`}`,
    )
  }
  if (/^namespace not found$/i.test(said)) {
    return new NotFoundError(`there is no namespace ${facts.namespace ?? ''}`.trim(), {
      code: 'VAULT_NAMESPACE_NOT_FOUND',
      context,
    })
  }
  if (/wrapping token is not valid or does not exist/i.test(said)) return wrappingTokenInvalid(context)
  if (LOGIN_PATH.test(facts.path) && facts.method === 'POST' && [400, 401, 403, 404].includes(status)) {
    return new AuthError(`cannot log in at ${facts.path}: ${said === '' ? `status ${status}` : said}`, {
      code: 'VAULT_LOGIN_FAILED',
      context,
    })
  }
  if (status === 403) {
    const tokenKnown = knowsToken(answer.body)
    return new PermissionError(
      `permission denied: ${what} needs a policy with: path "${facts.path}" { capabilities = [${capabilities(facts)}] }`,
      { code: 'VAULT_PERMISSION_DENIED', context: tokenKnown === undefined ? context : { ...context, tokenKnown } },
    )
  }
  if (status === 404) return notFound(facts, what, said, answer.body, context)
  if (/check-and-set parameter did not match/i.test(said)) {
    return new ConflictError(`${what}: the secret has another version than the one it was to replace`, {
      code: 'VAULT_CAS_MISMATCH',
      context,
    })
  }
  if (/^(?:lease not found|lease expired|invalid lease)/i.test(said)) {
    return new NotFoundError(`${what}: the lease has ended or was revoked`, { code: 'VAULT_LEASE_NOT_FOUND', context })
  }
  if (/check-and-set parameter required/i.test(said)) {
    return new ConfigError(`${what}: the mount or the secret takes no write without check-and-set; give cas, or use kv.update`, {
      code: 'VAULT_CAS_REQUIRED',
      context,
    })
  }
  return (
    transitError(what, said, context) ??
    remote(
      'VAULT_REQUEST_REFUSED',
      'never',
      `${what}: the server refused it with status ${status}${said === '' ? '' : `: ${said}`}`,
    )
  )
}

/** The error of one item of a batch; `problem` is the server's own text. */
export function toTransitError(facts: RequestFacts, problem: string, facets: Readonly<Record<string, unknown>>): HandlerError {
  const said = strikeOut(problem, facts.sent)
  const what = `${facts.method} ${facts.path}`
  const context = { method: facts.method, path: facts.path, ...facets }
  return (
    transitError(what, said, context) ??
    new RemoteError(`${what}: the server refused it: ${said}`, { code: 'VAULT_REQUEST_REFUSED', context, serverCode: '400' })
  )
}

/** The transit engine answers each of these with status 400. */
function transitError(what: string, said: string, context: Readonly<Record<string, unknown>>): HandlerError | undefined {
  if (/^(?:encryption |signing |signature verification )?key not found$/i.test(said)) {
    return new NotFoundError(`${what}: there is no such key`, { code: 'VAULT_KEY_NOT_FOUND', context })
  }
  if (/^invalid ciphertext|message authentication failed/i.test(said)) {
    return new DataError(`${what}: the ciphertext is damaged, or belongs to another key or context (${said})`, {
      code: 'VAULT_CIPHERTEXT_INVALID',
      context,
    })
  }
  if (/^invalid (?:base64 )?signature|^invalid hmac/i.test(said)) {
    return new DataError(`${what}: this is no signature (${said})`, { code: 'VAULT_SIGNATURE_INVALID', context })
  }
  return undefined
}

/** The server has more than one "not found", and they call for different things. */
function notFound(
  facts: RequestFacts,
  what: string,
  said: string,
  body: unknown,
  context: Readonly<Record<string, unknown>>,
): HandlerError {
  const data = property(body, 'data')
  // A refused PATCH has the facts of the version where a refused read has them one level deeper.
  const metadata = property(data, 'metadata') ?? data
  if (typeof property(metadata, 'destroyed') === 'boolean') {
    const version = property(metadata, 'version')
    const destroyed = property(metadata, 'destroyed') === true
    const facets = { ...context, version, deletionTime: property(metadata, 'deletion_time') }
    return destroyed
      ? new NotFoundError(`${facts.path}: version ${String(version)} was destroyed`, {
          code: 'VAULT_VERSION_DESTROYED',
          context: facets,
        })
      : new NotFoundError(`${facts.path}: version ${String(version)} was deleted; "kv undelete" brings it back`, {
          code: 'VAULT_VERSION_DELETED',
          context: facets,
        })
  }
  if (/no handler for route/i.test(said)) {
    return new NotFoundError(`${what}: nothing is mounted there`, { code: 'VAULT_MOUNT_NOT_FOUND', context })
  }
  const warnings = property(body, 'warnings')
  if (Array.isArray(warnings) && warnings.some((warning) => /versioned K\/V/i.test(String(warning)))) {
    return new NotFoundError(`${what}: this is a KV version 2 mount; write data/ after the name of the mount`, {
      code: 'VAULT_PATH_WITHOUT_DATA',
      context,
    })
  }
  if (/unsupported path/i.test(said)) {
    return new NotFoundError(`${what}: the server has no such path`, { code: 'VAULT_PATH_UNSUPPORTED', context })
  }
  return new NotFoundError(`${what}: there is nothing at this path${said === '' ? '' : ` (${said})`}`, {
    code: 'VAULT_SECRET_NOT_FOUND',
    context,
  })
}

/** Which capability of the policy language a request needs. */
function capabilities(facts: RequestFacts): string {
  if (facts.list === true || facts.method === 'LIST') return '"list"'
  if (facts.method === 'DELETE') return '"delete"'
  if (facts.method === 'PATCH') return '"patch"'
  return facts.method === 'GET' || facts.method === 'HEAD' ? '"read"' : '"create", "update"'
}

/** Is a token that was refused with this answer known to the server? Undefined where the answer does not tell. */
function knowsToken(body: unknown): boolean | undefined {
  const text = rawMessage(body)
  if (/invalid token|bad token|token expired/i.test(text)) return false
  // Both servers wrap a refusal by policy in a list, and OpenBao refuses an unknown token without one.
  return /\* permission denied/.test(text) ? true : undefined
}

/** TLS of Node names its errors by these; see the "TLS/SSL errors" of node:tls and OpenSSL's X509_V_ERR_*. */
const TLS_CODE =
  /^(?:ERR_(?:SSL|TLS|OSSL)_|CERT_|CRL_|UNABLE_TO_|DEPTH_ZERO_|SELF_SIGNED_|INVALID_(?:CA|PURPOSE)|HOSTNAME_MISMATCH|EPROTO$)/

interface Reason {
  readonly code: string
  readonly retry: 'safe' | 'if-idempotent' | 'never'
  readonly text: string
}

/** Why no connection could be made. */
const REASONS: Readonly<Record<string, Reason>> = {
  ECONNREFUSED: {
    code: 'VAULT_CONNECTION_REFUSED',
    retry: 'safe',
    text: 'the connection was refused; is the server running there?',
  },
  ENOENT: { code: 'VAULT_CONNECTION_REFUSED', retry: 'safe', text: 'there is no such socket; is the agent running?' },
  EACCES: { code: 'VAULT_CONNECTION_REFUSED', retry: 'never', text: 'this process may not open the socket' },
  ENOTFOUND: { code: 'VAULT_HOST_NOT_FOUND', retry: 'safe', text: 'the host name has no address' },
  EAI_AGAIN: { code: 'VAULT_HOST_NOT_FOUND', retry: 'safe', text: 'the host name could not be looked up' },
  ETIMEDOUT: { code: 'VAULT_UNREACHABLE', retry: 'safe', text: 'no connection could be made in time' },
  EHOSTUNREACH: { code: 'VAULT_UNREACHABLE', retry: 'safe', text: 'there is no way to the host' },
  ENETUNREACH: { code: 'VAULT_UNREACHABLE', retry: 'safe', text: 'there is no way to the network' },
}

/** The error for a request that got no answer. Errors that are ours already stay as they are. */
export function toTransportError(facts: RequestFacts, address: string, cause: unknown): unknown {
  if (HandlerError.is(cause) || !(cause instanceof Error)) return cause
  const { code: driverCode, syscall } = driverFacts(cause)
  const context = { method: facts.method, path: facts.path, address, ...(driverCode === undefined ? {} : { driverCode }) }
  if (driverCode !== undefined && TLS_CODE.test(driverCode)) {
    return new ConnectionError(`${address}: TLS failed: ${cause.message}`, { code: 'VAULT_TLS', retry: 'never', context, cause })
  }
  const reason = driverCode === undefined ? undefined : REASONS[driverCode]
  // The same codes tell of a connection that broke down later, with the request on its way.
  if (reason !== undefined && (syscall === 'connect' || syscall === 'getaddrinfo')) {
    return new ConnectionError(`${address}: ${reason.text}`, { code: reason.code, retry: reason.retry, context, cause })
  }
  return new ConnectionError(`${address}: the connection was lost: ${cause.message}`, {
    code: 'VAULT_CONNECTION_LOST',
    retry: 'if-idempotent',
    context,
    cause,
  })
}

/** A host with several addresses fails with one error for each; the first tells enough. */
function driverFacts(error: Error): { readonly code?: string; readonly syscall?: string } {
  if (error instanceof AggregateError && error.errors[0] instanceof Error) return driverFacts(error.errors[0])
  const { code, syscall } = error as { code?: unknown; syscall?: unknown }
  return { ...(typeof code === 'string' ? { code } : {}), ...(typeof syscall === 'string' ? { syscall } : {}) }
}

/** An answer that no vault gives: a proxy's page, a web server, something cut. The answer itself may hold anything and is not shown. */
export function unreadableAnswer(facts: RequestFacts, status: number, contentType: string | undefined): HandlerError {
  return new RemoteError(
    `${facts.method} ${facts.path}: the answer (status ${status}, ${contentType ?? 'no content type'}) is not JSON; does the address name a vault?`,
    {
      code: 'VAULT_ANSWER_UNREADABLE',
      retry: status >= 500 ? 'if-idempotent' : 'never',
      context: { method: facts.method, path: facts.path, status },
      serverCode: String(status),
    },
  )
}

/** The server no longer knows the token. */
export function tokenRefused(facts: RequestFacts, origin: string, cause?: unknown): AuthError {
  return new AuthError(`the server does not accept the ${origin}: it has expired, was revoked or was never issued here`, {
    code: 'VAULT_TOKEN_INVALID',
    context: { method: facts.method, path: facts.path },
    cause,
  })
}

/** The server tells a wrapping token that was used from none that ever was as little as from one that has expired. */
export function wrappingTokenInvalid(context: Readonly<Record<string, unknown>>, cause?: unknown): AuthError {
  return new AuthError(
    'the server does not know the wrapping token: it has expired, or somebody has unwrapped it before; if that was none of yours, take what it held for stolen and revoke it',
    { code: 'VAULT_WRAPPING_TOKEN_INVALID', context, cause },
  )
}

/** A wrapping token that something else than the expected path has made. */
export function wrappedElsewhere(madeBy: string, expected: string): AuthError {
  return new AuthError(
    `the wrapping token was made by ${madeBy}, and not by ${expected}: somebody may have put it in the place of the real one; it was not used`,
    { code: 'VAULT_WRAPPING_TOKEN_FOREIGN', context: { madeBy, expected } },
  )
}

/** No way to log in was given, and the server wants one. */
export function noCredentials(facts: RequestFacts): AuthError {
  return new AuthError(
    `${facts.method} ${facts.path} needs a token; give token, tokenFile or one of the auth methods in the options`,
    { code: 'VAULT_NO_CREDENTIALS', context: { method: facts.method, path: facts.path } },
  )
}

/** A node that answers and does not serve. */
export function nodeUnusable(address: string, state: 'sealed' | 'uninitialized' | 'disaster recovery secondary'): HandlerError {
  const [code, hint] = {
    sealed: ['VAULT_SEALED', 'an operator must unseal it'],
    uninitialized: ['VAULT_UNINITIALIZED', 'an operator must run "operator init"'],
    'disaster recovery secondary': ['VAULT_STANDBY', 'use the address of the primary cluster'],
  }[state] as [string, string]
  return new RemoteError(`${address}: the node is ${state}; ${hint}`, {
    code,
    retry: state === 'uninitialized' ? 'never' : 'safe',
    context: { address, state },
    serverCode: state,
  })
}

/** The function that gives the keys of AWS did not. */
export function awsCredentialsRefused(cause: unknown): ConfigError {
  const reason = cause instanceof Error ? cause.message : String(cause)
  return new ConfigError(`aws.credentials gave no keys: ${reason}`, { code: 'VAULT_AWS_CREDENTIALS', cause })
}

export function credentialFileUnreadable(file: string, cause: unknown): ConfigError {
  return new ConfigError(`cannot read the credential in ${file}: ${(cause as Error).message}`, {
    code: 'VAULT_CREDENTIAL_FILE',
    context: { file },
    cause,
  })
}

function rawMessage(body: unknown): string {
  const errors = property(body, 'errors')
  return Array.isArray(errors) ? errors.filter((error) => typeof error === 'string').join('; ') : ''
}

/** `1 error occurred:\n\t* permission denied\n\n` is Go's way to print a list; one line reads better. */
function serverMessage(body: unknown): string {
  return rawMessage(body)
    .replace(/\d+ errors? occurred:\s*/g, '')
    .replace(/\s*\n\s*\*\s*/g, '; ')
    .replace(/^\s*\*\s*/, '')
    .replace(/\s+/g, ' ')
    .trim()
    .slice(0, 500)
}

/** Values shorter than this are words of the server's own sentences more often than not. */
const MIN_STRUCK_LENGTH = 4

/** The server quotes what it cannot use, and what was sent may be a secret. */
function strikeOut(message: string, sent: unknown): string {
  let struck = message
  for (const value of strings(sent)) if (value.length >= MIN_STRUCK_LENGTH) struck = struck.replaceAll(value, REDACTED)
  return struck
}

function property(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? (value as Readonly<Record<string, unknown>>)[name] : undefined
}
