import { ConfigError, HandlerError, NotFoundError, PermissionError, registerSecretValue } from '@common-handlers/core'
import { strings } from './errors.ts'
import { parsePath } from './secret-path.ts'

/** The fields of a secret. Integers beyond 2^53 come as bigint. */
export type SecretData = Record<string, unknown>

/** A secrets engine as the server has it mounted. */
export interface Mount {
  /** `secret`, without slashes at the ends. */
  readonly path: string
  /** `kv`, `cubbyhole`, `database` … */
  readonly type: string
  /** Of the KV engine; 1 for every other. */
  readonly version: 1 | 2
}

/** Makes a GET request; the handler's own, with its token. */
export type Get = (path: string, query: Readonly<Record<string, string>>, signal: AbortSignal) => Promise<unknown>

/** The engines that hold what was written to them. All others make something new at each read. */
const STORES = new Set(['kv', 'generic', 'cubbyhole'])

interface MountAnswer {
  readonly data: { readonly path: string; readonly type: string; readonly options: { readonly version?: string } | null }
}

/** Reads KV secrets of both versions; which one a mount is, the mount itself is asked, once. */
export class KeyValueReader {
  readonly #get: Get
  readonly #mounts = new Map<string, Mount>()
  readonly #asking = new Map<string, Promise<Mount>>()

  constructor(get: Get) {
    this.#get = get
  }

  /** The fields of a secret; every text among them is registered with the scrubber, but for what stands in the path. */
  async read(path: string, version: number | undefined, signal: AbortSignal): Promise<SecretData> {
    const known = this.#known(path)
    try {
      return await this.#readFrom(known ?? (await this.#ask(path, signal)), path, version, signal)
    } catch (error) {
      // A mount that was known may have been replaced or upgraded to version 2 since.
      if (known === undefined || !HandlerError.is(error) || error.outcome !== 'not-found') throw error
      this.#mounts.delete(known.path)
      const now = await this.#ask(path, signal)
      if (now.type === known.type && now.version === known.version) throw error
      return this.#readFrom(now, path, version, signal)
    }
  }

  async #readFrom(mount: Mount, path: string, version: number | undefined, signal: AbortSignal): Promise<SecretData> {
    const inside = parsePath(path)
      .join('/')
      .slice(mount.path.length + 1)
    if (!STORES.has(mount.type)) {
      throw new ConfigError(
        `${path}: ${mount.path}/ is a ${mount.type} engine and no store of secrets; read it with request('GET', path), and mind the lease of what it gives`,
        { code: 'VAULT_MOUNT_NOT_KV', context: { path, mount: mount.path, type: mount.type } },
      )
    }
    if (mount.version === 1 && version !== undefined) {
      throw new ConfigError(`${path}: ${mount.path}/ is a KV version 1 mount, which keeps no versions`, {
        code: 'VAULT_MOUNT_UNVERSIONED',
        context: { path, mount: mount.path },
      })
    }
    const apiPath = mount.version === 1 || inside.startsWith('data/') ? `${mount.path}/${inside}` : `${mount.path}/data/${inside}`
    const answer = await this.#get(apiPath, version === undefined ? {} : { version: String(version) }, signal)
    const outer = (answer as { readonly data?: SecretData | null } | undefined)?.data
    const data = mount.version === 1 ? outer : (outer as { readonly data?: SecretData | null } | null | undefined)?.data
    if (data === undefined || data === null) {
      throw new NotFoundError(`${path}: the secret is empty`, { code: 'VAULT_SECRET_NOT_FOUND', context: { path } })
    }
    // What the caller wrote in the open is no secret: the user "postgres" in secret/postgres/db, without whom no message
    // could name the path any more.
    const open = new Set(parsePath(path))
    for (const value of strings(data)) if (!open.has(value)) registerSecretValue(value)
    return data
  }

  #known(path: string): Mount | undefined {
    const plain = parsePath(path).join('/')
    // Mounts never lie inside one another.
    for (const mount of this.#mounts.values()) if (plain.startsWith(`${mount.path}/`)) return mount
    return undefined
  }

  /** Asks which engine serves a path. Many first reads at once below one top name wait for one answer. */
  async #ask(path: string, signal: AbortSignal): Promise<Mount> {
    const [top = ''] = parsePath(path)
    const running = this.#asking.get(top)
    if (running !== undefined) {
      // Somebody else's question may fail or be aborted for reasons that are not ours.
      await running.catch(() => undefined)
      signal.throwIfAborted()
      const known = this.#known(path)
      if (known !== undefined) return known
    }
    const asking = this.#askServer(path, signal)
    this.#asking.set(top, asking)
    try {
      const mount = await asking
      this.#mounts.set(mount.path, mount)
      return mount
    } finally {
      if (this.#asking.get(top) === asking) this.#asking.delete(top)
    }
  }

  async #askServer(path: string, signal: AbortSignal): Promise<Mount> {
    const plain = parsePath(path).join('/')
    const answer = await this.#get(`sys/internal/ui/mounts/${plain}`, {}, signal).catch((error: unknown) => {
      throw HandlerError.is(error) && error.code === 'VAULT_PERMISSION_DENIED' ? unseenMount(plain, error) : error
    })
    const { path: found, type, options } = (answer as MountAnswer).data
    const mount: Mount = { path: found.replace(/\/+$/, ''), type, version: type === 'kv' && options?.version === '2' ? 2 : 1 }
    if (!plain.startsWith(`${mount.path}/`)) {
      throw new ConfigError(`${path} names a mount and no secret in it`, { code: 'VAULT_PATH_INVALID', context: { path } })
    }
    return mount
  }
}

/** The server shows a mount to those who may do something below it, and does not tell others whether there is one. */
function unseenMount(path: string, cause: HandlerError): PermissionError {
  const [mount = '', ...rest] = path.split('/')
  return new PermissionError(
    `permission denied: nothing is mounted at ${path}, or the token needs a policy with: ` +
      `path "${mount}/data/${rest.join('/')}" { capabilities = ["read"] } (KV version 1: path "${path}")`,
    { code: 'VAULT_PERMISSION_DENIED', context: { ...cause.context, path }, cause },
  )
}
