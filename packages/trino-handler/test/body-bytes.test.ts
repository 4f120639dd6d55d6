import { randomBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { Blocks, collect } from '../src/body-bytes.ts'

const BLOCK = 256 * 1024
const bytes = randomBytes(3 * BLOCK + 7)

/** Chunks of 60 000 bytes, each with memory of its own, or all of one. */
async function* chunks(shared: boolean): AsyncGenerator<Uint8Array, void, undefined> {
  const copy = new Uint8Array(bytes)
  for (let at = 0; at < bytes.length; at += 60_000) {
    const chunk = copy.subarray(at, at + 60_000)
    yield shared ? chunk : new Uint8Array(chunk)
  }
}

describe('the bytes of a body', () => {
  it.each([true, false])('are whole, in one buffer or in blocks (chunks of one memory: %s)', async (shared) => {
    expect((await collect(chunks(shared), bytes.length)).equals(bytes)).toBe(true)
    expect((await collect(chunks(shared), -1)).equals(bytes)).toBe(true)
    const memory = new Blocks()
    const filled = await memory.collect(chunks(shared))
    expect([filled.length, filled.blocks.length]).toEqual([bytes.length, 4])
    expect(Buffer.concat([...memory.read(filled)].map((block) => Buffer.from(block))).equals(bytes)).toBe(true)
  })

  it('lie in the blocks that were read before, which are given back in the end', async () => {
    const memory = new Blocks()
    const first = await memory.collect(chunks(false))
    for (const block of memory.read(first)) expect(block.length).toBeGreaterThan(0)
    const second = await memory.collect(chunks(false))
    expect(new Set([...first.blocks, ...second.blocks]).size).toBe(4)
    for (const block of memory.read(second)) expect(block.length).toBeGreaterThan(0)
    memory.free()
    expect(second.blocks.map((block) => block.length)).toEqual([0, 0, 0, 0])
  })
})
