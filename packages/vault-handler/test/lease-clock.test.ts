import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { Alarm, leaseDueAt, leaseRetryDelay } from '../src/lease-clock.ts'

const HOUR = 3_600_000

describe('an alarm', () => {
  beforeEach(() => void vi.useFakeTimers())
  afterEach(() => void vi.useRealTimers())

  it('goes off once and on time, past the 24.8 days that one timer can wait', async () => {
    const alarm = new Alarm()
    const work = vi.fn<() => void>()
    alarm.set(Date.now() + 768 * HOUR, work)
    await vi.advanceTimersByTimeAsync(768 * HOUR - 1)
    expect(work).not.toHaveBeenCalled()
    await vi.advanceTimersByTimeAsync(1)
    expect(work).toHaveBeenCalledTimes(1)
    await vi.advanceTimersByTimeAsync(768 * HOUR)
    expect(work).toHaveBeenCalledTimes(1)
  })

  it('is taken back, also in its second timer, and forgets what it was set to before', async () => {
    const [first, second] = [vi.fn<() => void>(), vi.fn<() => void>()]
    const alarm = new Alarm()
    alarm.set(Date.now() + 1_000, first)
    alarm.set(Date.now() + 768 * HOUR, second)
    await vi.advanceTimersByTimeAsync(700 * HOUR)
    alarm.clear()
    await vi.advanceTimersByTimeAsync(768 * HOUR)
    expect(first).not.toHaveBeenCalled()
    expect(second).not.toHaveBeenCalled()
    expect(vi.getTimerCount()).toBe(0)
  })
})

it('a lease is due between one half and two thirds of its time', () => {
  const due = Array.from({ length: 1_000 }, () => leaseDueAt(6_000, 12_000))
  expect(Math.min(...due)).toBeGreaterThanOrEqual(9_000)
  expect(Math.max(...due)).toBeLessThan(10_000)
  expect(new Set(due).size).toBeGreaterThan(900)
})

it('a wait doubles up to its bound and is never less than half of it', () => {
  for (const [failures, life, least, most] of [
    [1, 6_000, 50, 100],
    [2, 6_000, 100, 200],
    [3, 6_000, 200, 400],
    [4, 6_000, 250, 500],
    [1_000, 6_000, 250, 500],
    [1_000, Infinity, 30_000, 60_000],
    [5, 10, 50, 100],
  ] as const) {
    const waits = Array.from({ length: 200 }, () => leaseRetryDelay(failures, life))
    expect(Math.min(...waits), `${failures}`).toBeGreaterThanOrEqual(least)
    expect(Math.max(...waits), `${failures}`).toBeLessThanOrEqual(most)
  }
  // As long as the server asks for, and no longer than a minute.
  expect(leaseRetryDelay(1, 6_000, 7_000)).toBe(7_000)
  expect(leaseRetryDelay(1, 6_000, 86_400_000)).toBe(60_000)
})
