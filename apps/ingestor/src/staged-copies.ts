import { pipeline, Readable } from 'node:stream'
import { constants, createGzip } from 'node:zlib'
import { decompress, fileName, ledgerPrefix, type Manifest, runPrefix, transcode } from '@common-handlers/dataset'
import type { ObjectStore } from '@common-handlers/storage'

/** Whether Trino can read the files where they lie: a row must be a line. */
export function needsTranscoding(manifest: Manifest): boolean {
  return manifest.format.dialect !== 'one-row-a-line'
}

/** Where copies of a run stand that Trino can read: beside the ledger, never among the files of the run. */
export function stagePrefix(manifest: Manifest, ledgerName: string): string {
  return `${ledgerPrefix(manifest.dataset, ledgerName)}${manifest.runId}/stage/`
}

/** Writes the files of a run once more, a row a line, one file after the other and without holding one. */
export async function transcodeRun(
  store: ObjectStore,
  manifest: Manifest,
  ledgerName: string,
  options: { readonly signal: AbortSignal },
): Promise<void> {
  const folder = runPrefix(manifest.dataset, manifest.runId)
  const stage = stagePrefix(manifest, ledgerName)
  for (const [index, { name }] of manifest.files.entries()) {
    const plain = decompress(await store.get(folder + name, options), manifest.format.compression)
    const rows = Readable.from(transcode(plain, manifest.format, { file: name }), { objectMode: false })
    // The reader of the last one gets the error; the callback keeps it from being thrown a second time.
    const packed = pipeline(rows, createGzip({ level: constants.Z_BEST_SPEED }), () => undefined)
    await store.put(stage + fileName(index, { compression: 'gzip' }), packed, options)
  }
}

export async function removeCopies(
  store: ObjectStore,
  manifest: Manifest,
  ledgerName: string,
  options: { readonly signal: AbortSignal },
): Promise<void> {
  const keys: string[] = []
  for await (const { key } of store.list(stagePrefix(manifest, ledgerName), options)) keys.push(key)
  for (const key of keys) await store.delete(key, options)
}
