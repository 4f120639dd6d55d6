import { ConfigError, HandlerError, PermissionError, untilAborted } from '@common-handlers/core'
import type { VaultApi } from './api.ts'
import { parsePath } from './secret-path.ts'

/** A secrets engine as the server has it mounted. */
interface Mount {
  /** `secret`, without slashes at the ends. */
  readonly path: string
  /** `kv`, `cubbyhole`, `database` … */
  readonly type: string
  /** Of the KV engine; 1 for every other. */
  readonly version: 1 | 2
}

/** Where a path of a store of secrets leads. */
export interface Place {
  /** As it was asked for, without slashes at the ends. */
  readonly path: string
  /** `secret` */
  readonly mount: string
  readonly version: 1 | 2
  /** Below the mount, without the `data/` of the API: `app`. Empty for the mount itself. */
  readonly inside: string
}

/** The engines that hold what was written to them. All others make something new at each read. */
const STORES = new Set(['kv', 'generic', 'cubbyhole'])

interface MountAnswer {
  readonly data: { readonly path: string; readonly type: string; readonly options: { readonly version?: string } | null }
}

/** Knows which mounts are KV version 1 and which version 2: each is asked once. */
export class Mounts {
  readonly #api: Pick<VaultApi, 'authorised'>
  readonly #known = new Map<string, Mount>()
  readonly #asking = new Map<string, Promise<Mount>>()

  constructor(api: Pick<VaultApi, 'authorised'>) {
    this.#api = api
  }

  /** Does the work with the place of a path; once more where nothing is found there since the mount has become another one. */
  async at<T>(path: string, signal: AbortSignal, work: (place: Place) => Promise<T>): Promise<T> {
    const plain = parsePath(path).join('/')
    const known = this.#find(plain)
    const mount = known ?? (await this.#ask(plain, signal))
    try {
      return await work(placeIn(mount, plain))
    } catch (error) {
      // It may have been replaced, or upgraded to version 2, since it was asked.
      if (known === undefined || !HandlerError.is(error) || error.outcome !== 'not-found') throw error
      this.#known.delete(known.path)
      const now = await this.#ask(plain, signal)
      if (now.type === known.type && now.version === known.version) throw error
      return work(placeIn(now, plain))
    }
  }

  #find(plain: string): Mount | undefined {
    // Mounts never lie inside one another.
    for (const mount of this.#known.values()) if (`${plain}/`.startsWith(`${mount.path}/`)) return mount
    return undefined
  }

  /** Asks which engine serves a path. Many first calls at once below one top name wait for one answer. */
  async #ask(plain: string, signal: AbortSignal): Promise<Mount> {
    const [top = ''] = plain.split('/')
    const running = this.#asking.get(top)
    if (running !== undefined) {
      // Somebody else's question may fail or be aborted for reasons that are not ours.
      await untilAborted(running, signal).catch(() => undefined)
      signal.throwIfAborted()
      const known = this.#find(plain)
      if (known !== undefined) return known
    }
    const asking = this.#askServer(plain, signal)
    this.#asking.set(top, asking)
    try {
      const mount = await asking
      this.#known.set(mount.path, mount)
      return mount
    } finally {
      if (this.#asking.get(top) === asking) this.#asking.delete(top)
    }
  }

  async #askServer(plain: string, signal: AbortSignal): Promise<Mount> {
    const request = { method: 'GET', path: `sys/internal/ui/mounts/${plain}`, idempotent: true }
    const answer = await this.#api.authorised(request, signal).catch((error: unknown) => {
      throw HandlerError.is(error) && error.code === 'VAULT_PERMISSION_DENIED' ? unseenMount(plain, error) : error
    })
    const { path, type, options } = (answer as MountAnswer).data
    return { path: path.replace(/\/+$/, ''), type, version: type === 'kv' && options?.version === '2' ? 2 : 1 }
  }
}

function placeIn(mount: Mount, plain: string): Place {
  if (!STORES.has(mount.type)) {
    throw new ConfigError(
      `${plain}: ${mount.path}/ is a ${mount.type} engine and no store of secrets; read it with request('GET', path) or lease(path), and mind the lease of what it gives`,
      { code: 'VAULT_MOUNT_NOT_KV', context: { path: plain, mount: mount.path, type: mount.type } },
    )
  }
  const inside = plain.slice(mount.path.length + 1)
  return {
    path: plain,
    mount: mount.path,
    version: mount.version,
    inside: mount.version === 2 ? inside.replace(/^data\//, '') : inside,
  }
}

/** The server shows a mount to those who may do something below it, and does not tell others whether there is one. */
function unseenMount(path: string, cause: HandlerError): PermissionError {
  const [mount = '', ...rest] = path.split('/')
  return new PermissionError(
    `permission denied: nothing is mounted at ${path}, or the token needs a policy with: ` +
      `path "${[mount, 'data', ...rest].join('/')}" { capabilities = ["read"] } (KV version 1: path "${path}")`,
    { code: 'VAULT_PERMISSION_DENIED', context: { ...cause.context, path }, cause },
  )
}
