import {
  CapacityError,
  ConfigError,
  ConflictError,
  ConnectionError,
  DataError,
  OperationTimeoutError,
} from '@common-handlers/core'

export const queryInvalid = (why: string): ConfigError =>
  new ConfigError(`the query for files cannot be used: ${why}`, { code: 'FILES_QUERY_INVALID' })

export const watermarkInvalid = (): ConfigError =>
  new ConfigError('the watermark is not one of a file: give back that of an earlier item as it was', {
    code: 'FILES_WATERMARK_INVALID',
  })

/** Tells the writer of the target that what it was given is not to be kept. */
export const fileChanged = (path: string): ConflictError =>
  new ConflictError(`${path} was changed while it was read: it is left for the next run`, {
    code: 'FILES_CHANGED',
    retry: 'safe',
    context: { path },
  })

export const nameRefused = (path: string, why: string): DataError =>
  new DataError(`the server names a file ${JSON.stringify(path)}, which is not written anywhere: ${why}`, {
    code: 'FILES_NAME_REFUSED',
    where: { file: path },
  })

export const fileTooLarge = (path: string, maxBytes: number): CapacityError =>
  new CapacityError(`${path} has more than ${maxBytes} bytes: give a target to write it to, or raise maxFileBytes`, {
    code: 'FILES_TOO_LARGE',
    context: { path, maxBytes },
  })

export const endedEarly = (path: string, bytes: number, size: number): ConnectionError =>
  new ConnectionError(`${path} ended after ${bytes} of ${size} bytes`, {
    code: 'FILES_INCOMPLETE',
    retry: 'if-idempotent',
    context: { path, bytes, size },
  })

export const readStalled = (path: string, timeoutMs: number): OperationTimeoutError =>
  new OperationTimeoutError(`nothing more came of ${path} in ${timeoutMs} ms`, {
    code: 'FILES_STALLED',
    retry: 'if-idempotent',
    context: { path, timeoutMs },
  })

export const encodingUnknown = (path: string, encoding: string): DataError =>
  new DataError(`${path} is encoded as "${encoding}", which cannot be decoded: gzip, br and zstd can`, {
    code: 'FILES_ENCODING_UNKNOWN',
    where: { file: path },
  })

export const encodingBroken = (path: string, encoding: string, cause: unknown): DataError =>
  new DataError(`${path} is not the ${encoding} it is said to be`, {
    code: 'FILES_ENCODING_BROKEN',
    where: { file: path },
    cause,
  })

export const storeDisagrees = (key: string, written: number, kept: number): DataError =>
  new DataError(`the target says that ${key} has ${kept} bytes; ${written} were written to it`, {
    code: 'FILES_TARGET_DISAGREES',
    where: { file: key },
  })
