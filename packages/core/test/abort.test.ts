import { getEventListeners } from 'node:events'
import { expect, it } from 'vitest'
import { onAbort, untilAborted } from '../src/index.ts'

it('a signal has one listener while there are any, and calls those that are left', () => {
  const control = new AbortController()
  const called: number[] = []
  const releases = [0, 1, 2, 3].map((number) => onAbort(control.signal, () => called.push(number)))
  expect(getEventListeners(control.signal, 'abort')).toHaveLength(1)
  releases[1]?.()
  releases[1]?.()
  releases[3]?.()
  control.abort()
  expect(new Set(called)).toEqual(new Set([0, 2]))
  for (const release of releases) release()
  expect(getEventListeners(control.signal, 'abort')).toHaveLength(0)
})

it('ends a wait with the reason of the signal, also of one that was aborted before, and leaves no listener', async () => {
  const reason = new Error('enough')
  const control = new AbortController()
  const { promise, resolve } = Promise.withResolvers<number>()
  expect(await untilAborted(Promise.resolve(1), control.signal)).toBe(1)
  await expect(untilAborted(Promise.reject(new RangeError('broken')), control.signal)).rejects.toThrow(RangeError)
  expect(getEventListeners(control.signal, 'abort')).toHaveLength(0)
  const left = untilAborted(promise, control.signal).catch((error: unknown) => error)
  const stays = untilAborted(promise, undefined)
  control.abort(reason)
  expect(await left).toBe(reason)
  await expect(untilAborted(promise, control.signal)).rejects.toBe(reason)
  resolve(2)
  expect(await stays).toBe(2)
})
