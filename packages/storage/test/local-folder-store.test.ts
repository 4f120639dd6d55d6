import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdir, mkdtemp, readdir, rm, stat, symlink, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, describe, expect, it } from 'vitest'
import { LocalFolderStore, MemoryStore, type ObjectStore } from '@common-handlers/storage'
import { toStorageError } from '../src/errors.ts'
import { hasEnded, thisProcess, withLock } from '../src/process-lock.ts'

const root = await mkdtemp(join(tmpdir(), 'local-store-'))
afterAll(() => rm(root, { recursive: true }))
const newFolder = (): Promise<string> => mkdtemp(join(root, 'f-'))

async function keysOf(store: ObjectStore, prefix = ''): Promise<string[]> {
  const keys: string[] = []
  for await (const { key } of store.list(prefix)) keys.push(key)
  return keys
}

const writer = join(import.meta.dirname, 'racing-writer.ts')
const start = (folder: string, ...args: string[]): ChildProcess =>
  spawn(process.execPath, ['--conditions=@common-handlers/source', writer, folder, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })

async function said(child: ChildProcess): Promise<string> {
  let text = ''
  child.stdout?.on('data', (chunk: Buffer) => (text += chunk.toString()))
  await once(child, 'close')
  return text.trim()
}

describe('processes on one folder', () => {
  it('agree on one writer of each absent key, and lose no count', async () => {
    const folder = await newFolder()
    const store = new LocalFolderStore({ folder, fsync: false })
    await store.put('counter', '0')
    const answers = await Promise.all([1, 2, 3, 4].map((id) => said(start(folder, 'race', String(id)))))
    const won = answers.flatMap((answer) => JSON.parse(answer) as string[])
    expect(won.toSorted()).toEqual(Array.from({ length: 20 }, (_, key) => `key-${String(key).padStart(2, '0')}`))
    expect((await store.getBytes('counter')).bytes.toString()).toBe('100')
  })

  it('go on after one was killed while it wrote and held a lock; what it left is removed', async () => {
    const folder = await newFolder()
    const child = start(folder, 'hang')
    if (child.stdout !== null) await once(child.stdout, 'data')
    expect(await readdir(join(folder, '.storage', 'writing'))).toHaveLength(1)
    expect(await readdir(join(folder, '.storage', 'locks'))).toHaveLength(1)
    child.kill('SIGKILL')
    await once(child, 'close')
    const store = new LocalFolderStore({ folder })
    await store.put('held', 'new')
    expect((await store.getBytes('held')).bytes.toString()).toBe('new')
    expect(await keysOf(store)).toEqual(['held'])
    expect(await readdir(join(folder, '.storage', 'writing'))).toEqual([])
    expect(await readdir(join(folder, '.storage', 'locks'))).toEqual([])
  })

  it('know a process from another one with its number', () => {
    expect(hasEnded(thisProcess)).toBe(false)
    expect(hasEnded({ ...thisProcess, pid: 2 ** 22 + 1 })).toBe(true)
    expect(hasEnded({ ...thisProcess, host: 'elsewhere' })).toBeUndefined()
    if (thisProcess.started !== '') expect(hasEnded({ ...thisProcess, started: '1' })).toBe(true)
  })

  it('wait for a lock that is held, but not for ever, and take over an old one of another machine', async () => {
    const file = join(await newFolder(), 'lock')
    const inner = await withLock(file, { waitMs: 1000 }, () => withLock(file, { waitMs: 30 }, () => Promise.resolve('never')))
    expect(inner).toEqual({ held: true, value: { held: false } })
    await writeFile(file, JSON.stringify({ ...thisProcess, host: 'elsewhere', token: 'x' }))
    expect(await withLock(file, { waitMs: 30 }, () => Promise.resolve('no'))).toEqual({ held: false })
    const old = new Date(Date.now() - 120_000)
    await utimes(file, old, old)
    expect(await withLock(file, { waitMs: 1000 }, () => Promise.resolve('yes'))).toEqual({ held: true, value: 'yes' })
    const abort = new AbortController()
    const waiting = withLock(file, { waitMs: 1000 }, () => {
      setTimeout(() => abort.abort(new Error('stop')), 20)
      return withLock(file, { waitMs: 60_000, signal: abort.signal }, () => Promise.resolve())
    })
    await expect(waiting).rejects.toThrow('stop')
  })
})

