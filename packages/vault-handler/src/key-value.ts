import {
  type CallOptions,
  ConfigError,
  ConflictError,
  HandlerError,
  isStandardSchema,
  NotFoundError,
  retryDelay,
  sleep,
  type StandardSchema,
} from '@common-handlers/core'
import type { VaultApi } from './api.ts'
import {
  type KvMetadata,
  type KvMetadataSettings,
  type KvVersion,
  type MetadataAnswer,
  readMetadata,
  readVersion,
  type VersionAnswer,
  writeSettings,
} from './key-value-metadata.ts'
import { Mounts, type Place } from './mounts.ts'
import { assertExact, mergePatch, registerTexts, type SecretData } from './secret-data.ts'
import { validate } from './validate.ts'

/** A secret with what the mount says about it. */
export interface KvSecret<T = SecretData> {
  readonly data: T
  /** For `cas`. Undefined, as the two below, on a version 1 mount. */
  readonly version: number | undefined
  readonly createdAt: Date | undefined
  readonly customMetadata: Readonly<Record<string, string>> | undefined
}

export interface KvGetOptions extends CallOptions {
  /** A version of a KV version 2 secret; the newest if not given. */
  readonly version?: number | undefined
}

export interface KvWriteOptions extends CallOptions {
  /** Check-and-set: write only if this is the newest version; 0 only if there is none. Version 2 mounts. */
  readonly cas?: number | undefined
}

export interface KvUpdateOptions<T> extends CallOptions {
  /** Validates what is there before the function sees it. */
  readonly schema?: StandardSchema<T> | undefined
  /** How often to read, apply and write in all. Default 20. */
  readonly attempts?: number | undefined
}

export interface KvDeleteOptions extends CallOptions {
  /** The newest version if not given. Version 2 mounts. */
  readonly versions?: readonly number[] | undefined
}

export interface KvListOptions {
  /** Go down into folders and give secrets alone. Default false: what lies in the folder itself. */
  readonly recursive?: boolean | undefined
  readonly signal?: AbortSignal | undefined
  /** For each request, in milliseconds; a listing makes one for each folder. */
  readonly timeoutMs?: number | undefined
}

/** Waits between two rounds of an update: short, for the winner of a round is done at once. */
const UPDATE_WAITS = { attempts: 20, budgetMs: Infinity, baseDelayMs: 25, maxDelayMs: 1_000 }

/**
 * The KV engine, versions 1 and 2; which one a mount is, the mount is asked, once. `secret/app` and `secret/data/app` name the
 * same secret of a version 2 mount. Texts read and written are registered with the scrubber.
 */
export class KeyValue {
  readonly #api: VaultApi
  readonly #mounts: Mounts

  constructor(api: VaultApi) {
    this.#api = api
    this.#mounts = new Mounts(api)
  }

