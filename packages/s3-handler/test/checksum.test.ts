import { randomBytes } from 'node:crypto'
import { expect, it } from 'vitest'
import { checksumOf, joinCrc32, wholeChecksum } from '../src/checksum.ts'
import { RequestLimit } from '../src/request-limit.ts'
import { grownPartSize } from '../src/upload.ts'

it('joins the CRC32 of pieces to that of the whole', () => {
  const bytes = randomBytes(100_000)
  for (const at of [0, 1, 4095, 65_536, 100_000]) {
    const [first, second] = [bytes.subarray(0, at), bytes.subarray(at)]
    expect(joinCrc32(checksumOf('crc32', first), checksumOf('crc32', second), second.length)).toEqual(checksumOf('crc32', bytes))
  }
})

it('takes no checksum of parts for one of the whole', () => {
  expect(wholeChecksum({ 'x-amz-checksum-crc32': 'AAAAAA==' })).toEqual({ algorithm: 'crc32', value: 'AAAAAA==' })
  expect(wholeChecksum({ 'x-amz-checksum-sha256': 'abc=-7' })).toBeUndefined()
  expect(wholeChecksum({ 'x-amz-checksum-crc32': 'AAAAAA==', 'x-amz-checksum-type': 'COMPOSITE' })).toBeUndefined()
})

it.each([5, 8, 64, 512])('reaches 5 TiB in 10 000 parts from parts of %i MiB, none above 1 GiB', (mib) => {
  const partSize = mib * 1024 * 1024
  const sizes = Array.from({ length: 10_000 }, (_, index) => grownPartSize(partSize, index + 1))
  expect(sizes.slice(0, 700).every((size) => size === partSize)).toBe(true)
  expect(Math.max(...sizes)).toBeLessThanOrEqual(1024 ** 3)
  expect(sizes.reduce((sum, size) => sum + size, 0)).toBeGreaterThan(5 * 1024 ** 4)
})

it('halves the requests under way when the server asks, and adds one for each round that goes well', async () => {
  const limit = new RequestLimit()
  const signal = new AbortController().signal
  const busy = (): boolean => true
  const gates = Array.from({ length: 8 }, () => Promise.withResolvers<void>())
  const running = gates.map((gate) => limit.run(signal, busy, () => gate.promise).catch(() => undefined))
  expect([limit.limit, limit.running]).toEqual([Infinity, 8])
  // All eight are refused at once: that is one cut, not eight.
  for (const gate of gates) gate.reject(new Error('SlowDown'))
  await Promise.all(running)
  expect([limit.limit, limit.slowDowns]).toEqual([4, 8])
  let most = 0
  const work = async (): Promise<void> => {
    most = Math.max(most, limit.running)
    await new Promise((resolve) => setImmediate(resolve))
  }
  await Promise.all(Array.from({ length: 4 }, () => limit.run(signal, busy, work)))
  expect([most, limit.limit]).toEqual([4, 5])
  const stop = new AbortController()
  const held = Promise.withResolvers<void>()
  const holders = Array.from({ length: 5 }, () => limit.run(signal, busy, () => held.promise))
  const waiting = limit.run(stop.signal, busy, work)
  stop.abort(new Error('enough'))
  await expect(waiting).rejects.toThrow('enough')
  held.resolve()
  await Promise.all(holders)
  expect(limit.running).toBe(0)
})
