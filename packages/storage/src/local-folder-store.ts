import { createHash, randomBytes } from 'node:crypto'
import { createWriteStream, type Dirent } from 'node:fs'
import { type FileHandle, link, mkdir, open, readdir, rename, rmdir, stat, unlink } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { pathToFileURL } from 'node:url'
import { type CallOptions, type CheckResult, HandlerError, Lifecycle, runCheck, withDeadline } from '@common-handlers/core'
import { type LocalFolderSettings, type LocalFolderStoreOptions, parseOptions } from './config.ts'
import { bodyFailed, locked, notFound, toStorageError } from './errors.ts'
import { assertKey, assertPrefix, compareKeys, PRIVATE_FOLDER } from './key.ts'
import type { ConditionalWrite, ObjectBody, ObjectInfo, ObjectStore, PutOptions, WrittenObject } from './object-store.ts'
import { hasEnded, type Owner, thisProcess, withLock } from './process-lock.ts'

/** Up to this size the etag is a checksum of the content; beyond, it is made of size and time of the file. */
const CHECKSUM_MAX_BYTES = 64 * 1024
const READ_CHUNK_BYTES = 1024 * 1024
const LOCK_WAIT_MS = 30_000
/** A file being written by a process that cannot be asked is taken for left behind after a day. */
const FOREIGN_WRITE_MS = 86_400_000

type RangeOptions = CallOptions & { readonly start?: number; readonly end?: number }

/**
 * Objects as files of a folder, for one machine: any number of processes may use the folder at once. An object is
 * written under a private name, flushed, and then linked or renamed to its key in one step. `putIfAbsent` is a link,
 * which the file system refuses when the name is taken; `putIfMatch` compares and renames under a lock file that is
 * known by its owner's process, so that one left by a killed process does not stay.
 */
export class LocalFolderStore implements ObjectStore {
  readonly url: string
  readonly #settings: LocalFolderSettings
  readonly #life: Lifecycle
  #prepared: Promise<void> | undefined

