import { createHash } from 'node:crypto'
import { createReadStream, type Stats } from 'node:fs'
import { lstat, mkdir, readdir, rm, utimes } from 'node:fs/promises'
import { dirname, join, matchesGlob, resolve, sep } from 'node:path'
import { type CallOptions, ConfigError, RemoteError } from '@common-handlers/core'
import type { ObjectHeaders } from './object-headers.ts'

export interface S3SyncOptions extends CallOptions {
  /** `up`: the prefix becomes like the folder. `down`: the folder becomes like the prefix. */
  readonly direction: 'up' | 'down'
  /** A folder of this machine. */
  readonly folder: string
  /** What stands before the path in a key; a slash at its end is added. Empty for all of the handler. */
  readonly prefix: string
  /**
   * What makes two of one size the same. `time` (default): the source is not newer than the target. `etag`: the MD5 of the
   * file, or of its parts, is the etag; it reads every file of equal size, and takes what the server encrypts as changed.
   */
  readonly compare?: 'time' | 'etag' | undefined
  /** Also deletes from the target what the source does not have, after everything else went well. Default false. */
  readonly delete?: boolean | undefined
  /** Says what would be done and does nothing. */
  readonly dryRun?: boolean | undefined
  /** Globs of paths below the folder: only these, and not those. What they leave out is not deleted either. */
  readonly include?: readonly string[] | undefined
  readonly exclude?: readonly string[] | undefined
  /** Files at a time. Default 4. */
  readonly concurrency?: number | undefined
  /** Told of every file that was transferred or deleted. */
  readonly onProgress?: ((step: S3SyncStep) => void) | undefined
  /** What objects are stored with, by their path. */
  readonly headers?: ((path: string) => ObjectHeaders) | undefined
}

export interface S3SyncStep {
  readonly action: 'upload' | 'download' | 'delete'
  /** Below the folder, with `/`. */
  readonly path: string
  readonly size: number
}

export interface S3SyncResult {
  /** What was done, or would be. */
  readonly steps: readonly S3SyncStep[]
  /** How many were the same already. */
  readonly unchanged: number
  /** What was left alone: links, sockets, keys that are no path below the folder. */
  readonly refused: readonly { readonly path: string; readonly reason: string }[]
}

interface Entry {
  readonly size: number
  readonly modifiedMs: number
  readonly etag?: string
}

/** The part of S3Handler that syncing needs. */
interface Store {
  list(prefix: string, options: CallOptions): AsyncIterable<{ key: string; size: number; etag: string; lastModified: Date }>
  download(key: string, file: string, options: CallOptions): Promise<unknown>
  put(key: string, body: { readonly path: string }, options: CallOptions & ObjectHeaders): Promise<unknown>
  deleteMany(
    keys: readonly string[],
    options: CallOptions,
  ): Promise<{ failed: readonly { key: string; code: string; message: string }[] }>
}

/** Times of files are kept finer than those of objects, and set coarser than they are read. */
const MTIME_ROUNDING_MS = 1

/** Makes a prefix like a folder, or a folder like a prefix. */
export async function syncFolder(
  store: Store,
  partSize: number,
  options: S3SyncOptions,
  signal: AbortSignal,
): Promise<S3SyncResult> {
  const folder = resolve(options.folder)
  const prefix = options.prefix === '' || options.prefix.endsWith('/') ? options.prefix : `${options.prefix}/`
  const refused: { path: string; reason: string }[] = []
  const wanted = (path: string): boolean =>
    (options.include === undefined || options.include.some((glob) => matchesGlob(path, glob))) &&
    !(options.exclude ?? []).some((glob) => matchesGlob(path, glob))
  const up = options.direction === 'up'
  const files = await filesOf(folder, { missing: up ? 'error' : 'empty', wanted, refused: up ? refused : [] })
  const objects = await objectsOf(store, prefix, { wanted, refused: up ? [] : refused, signal })
  const [source, target] = up ? [files, objects] : [objects, files]

  const steps: S3SyncStep[] = []
  let unchanged = 0
  const todo = [...source].toSorted(([a], [b]) => (a < b ? -1 : 1))
  const transfer = async (path: string, from: Entry): Promise<void> => {
    const to = target.get(path)
    const same = to !== undefined && to.size === from.size && (await isSame(join(folder, path), from, to, options, partSize))
    signal.throwIfAborted()
    if (same) {
      unchanged++
      return
    }
    const step: S3SyncStep = { action: up ? 'upload' : 'download', path, size: from.size }
    if (options.dryRun !== true) {
      if (up) await upload(store, folder, path, prefix, options, signal)
      else await download(store, folder, path, prefix, from, signal)
    }
    steps.push(step)
    options.onProgress?.(step)
  }
  await eachOf(todo, options.concurrency ?? 4, ([path, from]) => transfer(path, from))

  if (options.delete === true) {
    const gone = [...target].filter(([path]) => !source.has(path) && !refused.some((one) => one.path === path))
    const deleted = gone.map(([path, { size }]): S3SyncStep => ({ action: 'delete', path, size }))
    if (options.dryRun !== true)
      await deleteAll(
        store,
        folder,
        prefix,
        gone.map(([path]) => path),
        up,
        signal,
      )
    for (const step of deleted) options.onProgress?.(step)
    steps.push(...deleted)
  }
  return { steps, unchanged, refused }
}

