import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { inspect } from 'node:util'
import { describeWith, openbaoAdmin } from '@common-handlers/testkit'
import { afterEach, beforeAll, beforeEach, expect, it } from 'vitest'
import { VaultHandler, type VaultHandlerOptions } from '../src/index.ts'
import { failure } from './failure.ts'
import { type RecordingProxy, recordingProxy } from './recording-proxy.ts'

describeWith(['openbao'], 'the cache', ({ openbao }) => {
  const mount = `cache-${randomUUID().slice(0, 8)}`
  const admin = openbaoAdmin(openbao)
  const READ = `GET /v1/${mount}/data/`
  let proxy: RecordingProxy
  let fault: number | undefined
  const vaults: VaultHandler[] = []

  beforeAll(async () => {
    await admin.mount(mount, 'kv', { version: '2' })
  })
  beforeEach(async () => {
    fault = undefined
    proxy = await recordingProxy(openbao.address, { fault: (request) => (request.startsWith(READ) ? fault : undefined) })
  })
  afterEach(async () => {
    for (const vault of vaults.splice(0)) await vault.close()
    await proxy[Symbol.asyncDispose]()
  })

  function caching(cache: VaultHandlerOptions['cache'] = { ttlMs: 60_000 }): VaultHandler {
    const vault = new VaultHandler({ address: proxy.address, token: openbao.rootToken, retry: { attempts: 1 }, cache })
    vaults.push(vault)
    return vault
  }
  const secret = async (data: Record<string, unknown>): Promise<string> => {
    const name = randomUUID().slice(0, 8)
    await admin.putSecret(name, data, mount)
    return `${mount}/${name}`
  }

  it('is off unless it is asked for', async () => {
    const path = await secret({ n: 1 })
    await using vault = new VaultHandler({ address: proxy.address, token: openbao.rootToken })
    await vault.getSecret(path)
    await vault.getSecret(path)
    expect(proxy.count(READ)).toBe(2)
  })

  it('asks once for many readers, and once for its time', async () => {
    const path = await secret({ n: 1, user: 'from-the-vault' })
    const vault = caching({ ttlMs: 500 })
    await Promise.all(Array.from({ length: 20 }, () => vault.getSecret(path)))
    expect(await vault.resolve(`${path}#user`)).toBe('from-the-vault')
    expect(proxy.count(READ)).toBe(1)
    await sleep(550)
    expect(await vault.getSecret(path)).toEqual({ n: 1, user: 'from-the-vault' })
    expect(proxy.count(READ)).toBe(2)
  })

  it('gives each reader a copy, and shows nobody what it holds', async () => {
    const path = await secret({ list: ['unseen-value'] })
    const vault = caching()
    const [one, other] = await Promise.all([vault.getSecret(path), vault.getSecret(path)])
    for (const data of [one, other]) (data['list'] as string[]).push('changed by a reader')
    expect(await vault.getSecret(path)).toEqual({ list: ['unseen-value'] })
    expect(inspect(vault, { depth: 20, showHidden: true }) + JSON.stringify(vault)).not.toContain('unseen-value')
  })

  it('keeps versions apart', async () => {
    const path = await secret({ n: 1 })
    const vault = caching()
    await vault.kv.put(path, { n: 2 })
    expect(await vault.getSecret(path, { version: 1 })).toEqual({ n: 1 })
    expect(await vault.getSecret(path)).toEqual({ n: 2 })
    expect(await vault.getSecret(path, { version: 1 })).toEqual({ n: 1 })
    expect(proxy.count(READ)).toBe(2)
  })

  it('forgets what this handler has written, deleted or sent by a raw request', async () => {
    const path = await secret({ n: 1 })
    const vault = caching()
    const names = [path, path.replace('/', '/data/')]
    const seen = async (): Promise<unknown[]> => Promise.all(names.map(async (name) => (await vault.getSecret(name))['n']))
    expect(await seen()).toEqual([1, 1])
    await vault.kv.put(path, { n: 2 })
    expect(await seen()).toEqual([2, 2])
    await vault.kv.patch(path, { n: 3 })
    expect(await seen()).toEqual([3, 3])
    await vault.request('POST', path.replace('/', '/data/'), { body: { data: { n: 4 } } })
    expect(await seen()).toEqual([4, 4])
    await vault.kv.delete(path)
    expect(await failure(vault.getSecret(path))).toMatchObject({ code: 'VAULT_VERSION_DELETED' })
    await vault.kv.undelete(path, [4])
    expect(await seen()).toEqual([4, 4])
  })

  it('forgets what a write that failed may have changed', async () => {
    const path = await secret({ n: 1 })
    const vault = caching()
    await vault.getSecret(path)
    expect(await failure(vault.kv.put(path, { n: 2 }, { cas: 7 }))).toMatchObject({ code: 'VAULT_CAS_MISMATCH' })
    await vault.getSecret(path)
    expect(proxy.count(READ)).toBe(2)
  })

  it('gives out what it has while the server fails, for as long as it was told', async () => {
    const path = await secret({ n: 1 })
    const vault = caching({ ttlMs: 200, staleIfErrorMs: 1_500 })
    const strict = caching({ ttlMs: 200 })
    await Promise.all([vault, strict].map((one) => one.getSecret(path)))
    await sleep(250)
    fault = 503
    expect(await vault.getSecret(path)).toEqual({ n: 1 })
    expect(await failure(strict.getSecret(path))).toMatchObject({ code: 'VAULT_SERVER_ERROR' })
    const asked = proxy.count(READ)
    // A server that has just failed is left alone for a while.
    expect(await vault.getSecret(path)).toEqual({ n: 1 })
    expect(proxy.count(READ)).toBe(asked)
    await sleep(1_600)
    expect(await failure(vault.getSecret(path))).toMatchObject({ code: 'VAULT_SERVER_ERROR' })
    fault = undefined
    expect(await vault.getSecret(path)).toEqual({ n: 1 })
  })

  it('takes a refusal for an answer', async () => {
    const path = await secret({ n: 1 })
    const vault = caching({ ttlMs: 100, staleIfErrorMs: 60_000 })
    await vault.getSecret(path)
    await admin.request('DELETE', path.replace('/', '/data/'))
    await sleep(150)
    expect(await failure(vault.getSecret(path))).toMatchObject({ code: 'VAULT_VERSION_DELETED' })
    fault = 503
    expect(await failure(vault.getSecret(path))).toMatchObject({ code: 'VAULT_SERVER_ERROR' })
  })

  it('holds no more than it was told, and drops what was used least', async () => {
    const paths = await Promise.all([1, 2, 3].map((n) => secret({ n })))
    const [a = '', b = '', c = ''] = paths
    const vault = caching({ ttlMs: 60_000, maxEntries: 2 })
    for (const path of [a, b, a, c]) await vault.getSecret(path)
    expect(proxy.count(READ)).toBe(3)
    await vault.getSecret(a)
    expect(proxy.count(READ)).toBe(3)
    await vault.getSecret(b)
    expect(proxy.count(READ)).toBe(4)
  })

  it('does not let one reader end the read of another', async () => {
    const path = await secret({ n: 1 })
    const vault = caching()
    const controller = new AbortController()
    const left = vault.getSecret(path, { signal: controller.signal })
    const stayed = vault.getSecret(path)
    controller.abort(new Error('gave up'))
    await expect(left).rejects.toThrow('gave up')
    expect(await stayed).toEqual({ n: 1 })
    expect(proxy.count(READ)).toBe(1)
  })
})
