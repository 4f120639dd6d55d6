import { randomBytes } from 'node:crypto'
import { mkdtemp, open, readFile, rm, type FileHandle } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { FileRing, WritePace } from '../src/file-ring.ts'

const KIB = 1024
const MIB = 1024 * KIB
const START = 1000

describe('what is written as it arrives', () => {
  let folder: string
  let handle: FileHandle
  const bytes = randomBytes(3 * MIB + 7)
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'file-ring-'))
  })
  afterAll(() => rm(folder, { recursive: true }))

  /** Does what a connection does: fills what room there is, 60 kB at most, and waits when it is told to. */
  async function fill(ring: FileRing, end = bytes.length): Promise<{ readonly waits: number }> {
    let waits = 0
    for (let at = 0; at < end;) {
      const space = ring.space()
      const length = Math.min(space.length, 60_000, end - at)
      expect(length).toBeGreaterThan(0)
      space.set(bytes.subarray(at, at + length))
      at += length
      const resumed = new Promise<void>((resolve) => (ring.resume = resolve))
      if (ring.filled(length)) continue
      waits++
      await resumed
    }
    await ring.end()
    return { waits }
  }

  it.each([
    ['at once', 0, MIB],
    ['by the thread pool', 1000, MIB],
    ['by the thread pool, from the least memory', 1000, 128 * KIB],
  ])('%s, is in the file at its place, and others have their turn', async (name, ms, ringBytes) => {
    const path = join(folder, name)
    handle = await open(path, 'w')
    const pace = new WritePace()
    pace.wroteAtOnce(ms)
    expect(pace.isAtOnce).toBe(ms === 0)
    const errors: unknown[] = []
    const range = { start: START, length: bytes.length, running: undefined, onError: (error: unknown) => errors.push(error) }
    const { waits } = await fill(new FileRing(handle, Buffer.alloc(ringBytes), pace, range))
    await handle.close()
    expect(waits).toBeGreaterThanOrEqual(Math.floor(bytes.length / (256 * KIB + 60_000)))
    expect(errors).toEqual([])
    const found = await readFile(path)
    expect(found.length).toBe(START + bytes.length)
    expect(found.subarray(START).equals(bytes)).toBe(true)
  })

  it('tells of a file that cannot be written, once it is asked for its end', async () => {
    const path = join(folder, 'read only')
    await (await open(path, 'w')).close()
    handle = await open(path, 'r')
    const errors: unknown[] = []
    const range = { start: 0, length: bytes.length, running: undefined, onError: (error: unknown) => errors.push(error) }
    const ring = new FileRing(handle, Buffer.alloc(MIB), new WritePace(), range)
    ring.filled(64 * KIB)
    await ring.end()
    await handle.close()
    expect(errors).toEqual([expect.objectContaining({ code: 'EBADF' })])
  })

  it('goes by the thread pool after a write that waited for the disk, for longer each time', () => {
    const pace = new WritePace()
    pace.wroteAtOnce(9)
    expect(pace.isAtOnce).toBe(true)
    for (const mib of [64, 128, 256]) {
      pace.wroteAtOnce(10)
      pace.wroteByPool(mib * MIB - 1)
      expect(pace.isAtOnce).toBe(false)
      pace.wroteByPool(1)
      expect(pace.isAtOnce).toBe(true)
    }
    pace.failed()
    pace.wroteByPool(1024 * MIB)
    expect(pace.isAtOnce).toBe(false)
  })
})
