import { AuthError, ConnectionError, silentLogger } from '@common-handlers/core'
import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { TokenSource } from '../src/authentication.ts'
import type { ApiRequest } from '../src/client.ts'
import { parseVaultConfig } from '../src/config.ts'

// The time that a real server would take is weeks: the clock is wound on instead.

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

interface Script {
  readonly ttl: number
  readonly maxTtl?: number
  readonly renew?: () => void
  readonly logIn?: (count: number) => void
}

/** A server that knows one role, by what the token methods need of it. */
function source({ ttl, maxTtl = Infinity, renew = () => undefined, logIn = () => undefined }: Script): {
  tokens: TokenSource
  seen: string[]
  close: () => void
} {
  const seen: string[] = []
  const closing = new AbortController()
  let bornAt = 0
  const send = async ({ path }: ApiRequest): Promise<unknown> => {
    seen.push(path)
    if (path.endsWith('/login')) {
      logIn(logins(seen))
      bornAt = Date.now()
    } else renew()
    const left = Math.min(ttl, maxTtl - Math.ceil((Date.now() - bornAt) / 1000))
    return { auth: { client_token: `s.token-${seen.length}`, lease_duration: left, renewable: true } }
  }
  const config = parseVaultConfig({ address: 'https://vault:8200', appRole: { roleId: 'role' } })
  const { signal } = new AbortController()
  const tokens = new TokenSource(config, {
    send,
    logger: silentLogger,
    signal,
    closing: closing.signal,
    onClose: () => () => undefined,
  })
  return { tokens, seen, close: () => closing.abort() }
}

const open = new AbortController().signal
const logins = (seen: readonly string[]): number => seen.filter((path) => path.endsWith('/login')).length
const renewals = (seen: readonly string[]): number => seen.filter((path) => path.endsWith('/renew-self')).length

it('a token of 768 hours is renewed between the 16th and the 22nd day, once', async () => {
  const { tokens, seen } = source({ ttl: 768 * 3600 })
  await tokens.get(open)
  await vi.advanceTimersByTimeAsync(16 * DAY_MS - 1_000)
  expect(seen).toEqual(['auth/approle/login'])
  await vi.advanceTimersByTimeAsync(6 * DAY_MS)
  expect(seen).toEqual(['auth/approle/login', 'auth/token/renew-self'])
})

it('is renewed up to its maximum, and then replaced by the next call', async () => {
  const { tokens, seen } = source({ ttl: 3600, maxTtl: 3 * 3600 })
  const first = await tokens.get(open)
  await vi.advanceTimersByTimeAsync(3 * HOUR_MS - 60_000)
  expect(await tokens.get(open)).toBe(first)
  const made = renewals(seen)
  // At least two thirds of an hour each, and the last two meet the maximum.
  expect(made).toBeGreaterThanOrEqual(3)
  expect(made).toBeLessThanOrEqual(6)
  await vi.advanceTimersByTimeAsync(HOUR_MS)
  expect(renewals(seen)).toBe(made)
  expect(logins(seen)).toBe(1)
  expect(await tokens.get(open)).not.toBe(first)
  expect(logins(seen)).toBe(2)
})

it('is replaced before its maximum without a call, while somebody has leases by it', async () => {
  const { tokens, seen } = source({ ttl: 3600, maxTtl: 2 * 3600 })
  const first = await tokens.get(open)
  const bornAt = Date.now()
  const ends: number[] = []
  const detach = tokens.onLost((endsAt) => ends.push(endsAt - Date.now()))
  await vi.advanceTimersByTimeAsync(2 * HOUR_MS)
  expect(logins(seen)).toBe(2)
  // Told while the old one still has its last half a minute.
  expect(ends).toEqual([expect.toSatisfy((left: number) => left > 20_000 && left <= 31_000)])
  expect(Date.now() - bornAt).toBe(2 * HOUR_MS)
  expect(await tokens.get(open)).not.toBe(first)
  detach()
  await vi.advanceTimersByTimeAsync(9 * HOUR_MS)
  expect(logins(seen)).toBe(2)
})

it('a server that is away for a whole life is asked as often as the back-off allows', async () => {
  const away = (): never => {
    throw new ConnectionError('away', { code: 'VAULT_UNREACHABLE', retry: 'safe' })
  }
  const { tokens, seen } = source({ ttl: 3600, renew: away })
  await tokens.get(open)
  await vi.advanceTimersByTimeAsync(HOUR_MS)
  // At most the second half of the hour; waits of 0.05, 0.1 … 25.6 s at least, then of half a minute.
  expect(renewals(seen)).toBeLessThanOrEqual(1 + 10 + (1800 - 51) / 30)
  expect(renewals(seen)).toBeGreaterThan(10)
  expect(logins(seen)).toBe(1)
  await tokens.get(open)
  expect(logins(seen)).toBe(2)
})

it('a login that is refused while somebody has leases is tried again, and not in a tight loop', async () => {
  const { tokens, seen } = source({
    ttl: 60,
    maxTtl: 60,
    logIn: (count) => {
      if (count > 1) throw new AuthError('refused', { code: 'VAULT_LOGIN_FAILED' })
    },
  })
  await tokens.get(open)
  tokens.onLost(() => undefined)
  await vi.advanceTimersByTimeAsync(60_000)
  // The last six seconds: waits of 0.05, 0.1 … 1.6 s at least, then of two and a half.
  expect(logins(seen)).toBeGreaterThan(2)
  expect(logins(seen)).toBeLessThanOrEqual(1 + 1 + 6 + 1)
  await expect(tokens.get(open)).rejects.toThrow('refused')
})

it('goes on being renewed when the clock is put back', async () => {
  const { tokens, seen } = source({ ttl: 3600 })
  await tokens.get(open)
  vi.setSystemTime(Date.now() - 10 * HOUR_MS)
  await vi.advanceTimersByTimeAsync(5 * HOUR_MS)
  expect(renewals(seen)).toBeGreaterThanOrEqual(7)
})

it('does nothing more once the handler closes', async () => {
  const { tokens, seen, close } = source({ ttl: 3600 })
  await tokens.get(open)
  close()
  await vi.advanceTimersByTimeAsync(DAY_MS)
  expect(seen).toEqual(['auth/approle/login'])
  expect(vi.getTimerCount()).toBe(0)
})
