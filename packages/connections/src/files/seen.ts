import { createHash } from 'node:crypto'
import type { ObjectStore } from '@common-handlers/storage'
import type { RemoteEntry } from './remote-files.ts'

/** The folder of a target in which its markers stand. */
export const MARKERS_FOLDER = '_seen/'

/** What a marker says, for people; its name is what is compared. */
interface Marker {
  readonly version: 1
  readonly source: string
  readonly key: string
  readonly size: number | undefined
  readonly modifiedAt: string | undefined
  readonly etag: string | undefined
  readonly bytes: number
  readonly checksum: string
  readonly fetchedAt: string
}

/**
 * Which version of which file a target holds: one small object for each key, `_seen/<key>-<version>.json`, both as hashes,
 * so that one listing says it all. It is written after the file, and stays when the file is taken away.
 */
export class SeenMarkers {
  readonly #store: ObjectStore
  readonly #folder: string
  readonly #versions: Map<string, string[]>

  private constructor(store: ObjectStore, folder: string, versions: Map<string, string[]>) {
    this.#store = store
    this.#folder = folder
    this.#versions = versions
  }

  static async load(store: ObjectStore, prefix: string, signal: AbortSignal): Promise<SeenMarkers> {
    const folder = `${prefix}${MARKERS_FOLDER}`
    const versions = new Map<string, string[]>()
    for await (const { key } of store.list(folder, { signal })) {
      const [, name, version] = /^([0-9a-f]{32})-([0-9a-f]{32})\.json$/.exec(key.slice(folder.length)) ?? []
      if (name !== undefined && version !== undefined) versions.set(name, [...(versions.get(name) ?? []), version])
    }
    return new SeenMarkers(store, folder, versions)
  }

  has(key: string, source: string, file: RemoteEntry): boolean {
    const versions = this.#versions.get(hash(key)) ?? []
    return versions.length === 1 && versions[0] === versionOf(source, file)
  }

  /** Before a key is written again: whatever happens then, no marker says what is not so. */
  async forget(key: string, signal: AbortSignal): Promise<void> {
    const name = hash(key)
    for (const version of this.#versions.get(name) ?? []) await this.#store.delete(this.#at(name, version), { signal })
    this.#versions.delete(name)
  }

  async add(
    key: string,
    source: string,
    file: RemoteEntry,
    had: Pick<Marker, 'bytes' | 'checksum' | 'fetchedAt'>,
    signal: AbortSignal,
  ): Promise<void> {
    const version = versionOf(source, file)
    // Without a sign of its version nobody could say whether it has changed.
    if (version === undefined) return
    const { size, modifiedAt, etag } = file
    const marker: Marker = { version: 1, source, key, size, modifiedAt: modifiedAt?.toISOString(), etag, ...had }
    const name = hash(key)
    await this.#store.put(this.#at(name, version), `${JSON.stringify(marker)}\n`, { signal, contentType: 'application/json' })
    this.#versions.set(name, [version])
  }

  #at(name: string, version: string): string {
    return `${this.#folder}${name}-${version}.json`
  }
}

const hash = (text: string): string => createHash('sha256').update(text).digest('hex').slice(0, 32)

function versionOf(source: string, { size, modifiedAt, etag }: RemoteEntry): string | undefined {
  if (modifiedAt === undefined && etag === undefined) return undefined
  return hash(JSON.stringify([source, size ?? null, modifiedAt?.getTime() ?? null, etag ?? null]))
}
