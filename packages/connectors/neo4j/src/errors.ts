import {
  AuthError,
  CapacityError,
  ConfigError,
  ConflictError,
  ConnectionError,
  DataError,
  HandlerError,
  type HandlerErrorOptions,
  NotFoundError,
  OperationTimeoutError,
  PermissionError,
  RemoteError,
} from '@common-handlers/core'

type Build = (message: string, options: HandlerErrorOptions & { readonly serverCode: string }) => HandlerError

const auth: Build = (message, options) => new AuthError(message, options)
const forbidden: Build = (message, options) => new PermissionError(message, options)
const missing: Build = (message, options) => new NotFoundError(message, options)
const conflict: Build = (message, options) => new ConflictError(message, options)
const capacity: Build = (message, options) => new CapacityError(message, options)
const timeout: Build = (message, options) => new OperationTimeoutError(message, options)
const connection: Build = (message, options) => new ConnectionError(message, options)
const remote: Build = (message, options) => new RemoteError(message, options)

interface Rule {
  /** Of the server's status codes (https://neo4j.com/docs/status-codes/current/errors/all-errors/), without `Neo.`, and of the driver's. */
  readonly codes: RegExp
  readonly message?: RegExp
  readonly code: string
  readonly retry?: HandlerErrorOptions['retry']
  readonly build: Build
}

/** The first rule that fits. What the server calls transient was rolled back. */
const rules: readonly Rule[] = [
  { codes: /^ClientError\.Security\.CredentialsExpired$/, code: 'NEO4J_PASSWORD_EXPIRED', build: auth },
  {
    codes: /^ClientError\.Security\.(Unauthorized|AuthenticationRateLimit|AuthProvider\w*|TokenExpired|AuthorizationExpired)$/,
    code: 'NEO4J_LOGIN_REFUSED',
    build: auth,
  },
  { codes: /^ClientError\.(Security\.Forbidden|Statement\.AccessMode)$/, code: 'NEO4J_FORBIDDEN', build: forbidden },
  { codes: /^ClientError\..*(NotFound|NoSuch\w+)$/, code: 'NEO4J_NOT_FOUND', build: missing },
  { codes: /^ClientError\.(Schema|Database)\..*(AlreadyExists|Exists)$/, code: 'NEO4J_EXISTS', build: conflict },
  { codes: /^ClientError\.Schema\.ConstraintV\w+$/, code: 'NEO4J_CONSTRAINT', build: conflict },
  {
    codes: /^\w+Error\.Transaction\.TransactionTimedOut\w*$/,
    code: 'NEO4J_SERVER_TIMEOUT',
    retry: 'if-idempotent',
    build: timeout,
  },
  {
    codes:
      /^\w+Error\.(Transaction\.(Terminated|LockClientStopped)|General\.(DatabaseUnavailable|ForbiddenOnReadOnlyDatabase)|Cluster\.\w+)$/,
    code: 'NEO4J_NOT_READY',
    retry: 'if-idempotent',
    build: connection,
  },
  { codes: /^TransientError\..*(OutOfMemory\w*|Limit\w*|MaximumTransaction\w*)$/, code: 'NEO4J_OUT_OF_MEMORY', build: capacity },
  { codes: /^TransientError\./, code: 'NEO4J_CONFLICT', retry: 'safe', build: conflict },
  { codes: /^ClientError\.Statement\./, code: 'NEO4J_STATEMENT_INVALID', build: remote },
  {
    codes: /^ServiceUnavailable$/,
    message: /certificate|TLS|SSL|self.signed|altnames/i,
    code: 'NEO4J_TLS_FAILED',
    build: connection,
  },
  {
    codes: /^ServiceUnavailable$/,
    // It says "failed to connect" of a connection that was lost, too.
    message:
      /ECONNREFUSED|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|Failed to establish connection|^Could not perform discovery/,
    code: 'NEO4J_UNREACHABLE',
    retry: 'safe',
    build: connection,
  },
  { codes: /^(ServiceUnavailable|SessionExpired)$/, code: 'NEO4J_CONNECTION_LOST', retry: 'if-idempotent', build: connection },
  { codes: /./, message: /^Connection acquisition timed out/, code: 'NEO4J_NO_CONNECTION', retry: 'safe', build: timeout },
]

/** What the driver says to everyone who cannot connect. */
const advice = /Please ensure that your database is listening.*?Neo4j 4\.0\. (Caused by: )?/s

/** An error of the driver as one of ours; `target` is the server. What is ours already, and what is no error, is given back. */
export function toNeo4jError(error: unknown, target: string): unknown {
  if (HandlerError.is(error) || !(error instanceof Error)) return error
  const { code: found } = error as { readonly code?: unknown }
  const serverCode = typeof found === 'string' ? found : 'UNKNOWN'
  const short = serverCode.replace(/^Neo\./, '')
  const said = error.message.replace(advice, '')
  const rule = rules.find(({ codes, message }) => codes.test(short) && (message?.test(error.message) ?? true))
  const { code, build, retry } = rule ?? { code: 'NEO4J_FAILED', build: remote }
  const hint = code === 'NEO4J_TLS_FAILED' ? ` (give the certificate that signed the server's as ca)` : ''
  return build(`${code === 'NEO4J_TLS_FAILED' ? shortened(said) : said}${hint}`, {
    code,
    ...(retry === undefined ? {} : { retry }),
    context: { target },
    cause: error,
    serverCode,
  })
}

/** Of the driver's long advice about certificates, what is wrong with this one. */
const shortened = (message: string): string => message.replace(/If you trust the database.*?Socket responded with: /s, '')

export const noAnswer = (target: string, answerTimeoutMs: number): OperationTimeoutError =>
  new OperationTimeoutError(`${target} was silent for ${answerTimeoutMs} ms`, {
    code: 'NEO4J_NO_ANSWER',
    retry: 'if-idempotent',
    context: { target, answerTimeoutMs },
  })

export const parameterInvalid = (name: string, why: string): ConfigError =>
  new ConfigError(`the parameter "${name}" ${why}`, { code: 'NEO4J_PARAMETER_INVALID' })

export const queryInvalid = (why: string): ConfigError => new ConfigError(why, { code: 'NEO4J_QUERY_INVALID' })

export const watermarkInvalid = (why: string): ConfigError =>
  new ConfigError(`the watermark cannot be used: ${why}`, { code: 'NEO4J_WATERMARK_INVALID' })

export const watermarkUnusable = (property: string, why: string): DataError =>
  new DataError(`the property "${property}" ${why}: it can be no place to go on from`, {
    code: 'NEO4J_WATERMARK_UNUSABLE',
    where: { column: property },
  })

export const valueUnknown = (path: string, type: string): DataError =>
  new DataError(`"${path}" is a ${type}, which cannot be given exactly`, { code: 'NEO4J_VALUE_UNKNOWN', where: { column: path } })
