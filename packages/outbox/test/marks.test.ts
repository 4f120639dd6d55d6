import { expect, it } from 'vitest'
import { Marks } from '../src/marks.ts'
import type { ClaimMeta } from '../src/pending.ts'

const meta = (lowClaim: number, xmin: number, xmax: number): ClaimMeta => ({
  claim: null,
  lowClaim: String(lowClaim),
  xmin: String(xmin),
  xmax: String(xmax),
  types: [],
  priorities: [],
  lows: [],
  lane: 0,
  laneKey: null,
  dueMs: null,
  suspects: false,
  outrun: false,
})

it('does not pass over a claim that was committed late', () => {
  const marks = new Marks()
  // Claim 10 is there; claim 5 is still being written, by a transaction from before 100.
  marks.note(meta(10, 90, 100), true, 1)
  expect(marks.parameters[0]).toBe('0')
  // It is there now, and every transaction of that time is over.
  marks.note(meta(5, 100, 110), true, 1)
  expect(marks.parameters[0]).toBe('5')
  marks.note(meta(12, 110, 120), true, 1)
  marks.note(meta(12, 119, 121), true, 1)
  expect(marks.parameters[0]).toBe('5')
  marks.note(meta(13, 120, 121), true, 1)
  expect(marks.parameters[0]).toBe('12')
})
