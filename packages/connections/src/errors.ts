import { CapacityError, ConfigError, ConnectionError, OperationTimeoutError } from '@common-handlers/core'

export const unknownProtocol = (protocol: string, registered: readonly string[], advice: string): ConfigError =>
  new ConfigError(`there is no connector for "${protocol}" here; there are: ${registered.join(', ')}. ${advice}`, {
    code: 'CONNECTIONS_PROTOCOL_UNKNOWN',
    context: { protocol, registered },
  })

export const protocolMissing = (registered: readonly string[]): ConfigError =>
  new ConfigError(`"protocol" is missing: one of ${registered.join(', ')}`, {
    code: 'CONNECTIONS_PROTOCOL_MISSING',
    context: { registered },
  })

export const protocolTwice = (protocol: string): ConfigError =>
  new ConfigError(`two connectors are registered for "${protocol}"`, {
    code: 'CONNECTIONS_PROTOCOL_TWICE',
    context: { protocol },
  })

export const noConnector = (packageName: string, protocol: string, cause?: unknown): ConfigError =>
  new ConfigError(
    `${packageName} says that it is the connector for "${protocol}", but ${
      cause === undefined ? `exports no "${protocol}" that fits` : `cannot be loaded: ${(cause as Error).message}`
    }`,
    { code: 'CONNECTIONS_CONNECTOR_UNUSABLE', context: { packageName, protocol }, ...(cause === undefined ? {} : { cause }) },
  )

export const connectionsFileUnusable = (file: string, why: string): ConfigError =>
  new ConfigError(`${file}: ${why}`, { code: 'CONNECTIONS_FILE_INVALID', context: { file } })

/** The URL itself is not shown: its password may not be where one would look for it. */
export const urlUnusable = (protocol: string, why: string): ConfigError =>
  new ConfigError(`the URL given for "${protocol}" cannot be used: ${why}`, {
    code: 'CONNECTIONS_URL_INVALID',
    context: { protocol },
  })

export const released = (protocol: string): ConnectionError =>
  new ConnectionError(`this ${protocol} connection was closed by its user; ask for it again`, {
    code: 'CONNECTIONS_RELEASED',
    context: { protocol },
  })

export const closedMeanwhile = (protocol: string): ConnectionError =>
  new ConnectionError(`the ${protocol} connection was closed while it was being opened`, {
    code: 'CONNECTIONS_CLOSED',
    retry: 'safe',
    context: { protocol },
  })

export const resultTooLarge = (protocol: string, maxBytes: number): CapacityError =>
  new CapacityError(
    `the ${protocol} query gives more than ${maxBytes} bytes: iterate over items(), which takes no more memory than one item, or raise maxBytes`,
    { code: 'CONNECTIONS_RESULT_TOO_LARGE', context: { protocol, maxBytes } },
  )

export const itemLate = (protocol: string, timeoutMs: number): OperationTimeoutError =>
  new OperationTimeoutError(`the next ${protocol} item took longer than ${timeoutMs} ms`, {
    code: 'CONNECTIONS_TIMEOUT',
    retry: 'if-idempotent',
    context: { protocol, timeoutMs },
  })
