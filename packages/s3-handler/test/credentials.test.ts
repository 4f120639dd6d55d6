import { AuthError, Secret } from '@common-handlers/core'
import { inspect } from 'node:util'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { CredentialCache, type S3Credentials } from '../src/credentials.ts'

const lasting = (ms: number, name = 'key'): S3Credentials => ({
  accessKeyId: name,
  secretAccessKey: new Secret(`secret-of-${name}`),
  expiration: new Date(Date.now() + ms),
})
const silent = (): void => undefined
const pass = (ms: number): unknown => vi.setSystemTime(Date.now() + ms)

beforeEach(() => void vi.useFakeTimers({ toFake: ['Date'] }))
afterEach(() => void vi.useRealTimers())

describe('a cache of credentials', () => {
  it('asks once for all callers, and not again while they last', async () => {
    let asked = 0
    const cache = new CredentialCache(async () => {
      asked++
      return lasting(3_600_000)
    }, silent)
    const all = await Promise.all(Array.from({ length: 20 }, () => cache.get()))
    expect(new Set(all).size).toBe(1)
    expect(all[0]).toMatchObject({ accessKeyId: 'key', secretAccessKey: 'secret-of-key' })
    await cache.get()
    expect(asked).toBe(1)
  })

  it('asks again before they end: in the last third of a short life', async () => {
    let asked = 0
    const cache = new CredentialCache(async () => lasting(600, `key-${++asked}`), silent)
    expect((await cache.get()).accessKeyId).toBe('key-1')
    pass(399)
    expect((await cache.get()).accessKeyId).toBe('key-1')
    pass(2)
    expect((await cache.get()).accessKeyId).toBe('key-2')
  })

  it('asks again at the next failure when the server refuses them, once for many', async () => {
    let asked = 0
    const cache = new CredentialCache(async () => ({ accessKeyId: `key-${++asked}`, secretAccessKey: 'x-secret' }), silent)
    const { accessKeyId } = await cache.get()
    expect(cache.refuse(accessKeyId)).toBe(true)
    expect((await cache.get()).accessKeyId).toBe('key-2')
    expect(cache.refuse(accessKeyId)).toBe(false)
    await cache.get()
    expect(asked).toBe(2)
  })

  it('lives on what it has while the provider fails, and says so', async () => {
    let asked = 0
    const heard: unknown[] = []
    const reason = new Error('the vault is sealed')
    const cache = new CredentialCache(
      async () => {
        if (++asked > 1) throw reason
        return lasting(3_000)
      },
      (error) => heard.push(error),
    )
    await cache.get()
    pass(2_100)
    expect((await cache.get()).accessKeyId).toBe('key')
    expect((await cache.get()).accessKeyId).toBe('key')
    expect(heard).toEqual([reason])
    expect(asked).toBe(2)
    pass(1_000)
    await expect(cache.get()).rejects.toMatchObject({ code: 'S3_CREDENTIALS_FAILED' })
  })

  it('gives the error of the provider when there is nothing to live on, and asks anew at the next call', async () => {
    let asked = 0
    const cache = new CredentialCache(async () => {
      if (++asked === 1) throw new Error('no lease')
      return lasting(60_000)
    }, silent)
    const error = await cache.get().catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(AuthError)
    expect(error).toMatchObject({ code: 'S3_CREDENTIALS_FAILED', message: 'the credential provider failed: no lease' })
    expect((await cache.get()).accessKeyId).toBe('key')
  })

  it('refuses what has ended already, and does not print what it holds', async () => {
    const ended = new CredentialCache(async () => lasting(-1), silent)
    await expect(ended.get()).rejects.toMatchObject({ code: 'S3_TOKEN_EXPIRED' })
    const cache = new CredentialCache(async () => lasting(60_000, 'unseen'), silent)
    await cache.get()
    expect(inspect(cache, { depth: 10, showHidden: true })).not.toContain('secret-of-unseen')
  })
})
