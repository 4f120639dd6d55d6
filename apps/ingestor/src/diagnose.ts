import { DataError } from '@common-handlers/core'
import { decompress, findBrokenRow, type Manifest, runPrefix } from '@common-handlers/dataset'
import type { ObjectStore } from '@common-handlers/storage'

/**
 * Reads the files of a run, streaming, for the first row that is not as the manifest says, and names file, line and
 * column. Undefined when every row is as it should be: then something else was wrong.
 */
export async function findBroken(
  store: ObjectStore,
  manifest: Manifest,
  options: { readonly signal: AbortSignal; readonly cause: unknown; readonly suspect?: string | undefined },
): Promise<DataError | undefined> {
  const { signal, cause, suspect } = options
  const folder = runPrefix(manifest.dataset, manifest.runId)
  const names = manifest.files.map((file) => file.name)
  for (const name of suspect === undefined ? names : [suspect]) {
    const stream = decompress(await store.get(folder + name, { signal }), manifest.format.compression)
    const found = await findBrokenRow(stream, manifest.columns, manifest.format, { file: name })
    stream.destroy()
    if (found === undefined) continue
    const file = `${store.url}/${folder}${name}`
    const { line, column, problem } = found
    const place = `line ${line}${column === undefined ? '' : `, column "${column}"`}`
    return new DataError(`${file}, ${place}: ${problem}. Nothing of run ${manifest.runId} was loaded`, {
      code: 'INGESTOR_ROW_BROKEN',
      where: { file, line, ...(column === undefined ? {} : { column }) },
      cause,
    })
  }
  return undefined
}
