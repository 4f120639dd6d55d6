import { silentLogger } from '@common-handlers/core'
import { expect, it, vi } from 'vitest'
import { SecretCache } from '../src/secret-cache.ts'

const { signal } = new AbortController()
const cacheOf = (): SecretCache => new SecretCache({ ttlMs: 60_000, staleIfErrorMs: 0, maxEntries: 10 }, silentLogger)

it('an answer to what was asked before a change is given to those who asked, and not kept', async () => {
  const cache = cacheOf()
  const answer = Promise.withResolvers<Record<string, unknown>>()
  const before = cache.get('secret/app', undefined, () => answer.promise, signal)
  cache.forget('secret/app')
  const after = await cache.get('secret/app', undefined, async () => ({ n: 2 }), signal)
  answer.resolve({ n: 1 })
  expect([await before, after]).toEqual([{ n: 1 }, { n: 2 }])
  expect(await cache.get('secret/app', undefined, async () => ({ n: 3 }), signal)).toEqual({ n: 2 })
})

it.each([
  ['secret/app', 'secret/data/app', true],
  ['secret/data/app', 'secret/metadata/app', true],
  ['team/secret/data/data', 'team/secret/data', true],
  ['secret/app', 'secret/app/data', true],
  ['secret/app', 'secret/app2', false],
  ['secret/app', 'secret', false],
])('%s is forgotten by the name %s: %s', async (path, changed, forgotten) => {
  const cache = cacheOf()
  await cache.get(path, undefined, async () => ({ n: 1 }), signal)
  cache.forget(changed)
  expect(await cache.get(path, undefined, async () => ({ n: 2 }), signal)).toEqual({ n: forgotten ? 2 : 1 })
})

it('a secret is not kept for longer when the clock is put back', async () => {
  vi.useFakeTimers()
  try {
    const cache = cacheOf()
    await cache.get('secret/app', undefined, async () => ({ n: 1 }), signal)
    vi.setSystemTime(Date.now() - 3_600_000)
    await vi.advanceTimersByTimeAsync(60_000)
    expect(await cache.get('secret/app', undefined, async () => ({ n: 2 }), signal)).toEqual({ n: 2 })
  } finally {
    vi.useRealTimers()
  }
})
