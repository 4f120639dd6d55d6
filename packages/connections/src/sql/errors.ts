import { CapacityError, ConfigError, DataError, OperationTimeoutError } from '@common-handlers/core'

/** Errors of the shared part, under the prefix of the connector: `POSTGRES_QUERY_INVALID`. */
export const queryInvalid = (prefix: string, why: string): ConfigError =>
  new ConfigError(why, { code: `${prefix}_QUERY_INVALID` })

export const watermarkInvalid = (prefix: string, why: string): ConfigError =>
  new ConfigError(`the watermark cannot be used: ${why}`, { code: `${prefix}_WATERMARK_INVALID` })

export const watermarkUnusable = (prefix: string, column: string): DataError =>
  new DataError(`a NULL, a blob or an infinite number in the column "${column}" can be no place to go on from`, {
    code: `${prefix}_WATERMARK_UNUSABLE`,
    where: { column },
  })

export const duplicateColumn = (prefix: string, name: string): DataError =>
  new DataError(`two columns of the result are named "${name}": give one of them another name with AS`, {
    code: `${prefix}_DUPLICATE_COLUMN`,
    where: { column: name },
  })

export const keyNotUnique = (prefix: string, order: readonly string[]): DataError =>
  new DataError(
    `two rows have the same ${order.map((name) => `"${name}"`).join(', ')}: name keyColumns that tell the rows of one watermark apart`,
    { code: `${prefix}_KEY_NOT_UNIQUE` },
  )

export const connectTimeout = (prefix: string, target: string, timeoutMs: number): OperationTimeoutError =>
  new OperationTimeoutError(`connecting to ${target} took longer than ${timeoutMs} ms`, {
    code: `${prefix}_CONNECT_TIMEOUT`,
    retry: 'safe',
    context: { server: target, timeoutMs },
  })

export const poolExhausted = (prefix: string, target: string, max: number, timeoutMs: number): CapacityError =>
  new CapacityError(
    `all ${max} connections to ${target} were in use for ${timeoutMs} ms: end streams that are not read, or raise maxConnections`,
    { code: `${prefix}_POOL_EXHAUSTED`, retry: 'safe', context: { server: target, maxConnections: max, timeoutMs } },
  )
