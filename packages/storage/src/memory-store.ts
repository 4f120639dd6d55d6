import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import { type CallOptions, HandlerError, Lifecycle, withDeadline } from '@common-handlers/core'
import { bodyFailed, notFound } from './errors.ts'
import { assertKey, assertPrefix, compareKeys } from './key.ts'
import type { ConditionalWrite, ObjectBody, ObjectInfo, ObjectStore, PutOptions, WrittenObject } from './object-store.ts'

interface Stored {
  readonly bytes: Buffer
  readonly etag: string
  readonly lastModified: Date
}

/** A store that lives as long as its process: for tests. */
export class MemoryStore implements ObjectStore {
  readonly url = 'memory:'
  readonly #objects = new Map<string, Stored>()
  readonly #life = new Lifecycle('MemoryStore', 'STORAGE', () => Promise.resolve(this.#objects.clear()))

  get(key: string, options?: CallOptions & { readonly start?: number; readonly end?: number }): Promise<Readable> {
    return this.#call(options, `reading ${key}`, () => {
      const { bytes } = this.#find(key)
      const part = bytes.subarray(options?.start ?? 0, options?.end === undefined ? undefined : options.end + 1)
      return Readable.from(part.length === 0 ? [] : [part], { objectMode: false })
    })
  }

  getBytes(key: string, options?: CallOptions): Promise<{ readonly bytes: Buffer; readonly etag: string }> {
    return this.#call(options, `reading ${key}`, () => {
      const { bytes, etag } = this.#find(key)
      return { bytes: Buffer.from(bytes), etag }
    })
  }

  head(key: string, options?: CallOptions): Promise<ObjectInfo> {
    return this.#call(options, `reading ${key}`, () => info(key, this.#find(key)))
  }

  async *list(prefix: string, options?: CallOptions): AsyncGenerator<ObjectInfo> {
    const found = await this.#call(options, `listing ${prefix}`, () => {
      assertPrefix(prefix)
      return [...this.#objects].filter(([key]) => key.startsWith(prefix)).toSorted(([a], [b]) => compareKeys(a, b))
    })
    for (const [key, stored] of found) {
      options?.signal?.throwIfAborted()
      yield info(key, stored)
    }
  }

  put(key: string, body: ObjectBody, options?: PutOptions): Promise<WrittenObject> {
    return this.#call(options, `writing ${key}`, async (signal) => {
      assertKey(key)
      return this.#set(key, await collect(key, body, signal))
    })
  }

  putIfAbsent(key: string, body: Uint8Array | string, options?: PutOptions): Promise<ConditionalWrite> {
    return this.#call(options, `writing ${key}`, () => {
      assertKey(key)
      return this.#objects.has(key) ? { written: false } : { written: true, ...this.#set(key, Buffer.from(body)) }
    })
  }

  putIfMatch(key: string, body: Uint8Array | string, etag: string, options?: PutOptions): Promise<ConditionalWrite> {
    return this.#call(options, `writing ${key}`, () => {
      assertKey(key)
      if (this.#objects.get(key)?.etag !== etag) return { written: false }
      return { written: true, ...this.#set(key, Buffer.from(body)) }
    })
  }

  delete(key: string, options?: CallOptions): Promise<void> {
    return this.#call(options, `deleting ${key}`, () => {
      assertKey(key)
      this.#objects.delete(key)
    })
  }

  close(): Promise<void> {
    return this.#life.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #call<T>(options: CallOptions | undefined, action: string, work: (signal: AbortSignal) => T | Promise<T>): Promise<T> {
    return this.#life.run(options?.signal, (joined) =>
      withDeadline({ signal: joined, timeoutMs: options?.timeoutMs }, { prefix: 'STORAGE', action }, async ({ signal }) =>
        work(signal),
      ),
    )
  }

  #find(key: string): Stored {
    assertKey(key)
    const stored = this.#objects.get(key)
    if (stored === undefined) throw notFound(key, this.url)
    return stored
  }

  #set(key: string, bytes: Buffer): WrittenObject {
    const etag = `"${createHash('sha256').update(bytes).digest('hex')}"`
    this.#objects.set(key, { bytes, etag, lastModified: new Date() })
    return { etag, size: bytes.length }
  }
}

const info = (key: string, { bytes, etag, lastModified }: Stored): ObjectInfo => ({ key, size: bytes.length, etag, lastModified })

async function collect(key: string, body: ObjectBody, signal: AbortSignal): Promise<Buffer> {
  if (typeof body === 'string' || body instanceof Uint8Array) return Buffer.from(body)
  const chunks: Uint8Array[] = []
  try {
    // A Readable in between, because an abort must also end a body that gives nothing more.
    for await (const chunk of Readable.from(body, { signal })) chunks.push(chunk as Uint8Array)
  } catch (error) {
    signal.throwIfAborted()
    throw HandlerError.is(error) ? error : bodyFailed(key, error)
  }
  return Buffer.concat(chunks)
}
