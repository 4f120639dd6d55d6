import { AuthError, silentLogger } from '@common-handlers/core'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import type { VaultApi } from '../src/api.ts'
import { Lease } from '../src/lease.ts'
import type { SecretData } from '../src/secret-data.ts'

// A certificate without a lease, by what a lease needs of a server; the clock is wound on.

const HOUR_MS = 3_600_000

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

async function certificate(issue: (count: number) => { readonly expiration: number }): Promise<{
  lease: Lease
  words: string[]
  issued: () => number
}> {
  let issued = 0
  const open = new AbortController().signal
  const api: VaultApi = {
    logger: silentLogger,
    signal: open,
    closing: open,
    call: (_action, _options, work) => work(open),
    authorised: async () => ({ data: issue(++issued) }),
    send: () => Promise.reject(new Error('no request without the token is expected')),
    onClose: () => () => undefined,
    onTokenLost: () => () => undefined,
  }
  const lease = await Lease.open<SecretData>(api, 'pki/issue/web', { body: {} })
  const words: string[] = []
  for (const event of ['renewed', 'rotated', 'lost'] as const) lease.on(event, () => words.push(event))
  return { lease, words, issued: () => issued }
}

describe('a certificate without a lease', () => {
  it('is still good while nobody can log in, and lost at its end', async () => {
    const end = Date.now() + HOUR_MS
    const { lease, words } = await certificate((count) => {
      if (count > 1) throw new AuthError('refused', { code: 'VAULT_LOGIN_FAILED' })
      return { expiration: end / 1000 }
    })
    await vi.advanceTimersByTimeAsync(HOUR_MS - 60_000)
    expect([words, lease.expiresAt]).toEqual([[], end])
    await vi.advanceTimersByTimeAsync(2 * 60_000)
    expect(words).toEqual(['lost'])
    await lease.close()
  })

  it('that has ended by a clock which is ahead of the server is not asked for in a tight loop', async () => {
    const { lease, issued } = await certificate(() => ({ expiration: Date.now() / 1000 - 60 }))
    await vi.advanceTimersByTimeAsync(HOUR_MS)
    expect(issued()).toBeGreaterThan(30)
    expect(issued()).toBeLessThanOrEqual(62)
    await lease.close()
  })
})
