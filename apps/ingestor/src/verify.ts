import { createHash } from 'node:crypto'
import { DataError } from '@common-handlers/core'
import { type Manifest, type ManifestFile, runPrefix } from '@common-handlers/dataset'
import type { ObjectInfo, ObjectStore } from '@common-handlers/storage'

/**
 * Checks the files of a run against its manifest: each is there, has its size, and the checksum that the store keeps is
 * the one it answered when the file was written. Where the store answers another one (a copied file, a folder on a
 * disk), or when asked to, the bytes are read whole and compared by SHA-256. A file that no manifest speaks of would be
 * read by Trino too, so it is an error as well.
 * @throws DataError `INGESTOR_FILE_MISSING`, `INGESTOR_FILE_SIZE`, `INGESTOR_FILE_CHECKSUM`, `INGESTOR_FILE_UNKNOWN`
 */
export async function verifyFiles(
  store: ObjectStore,
  manifest: Manifest,
  options: { readonly signal: AbortSignal; readonly whole?: boolean | undefined },
): Promise<{ readonly read: number }> {
  const { signal, whole = false } = options
  const folder = runPrefix(manifest.dataset, manifest.runId)
  const stored = new Map<string, ObjectInfo>()
  for await (const object of store.list(folder, { signal })) stored.set(object.key.slice(folder.length), object)
  // A folder on a disk keeps no checksum: its etag says when the file was written, not what it holds.
  const keepsChecksums = !store.url.startsWith('file:')
  let read = 0
  for (const file of manifest.files) {
    const object = stored.get(file.name)
    const where = `${store.url}/${folder}${file.name}`
    if (object === undefined) throw fault('MISSING', where, 'is in the manifest and not in the store')
    if (object.size !== file.bytes) throw fault('SIZE', where, `has ${object.size} bytes, the manifest says ${file.bytes}`)
    stored.delete(file.name)
    if (!whole && keepsChecksums && object.etag === file.etag) continue
    await compareChecksum(store, object.key, file, where, signal)
    read++
  }
  const unknown = [...stored.keys()].find((name) => !/^[_.]/.test(name))
  if (unknown !== undefined) {
    throw fault('UNKNOWN', `${store.url}/${folder}${unknown}`, 'lies in the folder of the run and is not in its manifest')
  }
  return { read }
}

async function compareChecksum(
  store: ObjectStore,
  key: string,
  file: ManifestFile,
  where: string,
  signal: AbortSignal,
): Promise<void> {
  const hash = createHash('sha256')
  for await (const chunk of await store.get(key, { signal })) hash.update(chunk as Uint8Array)
  const found = hash.digest('hex')
  if (found !== file.sha256)
    throw fault('CHECKSUM', where, `differs from its checksum: sha-256 ${found}, the manifest says ${file.sha256}`)
}

function fault(reason: 'MISSING' | 'SIZE' | 'CHECKSUM' | 'UNKNOWN', file: string, what: string): DataError {
  return new DataError(`${file} ${what}. Nothing was loaded`, {
    code: `INGESTOR_FILE_${reason}`,
    where: { file },
    context: { file },
  })
}
