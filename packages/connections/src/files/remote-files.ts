import type { CallOptions, RetryPolicy } from '@common-handlers/core'

/** What a server says of a file or a folder. */
export interface RemoteEntry {
  /** As the server takes it: absolute, or relative to where a session starts. Names stand between `/`. */
  readonly path: string
  readonly kind: 'file' | 'folder'
  /** In bytes, as they come over the wire; undefined where the server does not say. */
  readonly size?: number | undefined
  readonly modifiedAt?: Date | undefined
  /** True in a list that does not tell the time exactly: the file is asked for by `stat` if it may be wanted. */
  readonly vague?: boolean | undefined
  /** Changes with the content, where the server has such a thing. */
  readonly etag?: string | undefined
  readonly mediaType?: string | undefined
  /** How the bytes are encoded on their way (`gzip`, `br`, `zstd`); what is kept of them is decoded. */
  readonly encoding?: string | undefined
}

/** Files that are known by their paths. Each call obeys its signal, and makes a new connection where the last one is gone; none is tried again in here. */
export interface ReadableFiles {
  /** How often and how long a step is tried: a listing, a question, the next bytes. */
  readonly policy: Partial<RetryPolicy>
  /** How long nothing may come, in milliseconds. */
  readonly timeoutMs: number
  /** A path as a URL, without secrets: `sftp://etl@files.example.com:22/out/a.csv`. */
  urlOf(path: string): string
  /** @throws NotFoundError */
  stat(path: string, options?: CallOptions): Promise<RemoteEntry>
  /** The bytes of a file. Leaving the loop, and the signal, let go of what it holds. @throws NotFoundError */
  read(path: string, options?: ReadOptions): AsyncIterable<Uint8Array>
}

/** The files of a server, as every file protocol has them. */
export interface RemoteFiles extends ReadableFiles {
  /** What stands in one folder, in any order. @throws NotFoundError */
  list(folder: string, options?: CallOptions): Promise<RemoteEntry[]>
}

/** How a file is read. */
export interface ReadOptions extends Pick<CallOptions, 'signal'> {
  /** The first byte that is wanted. Default 0. */
  readonly start?: number | undefined
  /** What was said of the file before, for a protocol that can ask for that version and no other. */
  readonly version?: RemoteEntry | undefined
}

/** True when nothing that the server says of a file tells one from the other. */
export const isSameFile = (one: RemoteEntry, other: RemoteEntry): boolean =>
  one.size === other.size && one.modifiedAt?.getTime() === other.modifiedAt?.getTime() && one.etag === other.etag

/** `folder/name`, and `name` for the folder `''`. */
export const joinPath = (folder: string, name: string): string =>
  folder === '' || folder.endsWith('/') ? `${folder}${name}` : `${folder}/${name}`
