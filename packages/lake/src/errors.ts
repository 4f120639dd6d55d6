import { CapacityError, ConfigError, ConflictError, DataError } from '@common-handlers/core'

export const configInvalid = (why: string): ConfigError =>
  new ConfigError(`the options of the lake cannot be used: ${why}`, { code: 'LAKE_CONFIG_INVALID' })

export const keyMissing = (source: string): DataError =>
  new DataError(`an item of ${source} has no key: it could not be known again`, {
    code: 'LAKE_KEY_MISSING',
    where: { file: source },
  })

export const dataMissing = (source: string, key: string, location: string | undefined): DataError =>
  new DataError(`${source} ${key} has no data here${location === undefined ? '' : `: it is at ${location}`}`, {
    code: 'LAKE_DATA_MISSING',
    where: { file: `${source} ${key}` },
  })

export const valueUnfit = (source: string, key: string, column: string, type: string, why: string): DataError =>
  new DataError(`${source} ${key}: "${column}" is no ${type}: ${why}`, {
    code: 'LAKE_VALUE_UNFIT',
    where: { file: `${source} ${key}`, column },
  })

export const fileInvalid = (key: string, why: string, cause?: unknown): DataError =>
  new DataError(`${key} is no batch of a lake: ${why}`, {
    code: 'LAKE_FILE_INVALID',
    where: { file: key },
    ...(cause === undefined ? {} : { cause }),
  })

export const columnsDiffer = (key: string, ours: string, theirs: string): ConflictError =>
  new ConflictError(`the columns of ${key} are ${theirs}, not ${ours}: take another prefix for other columns`, {
    code: 'LAKE_COLUMNS_DIFFER',
    context: { key },
  })

export const tooBusy = (attempts: number): CapacityError =>
  new CapacityError(`other writers were first ${attempts} times in a row`, { code: 'LAKE_TOO_BUSY', retry: 'safe' })
