import {
  AuthError,
  CapacityError,
  ConfigError,
  ConnectionError,
  HandlerError,
  type HandlerErrorOptions,
  NotFoundError,
  OperationTimeoutError,
  PermissionError,
  RemoteError,
} from '@common-handlers/core'

/** Nothing was sent: there is nobody to send it to. */
const UNREACHABLE = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH', 'ETIMEDOUT'])
const TLS = /^(CERT_|ERR_TLS_|ERR_SSL_|UNABLE_TO_|SELF_SIGNED|DEPTH_ZERO|EPROTO$)/

/** Codes of the JetStream API (https://github.com/nats-io/nats-server/blob/main/server/errors.json). */
const STREAM_NOT_FOUND = 10_059
const CONSUMER_NOT_FOUND = 10_014
const NOT_ENABLED = new Set([10_039, 10_076])
const NO_RESOURCES = new Set([10_002, 10_023, 10_028, 10_047])

/** An error of the driver as one of ours; `servers` is where it was. What is ours already is given back. */
export function toNatsError(error: unknown, servers: string): unknown {
  if (HandlerError.is(error) || !(error instanceof Error)) return error
  const context = { servers }
  const options = (code: string, retry?: HandlerErrorOptions['retry']): HandlerErrorOptions => ({
    code,
    ...(retry === undefined ? {} : { retry }),
    context,
    cause: error,
  })
  const code = codeOf(error) ?? codeOf(error.cause)
  const message = `${servers}: ${error.message}`
  switch (error.name) {
    case 'AuthorizationError':
    case 'UserAuthenticationExpiredError':
      return new AuthError(`${message}: the server refuses this login`, options('NATS_UNAUTHORIZED'))
    case 'PermissionViolationError':
      return new PermissionError(message, options('NATS_FORBIDDEN'))
    case 'TimeoutError':
      return new OperationTimeoutError(`${servers} does not answer`, options('NATS_TIMEOUT', 'if-idempotent'))
    case 'JetStreamNotEnabled':
    case 'NoRespondersError':
      return notEnabled(servers, error)
    default:
  }
  if (typeof code === 'string') {
    if (TLS.test(code)) {
      return new ConnectionError(
        `${servers}: ${(error.cause as Error | undefined)?.message ?? error.message} (give the certificate that signed the server's as ca)`,
        options('NATS_TLS_FAILED'),
      )
    }
    if (UNREACHABLE.has(code)) return new ConnectionError(`${message} (${code})`, options('NATS_UNREACHABLE', 'safe'))
    return new ConnectionError(message, options('NATS_CONNECTION_LOST', 'if-idempotent'))
  }
  if (typeof code === 'number') {
    if (code === STREAM_NOT_FOUND) return new NotFoundError(message, options('NATS_STREAM_NOT_FOUND'))
    if (code === CONSUMER_NOT_FOUND) return new NotFoundError(message, options('NATS_CONSUMER_NOT_FOUND'))
    if (NOT_ENABLED.has(code)) return notEnabled(servers, error)
    if (NO_RESOURCES.has(code)) return new CapacityError(message, options('NATS_CAPACITY', 'safe'))
    return new RemoteError(message, { ...options('NATS_REFUSED'), serverCode: String(code) })
  }
  if (/server (does not support|requires) ?('?tls|a secure)/i.test(error.message)) {
    return new ConnectionError(message, options('NATS_TLS_FAILED'))
  }
  if (error.name === 'RequestError' && error.cause instanceof Error) return toNatsError(error.cause, servers)
  const isLost = ['ConnectionError', 'ClosedConnectionError', 'DrainingConnectionError'].includes(error.name)
  if (isLost || error.message === 'heartbeats missed') {
    return new ConnectionError(message, options('NATS_CONNECTION_LOST', 'if-idempotent'))
  }
  return new RemoteError(message, { ...options('NATS_FAILED'), serverCode: error.name })
}

function codeOf(error: unknown): string | number | undefined {
  const code = (error as { readonly code?: unknown } | undefined)?.code
  return typeof code === 'string' || typeof code === 'number' ? code : undefined
}

const notEnabled = (servers: string, cause: unknown): NotFoundError =>
  new NotFoundError(`${servers}: nobody answers for JetStream: it is off, or this account has none, or the domain is another`, {
    code: 'NATS_NO_JETSTREAM',
    context: { servers },
    cause,
  })

export const connectionLost = (servers: string, cause?: unknown): ConnectionError =>
  new ConnectionError(`${servers}: the connection was lost`, {
    code: 'NATS_CONNECTION_LOST',
    retry: 'if-idempotent',
    context: { servers },
    ...(cause === undefined ? {} : { cause }),
  })

export const consumerUnusable = (stream: string, consumer: string, why: string): ConfigError =>
  new ConfigError(`the consumer "${consumer}" of ${stream} cannot be used: ${why}`, {
    code: 'NATS_CONSUMER_UNUSABLE',
    context: { stream, consumer },
  })

export const watermarkInvalid = (): ConfigError =>
  new ConfigError('the watermark cannot be used: it is not one that an item had, or the stream was made anew since', {
    code: 'NATS_WATERMARK_INVALID',
  })