describe('keys', () => {
  for (const store of [new LocalFolderStore({ folder: join(root, 'keys') }), new MemoryStore()]) {
    it(`that could leave the store or be mistaken are refused by ${store.constructor.name}`, async () => {
      for (const key of [
        '',
        '/',
        '/etc/passwd',
        '..',
        '../x',
        'a/../../x',
        'a//b',
        'a/',
        './a',
        'a/.',
        'a\0b',
        '\uD800',
        '.storage/x',
        'x'.repeat(1025),
      ]) {
        const refused = { code: 'STORAGE_KEY_INVALID', outcome: 'config' }
        await expect(store.put(key, 'x'), key).rejects.toMatchObject(refused)
        await expect(store.getBytes(key), key).rejects.toMatchObject(refused)
        await expect(store.delete(key), key).rejects.toMatchObject(refused)
      }
      await expect(keysOf(store, '../')).rejects.toMatchObject({ code: 'STORAGE_KEY_INVALID' })
    })
  }

  it('lead to no file outside of the folder by way of a link in a listing', async () => {
    const folder = await newFolder()
    await mkdir(join(folder, 'a'))
    await symlink(root, join(folder, 'a', 'link'))
    const store = new LocalFolderStore({ folder })
    await store.put('a/x', 'x')
    expect(await keysOf(store)).toEqual(['a/x'])
  })

  it('cannot be the beginning of one another in a folder', async () => {
    const store = new LocalFolderStore({ folder: await newFolder() })
    await store.put('a/b', 'x')
    await expect(store.put('a', 'x')).rejects.toMatchObject({ code: 'STORAGE_KEY_CONFLICT', outcome: 'conflict' })
    await expect(store.putIfAbsent('a', 'x')).rejects.toMatchObject({ code: 'STORAGE_KEY_CONFLICT' })
    await expect(store.put('a/b/c', 'x')).rejects.toMatchObject({ code: 'STORAGE_KEY_CONFLICT' })
    await expect(store.put(`${'x'.repeat(300)}/y`, 'x')).rejects.toMatchObject({ code: 'STORAGE_KEY_INVALID' })
  })
})

describe('the folder', () => {
  it('is a path or a file URL, is made with the first write, and empty folders go with their last object', async () => {
    const folder = join(await newFolder(), 'new', 'sp ace')
    const store = new LocalFolderStore({ folder: pathToFileURL(folder).href })
    expect(store.url).toBe(pathToFileURL(folder).href)
    expect(new LocalFolderStore({ folder: `${folder}/` }).url).toBe(store.url)
    expect(await keysOf(store)).toEqual([])
    await expect(stat(folder)).rejects.toThrow('ENOENT')
    await store.put('a/b/c', 'x')
    await store.put('a/d', 'x')
    await store.delete('a/b/c')
    expect(await readdir(join(folder, 'a'))).toEqual(['d'])
    expect(() => new LocalFolderStore({ folder: 's3://bucket' })).toThrow(
      expect.objectContaining({ code: 'STORAGE_CONFIG_INVALID' }),
    )
    expect(() => new LocalFolderStore({ folder: '' })).toThrow('folder')
    expect(() => new LocalFolderStore({ folder: 'x', nope: 1 } as never)).toThrow('nope')
  })

  it('answers a check with what was tried', async () => {
    const check = await new LocalFolderStore({ folder: await newFolder() }).check()
    expect(check).toMatchObject({ ok: true })
    expect(check.steps.map((step) => step.name)).toEqual(['write an object', 'read it', 'refuse to write it again', 'delete it'])
    const file = join(root, 'a-file')
    await writeFile(file, 'x')
    expect(await new LocalFolderStore({ folder: join(file, 'x') }).check()).toMatchObject({ ok: false, steps: [{ ok: false }] })
  })

  it('without rights is a permission error', async () => {
    if (process.getuid?.() === 0)
      return expect(toStorageError(errno('EACCES'), { folder: root, action: 'write' })).toMatchObject({
        code: 'STORAGE_FORBIDDEN',
      })
    const folder = await newFolder()
    await chmod(folder, 0o500)
    await expect(new LocalFolderStore({ folder }).put('x', 'x')).rejects.toMatchObject({
      code: 'STORAGE_FORBIDDEN',
      outcome: 'permission',
    })
    await chmod(folder, 0o700)
    return undefined
  })

  it.runIf(process.platform === 'linux')('on a disk that is full is a capacity error that names it', async () => {
    // /dev/full answers as a disk without room does.
    const error = toStorageError(await writeFile('/dev/full', 'x').catch((thrown: unknown) => thrown), {
      folder: root,
      key: 'x',
      action: 'write',
    })
    expect(error).toMatchObject({
      code: 'STORAGE_FULL',
      outcome: 'capacity',
      context: { folder: root, key: 'x' },
      message: expect.stringContaining(root),
    })
  })
})

