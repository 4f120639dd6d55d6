import { DataError } from '@common-handlers/core'
import { type BrokenRow, decompress, findBrokenRow, type Manifest, runPrefix } from '@common-handlers/dataset'
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
    const file = `${store.url}/${folder}${name}`
    const stream = decompress(await store.get(folder + name, { signal }), manifest.format.compression)
    try {
      const found = await findBrokenRow(stream, manifest.columns, manifest.format, { file: name })
      if (found !== undefined) return rowBroken(manifest, file, found, cause)
    } catch (error) {
      if (!isCompression(error)) throw error
      return new DataError(
        `${file} cannot be decompressed: ${(error as Error).message}. Nothing of run ${manifest.runId} was loaded`,
        {
          code: 'INGESTOR_FILE_CORRUPT',
          where: { file },
          cause,
        },
      )
    } finally {
      stream.destroy()
    }
  }
  return undefined
}

function rowBroken({ runId }: Manifest, file: string, { line, column, problem }: BrokenRow, cause: unknown): DataError {
  const place = `line ${line}${column === undefined ? '' : `, column "${column}"`}`
  return new DataError(`${file}, ${place}: ${problem}. Nothing of run ${runId} was loaded`, {
    code: 'INGESTOR_ROW_BROKEN',
    where: { file, line, ...(column === undefined ? {} : { column }) },
    cause,
  })
}

/** `Z_DATA_ERROR`, `ZSTD_error_corruption_detected` */
const isCompression = (error: unknown): boolean => /^(Z_|ZSTD_)/.test(String((error as { code?: unknown } | null)?.code))
