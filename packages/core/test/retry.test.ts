import { describe, expect, it } from 'vitest'
import {
  ConnectionError,
  HandlerError,
  parseRetryAfter,
  type Retry,
  retry,
  retryDelay,
  sleep,
  withDeadline,
} from '../src/index.ts'

const failing = (kind: Retry, times: number, retryAfterMs?: number) => {
  let calls = 0
  return {
    calls: () => calls,
    work: async () => {
      if (++calls <= times) {
        throw new ConnectionError('down', {
          code: 'TEST_DOWN',
          retry: kind,
          ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
        })
      }
      return 'up'
    },
  }
}
const quick = { baseDelayMs: 1, maxDelayMs: 2 }

describe('retry', () => {
  it.each([
    ['safe', false, 3],
    ['safe', true, 3],
    ['if-idempotent', true, 3],
    ['if-idempotent', false, 1],
    ['never', true, 1],
  ] as const)('an error that is %s, idempotent=%s, makes %i calls', async (kind, idempotent, calls) => {
    const job = failing(kind, 2)
    const result = await retry(job.work, { idempotent, policy: quick }).catch((error: unknown) => error)
    expect(job.calls()).toBe(calls)
    if (calls === 3) expect(result).toBe('up')
    else expect(HandlerError.is(result)).toBe(true)
  })

  it('stops at its number of attempts and throws the last error as it is', async () => {
    const job = failing('safe', 100)
    await expect(retry(job.work, { policy: { ...quick, attempts: 4 } })).rejects.toMatchObject({ code: 'TEST_DOWN' })
    expect(job.calls()).toBe(4)
  })

  it('does not begin a wait that would end after its budget', async () => {
    const job = failing('safe', 100, 60_000)
    const began = Date.now()
    await expect(retry(job.work, { policy: { budgetMs: 1000 } })).rejects.toMatchObject({ code: 'TEST_DOWN' })
    expect(job.calls()).toBe(1)
    expect(Date.now() - began).toBeLessThan(900)
  })

  it('ends a wait at once when it is aborted', async () => {
    const job = failing('safe', 100, 20_000)
    const abort = new AbortController()
    setTimeout(() => abort.abort(new Error('enough')), 20)
    await expect(retry(job.work, { signal: abort.signal })).rejects.toThrow('enough')
    expect(job.calls()).toBe(1)
  })

  it('does not touch errors that are not a handler error', async () => {
    let calls = 0
    await expect(
      retry(async () => {
        calls++
        throw new TypeError('bug')
      }),
    ).rejects.toThrow(TypeError)
    expect(calls).toBe(1)
  })

  it('waits with full jitter under a doubling bound, and never less than the server asked for', () => {
    const policy = { attempts: 9, budgetMs: 1e6, baseDelayMs: 100, maxDelayMs: 1000 }
    expect([1, 2, 3, 4, 5, 6].map((attempt) => retryDelay(attempt, policy, undefined, () => 1))).toEqual([
      100, 200, 400, 800, 1000, 1000,
    ])
    expect(retryDelay(3, policy, undefined, () => 0)).toBe(0)
    expect(retryDelay(1, policy, 5000, () => 1)).toBe(5000)
  })
})

describe('parseRetryAfter', () => {
  it.each([
    ['7', 7000],
    [new Date(90_000).toUTCString(), 60_000],
    [new Date(1000).toUTCString(), 0],
    ['soon', undefined],
    ['', undefined],
    [null, undefined],
  ])('%s', (header, expected) => expect(parseRetryAfter(header, 30_000)).toBe(expected))
})

describe('sleep', () => {
  it('does not return early for waits past 2^31 ms', async () => {
    const abort = new AbortController()
    setTimeout(() => abort.abort(new Error('still waiting')), 30)
    await expect(sleep(2 ** 31 * 10, abort.signal)).rejects.toThrow('still waiting')
  })
})

describe('withDeadline', () => {
  const what = { prefix: 'TEST', action: 'waiting' }

  it('throws the time-out under its code, whatever the work made of it', async () => {
    const work = withDeadline({ timeoutMs: 20 }, what, async ({ signal }) => {
      await sleep(10_000, signal).catch(() => {
        throw new TypeError('something else')
      })
    })
    await expect(work).rejects.toMatchObject({ code: 'TEST_TIMEOUT', outcome: 'timeout', retry: 'if-idempotent' })
  })

  it("rejects with the caller's reason when the caller aborts", async () => {
    const abort = new AbortController()
    setTimeout(() => abort.abort(new RangeError('mine')), 10)
    await expect(
      withDeadline({ signal: abort.signal, timeoutMs: 9999 }, what, ({ signal }) => sleep(9999, signal)),
    ).rejects.toThrow(RangeError)
  })
})
