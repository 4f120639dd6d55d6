import { mkdir, mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { type Artifact, artifactFolder, cached, provide, withLock } from '../src/provision/cache.ts'

let root: string

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'testkit-cache-'))
  vi.stubEnv('COMMON_HANDLERS_CACHE', join(root, 'cache'))
})

afterEach(async () => {
  vi.unstubAllEnvs()
  await rm(root, { recursive: true })
})

function artifact(version: string, fetch: Artifact['fetch']): Artifact {
  return { name: 'thing', version, fetch }
}

describe('provide', () => {
  it('fetches once, however many ask', async () => {
    const fetch = vi.fn<Artifact['fetch']>(async (into) => {
      await sleep(50)
      await writeFile(join(into, 'file'), 'content')
    })
    const folders = await Promise.all([1, 2, 3].map(() => provide(artifact('1', fetch))))
    expect(fetch).toHaveBeenCalledTimes(1)
    expect(new Set(folders).size).toBe(1)
    expect(await readFile(join(folders[0] ?? '', 'file'), 'utf8')).toBe('content')
    await provide(artifact('1', fetch))
    expect(fetch).toHaveBeenCalledTimes(1)
  })

  it('leaves nothing of a fetch that failed, and tries again', async () => {
    const broken = artifact('1', async (into, scratch) => {
      await writeFile(join(into, 'half'), '')
      await writeFile(join(scratch, 'download'), '')
      throw new Error('the line broke')
    })
    await expect(provide(broken)).rejects.toThrow('the line broke')
    expect(await readdir(join(root, 'cache'))).toEqual([])
    await expect(provide(artifact('1', async () => undefined))).resolves.toBe(artifactFolder(broken))
  })

  it('replaces a folder that is not whole, and keeps versions apart', async () => {
    const thing = artifact('2', async (into) => await writeFile(join(into, 'file'), 'whole'))
    await mkdir(artifactFolder(thing), { recursive: true })
    await writeFile(join(artifactFolder(thing), 'file'), 'half')
    expect(await cached(thing)).toBeUndefined()
    expect(await readFile(join(await provide(thing), 'file'), 'utf8')).toBe('whole')
    expect(await cached({ name: 'thing', version: '3' })).toBeUndefined()
  })
})

describe('withLock', () => {
  it('lets one in at a time', async () => {
    let inside = 0
    let most = 0
    const work = async (): Promise<void> => {
      most = Math.max(most, ++inside)
      await sleep(20)
      inside--
    }
    await Promise.all([1, 2, 3].map(() => withLock(join(root, 'lock'), work)))
    expect(most).toBe(1)
    expect(await readdir(root)).toEqual([])
  })

  it('takes over the lock of a process that died', async () => {
    const file = join(root, 'lock')
    await writeFile(file, 'gone')
    const minuteAgo = new Date(Date.now() - 60_000)
    await utimes(file, minuteAgo, minuteAgo)
    await expect(withLock(file, async () => 'mine')).resolves.toBe('mine')
  })
})
