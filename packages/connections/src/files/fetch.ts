import { createHash, type Hash } from 'node:crypto'
import { HandlerError } from '@common-handlers/core'
import type { ObjectStore } from '@common-handlers/storage'
import type { ConnectorContext } from '../contract.ts'
import { type IngestedItem, ingestedItem } from '../ingestion.ts'
import { fileTooLarge, nameRefused, storeDisagrees } from './errors.ts'
import { findFiles, type FoundFile } from './find.ts'
import {
  type Destination,
  type FilesQuery,
  type LeftFile,
  parseDestination,
  parseSelection,
  placeOf,
  type Selection,
  watermarkOf,
} from './query.ts'
import { readFile } from './read.ts'
import type { ReadableFiles, RemoteFiles } from './remote-files.ts'
import { MARKERS_FOLDER, SeenMarkers } from './seen.ts'

/** What the connector of a file protocol does to fetch: lists, and brings each file whole to where it shall go. */
export async function* fetchFiles(
  protocol: string,
  remote: RemoteFiles,
  query: FilesQuery,
  context: ConnectorContext,
): AsyncGenerator<IngestedItem, void, undefined> {
  const selection = parseSelection(query)
  const destination = parseDestination(typeof query === 'string' ? {} : query)
  const found = await findFiles(remote, selection, context.signal)
  const asked = { protocol, query: `${selection.path === '' ? '.' : selection.path} ${selection.pattern}` }
  yield* transfer(remote, found, { asked, destination, selection, ...context })
}

/** What a transfer is given beside its files. */
export interface Transfer extends ConnectorContext {
  readonly asked: { readonly protocol: string; readonly query: string }
  readonly destination: Destination
  /** Of files that were listed: they have a place to go on from. */
  readonly selection?: Selection | undefined
}

/** Brings files to their destination one after the other, without those that are there. */
export async function* transfer(
  remote: ReadableFiles,
  found: Iterable<FoundFile> | AsyncIterable<FoundFile>,
  { asked, destination, selection, signal, logger }: Transfer,
): AsyncGenerator<IngestedItem, void, undefined> {
  const { prefix, again, maxFileBytes, onLeft } = destination
  const store = await openStore(destination)
  try {
    const seen = store === undefined ? undefined : await SeenMarkers.load(store, prefix, signal)
    let position = 0
    // A file that is left must come after the next watermark too: those behind it keep the one before it.
    let reached = selection?.after
    let complete = true
    for await (const { file, relative } of found) {
      const source = remote.urlOf(file.path)
      const key = keyOf(relative, prefix)
      const isSeen = seen?.has(key, source, file) ?? false
      const facts = { source, key: file.path, lineage: { ...asked, position } }
      if (selection?.dryRun === true) {
        const { path, size, modifiedAt } = file
        const data = { path, size: size ?? null, modifiedAt: modifiedAt?.toISOString() ?? null, seen: isSeen }
        yield ingestedItem({ ...facts, data })
        position += 1
        continue
      }
      let item: Omit<IngestedItem, 'watermark'> | undefined
      if (!isSeen || again) {
        if (store === undefined && (file.size ?? 0) > maxFileBytes) throw fileTooLarge(file.path, maxFileBytes)
        const content = new Content(readFile(remote, file, signal))
        try {
          await seen?.forget(key, signal)
          const kept =
            store === undefined
              ? { data: await gathered(content, file.path, maxFileBytes) }
              : await stored(store, key, content, file.mediaType, signal)
          const had = { ...content.finish(), fetchedAt: new Date().toISOString() }
          item = { ...facts, ...kept, ...had, mediaType: file.mediaType ?? mediaTypeOf(relative) }
          await seen?.add(key, source, file, had, signal)
        } catch (error) {
          signal.throwIfAborted()
          const reason = whyLeft(content.failure)
          if (reason === undefined) throw error
          logger.warn({ source, reason }, 'a file is left')
          onLeft?.({ path: file.path, reason })
          complete &&= reason === 'gone'
        }
      }
      if (complete) reached = placeOf(file)
      if (item === undefined) continue
      yield selection === undefined || reached === undefined ? item : { ...item, watermark: watermarkOf(reached) }
      position += 1
    }
  } finally {
    if (typeof destination.target === 'string') await store?.close()
  }
}

async function openStore({ target }: Destination): Promise<ObjectStore | undefined> {
  if (typeof target !== 'string') return target
  const { LocalFolderStore } = await import('@common-handlers/storage')
  return new LocalFolderStore({ folder: target })
}

function keyOf(relative: string, prefix: string): string {
  // A store of another system takes its own separator for a border.
  if (process.platform === 'win32' && relative.includes('\\')) throw nameRefused(relative, 'it holds "\\"')
  if (relative.startsWith(MARKERS_FOLDER)) throw nameRefused(relative, `the markers of the target stand in ${MARKERS_FOLDER}`)
  return `${prefix}${relative}`
}

/** Why a file whose reading failed is none of the run's. */
function whyLeft(failure: unknown): LeftFile['reason'] | undefined {
  if (!HandlerError.is(failure)) return undefined
  return failure.code === 'FILES_CHANGED' ? 'changed' : failure.outcome === 'not-found' ? 'gone' : undefined
}

/** What is read, counted and hashed on its way, and why it ended if it did. */
class Content implements AsyncIterable<Uint8Array> {
  readonly #chunks: AsyncIterable<Uint8Array>
  readonly #hash: Hash = createHash('sha256')
  bytes = 0
  failure: unknown

  constructor(chunks: AsyncIterable<Uint8Array>) {
    this.#chunks = chunks
  }

  /** What was read; to be asked once. */
  finish(): { readonly bytes: number; readonly checksum: string } {
    return { bytes: this.bytes, checksum: `sha256:${this.#hash.digest('hex')}` }
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void, undefined> {
    try {
      for await (const chunk of this.#chunks) {
        this.#hash.update(chunk)
        this.bytes += chunk.byteLength
        yield chunk
      }
    } catch (error) {
      this.failure = error
      throw error
    }
  }
}

async function gathered(content: Content, path: string, maxFileBytes: number): Promise<Uint8Array> {
  const chunks: Uint8Array[] = []
  for await (const chunk of content) {
    if (content.bytes > maxFileBytes) throw fileTooLarge(path, maxFileBytes)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

async function stored(
  store: ObjectStore,
  key: string,
  content: Content,
  contentType: string | undefined,
  signal: AbortSignal,
): Promise<{ readonly location: string }> {
  const { size } = await store.put(key, content, { signal, ...(contentType === undefined ? {} : { contentType }) })
  if (size !== content.bytes) throw storeDisagrees(key, content.bytes, size)
  const path = store.url.startsWith('file:') ? key.split('/').map(encodeURIComponent).join('/') : key
  return { location: `${store.url.replace(/\/$/, '')}/${path}` }
}

const mediaTypes: Readonly<Record<string, string>> = {
  csv: 'text/csv',
  json: 'application/json',
  ndjson: 'application/x-ndjson',
  txt: 'text/plain',
  xml: 'application/xml',
  gz: 'application/gzip',
  zip: 'application/zip',
  parquet: 'application/vnd.apache.parquet',
}

/** What the name says, where the server says nothing. */
const mediaTypeOf = (name: string): string =>
  mediaTypes[/\.([a-z0-9]+)$/i.exec(name)?.[1]?.toLowerCase() ?? ''] ?? 'application/octet-stream'
