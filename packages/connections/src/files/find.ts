import { HandlerError, retry } from '@common-handlers/core'
import { nameRefused } from './errors.ts'
import { comparePlaces, isMatch, mayHold, placeOf, type Selection } from './query.ts'
import { joinPath, type ReadableFiles, type RemoteEntry, type RemoteFiles } from './remote-files.ts'

/** A file that was asked for. */
export interface FoundFile {
  readonly file: RemoteEntry
  /** Its path below the folder: where it stands in a target. */
  readonly relative: string
}

/** The files of a selection in their order. Takes memory for each of them, and for no file of the server beside. */
export async function findFiles(remote: RemoteFiles, selection: Selection, signal: AbortSignal): Promise<FoundFile[]> {
  const { path, pattern, since, after } = selection
  const found: FoundFile[] = []
  const take = async (listed: RemoteEntry, relative: string): Promise<void> => {
    if (!isMatch(relative, pattern)) return
    const file = listed.vague === true ? await exact(remote, listed, signal) : listed
    if (file === undefined) return
    const place = placeOf(file)
    const isLater = place.modifiedAt >= since && (after === undefined || comparePlaces(place, after) > 0)
    // Of one without a time nobody can say that it is old.
    const isNew = file.modifiedAt === undefined || isLater
    if (isNew) found.push({ file, relative })
  }
  const walk = async (folder: string, above: string): Promise<void> => {
    const entries = contents(remote, folder, signal)
    // A folder may be taken away while others are looked into, but not the one that was asked for.
    for (const entry of above === '' ? await entries : ((await entries.catch(missingAsUndefined)) ?? [])) {
      const name = nameIn(folder, entry)
      if (name === undefined) continue
      const relative = `${above}${name}`
      if (entry.kind === 'file') await take(entry, relative)
      else if (mayHold(relative, pattern)) await walk(entry.path, `${relative}/`)
    }
  }
  const top = path === '' || path.endsWith('/') ? undefined : await stat(remote, path, signal)
  if (top?.kind === 'file') await take(top, path.slice(path.lastIndexOf('/') + 1))
  else await walk(path, '')
  return found.toSorted((one, other) => comparePlaces(placeOf(one.file), placeOf(other.file)))
}

/** A file that was listed; undefined where it is gone, or is none. */
async function exact(remote: RemoteFiles, { path }: RemoteEntry, signal: AbortSignal): Promise<RemoteEntry | undefined> {
  const found = await stat(remote, path, signal).catch(missingAsUndefined)
  if (found?.kind !== 'file') return undefined
  const { vague: _vague, ...file } = found
  return file
}

function missingAsUndefined(error: unknown): undefined {
  if (!HandlerError.is(error) || error.outcome !== 'not-found') throw error
}

/** What the server says of a file, asked again where the connection breaks. */
export function stat(remote: ReadableFiles, path: string, signal: AbortSignal): Promise<RemoteEntry> {
  const { policy } = remote
  return retry(() => remote.stat(path, { signal }), { policy, signal, idempotent: true })
}

function contents(remote: RemoteFiles, folder: string, signal: AbortSignal): Promise<RemoteEntry[]> {
  const { policy } = remote
  return retry(() => remote.list(folder, { signal }), { policy, signal, idempotent: true })
}

/** The name of an entry; undefined for those that stand for the folder itself and the one above. */
function nameIn(folder: string, { path, kind }: RemoteEntry): string | undefined {
  const above = joinPath(folder, '')
  const name = path.startsWith(above) ? path.slice(above.length) : undefined
  if (name === undefined || name === '' || /[/\0]/.test(name)) {
    throw nameRefused(path, 'it does not stand in the folder that was listed')
  }
  if (name !== '.' && name !== '..') return name
  if (kind === 'folder') return undefined
  throw nameRefused(path, '"." and ".." are no names of files')
}