/** The plain files below a folder. Links are not followed: they may lead anywhere, and in circles. */
async function filesOf(
  folder: string,
  how: {
    readonly missing: 'error' | 'empty'
    readonly wanted: (path: string) => boolean
    readonly refused: { path: string; reason: string }[]
  },
): Promise<Map<string, Entry>> {
  const found = new Map<string, Entry>()
  const walk = async (below: string): Promise<void> => {
    for (const entry of await readdir(join(folder, below), { withFileTypes: true })) {
      const path = below === '' ? entry.name : `${below}/${entry.name}`
      if (entry.isDirectory()) {
        await walk(path)
      } else if (isPart(entry.name) || !how.wanted(path)) {
        continue
      } else if (entry.isFile()) {
        const { size, mtimeMs } = await lstat(join(folder, path))
        found.set(path, { size, modifiedMs: mtimeMs })
      } else how.refused.push({ path, reason: entry.isSymbolicLink() ? 'a link is not followed' : 'it is no plain file' })
    }
  }
  try {
    await walk('')
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code === 'ENOENT' && how.missing === 'empty') return found
    if (code !== 'ENOENT' && code !== 'ENOTDIR') throw cause
    throw new ConfigError(`the folder ${folder} cannot be read: ${(cause as Error).message}`, {
      code: 'S3_FOLDER_INVALID',
      cause,
    })
  }
  return found
}

async function objectsOf(
  store: Store,
  prefix: string,
  how: {
    readonly wanted: (path: string) => boolean
    readonly refused: { path: string; reason: string }[]
    readonly signal: AbortSignal
  },
): Promise<Map<string, Entry>> {
  const found = new Map<string, Entry>()
  for await (const { key, size, etag, lastModified } of store.list(prefix, { signal: how.signal })) {
    const path = key.slice(prefix.length)
    if (path === '' || !how.wanted(path)) continue
    const reason = notAPath(path)
    if (reason === undefined) found.set(path, { size, etag, modifiedMs: lastModified.getTime() })
    else how.refused.push({ path, reason })
  }
  // A path is a file or a folder; keys can be both.
  for (const path of found.keys()) {
    for (let at = path.lastIndexOf('/'); at > 0; at = path.lastIndexOf('/', at - 1)) {
      if (!found.has(path.slice(0, at))) continue
      found.delete(path)
      how.refused.push({ path, reason: `"${path.slice(0, at)}" is an object, and cannot be a folder too` })
      break
    }
  }
  return found
}

