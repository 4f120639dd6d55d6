import { ConfigError, ConflictError, DataError, type DataLocation, HandlerError, NotFoundError } from '@common-handlers/core'
import type { z } from 'zod'

/** A dataset's name that cannot be a folder of a store. */
export const nameInvalid = (what: string, name: string): ConfigError =>
  new ConfigError(
    `${what} "${name}" cannot be used: write letters, digits, ".", "-" and "_", with "/" between folders, none beginning with "_" or "."`,
    { code: 'DATASET_NAME_INVALID', context: { name } },
  )

export const manifestMissing = (key: string, cause?: unknown): NotFoundError =>
  new NotFoundError(`there is no ${key}: the run was never finished, or was removed`, {
    code: 'DATASET_MANIFEST_MISSING',
    context: { key },
    ...(cause === undefined ? {} : { cause }),
  })

export const manifestTooNew = (key: string, found: number, known: number): DataError =>
  new DataError(
    `${key} has version ${found}, this program reads versions up to ${known}: upgrade the program that reads (audit-log-extractor or iceberg-ingestor) to at least the release that wrote it`,
    { code: 'DATASET_MANIFEST_TOO_NEW', context: { key, version: found, known }, where: { file: key } },
  )

export const manifestInvalid = (key: string, problem: string, cause?: unknown): DataError =>
  new DataError(`${key} is not a manifest: ${problem}`, {
    code: 'DATASET_MANIFEST_INVALID',
    context: { key },
    where: { file: key },
    ...(cause === undefined ? {} : { cause }),
  })

/** `columns[2].targets.iceberg.type: expected string`, for the first few things that are wrong. */
export function issuesInWords(issues: readonly z.core.$ZodIssue[]): string {
  const shown = issues.slice(0, 3).map((issue) => {
    const path = issue.path
      .map((step, at) => (typeof step === 'number' ? `[${step}]` : `${at === 0 ? '' : '.'}${String(step)}`))
      .join('')
    return path === '' ? issue.message : `${path}: ${issue.message}`
  })
  const more = issues.length - shown.length
  return shown.join('; ') + (more > 0 ? `; and ${more} more` : '')
}

export const runExists = (key: string): ConflictError =>
  new ConflictError(`${key} is there already, with other content: another program has written this run`, {
    code: 'DATASET_RUN_EXISTS',
    context: { key },
  })

export const csvBroken = (problem: string, where: DataLocation): DataError =>
  new DataError(`${where.file === undefined ? '' : `${where.file}: `}line ${where.line ?? '?'}: ${problem}`, {
    code: 'DATASET_CSV_BROKEN',
    where,
  })

export const isNotFound = (error: unknown): boolean => HandlerError.is(error) && error.outcome === 'not-found'
