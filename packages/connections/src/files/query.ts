import { posix } from 'node:path'
import type { ObjectStore } from '@common-handlers/storage'
import { queryInvalid, watermarkInvalid } from './errors.ts'
import type { RemoteEntry } from './remote-files.ts'

/** Which files a connector fetches, and where to; a path alone is `{ path }`. */
export type FilesQuery = string | FilesSelection

export interface FilesSelection extends FilesDestination {
  /** A folder, or one file; absolute, or relative to where a session starts. Default: where a session starts. */
  readonly path?: string | undefined
  /**
   * Which files below the folder, as Node's `path.posix.matchesGlob` has it: `*.csv` in the folder itself, `2026-*\/*.{csv,json}`
   * one below, `**` at any depth. Only folders that may hold one are looked into. Names that begin with a dot are matched by
   * a pattern that says so. Default: all.
   */
  readonly pattern?: string | undefined
  /** Only files changed at this time or later, and those without a time; a Date, or ISO 8601. */
  readonly modifiedSince?: Date | string | undefined
  /** That of an earlier item: only the files after it, by time of change and path, and those without a time. */
  readonly watermark?: string | undefined
  /** Downloads nothing: the items are what was found (`path`, `size`, `modifiedAt`, `seen`). Default false. */
  readonly dryRun?: boolean | undefined
}

/** Where files go, and what is known of those that went there before. */
export interface FilesDestination {
  /**
   * Where each file is written whole, under its path below the folder: a local folder, as a path or `file:///…`, or a store
   * such as an `S3Handler`, which the caller closes. Without one an item holds the bytes.
   */
  readonly target?: string | ObjectStore | undefined
  /** A folder of the target. Default: its top. */
  readonly prefix?: string | undefined
  /** True to download what the markers of the target say it has. Default false. */
  readonly again?: boolean | undefined
  /** The largest file that is held in memory, where there is no target. Default 64 MiB. */
  readonly maxFileBytes?: number | undefined
  /** Told of each file that was found and not fetched. */
  readonly onLeft?: ((file: LeftFile) => void) | undefined
}

/** A file that was listed and is not among the items. */
export interface LeftFile {
  readonly path: string
  /** `changed`: somebody wrote to it meanwhile, the next run has it. `gone`: it is not there any more. */
  readonly reason: 'changed' | 'gone'
}

const MIB = 1024 * 1024

const selectionKeys = ['path', 'pattern', 'modifiedSince', 'watermark', 'dryRun']
export const destinationKeys: readonly string[] = ['target', 'prefix', 'again', 'maxFileBytes', 'onLeft']

/** A selection with its defaults. */
export interface Selection {
  readonly path: string
  readonly pattern: string
  readonly since: number
  readonly after: Place | undefined
  readonly dryRun: boolean
}

/** @throws ConfigError `FILES_QUERY_INVALID`, `FILES_WATERMARK_INVALID` */
export function parseSelection(query: FilesQuery): Selection {
  const selection = typeof query === 'string' ? { path: query } : query
  refuseUnknown(selection, [...selectionKeys, ...destinationKeys])
  const { path = '', pattern = '**', modifiedSince, watermark, dryRun = false } = selection
  for (const [name, value] of Object.entries({ path, pattern })) {
    if (typeof value !== 'string' || value.includes('\0')) throw queryInvalid(`${name} must be a text without NUL`)
  }
  if (/^\.{0,2}\//.test(pattern)) throw queryInvalid(`pattern "${pattern}" is of what stands below path: begin it with a name`)
  const since = modifiedSince === undefined ? -Infinity : new Date(modifiedSince).getTime()
  if (Number.isNaN(since)) throw queryInvalid(`modifiedSince "${String(modifiedSince)}" is no time`)
  return { path, pattern, since, after: watermark === undefined ? undefined : parsePlace(watermark), dryRun }
}

/** A destination with its defaults. */
export interface Destination extends FilesDestination {
  /** Empty, or with a slash at the end. */
  readonly prefix: string
  readonly again: boolean
  readonly maxFileBytes: number
}

/** @throws ConfigError `FILES_QUERY_INVALID` */
export function parseDestination(query: FilesDestination): Destination {
  const { target, prefix = '', again = false, maxFileBytes = 64 * MIB, onLeft } = query
  const names = prefix.replace(/\/$/, '').split('/')
  if (prefix !== '' && names.some((name) => ['', '.', '..'].includes(name))) {
    throw queryInvalid(`prefix "${prefix}" must be names between "/", none of them "." or ".."`)
  }
  if (!(maxFileBytes > 0)) throw queryInvalid('maxFileBytes must be above 0')
  if (typeof target === 'string' && /^(?!file:)[a-z][a-z0-9+.-]+:\/\//i.test(target)) {
    throw queryInvalid(`target "${target}" is no folder: for another store give its handler, such as an S3Handler`)
  }
  return { target, prefix: prefix === '' ? '' : `${names.join('/')}/`, again, maxFileBytes, onLeft }
}

/** @throws ConfigError `FILES_QUERY_INVALID` */
export function refuseUnknown(given: object, known: readonly string[]): void {
  const unknown = Object.keys(given).find((key) => !known.includes(key))
  if (unknown !== undefined) throw queryInvalid(`"${unknown}" is none of ${known.join(', ')}`)
}

/** True when a path below the folder is matched. */
export const isMatch = (relative: string, pattern: string): boolean => posix.matchesGlob(relative, pattern)

/** False when nothing below a folder can be matched. */
export function mayHold(relativeFolder: string, pattern: string): boolean {
  // A "/" inside of braces or of a class is no border.
  if (/[{[][^}\]]*\//.test(pattern)) return true
  const wanted = pattern.split('/')
  for (const [index, name] of relativeFolder.split('/').entries()) {
    const segment = wanted[index]
    if (segment === '**') return true
    // The last one is of files.
    if (segment === undefined || index === wanted.length - 1 || !isMatch(name, segment)) return false
  }
  return true
}

/** A place in the order of files: by time of change, then by the bytes of the path. Those without a time come first. */
export interface Place {
  readonly modifiedAt: number
  readonly path: string
}

export const placeOf = ({ modifiedAt, path }: RemoteEntry): Place => ({ modifiedAt: modifiedAt?.getTime() ?? -Infinity, path })

export function comparePlaces(one: Place, other: Place): number {
  if (one.modifiedAt !== other.modifiedAt) return one.modifiedAt < other.modifiedAt ? -1 : 1
  return Buffer.compare(Buffer.from(one.path), Buffer.from(other.path))
}

export const watermarkOf = ({ modifiedAt, path }: Place): string =>
  JSON.stringify([modifiedAt === -Infinity ? null : new Date(modifiedAt).toISOString(), path])

function parsePlace(watermark: string): Place {
  let parsed: unknown
  try {
    parsed = JSON.parse(watermark)
  } catch {
    throw watermarkInvalid()
  }
  const [time, path] = Array.isArray(parsed) && parsed.length === 2 ? (parsed as unknown[]) : []
  const modifiedAt = time === null ? -Infinity : typeof time === 'string' ? Date.parse(time) : Number.NaN
  if (typeof path !== 'string' || Number.isNaN(modifiedAt)) throw watermarkInvalid()
  return { modifiedAt, path }
}
