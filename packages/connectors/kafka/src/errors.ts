import {
  AuthError,
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
const UNREACHABLE = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH'])
const TLS = /^(CERT_|ERR_TLS_|ERR_SSL_|UNABLE_TO_|SELF_SIGNED|DEPTH_ZERO|EPROTO$)/

/** What the driver hangs on its errors. `apiId` is the name of a code of the protocol. */
interface DriverError extends Error {
  readonly code?: unknown
  readonly apiId?: unknown
  readonly canRetry?: unknown
}

/** The error, those that it gathers, and their causes. */
function chain(error: unknown): DriverError[] {
  if (!(error instanceof Error)) return []
  const { errors } = error as { readonly errors?: unknown }
  return [error, ...(Array.isArray(errors) ? errors.flatMap(chain) : []), ...chain(error.cause)]
}

/** What the coordinator says while the partitions of a group are given out anew. */
const REBALANCE = new Set(['REBALANCE_IN_PROGRESS', 'ILLEGAL_GENERATION', 'UNKNOWN_MEMBER_ID', 'MEMBER_ID_REQUIRED'])

/** An error of the driver as one of ours; `brokers` is where it was. What is ours already is given back. */
export function toKafkaError(error: unknown, brokers: string): unknown {
  if (HandlerError.is(error) || !(error instanceof Error)) return error
  const all = chain(error)
  const options = (code: string, retry?: HandlerErrorOptions['retry']): HandlerErrorOptions => ({
    code,
    ...(retry === undefined ? {} : { retry }),
    context: { brokers },
    cause: error,
  })
  const said = (one: Error): string => `${brokers}: ${one.message.trim()}`
  const denied = all.find(({ code, apiId }) => code === 'PLT_KFK_AUTHENTICATION' || apiId === 'SASL_AUTHENTICATION_FAILED')
  if (denied !== undefined) return new AuthError(`${brokers}: the broker refuses this login`, options('KAFKA_UNAUTHORIZED'))
  const unknown = all.find(({ message }) => message.startsWith('Unknown topic'))
  if (unknown !== undefined) return new NotFoundError(said(unknown), options('KAFKA_TOPIC_NOT_FOUND'))
  const protocol = all.find(({ apiId }) => typeof apiId === 'string')
  if (protocol !== undefined) return toProtocolError(protocol, said(protocol), options)
  for (const one of all) {
    const { code } = one
    if (typeof code !== 'string' || code.startsWith('PLT_')) continue
    if (TLS.test(code)) {
      return new ConnectionError(
        `${said(one)} (give the certificate that signed the broker's as ca)`,
        options('KAFKA_TLS_FAILED'),
      )
    }
    if (UNREACHABLE.has(code)) return new ConnectionError(said(one), options('KAFKA_UNREACHABLE', 'safe'))
    return new ConnectionError(said(one), options('KAFKA_CONNECTION_LOST', 'if-idempotent'))
  }
  // The driver's own time-out has the code of its network errors.
  if (all.some(({ message }) => message.includes('timed out'))) {
    return new OperationTimeoutError(said(error), options('KAFKA_TIMEOUT', 'if-idempotent'))
  }
  if (all.some(({ code }) => code === 'PLT_KFK_NETWORK')) {
    return new ConnectionError(said(error), options('KAFKA_CONNECTION_LOST', 'if-idempotent'))
  }
  const { code } = error as DriverError
  return new RemoteError(said(error), { ...options('KAFKA_FAILED'), serverCode: typeof code === 'string' ? code : error.name })
}

/** Error codes of the protocol (https://kafka.apache.org/protocol#protocol_error_codes). */
function toProtocolError(
  { apiId, canRetry }: DriverError,
  message: string,
  options: (code: string, retry?: HandlerErrorOptions['retry']) => HandlerErrorOptions,
): HandlerError {
  const name = String(apiId)
  if (name === 'UNKNOWN_TOPIC_OR_PARTITION' || name === 'UNKNOWN_TOPIC_ID') {
    return new NotFoundError(message, options('KAFKA_TOPIC_NOT_FOUND'))
  }
  if (name.endsWith('AUTHORIZATION_FAILED')) return new PermissionError(message, options('KAFKA_FORBIDDEN'))
  if (name === 'UNSUPPORTED_SASL_MECHANISM') return new AuthError(message, options('KAFKA_UNAUTHORIZED'))
  if (name === 'OFFSET_OUT_OF_RANGE') {
    return new NotFoundError(`${message}: the messages from there on are gone`, options('KAFKA_OFFSET_GONE'))
  }
  if (REBALANCE.has(name)) {
    return new ConnectionError(message, options('KAFKA_REBALANCED', 'if-idempotent'))
  }
  return new RemoteError(message, {
    ...options('KAFKA_REFUSED', canRetry === true ? 'if-idempotent' : 'never'),
    serverCode: name,
  })
}

export const topicNotFound = (topic: string): NotFoundError =>
  new NotFoundError(`there is no topic "${topic}", or no right to know of it`, {
    code: 'KAFKA_TOPIC_NOT_FOUND',
    context: { topic },
  })

export const watermarkInvalid = (): ConfigError =>
  new ConfigError('the watermark cannot be used: it is not one that an item had, or the topic was made anew since', {
    code: 'KAFKA_WATERMARK_INVALID',
  })

export const topicMadeAnew = (brokers: string): ConnectionError =>
  new ConnectionError(`${brokers}: a topic was made anew while it was being read`, {
    code: 'KAFKA_TOPIC_MADE_ANEW',
    retry: 'safe',
    context: { brokers },
  })

export const ended = (brokers: string): ConnectionError =>
  new ConnectionError(`${brokers}: the reading ended`, {
    code: 'KAFKA_CONNECTION_LOST',
    retry: 'if-idempotent',
    context: { brokers },
  })
