import { randomUUID } from 'node:crypto'
import { mkdir, open, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { readEnvironment } from '../config.ts'

/** Something that can be fetched once and kept. */
export interface Artifact {
  readonly name: string
  readonly version: string
  /** Fills the folder `into`; `scratch` is another folder that is thrown away afterwards. */
  fetch(into: string, scratch: string): Promise<void>
}

const markerName = '.complete.json'
const lockTouchMs = 3_000
const lockStaleMs = 20_000

/** The folder of an artifact in the cache. Version and platform are part of the name, so a home folder may be shared. */
export function artifactFolder(artifact: Pick<Artifact, 'name' | 'version'>): string {
  return join(readEnvironment().cacheDirectory, `${artifact.name}-${artifact.version}-${process.platform}-${process.arch}`)
}

/** The folder if the artifact is there and whole. */
export async function cached(artifact: Pick<Artifact, 'name' | 'version'>): Promise<string | undefined> {
  const folder = artifactFolder(artifact)
  try {
    const marker: unknown = JSON.parse(await readFile(join(folder, markerName), 'utf8'))
    const { version } = marker as { version?: unknown }
    return version === artifact.version ? folder : undefined
  } catch {
    return undefined
  }
}

/** The folder of the artifact, fetched first if it is not in the cache. It appears whole or not at all. */
export async function provide(artifact: Artifact): Promise<string> {
  const folder = artifactFolder(artifact)
  const present = await cached(artifact)
  if (present !== undefined) return present
  await mkdir(readEnvironment().cacheDirectory, { recursive: true })
  return await withLock(`${folder}.lock`, async () => {
    const meanwhile = await cached(artifact)
    if (meanwhile !== undefined) return meanwhile
    const work = `${folder}.${randomUUID().slice(0, 8)}.tmp`
    try {
      const into = join(work, 'tree')
      const scratch = join(work, 'scratch')
      await mkdir(into, { recursive: true })
      await mkdir(scratch)
      await artifact.fetch(into, scratch)
      const marker = { name: artifact.name, version: artifact.version, fetchedAt: new Date().toISOString() }
      await writeFile(join(into, markerName), `${JSON.stringify(marker)}\n`)
      await rm(folder, { recursive: true, force: true })
      await rename(into, folder)
      return folder
    } finally {
      await rm(work, { recursive: true, force: true })
    }
  })
}

/**
 * Runs `work` while holding a lock file, whose time stamp says that its holder is alive.
 * It saves a second download; that the result is whole does not rest on it but on the rename.
 */
export async function withLock<T>(file: string, work: () => Promise<T>): Promise<T> {
  const token = randomUUID()
  for (;;) {
    try {
      const handle = await open(file, 'wx')
      await handle.writeFile(token)
      await handle.close()
      break
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
      const age = await stat(file).then(
        (found) => Date.now() - found.mtimeMs,
        () => 0,
      )
      if (age > lockStaleMs) await rm(file, { force: true })
      else await sleep(200)
    }
  }
  const alive = setInterval(() => {
    const now = new Date()
    utimes(file, now, now).catch(() => undefined)
  }, lockTouchMs)
  try {
    return await work()
  } finally {
    clearInterval(alive)
    const holder = await readFile(file, 'utf8').catch(() => undefined)
    if (holder === token) await rm(file, { force: true })
  }
}
