import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { createRateLimit } from '../src/rate-limit.ts'

describe('a rate limit', () => {
  beforeEach(() => void vi.useFakeTimers())
  afterEach(() => void vi.useRealTimers())

  const never = new AbortController().signal

  it('lets a burst through and spreads what follows', async () => {
    const turn = createRateLimit({ perSecond: 10, burst: 2 })
    const granted: number[] = []
    const start = Date.now()
    for (let call = 0; call < 5; call++) void turn(never).then(() => granted.push(Date.now() - start))
    await vi.advanceTimersByTimeAsync(1_000)
    expect(granted).toEqual([0, 0, 100, 200, 300])
  })

  it('fills up again while nobody asks', async () => {
    const turn = createRateLimit({ perSecond: 10, burst: 2 })
    await Promise.all([turn(never), turn(never)])
    await vi.advanceTimersByTimeAsync(200)
    let granted = 0
    for (let call = 0; call < 3; call++) void turn(never).then(() => granted++)
    await vi.advanceTimersByTimeAsync(0)
    expect(granted).toBe(2)
  })

  it('is left by an abort', async () => {
    const turn = createRateLimit({ perSecond: 1, burst: 1 })
    await turn(never)
    const controller = new AbortController()
    const waiting = turn(controller.signal)
    controller.abort(new Error('enough'))
    await expect(waiting).rejects.toThrow('enough')
  })

  it('does not count the turns of those who left', async () => {
    const turn = createRateLimit({ perSecond: 1, burst: 1 })
    await turn(never)
    const controller = new AbortController()
    const left = Array.from({ length: 100 }, () => turn(controller.signal))
    controller.abort(new Error('enough'))
    await Promise.allSettled(left)
    let granted = false
    void turn(never).then(() => (granted = true))
    await vi.advanceTimersByTimeAsync(1_000)
    expect(granted).toBe(true)
  })

  it('is not stopped by a clock that is put back', async () => {
    const turn = createRateLimit({ perSecond: 10, burst: 1 })
    await turn(never)
    vi.setSystemTime(Date.now() - 3_600_000)
    let granted = false
    void turn(never).then(() => (granted = true))
    await vi.advanceTimersByTimeAsync(1_000)
    expect(granted).toBe(true)
  })
})
