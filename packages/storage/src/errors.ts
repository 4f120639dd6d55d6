import {
  CapacityError,
  ConfigError,
  ConflictError,
  ConnectionError,
  type HandlerError,
  HandlerError as HandlerErrors,
  NotFoundError,
  PermissionError,
  RemoteError,
} from '@common-handlers/core'

/** Where a file operation failed. */
export interface Place {
  readonly folder: string
  readonly key?: string | undefined
  /** `write`, `read`, `list`, `delete`. */
  readonly action: string
}

/** An error of node:fs as one of ours; what is not of node:fs is given back as it is. */
export function toStorageError(error: unknown, { folder, key, action }: Place): unknown {
  const code = error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined
  if (HandlerErrors.is(error) || typeof code !== 'string' || !/^E[A-Z0-9]+$/.test(code)) return error
  const what = key === undefined ? folder : `${key} in ${folder}`
  const options = { context: { folder, action, ...(key === undefined ? {} : { key }) }, cause: error }
  const make = (build: () => HandlerError): HandlerError => build()
  switch (code) {
    case 'ENOENT':
      return make(() => new NotFoundError(`there is no ${what}`, { ...options, code: 'STORAGE_NOT_FOUND' }))
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return make(
        () =>
          new PermissionError(
            `cannot ${action} ${what}: ${code === 'EROFS' ? 'the file system is read-only' : 'no permission'}`,
            {
              ...options,
              code: 'STORAGE_FORBIDDEN',
            },
          ),
      )
    case 'ENOSPC':
    case 'EDQUOT':
      return make(
        () =>
          new CapacityError(
            `cannot ${action} ${what}: ${code === 'ENOSPC' ? 'the disk is full' : 'the quota is used up'}; free room or choose another folder`,
            {
              ...options,
              code: 'STORAGE_FULL',
            },
          ),
      )
    case 'EFBIG':
      return make(
        () => new CapacityError(`cannot ${action} ${what}: too big for this file system`, { ...options, code: 'STORAGE_FULL' }),
      )
    case 'EMFILE':
    case 'ENFILE':
      return make(
        () =>
          new CapacityError(`cannot ${action} ${what}: too many open files`, {
            ...options,
            code: 'STORAGE_TOO_MANY_FILES',
            retry: 'safe',
          }),
      )
    case 'EISDIR':
    case 'ENOTDIR':
    case 'EEXIST':
      return make(
        () =>
          new ConflictError(`cannot ${action} ${what}: in a folder, one key cannot be the beginning of another ("a" and "a/b")`, {
            ...options,
            code: 'STORAGE_KEY_CONFLICT',
          }),
      )
    case 'ENAMETOOLONG':
      return make(
        () =>
          new ConfigError(`cannot ${action} ${what}: the name is too long for this file system`, {
            ...options,
            code: 'STORAGE_KEY_INVALID',
          }),
      )
    default:
      return make(
        () =>
          new RemoteError(`cannot ${action} ${what}: ${(error as Error).message}`, {
            ...options,
            code: 'STORAGE_FAILED',
            serverCode: code,
            retry: 'if-idempotent',
          }),
      )
  }
}

export const keyInvalid = (key: string, problem: string): ConfigError =>
  new ConfigError(`the key ${JSON.stringify(key)} cannot be used: ${problem}`, { code: 'STORAGE_KEY_INVALID', context: { key } })

export const notFound = (key: string, url: string): NotFoundError =>
  new NotFoundError(`there is no ${key} in ${url}`, { code: 'STORAGE_NOT_FOUND', context: { key } })

export const locked = (key: string, folder: string, waitedMs: number): ConflictError =>
  new ConflictError(`${key} in ${folder} has been locked by another process for ${Math.round(waitedMs / 1000)} s`, {
    code: 'STORAGE_LOCKED',
    retry: 'safe',
    context: { key, folder },
  })

export const bodyFailed = (key: string, cause: unknown): ConnectionError =>
  new ConnectionError(`${key} was not written: the stream of its content ended with an error: ${(cause as Error).message}`, {
    code: 'STORAGE_BODY_FAILED',
    retry: 'safe',
    context: { key },
    cause,
  })