describe('big objects', () => {
  it('keep their etag while they stay, and change it when they are written again', async () => {
    const store = new LocalFolderStore({ folder: await newFolder() })
    const bytes = Buffer.alloc(200_000, 'a')
    const first = await store.put('x', bytes)
    expect((await store.head('x')).etag).toBe(first.etag)
    const second = await store.putIfMatch('x', bytes, first.etag)
    expect(second.written).toBe(true)
    expect((await store.head('x')).etag).not.toBe(first.etag)
    expect(await store.putIfMatch('x', bytes, first.etag)).toEqual({ written: false })
  })

  it('are streamed, so that their size is no matter of memory; close() waits for their readers, then ends them', async () => {
    const store = new LocalFolderStore({ folder: await newFolder(), fsync: false })
    const chunk = Buffer.alloc(1024 * 1024, 'a')
    const before = process.memoryUsage().rss
    await store.put(
      'x',
      (async function* () {
        for (let count = 0; count < 400; count++) yield await Promise.resolve(chunk)
      })(),
    )
    let size = 0
    for await (const part of await store.get('x')) size += (part as Buffer).length
    expect(size).toBe(400 * chunk.length)
    expect(process.memoryUsage().rss - before).toBeLessThan(150 * 1024 * 1024)
    const abort = new AbortController()
    const stopped = await store.get('x', { signal: abort.signal })
    abort.abort(new Error('stop'))
    await expect(stopped.toArray()).rejects.toThrow('stop')
    await store.close()
  })
})

function errno(code: string): Error {
  return Object.assign(new Error(`${code}: of the system`), { code })
}

describe('errors of the file system', () => {
  const table: [errno: string, code: string, outcome: string, retry: string][] = [
    ['ENOENT', 'STORAGE_NOT_FOUND', 'not-found', 'never'],
    ['EACCES', 'STORAGE_FORBIDDEN', 'permission', 'never'],
    ['EPERM', 'STORAGE_FORBIDDEN', 'permission', 'never'],
    ['EROFS', 'STORAGE_FORBIDDEN', 'permission', 'never'],
    ['ENOSPC', 'STORAGE_FULL', 'capacity', 'never'],
    ['EDQUOT', 'STORAGE_FULL', 'capacity', 'never'],
    ['EFBIG', 'STORAGE_FULL', 'capacity', 'never'],
    ['EMFILE', 'STORAGE_TOO_MANY_FILES', 'capacity', 'safe'],
    ['ENFILE', 'STORAGE_TOO_MANY_FILES', 'capacity', 'safe'],
    ['EISDIR', 'STORAGE_KEY_CONFLICT', 'conflict', 'never'],
    ['ENOTDIR', 'STORAGE_KEY_CONFLICT', 'conflict', 'never'],
    ['ENAMETOOLONG', 'STORAGE_KEY_INVALID', 'config', 'never'],
    ['EIO', 'STORAGE_FAILED', 'remote', 'if-idempotent'],
  ]
  for (const [name, code, outcome, retry] of table) {
    it(`${name} is ${code}`, () => {
      expect(toStorageError(errno(name), { folder: '/f', key: 'k', action: 'write' })).toMatchObject({
        code,
        outcome,
        retry,
        context: { folder: '/f', key: 'k' },
      })
    })
  }
  it('leaves other errors as they are', () => {
    const error = new Error('x')
    expect(toStorageError(error, { folder: '/f', action: 'write' })).toBe(error)
  })
})
