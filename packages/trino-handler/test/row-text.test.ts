import { describe, expect, it } from 'vitest'
import { RowParser } from '../src/row-text.ts'

const rows = [
  [1, 'plain'],
  [2, '],['],
  [3, '\\"],[\\\\"'],
  [4, '"],["'],
  [5, 'é𝄞],[\u2028'],
  [6, ']]'.repeat(50)],
  [7, ''],
]
const wire = Buffer.from(JSON.stringify(rows).slice(1, -1))

describe('RowParser', () => {
  it.each([
    ['guesses where a row ends', { exact: false, nested: false }],
    ['walks', { exact: true, nested: true }],
  ])('%s: gives all rows in order, wherever the bytes are cut', (_, shape) => {
    for (let size = 1; size <= wire.length; size++) {
      const parser = new RowParser(shape)
      const read: unknown[][] = []
      for (let at = 0; at < wire.length; at += size) read.push(...parser.push(wire.subarray(at, at + size)))
      read.push(...parser.end())
      expect(read).toEqual(rows)
    }
  })

  it('walks by itself when a guess was wrong within a nested value', () => {
    const nested = [[[[1], [2]]], [[[3], [4]]], [[[5], [6]]]]
    const bytes = Buffer.from(JSON.stringify(nested).slice(1, -1))
    for (let size = 1; size <= bytes.length; size++) {
      const parser = new RowParser({ exact: false, nested: false })
      const read: unknown[][] = []
      for (let at = 0; at < bytes.length; at += size) read.push(...parser.push(bytes.subarray(at, at + size)))
      expect([...read, ...parser.end()]).toEqual(nested)
    }
  })

  it.each([false, true])('gives rows that are much longer than a piece, and those after them (nested: %s)', (nested) => {
    const long = nested ? Array.from({ length: 20_000 }, (_, n) => `],[${n}`) : '],['.repeat(100_000)
    const all = [[1, 'a'], [2, long], [3, 'b'], [4, long], ...rows]
    const parser = new RowParser({ exact: false, nested })
    expect([...parser.all(Buffer.from(JSON.stringify(all).slice(1, -1)))].flat()).toEqual(all)
  })

  it('gives rows of large results some at a time, exact', () => {
    const many = Array.from({ length: 20_000 }, (_, index) => `[9007199254740993,"${index}"]`)
    const pieces = [...new RowParser({ exact: true, nested: false }).all(Buffer.from(many.join(',')))]
    expect(pieces.length).toBeGreaterThan(5)
    const read = pieces.flat()
    expect(read).toHaveLength(20_000)
    expect(read.at(-1)).toEqual(['9007199254740993', '19999'])
  })

  it('refuses what is no JSON', () => {
    const parser = new RowParser({ exact: false, nested: false })
    parser.push(Buffer.from('[1],[2'))
    expect(() => parser.end()).toThrow(SyntaxError)
  })
})