  /** @throws ConfigError `STORAGE_CONFIG_INVALID` */
  constructor(options: LocalFolderStoreOptions) {
    this.#settings = parseOptions(options)
    this.url = pathToFileURL(this.#settings.folder).href.replace(/\/$/, '')
    this.#life = new Lifecycle('LocalFolderStore', 'STORAGE', () => Promise.resolve())
  }

  get(key: string, options?: RangeOptions): Promise<Readable> {
    return this.#call(options, 'read', key, async () => {
      const handle = await openObject(this.#path(key))
      const { signal } = options ?? {}
      const stream = handle.createReadStream({
        highWaterMark: READ_CHUNK_BYTES,
        ...(options?.start === undefined ? {} : { start: options.start }),
        ...(options?.end === undefined ? {} : { end: options.end }),
      })
      const release = this.#life.hold()
      const abort = (): void =>
        void stream.destroy((signal?.aborted === true ? signal.reason : this.#life.signal.reason) as Error)
      signal?.addEventListener('abort', abort, { once: true })
      this.#life.signal.addEventListener('abort', abort, { once: true })
      stream.once('close', () => {
        signal?.removeEventListener('abort', abort)
        this.#life.signal.removeEventListener('abort', abort)
        release()
      })
      return stream
    })
  }

  getBytes(key: string, options?: CallOptions): Promise<{ readonly bytes: Buffer; readonly etag: string }> {
    return this.#call(options, 'read', key, async (signal) => {
      const handle = await openObject(this.#path(key))
      try {
        const bytes = await handle.readFile({ signal })
        return { bytes, etag: await etagOf(handle, bytes) }
      } finally {
        await handle.close()
      }
    })
  }

  head(key: string, options?: CallOptions): Promise<ObjectInfo> {
    return this.#call(options, 'read', key, () => this.#info(key))
  }

  async *list(prefix: string, options?: CallOptions): AsyncGenerator<ObjectInfo> {
    this.#life.assertOpen()
    assertPrefix(prefix)
    const folder = prefix.slice(0, prefix.lastIndexOf('/') + 1)
    for await (const key of this.#walk(folder, prefix, options)) {
      const info = await this.#call(options, 'list', key, () => this.#info(key).catch(absentAsUndefined))
      if (info !== undefined) yield info
    }
  }

  put(key: string, body: ObjectBody, options?: PutOptions): Promise<WrittenObject> {
    return this.#call(options, 'write', key, (signal) =>
      this.#withFile(key, body, signal, async (file, written) => {
        await this.#locked(key, signal, () => this.#rename(file, key))
        return written
      }),
    )
  }

  putIfAbsent(key: string, body: Uint8Array | string, options?: PutOptions): Promise<ConditionalWrite> {
    return this.#call(options, 'write', key, async (signal) => {
      if (await this.#etag(key).then((etag) => etag !== undefined)) return { written: false }
      return this.#withFile(key, body, signal, async (file, written) =>
        (await this.#linkIfAbsent(file, key, signal)) ? { written: true, ...written } : { written: false },
      )
    })
  }

  putIfMatch(key: string, body: Uint8Array | string, etag: string, options?: PutOptions): Promise<ConditionalWrite> {
    return this.#call(options, 'write', key, async (signal) => {
      if ((await this.#etag(key)) !== etag) return { written: false }
      return this.#withFile(key, body, signal, (file, written) =>
        this.#locked(key, signal, async () => {
          if ((await this.#etag(key)) !== etag) return { written: false }
          await this.#rename(file, key)
          return { written: true, ...written }
        }),
      )
    })
  }

  delete(key: string, options?: CallOptions): Promise<void> {
    return this.#call(options, 'delete', key, async (signal) => {
      const path = this.#path(key)
      if ((await stat(path).catch(absentAsUndefined)) === undefined) return
      await this.#prepare()
      await this.#locked(key, signal, () => unlink(path).catch(absentAsUndefined))
      await this.#removeEmptyFolders(dirname(path))
    })
  }

  /** Writes, reads, replaces and deletes a small object of its own. */
  async check(options?: CallOptions): Promise<CheckResult> {
    const key = `check-${randomBytes(6).toString('hex')}`
    return runCheck(
      this.url,
      [
        { name: 'write an object', run: async () => void (await this.putIfAbsent(key, 'check', options)) },
        { name: 'read it', run: async () => `${(await this.getBytes(key, options)).bytes.length} bytes` },
        {
          name: 'refuse to write it again',
          run: async () => {
            const { written } = await this.putIfAbsent(key, 'check', options)
            if (written) throw new Error('the file system let a name be taken twice')
            return undefined
          },
        },
        { name: 'delete it', run: () => this.delete(key, options).then(() => undefined) },
      ],
      options?.signal,
    )
  }

  close(): Promise<void> {
    return this.#life.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #call<T>(options: CallOptions | undefined, action: string, key: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const what = { prefix: 'STORAGE', action: `to ${action} ${key}` }
    return this.#life.run(options?.signal, (joined) =>
      withDeadline({ signal: joined, timeoutMs: options?.timeoutMs }, what, async ({ signal }) => {
        try {
          return await work(signal)
        } catch (error) {
          signal.throwIfAborted()
          if ((error as NodeJS.ErrnoException).code === 'ENOENT' && action === 'read') throw notFound(key, this.url)
          throw toStorageError(error, { folder: this.#settings.folder, key, action })
        }
      }),
    )
  }

  #path(key: string): string {
    assertKey(key)
    return join(this.#settings.folder, ...key.split('/'))
  }

  #private(...names: string[]): string {
    return join(this.#settings.folder, PRIVATE_FOLDER, ...names)
  }

  async #info(key: string): Promise<ObjectInfo> {
    const handle = await openObject(this.#path(key))
    try {
      const { size, mtime } = await handle.stat()
      return { key, size, etag: await etagOf(handle), lastModified: mtime }
    } finally {
      await handle.close()
    }
  }

  async #etag(key: string): Promise<string | undefined> {
    return (await this.#info(key).catch(absentAsUndefined))?.etag
  }

  /** Keys under a folder (`''` or ending in `/`) that begin with the prefix, in byte order. */
  async *#walk(folder: string, prefix: string, options: CallOptions | undefined): AsyncGenerator<string> {
    const entries = await this.#call(options, 'list', folder, async () => {
      const found = await readdir(join(this.#settings.folder, ...folder.split('/')), { withFileTypes: true }).catch(
        absentAsUndefined,
      )
      return found ?? []
    })
    const keys = entries
      .filter((entry) => (entry.isFile() || entry.isDirectory()) && !(folder === '' && entry.name === PRIVATE_FOLDER))
      .map((entry: Dirent) => folder + entry.name + (entry.isDirectory() ? '/' : ''))
      .filter((key) => key.startsWith(prefix) || prefix.startsWith(key))
      .toSorted(compareKeys)
    for (const key of keys) {
      options?.signal?.throwIfAborted()
      if (key.endsWith('/')) yield* this.#walk(key, prefix, options)
      else if (key.startsWith(prefix)) yield key
    }
  }

  /** Writes the body under a private name, gives it to `place`, and removes the name again whatever happened. */
  async #withFile<T>(
    key: string,
    body: ObjectBody,
    signal: AbortSignal,
    place: (file: string, written: WrittenObject) => Promise<T>,
  ): Promise<T> {
    const path = this.#path(key)
    await this.#prepare()
    const { host, pid, started } = thisProcess
    const file = this.#private('writing', [encodeURIComponent(host), pid, started, randomBytes(8).toString('hex')].join('~'))
    try {
      await this.#write(file, key, body, signal)
      const written = await this.#written(file)
      await mkdir(dirname(path), { recursive: true })
      // The folder may be removed by a delete that found it empty before the file arrives in it.
      const placed = await place(file, written).catch(async (error: NodeJS.ErrnoException) => {
        if (error.code !== 'ENOENT') throw error
        await mkdir(dirname(path), { recursive: true })
        return place(file, written)
      })
      if (this.#settings.fsync) await this.#flushFolders(dirname(path))
      return placed
    } finally {
      await unlink(file).catch(absentAsUndefined)
    }
  }

  async #write(file: string, key: string, body: ObjectBody, signal: AbortSignal): Promise<void> {
    const whole = typeof body === 'string' || body instanceof Uint8Array
    const source = Readable.from(whole ? [typeof body === 'string' ? Buffer.from(body) : body] : guarded(key, body), {
      objectMode: true,
    })
    await pipeline(source, createWriteStream(file, { flags: 'wx', flush: this.#settings.fsync }), { signal })
  }

  async #written(file: string): Promise<WrittenObject> {
    const handle = await open(file, 'r')
    try {
      return { etag: await etagOf(handle), size: (await handle.stat()).size }
    } finally {
      await handle.close()
    }
  }

  async #rename(file: string, key: string): Promise<void> {
    await rename(file, this.#path(key))
  }

  async #linkIfAbsent(file: string, key: string, signal: AbortSignal): Promise<boolean> {
    const path = this.#path(key)
    try {
      await link(file, path)
      return true
    } catch (error) {
      const { code = '' } = error as NodeJS.ErrnoException
      if (code === 'EEXIST') {
        if ((await stat(path)).isDirectory()) throw error
        return false
      }
      if (!['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK'].includes(code)) throw error
    }
    // A file system without hard links: every writer of this store takes the lock, so looking first is enough.
    return this.#locked(key, signal, async () => {
      if ((await stat(path).catch(absentAsUndefined)) !== undefined) return false
      await this.#rename(file, key)
      return true
    })
  }

  async #locked<T>(key: string, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    const file = this.#private('locks', createHash('sha256').update(key).digest('hex').slice(0, 32))
    const done = await withLock(file, { waitMs: LOCK_WAIT_MS, signal }, work)
    if (!done.held) throw locked(key, this.#settings.folder, LOCK_WAIT_MS)
    return done.value
  }

  /** Makes the private folders and removes what killed processes left in them, once. */
  #prepare(): Promise<void> {
    return (this.#prepared ??= this.#makeFolders().catch((error: unknown) => {
      this.#prepared = undefined
      throw error
    }))
  }

  async #makeFolders(): Promise<void> {
    await mkdir(this.#private('locks'), { recursive: true })
    await mkdir(this.#private('writing'), { recursive: true })
    for (const name of await readdir(this.#private('writing'))) {
      const [host = '', pid = '', started = ''] = name.split('~')
      const owner: Owner = { host: decodeURIComponent(host), pid: Number(pid), started }
      const file = this.#private('writing', name)
      const ended = hasEnded(owner) ?? Date.now() - ((await stat(file).catch(absentAsUndefined))?.mtimeMs ?? 0) > FOREIGN_WRITE_MS
      if (ended) await unlink(file).catch(absentAsUndefined)
    }
  }

  /** Flushes the names of a folder and of those above it, up to the store: without it a new name can be lost. */
  async #flushFolders(path: string): Promise<void> {
    if (process.platform === 'win32') return
    for (let folder = path; folder.startsWith(this.#settings.folder); folder = dirname(folder)) {
      const handle = await open(folder, 'r').catch(absentAsUndefined)
      try {
        await handle?.sync()
      } finally {
        await handle?.close()
      }
      if (folder === this.#settings.folder) break
    }
  }

  async #removeEmptyFolders(path: string): Promise<void> {
    for (
      let folder = path;
      folder !== this.#settings.folder && folder.startsWith(this.#settings.folder);
      folder = dirname(folder)
    ) {
      try {
        await rmdir(folder)
      } catch {
        return
      }
    }
  }
}

async function openObject(path: string): Promise<FileHandle> {
  const handle = await open(path, 'r')
  if ((await handle.stat()).isFile()) return handle
  await handle.close()
  throw Object.assign(new Error(`ENOENT: ${path} is a folder`), { code: 'ENOENT' })
}

/** The file that a handle stands for never changes: a write makes a new one. */
async function etagOf(handle: FileHandle, known?: Buffer): Promise<string> {
  const { size, mtimeNs } = await handle.stat({ bigint: true })
  if (size > CHECKSUM_MAX_BYTES) return `"${size.toString(16)}-${mtimeNs.toString(16)}"`
  let bytes = known
  if (bytes === undefined) {
    bytes = Buffer.alloc(Number(size))
    for (let at = 0; at < bytes.length;) {
      const { bytesRead } = await handle.read(bytes, at, bytes.length - at, at)
      if (bytesRead === 0) break
      at += bytesRead
    }
  }
  return `"${createHash('sha256').update(bytes).digest('hex')}"`
}

/** An error of the body is told from one of the disk. */
async function* guarded(key: string, body: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  try {
    yield* body
  } catch (error) {
    throw HandlerError.is(error) ? error : bodyFailed(key, error)
  }
}

function absentAsUndefined(error: unknown): undefined {
  const { code } = error as NodeJS.ErrnoException
  if (code !== 'ENOENT' && code !== 'ENOTDIR') throw error
}