/** Why a key is no path of a file below a folder. */
function notAPath(path: string): string | undefined {
  if (path.endsWith('/')) return 'it stands for a folder'
  const parts = path.split('/')
  if (parts.some((part) => part === '' || part === '.' || part === '..')) return 'it leads out of the folder or to no file'
  if (path.includes('\0') || (sep === '\\' && /[\\:*?"<>|]/.test(path))) return 'the file system has no such names'
  return parts.some((part) => Buffer.byteLength(part) > 255) ? 'a part of it is longer than 255 bytes' : undefined
}

async function isSame(file: string, from: Entry, to: Entry, options: S3SyncOptions, partSize: number): Promise<boolean> {
  if (options.compare !== 'etag') return from.modifiedMs <= to.modifiedMs + MTIME_ROUNDING_MS
  const etag = (from.etag ?? to.etag ?? '').replaceAll('"', '')
  const parts = /-(\d+)$/.exec(etag)?.[1]
  return etag === (await etagOf(file, parts === undefined ? undefined : { partSize, count: Number(parts) }))
}

/** The etag that S3 gives a file: its MD5; of parts the MD5 of their MD5s, if they have the size that we give them. */
async function etagOf(file: string, parts: { readonly partSize: number; readonly count: number } | undefined): Promise<string> {
  if (parts === undefined) {
    const hash = createHash('md5')
    for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer)
    return hash.digest('hex')
  }
  const all = createHash('md5')
  let part = createHash('md5')
  let filled = 0
  let count = 0
  const end = (): void => {
    all.update(part.digest())
    part = createHash('md5')
    filled = 0
    count++
  }
  for await (const piece of createReadStream(file)) {
    let chunk = piece as Buffer
    while (chunk.length > 0) {
      const taken = chunk.subarray(0, parts.partSize - filled)
      part.update(taken)
      filled += taken.length
      chunk = chunk.subarray(taken.length)
      if (filled === parts.partSize) end()
    }
  }
  if (filled > 0) end()
  return `${all.digest('hex')}-${count}`
}

async function upload(
  store: Store,
  folder: string,
  path: string,
  prefix: string,
  options: S3SyncOptions,
  signal: AbortSignal,
): Promise<void> {
  const file = join(folder, path)
  await assertNoLinks(folder, path)
  await store.put(`${prefix}${path}`, { path: file }, { ...options.headers?.(path), signal })
}

/** The file takes the time of the object, which the next run compares. */
async function download(
  store: Store,
  folder: string,
  path: string,
  prefix: string,
  from: Entry,
  signal: AbortSignal,
): Promise<void> {
  await assertNoLinks(folder, path)
  const file = join(folder, path)
  await mkdir(dirname(file), { recursive: true })
  await store.download(`${prefix}${path}`, file, { signal })
  const modified = new Date(from.modifiedMs)
  await utimes(file, modified, modified)
}

/** What a killed download left beside its file: no part of what is synced. */
const isPart = (name: string): boolean => /\.[0-9a-f-]{36}\.part$/.test(name)

/** Nothing is read or written through a link that stands below the folder. */
async function assertNoLinks(folder: string, path: string): Promise<void> {
  const parts = path.split('/')
  for (let length = 1; length <= parts.length; length++) {
    const below = parts.slice(0, length).join('/')
    const stats: Stats | undefined = await lstat(join(folder, below)).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined
      throw error
    })
    if (stats === undefined) return
    const folderExpected = length < parts.length
    if (stats.isSymbolicLink() || (folderExpected ? !stats.isDirectory() : !stats.isFile()))
      throw new ConfigError(
        `${join(folder, below)} is ${stats.isSymbolicLink() ? 'a link' : 'in the way'}: ${path} is not synced`,
        {
          code: 'S3_FOLDER_INVALID',
          context: { path },
        },
      )
  }
}

async function deleteAll(
  store: Store,
  folder: string,
  prefix: string,
  paths: readonly string[],
  up: boolean,
  signal: AbortSignal,
): Promise<void> {
  if (!up) {
    for (const path of paths) {
      await assertNoLinks(folder, path)
      await rm(join(folder, path), { force: true })
    }
    return
  }
  const { failed } = await store.deleteMany(
    paths.map((path) => `${prefix}${path}`),
    { signal },
  )
  const [first] = failed
  if (first === undefined) return
  throw new RemoteError(`${failed.length} of ${paths.length} objects could not be deleted; ${first.key}: ${first.message}`, {
    code: 'S3_DELETE_REFUSED',
    serverCode: first.code,
    context: { failed: failed.map(({ key }) => key) },
  })
}

/** Works on so many at a time; after a failure nothing new is begun, and the first error is thrown when all have ended. */
async function eachOf<T>(items: readonly T[], concurrency: number, work: (item: T) => Promise<void>): Promise<void> {
  let next = 0
  const failures: unknown[] = []
  const run = async (): Promise<void> => {
    while (failures.length === 0 && next < items.length) {
      const item = items[next++]
      if (item !== undefined) await work(item).catch((error: unknown) => failures.push(error))
    }
  }
  await Promise.all(Array.from({ length: concurrency }, run))
  if (failures.length > 0) throw failures[0]
}
