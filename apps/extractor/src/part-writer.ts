import { createHash, type Hash } from 'node:crypto'
import { type Compression, fileName, type ManifestFile } from '@common-handlers/dataset'
import type { ObjectStore, WrittenObject } from '@common-handlers/storage'
import { Channel } from './channel.ts'

/** Whole rows, compressed on their own. */
export interface StoredBlock {
  readonly bytes: Buffer
  readonly rows: number
}

export interface PartWriterOptions {
  readonly store: ObjectStore
  /** The key of a part by its name. */
  readonly keyOf: (name: string) => string
  readonly compression: Compression
  /** A file that has reached so many bytes is closed; the next row goes into the next file. */
  readonly fileBytes: number
  /** The line of column names, compressed on its own; stands at the top of each file. */
  readonly header: Buffer
  readonly signal: AbortSignal
}

const contentTypes: Readonly<Record<Compression, string>> = {
  gzip: 'application/gzip',
  zstd: 'application/zstd',
  none: 'text/csv',
}

/** Blocks that may wait for an upload: enough to keep it busy, little enough to stay small. */
const WAITING_BLOCKS = 4

interface OpenPart {
  readonly name: string
  readonly hash: Hash
  readonly channel: Channel<Uint8Array>
  readonly uploaded: Promise<WrittenObject>
  rows: number
  bytes: number
}

/**
 * Writes blocks into files of about the wanted size. A file is uploaded while it is being made; while its upload is
 * completed the next file begins.
 */
export class PartWriter {
  readonly #options: PartWriterOptions
  readonly #files: Promise<ManifestFile>[] = []
  #part: OpenPart | undefined
  #opened = 0

  constructor(options: PartWriterOptions) {
    this.#options = options
  }

  /** The name of the file that is being written, or undefined between two files. */
  get current(): string | undefined {
    return this.#part?.name
  }

  async write(block: StoredBlock): Promise<void> {
    this.#part ??= await this.#open()
    await this.#append(this.#part, block)
    if (this.#part.bytes < this.#options.fileBytes) return
    // One upload may be in completion while the next file is written, no more.
    await this.#files.at(-1)
    this.#close(this.#part)
  }

  /** Completes the last file. Gives all files in the order of their rows; none when no row was written. */
  async end(): Promise<readonly ManifestFile[]> {
    if (this.#part !== undefined) this.#close(this.#part)
    return Promise.all(this.#files)
  }

  /** Gives up: running uploads are aborted and have ended, one way or the other, when this resolves. */
  async abort(reason: unknown): Promise<void> {
    this.#part?.channel.fail(reason)
    await Promise.allSettled([...this.#files, this.#part?.uploaded])
  }

  async #open(): Promise<OpenPart> {
    const { store, keyOf, compression, signal } = this.#options
    const name = fileName(this.#opened++, { compression })
    const channel = new Channel<Uint8Array>(WAITING_BLOCKS)
    const uploaded = store.put(keyOf(name), channel, { signal, contentType: contentTypes[compression] })
    // Its failure reaches the writer through the channel, and `#close` awaits the promise itself.
    uploaded.catch((error: unknown) => channel.fail(error))
    const part: OpenPart = { name, hash: createHash('sha256'), channel, uploaded, rows: 0, bytes: 0 }
    await this.#append(part, { bytes: this.#options.header, rows: 0 })
    return part
  }

  async #append(part: OpenPart, block: StoredBlock): Promise<void> {
    await part.channel.push(block.bytes)
    part.hash.update(block.bytes)
    part.bytes += block.bytes.byteLength
    part.rows += block.rows
  }

  #close(part: OpenPart): void {
    this.#part = undefined
    part.channel.end()
    const { name, rows, bytes } = part
    const sha256 = part.hash.digest('hex')
    const file = part.uploaded.then(({ etag }) => ({ name, rows, bytes, sha256, etag }))
    file.catch(() => undefined)
    this.#files.push(file)
  }
}
