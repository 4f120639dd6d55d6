import {
  AuthError,
  ConfigError,
  ConnectionError,
  DataError,
  HandlerError,
  type HandlerErrorOptions,
  NotFoundError,
  OperationTimeoutError,
  RemoteError,
} from '@common-handlers/core'

/** What the code of each error begins with, and each variable of the environment. */
export const NEWPROTOCOL = 'NEWPROTOCOL'

type Build = (message: string, options: HandlerErrorOptions & { readonly serverCode: string }) => HandlerError

interface Rule {
  /** As the server names it: `ERROR <name> <message>`. */
  readonly server: string
  readonly code: string
  readonly build: Build
}

/** None of them is worth another try; a server that says "too busy" would give one `retry: 'safe'`. */
const rules: readonly Rule[] = [
  { server: 'LOGIN', code: 'NEWPROTOCOL_LOGIN_REFUSED', build: (message, options) => new AuthError(message, options) },
  { server: 'TABLE', code: 'NEWPROTOCOL_NOT_FOUND', build: (message, options) => new NotFoundError(message, options) },
]

/** What the server answers in place of what it was asked for. */
export function toServerError(name: string, message: string, target: string): HandlerError {
  const rule = rules.find(({ server }) => server === name)
  const build: Build = rule?.build ?? ((text, options) => new RemoteError(text, options))
  return build(`${target}: ${message}`, {
    code: rule?.code ?? 'NEWPROTOCOL_FAILED',
    context: { target },
    serverCode: name,
  })
}

/** Nothing was sent: there is nobody to send it to. */
const unreachable = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH', 'ETIMEDOUT'])

/** An error of the driver as one of ours. What is ours already, or no error, is given back. */
export function toNewprotocolError(error: unknown, target: string): unknown {
  if (HandlerError.is(error) || !(error instanceof Error)) return error
  const { code } = error as { readonly code?: unknown }
  const isUnreachable = typeof code === 'string' && unreachable.has(code)
  return new ConnectionError(`${target}: ${error.message === '' ? String(code) : error.message}`, {
    code: isUnreachable ? 'NEWPROTOCOL_UNREACHABLE' : 'NEWPROTOCOL_CONNECTION_LOST',
    retry: isUnreachable ? 'safe' : 'if-idempotent',
    context: { target },
    cause: error,
  })
}

export const endedEarly = (target: string): ConnectionError =>
  new ConnectionError(`${target} ended the connection in the middle of an answer`, {
    code: 'NEWPROTOCOL_CONNECTION_LOST',
    retry: 'if-idempotent',
    context: { target },
  })

export const answerLate = (target: string, timeoutMs: number): OperationTimeoutError =>
  new OperationTimeoutError(`${target} did not answer in ${timeoutMs} ms`, {
    code: 'NEWPROTOCOL_TIMEOUT',
    retry: 'if-idempotent',
    context: { target, timeoutMs },
  })

export const answerUnusable = (target: string, why: string, cause?: unknown): DataError =>
  new DataError(`${target}: ${why}`, {
    code: 'NEWPROTOCOL_ANSWER_INVALID',
    context: { target },
    ...(cause === undefined ? {} : { cause }),
  })

export const queryUnusable = (why: string): ConfigError => new ConfigError(why, { code: 'NEWPROTOCOL_QUERY_INVALID' })
