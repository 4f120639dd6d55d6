import {
  AuthError,
  CapacityError,
  ConflictError,
  ConnectionError,
  HandlerError,
  type HandlerErrorOptions,
  NotFoundError,
  OperationTimeoutError,
  PermissionError,
  RemoteError,
} from '@common-handlers/core'

/** Nothing was sent: there is nobody to send it to. */
const UNREACHABLE = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH'])
const TLS = /^(CERT_|ERR_TLS_|ERR_SSL_|UNABLE_TO_|SELF_SIGNED|DEPTH_ZERO|EPROTO$)/

type Build = (message: string, options: HandlerErrorOptions) => HandlerError

interface Rule {
  readonly message: RegExp
  readonly code: string
  readonly retry?: HandlerErrorOptions['retry']
  readonly build: Build
}

const lost: Build = (message, options) => new ConnectionError(message, options)

/** Of errors without a number: the first rule that fits. */
const rules: readonly Rule[] = [
  { message: /ACCESS.REFUSED/, code: 'AMQP_UNAUTHORIZED', build: (message, options) => new AuthError(message, options) },
  {
    message: /Expected ConnectionOpenOk/,
    code: 'AMQP_VHOST_REFUSED',
    build: (message, options) => new PermissionError(`${message}: there is no such virtual host, or no right to it`, options),
  },
  {
    message: /ETIMEDOUT/,
    code: 'AMQP_TIMEOUT',
    retry: 'safe',
    build: (message, options) => new OperationTimeoutError(message, options),
  },
]

/** An error of the driver as one of ours; `server` is where it was. What is ours already is given back. */
export function toAmqpError(error: unknown, server: string): unknown {
  if (HandlerError.is(error) || !(error instanceof Error)) return error
  const { code } = error as { readonly code?: unknown }
  const message = `${server}: ${error.message}`
  const options = (ours: string, retry?: HandlerErrorOptions['retry']): HandlerErrorOptions => ({
    code: ours,
    ...(retry === undefined ? {} : { retry }),
    context: { server },
    cause: error,
  })
  if (typeof code === 'number') return toReplyError(code, message, options)
  if (typeof code === 'string') {
    if (TLS.test(code)) {
      return new ConnectionError(
        `${message.trim()} (give the certificate that signed the server's as ca)`,
        options('AMQP_TLS_FAILED'),
      )
    }
    if (UNREACHABLE.has(code)) return new ConnectionError(message, options('AMQP_UNREACHABLE', 'safe'))
    return new ConnectionError(message, options('AMQP_CONNECTION_LOST', 'if-idempotent'))
  }
  const rule = rules.find((one) => one.message.test(error.message))
  if (rule !== undefined) return rule.build(message, options(rule.code, rule.retry))
  // What else the driver says without a number is that the connection or the channel has gone.
  return lost(message, options('AMQP_CONNECTION_LOST', 'if-idempotent'))
}

/** Reply codes of AMQP 0-9-1 (section 1.2 of its reference). */
function toReplyError(
  code: number,
  message: string,
  options: (ours: string, retry?: HandlerErrorOptions['retry']) => HandlerErrorOptions,
): HandlerError {
  switch (code) {
    case 403:
      return new PermissionError(message, options('AMQP_FORBIDDEN'))
    case 404:
      return new NotFoundError(message, options('AMQP_NOT_FOUND'))
    case 405:
      return new ConflictError(message, options('AMQP_LOCKED'))
    case 406:
      // Also what a channel is closed with whose messages were not acknowledged for half an hour.
      return / timed out/.test(message)
        ? new ConnectionError(message, options('AMQP_ACKNOWLEDGED_TOO_LATE', 'if-idempotent'))
        : new ConflictError(message, options('AMQP_PRECONDITION_FAILED'))
    case 320:
    case 541:
      return new ConnectionError(message, options('AMQP_CONNECTION_LOST', 'if-idempotent'))
    case 311:
    case 506:
      return new CapacityError(message, options('AMQP_CAPACITY'))
    default:
      return new RemoteError(message, { ...options('AMQP_REFUSED'), serverCode: String(code) })
  }
}

export const consumerCancelled = (queue: string): ConnectionError =>
  new ConnectionError(`the server ended the reading of ${queue}: it was deleted, or has moved`, {
    code: 'AMQP_CONSUMER_CANCELLED',
    retry: 'safe',
    context: { queue },
  })

export const unroutable = (exchange: string, key: string): NotFoundError =>
  new NotFoundError(`no queue is bound to the exchange ${exchange} that takes a message with the routing key "${key}"`, {
    code: 'AMQP_UNROUTABLE',
    context: { exchange },
  })
