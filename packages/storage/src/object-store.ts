import type { Readable } from 'node:stream'
import type { CallOptions } from '@common-handlers/core'

/** What a store knows of an object without reading it. Keys use `/` and are relative to the store. */
export interface ObjectInfo {
  readonly key: string
  /** Bytes as stored. */
  readonly size: number
  /** Changes with the content; what `putIfMatch` compares. An opaque text, quotes included where the server sends them. */
  readonly etag: string
  readonly lastModified: Date
}

export interface WrittenObject {
  readonly etag: string
  readonly size: number
}

/** `written: false` means that the condition did not hold and nothing was changed. */
export type ConditionalWrite = ({ readonly written: true } & WrittenObject) | { readonly written: false }

export interface PutOptions extends CallOptions {
  readonly contentType?: string | undefined
  readonly metadata?: Readonly<Record<string, string>> | undefined
}

export type ObjectBody = Uint8Array | string | AsyncIterable<Uint8Array>

/**
 * The small contract that datasets, ledgers and apps need from an object store. `S3Handler` fits it as it is;
 * `LocalFolderStore` and `MemoryStore` implement it. An object is visible whole or not at all: a write that fails or is
 * aborted leaves nothing under its key.
 */
export interface ObjectStore extends AsyncDisposable {
  /** Where the store is, without secrets: `s3://bucket/prefix`, `file:///folder`, `memory:`. No slash at the end. */
  readonly url: string
  /**
   * The bytes as a stream, from `start` up to and with `end` where given. The caller reads it to the end or destroys it.
   * @throws NotFoundError
   */
  get(key: string, options?: CallOptions & { readonly start?: number; readonly end?: number }): Promise<Readable>
  /** The bytes whole, with the etag they had. @throws NotFoundError */
  getBytes(key: string, options?: CallOptions): Promise<{ readonly bytes: Buffer; readonly etag: string }>
  /** @throws NotFoundError */
  head(key: string, options?: CallOptions): Promise<ObjectInfo>
  /** Objects whose key begins with the prefix, in the byte order of their keys. */
  list(prefix: string, options?: CallOptions): AsyncIterable<ObjectInfo>
  /** Writes an object whole, replacing what was there. A stream may be of any length. */
  put(key: string, body: ObjectBody, options?: PutOptions): Promise<WrittenObject>
  /** Writes only when nothing is there (`If-None-Match: *`): of many callers at once, one writes. */
  putIfAbsent(key: string, body: Uint8Array | string, options?: PutOptions): Promise<ConditionalWrite>
  /** Writes only when the object still has this etag (`If-Match`). A missing object is `written: false`. */
  putIfMatch(key: string, body: Uint8Array | string, etag: string, options?: PutOptions): Promise<ConditionalWrite>
  /** Deleting what is not there is no error. */
  delete(key: string, options?: CallOptions): Promise<void>
  close(): Promise<void>
}
