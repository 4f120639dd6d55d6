import {
  CapacityError,
  ConfigError,
  ConflictError,
  ConnectionError,
  DataError,
  HandlerError,
  type HandlerErrorOptions,
  NotFoundError,
  PermissionError,
  RemoteError,
} from '@common-handlers/core'

/** What the code of each error begins with, and each variable of the environment. */
export const SQLITE = 'SQLITE'

type Build = (message: string, options: HandlerErrorOptions & { readonly serverCode: string }) => HandlerError

const conflict: Build = (message, options) => new ConflictError(message, options)
const missing: Build = (message, options) => new NotFoundError(message, options)
const forbidden: Build = (message, options) => new PermissionError(message, options)
const capacity: Build = (message, options) => new CapacityError(message, options)
const data: Build = (message, options) => new DataError(message, options)
const remote: Build = (message, options) => new RemoteError(message, options)
const connection: Build = (message, options) => new ConnectionError(message, options)

interface Rule {
  /** SQLite's primary result codes (https://sqlite.org/rescode.html). */
  readonly results: readonly number[]
  readonly message?: RegExp
  readonly code: string
  readonly retry?: HandlerErrorOptions['retry']
  readonly build: Build
}

/** The first rule that fits. */
const rules: readonly Rule[] = [
  { results: [5, 6], code: 'SQLITE_LOCKED', retry: 'safe', build: conflict },
  { results: [14], code: 'SQLITE_CANNOT_OPEN', build: missing },
  { results: [3, 23], code: 'SQLITE_FORBIDDEN', build: forbidden },
  { results: [8], code: 'SQLITE_READ_ONLY', build: forbidden },
  { results: [13], code: 'SQLITE_DISK_FULL', build: capacity },
  { results: [7], code: 'SQLITE_OUT_OF_MEMORY', build: capacity },
  { results: [11, 26], code: 'SQLITE_FILE_UNUSABLE', build: data },
  { results: [19], code: 'SQLITE_CONSTRAINT', build: conflict },
  { results: [18, 20, 25], code: 'SQLITE_VALUE_INVALID', build: data },
  { results: [9], code: 'SQLITE_INTERRUPTED', retry: 'if-idempotent', build: connection },
  { results: [10], code: 'SQLITE_IO', retry: 'if-idempotent', build: remote },
  { results: [1], message: /^no such /, code: 'SQLITE_NOT_FOUND', build: missing },
  { results: [1], message: /already exists$/, code: 'SQLITE_EXISTS', build: conflict },
  { results: [1], code: 'SQLITE_STATEMENT_INVALID', build: remote },
]

/** An error of `node:sqlite` as one of ours; `path` is the file. What is ours already is given back. */
export function toSqliteError(error: unknown, path: string): unknown {
  if (HandlerError.is(error) || !(error instanceof Error)) return error
  const { code, errcode } = error as { readonly code?: unknown; readonly errcode?: unknown }
  if (code === 'ERR_INVALID_ARG_TYPE' || code === 'ERR_INVALID_ARG_VALUE' || code === 'ERR_OUT_OF_RANGE') {
    return new ConfigError(`a parameter cannot be passed to SQLite: ${error.message}`, {
      code: 'SQLITE_PARAMETER_INVALID',
      context: { path },
      cause: error,
    })
  }
  const result = typeof errcode === 'number' ? errcode & 0xff : -1
  const rule = rules.find((one) => one.results.includes(result) && (one.message?.test(error.message) ?? true))
  const { code: ours, build, retry } = rule ?? { code: 'SQLITE_FAILED', build: remote }
  const message = ours === 'SQLITE_CANNOT_OPEN' ? `${error.message}: ${path}` : error.message
  return build(message, {
    code: ours,
    ...(retry === undefined ? {} : { retry }),
    context: { path },
    cause: error,
    serverCode: typeof errcode === 'number' ? String(errcode) : 'UNKNOWN',
  })
}

export const parameterInvalid = (name: string): ConfigError =>
  new ConfigError(`parameter ${name} cannot be passed to SQLite: give null, a string, number, bigint or Uint8Array`, {
    code: 'SQLITE_PARAMETER_INVALID',
  })