  /**
   * A secret, or an older version of it; with a schema its fields are validated.
   * @throws NotFoundError `VAULT_SECRET_NOT_FOUND`, `VAULT_VERSION_NOT_FOUND`, `VAULT_VERSION_DELETED`, `VAULT_VERSION_DESTROYED`
   * @throws DataError `VAULT_SECRET_INVALID`
   */
  get(path: string, options?: KvGetOptions): Promise<KvSecret>
  get<T>(path: string, schema: StandardSchema<T>, options?: KvGetOptions): Promise<KvSecret<T>>
  get<T>(path: string, second: StandardSchema<T> | KvGetOptions = {}, third: KvGetOptions = {}): Promise<KvSecret | KvSecret<T>> {
    const [schema, options] = isStandardSchema(second) ? [second, third] : [undefined, second]
    return this.#at('read', path, options, async (place, signal) => {
      const secret = await this.#read(place, options.version, signal)
      return schema === undefined ? secret : { ...secret, data: await validate(path, secret.data, schema) }
    })
  }

  /**
   * Writes a secret as a whole. Gives the version that was made; undefined on a version 1 mount. A write with `cas` is not
   * made twice: where its answer is lost (`retry: 'if-idempotent'`), read before you write again.
   * @throws ConflictError `VAULT_CAS_MISMATCH`
   * @throws ConfigError `VAULT_CAS_REQUIRED` where the mount or the secret asks for `cas`
   * @throws DataError `VAULT_VALUE_INEXACT` for a value that would come back as another one
   */
  put(path: string, data: SecretData, options: KvWriteOptions = {}): Promise<KvVersion | undefined> {
    return this.#at('write', path, options, (place, signal) => this.#write(place, data, options.cas, signal))
  }

  /**
   * Changes some fields of a version 2 secret, as a JSON merge patch (RFC 7396): null takes a field away, an object is merged.
   * Where the server or the policy does not allow PATCH it reads and writes with check-and-set, as `vault kv patch` does.
   * @throws NotFoundError as `get`; ConflictError, ConfigError, DataError as `put`
   */
  patch(path: string, changes: SecretData, options: KvWriteOptions = {}): Promise<KvVersion> {
    return this.#versioned('patch', path, options, async (place, signal) => {
      try {
        return await this.#writeVersion(place, changes, options.cas, signal, 'PATCH')
      } catch (error) {
        if (!HandlerError.is(error) || !refusesPatch(error)) throw error
        const merge = async (): Promise<KvVersion> => {
          const current = await this.#read(place, undefined, signal)
          const merged = mergePatch(current.data, changes) as SecretData
          return this.#writeVersion(place, merged, options.cas ?? current.version, signal)
        }
        // The right to read and write was not asked for: what is missing is the first one.
        return this.#untilWritten(place, options.cas === undefined ? UPDATE_WAITS.attempts : 1, merge, signal).catch(
          (second: unknown) => {
            throw HandlerError.is(second) && second.code === 'VAULT_PERMISSION_DENIED' ? error : second
          },
        )
      }
    })
  }

  /**
   * Reads a version 2 secret, applies the function and writes what it gives, if nobody wrote meanwhile; else all again, up to
   * `attempts` times. The function gets undefined where there is no secret or it was deleted, and leaves everything as it is
   * by giving undefined; it may be called more than once.
   * @throws ConflictError `VAULT_CAS_MISMATCH` (`retry: 'safe'`) when others were first each time
   */
  update<T = SecretData>(
    path: string,
    change: (current: T | undefined) => SecretData | undefined | Promise<SecretData | undefined>,
    options: KvUpdateOptions<T> = {},
  ): Promise<KvVersion | undefined> {
    const { schema, attempts = UPDATE_WAITS.attempts } = options
    return this.#versioned('update', path, options, (place, signal) =>
      this.#untilWritten(
        place,
        attempts,
        async () => {
          const { data, version } = await this.#readOrNothing(place, signal)
          const current = data === undefined || schema === undefined ? (data as T) : await validate(place.path, data, schema)
          const next = await change(current)
          return next === undefined ? undefined : this.#writeVersion(place, next, version, signal)
        },
        signal,
      ),
    )
  }

  /**
   * Deletes a secret. On a version 2 mount the newest version, or those given; `undelete` brings them back. The server does not
   * tell whether there was anything.
   */
  delete(path: string, options: KvDeleteOptions = {}): Promise<void> {
    const { versions } = options
    return this.#at('delete', path, options, async (place, signal) => {
      if (versions !== undefined) {
        assertVersioned(place)
        await this.#send('POST', 'delete', place, { versions }, signal)
      } else {
        await this.#request('DELETE', 'data', place, { idempotent: true }, signal)
      }
    })
  }

  /** Brings deleted versions back. The server does not tell whether there are such versions. Version 2 mounts. */
  undelete(path: string, versions: readonly number[], options?: CallOptions): Promise<void> {
    return this.#versioned('undelete', path, options, async (place, signal) => {
      await this.#send('POST', 'undelete', place, { versions }, signal)
    })
  }

  /** Destroys the data of versions for good. The server does not tell whether there are such versions. Version 2 mounts. */
  destroy(path: string, versions: readonly number[], options?: CallOptions): Promise<void> {
    return this.#versioned('destroy', path, options, async (place, signal) => {
      await this.#send('PUT', 'destroy', place, { versions }, signal)
    })
  }

  /**
   * The paths below a mount or a folder, each of which can be given to `get`, or to `list` where it ends with a slash. Nothing
   * where there is nothing: the engine knows no empty folders.
   */
  async *list(path: string, options: KvListOptions = {}): AsyncGenerator<string, void, undefined> {
    for (const entry of await this.#folder(path, options)) {
      if (options.recursive === true && entry.endsWith('/')) yield* this.list(entry, options)
      else yield entry
    }
  }

  /** What the mount knows about a secret, without reading its values. Version 2 mounts. */
  metadata(path: string, options?: CallOptions): Promise<KvMetadata> {
    return this.#versioned('read the metadata of', path, options, async (place, signal) => {
      const answer = await this.#request('GET', 'metadata', place, { idempotent: true }, signal)
      return readMetadata((answer as { readonly data: MetadataAnswer }).data)
    })
  }

  /** The versions of a secret, oldest first. Version 2 mounts. */
  async versions(path: string, options?: CallOptions): Promise<readonly KvVersion[]> {
    return (await this.metadata(path, options)).versions
  }

  /** Sets how many versions are kept and for how long, whether writes need `cas`, and texts of your own. Version 2 mounts. */
  setMetadata(path: string, settings: KvMetadataSettings, options?: CallOptions): Promise<void> {
    return this.#versioned('set the metadata of', path, options, async (place, signal) => {
      await this.#request('PUT', 'metadata', place, { body: writeSettings(settings), idempotent: true }, signal)
    })
  }

  /** Takes a secret away with all its versions and metadata, for good. Version 2 mounts. */
  deleteMetadata(path: string, options?: CallOptions): Promise<void> {
    return this.#versioned('delete the metadata of', path, options, async (place, signal) => {
      await this.#request('DELETE', 'metadata', place, { idempotent: true }, signal)
    })
  }

  /** One call on one secret. */
  #at<T>(
    action: string,
    path: string,
    options: CallOptions | undefined,
    work: (place: Place, signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    return this.#api.call(`${action} ${path}`, options, (signal) =>
      this.#mounts.at(path, signal, async (place) => {
        if (place.inside === '') {
          throw new ConfigError(`${path} names a mount and no secret in it`, { code: 'VAULT_PATH_INVALID', context: { path } })
        }
        return work(place, signal)
      }),
    )
  }

  #versioned<T>(
    action: string,
    path: string,
    options: CallOptions | undefined,
    work: (place: Place, signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    return this.#at(action, path, options, async (place, signal) => {
      assertVersioned(place)
      return work(place, signal)
    })
  }

  async #read(place: Place, version: number | undefined, signal: AbortSignal): Promise<KvSecret> {
    if (version !== undefined) assertVersioned(place)
    const query = version === undefined ? undefined : { version: String(version) }
    const answer = await this.#request('GET', 'data', place, { query, idempotent: true }, signal).catch(
      async (error: unknown) => {
        if (version === undefined || !HandlerError.is(error) || error.code !== 'VAULT_SECRET_NOT_FOUND') throw error
        // The server does not tell a missing version from a missing secret; whether there is a newest one does.
        const newest = await this.#readOrNothing(place, signal)
        throw newest.version === 0 ? error : missingVersion(place, version, error)
      },
    )
    const outer = (answer as { readonly data?: SecretData | null } | undefined)?.data ?? undefined
    const { data, metadata } = place.version === 1 ? { data: outer, metadata: undefined } : ((outer ?? {}) as VersionedAnswer)
    if (data === undefined || data === null) {
      throw new NotFoundError(`${place.path}: the secret is empty`, {
        code: 'VAULT_SECRET_NOT_FOUND',
        context: { path: place.path, version: metadata?.version },
      })
    }
    registerTexts(place, data)
    return {
      data,
      version: metadata?.version,
      createdAt: metadata === undefined ? undefined : new Date(metadata.created_time),
      customMetadata: metadata === undefined ? undefined : (metadata.custom_metadata ?? {}),
    }
  }

  /** What is there and its version for `cas`, which a deleted secret has too. */
  async #readOrNothing(
    place: Place,
    signal: AbortSignal,
  ): Promise<{ readonly data: SecretData | undefined; readonly version: number | undefined }> {
    try {
      return await this.#read(place, undefined, signal)
    } catch (error) {
      if (!HandlerError.is(error) || !NOTHING_THERE.has(error.code)) throw error
      const { version } = error.context
      return { data: undefined, version: typeof version === 'number' ? version : 0 }
    }
  }

  async #write(place: Place, data: SecretData, cas: number | undefined, signal: AbortSignal): Promise<KvVersion | undefined> {
    if (place.version === 2) return this.#writeVersion(place, data, cas, signal)
    if (cas !== undefined) assertVersioned(place)
    assertExact(place, data)
    registerTexts(place, data)
    await this.#request('PUT', 'data', place, { body: data, idempotent: true }, signal)
    return undefined
  }

  async #writeVersion(
    place: Place,
    data: SecretData,
    cas: number | undefined,
    signal: AbortSignal,
    method: 'PUT' | 'PATCH' = 'PUT',
  ): Promise<KvVersion> {
    assertExact(place, data)
    registerTexts(place, data)
    const answer = await this.#send(method, 'data', place, { data, options: cas === undefined ? undefined : { cas } }, signal)
    return readVersion((answer as { readonly data: VersionAnswer }).data)
  }

  /** A write to a version 2 mount. One with `cas` must not be made twice: the second would find the version of the first. */
  #send(method: string, api: string, place: Place, body: WriteBody, signal: AbortSignal): Promise<unknown> {
    return this.#request(method, api, place, { body, idempotent: body.options === undefined }, signal)
  }

  #request(
    method: string,
    api: string,
    place: Place,
    rest: {
      readonly query?: Readonly<Record<string, string>> | undefined
      readonly body?: unknown
      readonly idempotent: boolean
    },
    signal: AbortSignal,
  ): Promise<unknown> {
    const parts = place.version === 1 ? [place.mount, place.inside] : [place.mount, api, place.inside]
    return this.#api.authorised({ method, path: parts.filter((part) => part !== '').join('/'), ...rest }, signal)
  }

  async #folder(path: string, options: KvListOptions): Promise<readonly string[]> {
    return this.#api.call(`list ${path}`, options, (signal) =>
      this.#mounts.at(path, signal, async (place) => {
        const rest = { query: { list: 'true' }, idempotent: true }
        try {
          const answer = await this.#request('GET', 'metadata', place, rest, signal)
          const { keys } = (answer as { readonly data: { readonly keys: readonly string[] } }).data
          const folder = place.inside === '' ? '' : `${place.inside}/`
          return keys.map((key) => pathOf({ ...place, inside: `${folder}${key}` }))
        } catch (error) {
          if (HandlerError.is(error) && error.code === 'VAULT_SECRET_NOT_FOUND') return []
          throw error
        }
      }),
    )
  }

  /** Rounds of reading and writing until nobody was first. */
  async #untilWritten<T>(place: Place, attempts: number, round: () => Promise<T>, signal: AbortSignal): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await round()
      } catch (error) {
        if (!HandlerError.is(error) || error.code !== 'VAULT_CAS_MISMATCH') throw error
        if (attempt >= attempts) throw outrun(place, attempts, error)
        this.#api.logger.debug({ path: place.path, attempt }, 'a secret was changed by others meanwhile; once more')
        await sleep(retryDelay(attempt, UPDATE_WAITS), signal)
      }
    }
  }
}

