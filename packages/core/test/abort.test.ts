import { getEventListeners } from 'node:events'
import { expect, it } from 'vitest'
import { onAbort } from '../src/index.ts'

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