interface VersionedAnswer {
  readonly data?: SecretData | null
  readonly metadata?: VersionAnswer
}

interface WriteBody {
  readonly data?: SecretData
  readonly versions?: readonly number[]
  readonly options?: { readonly cas: number } | undefined
}

const NOTHING_THERE = new Set(['VAULT_SECRET_NOT_FOUND', 'VAULT_VERSION_DELETED', 'VAULT_VERSION_DESTROYED'])

/** The path of a place as it is given to this package: a secret that is itself called `data/x` has `data/` twice. */
function pathOf(place: Place): string {
  const data = place.version === 2 && place.inside.startsWith('data/') ? 'data/' : ''
  return `${place.mount}/${data}${place.inside}`
}

/** 403: the policy grants no "patch". 405: a server older than PATCH. */
function refusesPatch(error: HandlerError): boolean {
  return error.code === 'VAULT_PERMISSION_DENIED' || error.context['status'] === 405
}

function assertVersioned(place: Place): void {
  if (place.version === 2) return
  throw new ConfigError(`${place.path}: ${place.mount}/ is a KV version 1 mount, which keeps no versions`, {
    code: 'VAULT_MOUNT_UNVERSIONED',
    context: { path: place.path, mount: place.mount },
  })
}

function missingVersion(place: Place, version: number, cause: HandlerError): NotFoundError {
  return new NotFoundError(`${place.path} has no version ${version}`, {
    code: 'VAULT_VERSION_NOT_FOUND',
    context: { ...cause.context, version },
  })
}

function outrun(place: Place, attempts: number, cause: HandlerError): ConflictError {
  const times = attempts === 1 ? 'once' : `${attempts} times in a row`
  return new ConflictError(`${place.path}: others were first ${times}`, {
    code: 'VAULT_CAS_MISMATCH',
    retry: 'safe',
    context: { ...cause.context, attempts },
    cause,
  })
}
