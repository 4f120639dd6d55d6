import { once } from 'node:events'
import { PassThrough } from 'node:stream'
import { describe, expect, it } from 'vitest'
import { MessageReader, type RowSink } from '../src/message-reader.ts'
import { rowReader } from '../src/rows.ts'
import { dataRow, message } from './wire-messages.ts'

const field = (name: string) => ({ name, tableID: 0, columnID: 0, dataTypeID: 25, dataTypeModifier: -1 })

/** Everything that was read, in its order: rows as arrays, lines of a COPY as text, the type of what pg was given. */
class Recorded implements RowSink {
  readonly stream = new PassThrough()
  readonly found: unknown[] = []
  /** Rows of a COPY as pg's parser gives them: parts of the bytes that it got. */
  readonly copied: Buffer[] = []
  wanted = true
  readonly #read = rowReader(['a', 'b', 'c'].map(field), { as: 'arrays' })
  #line: Buffer[] = []
  #left = 0

  constructor() {
    new MessageReader(this.stream, () => (this.wanted ? this : undefined)).on('data', (bytes: Buffer) => {
      // pg's parser gets whole messages only, so that it keeps nothing of what is on loan.
      let at = 0
      for (; at < bytes.length; at += 1 + bytes.readInt32BE(at + 1)) {
        const type = bytes.toString('latin1', at, at + 1)
        this.found.push(type)
        if (type === 'd') this.copied.push(bytes.subarray(at + 5, at + 1 + bytes.readInt32BE(at + 1)))
      }
      if (at !== bytes.length) this.found.push('not whole')
    })
  }

  /** Gives bytes as a socket does that uses its memory again. */
  feed(bytes: Buffer, size: number): void {
    const memory = Buffer.alloc(size)
    for (let at = 0; at < bytes.length; at += size) {
      const length = bytes.copy(memory, 0, at, at + size)
      this.stream.emit('data', memory.subarray(0, length))
      memory.fill(0xff)
    }
  }

  takeRow(bytes: Buffer, at: number, end: number): void {
    this.found.push(this.#read(bytes, at, end))
  }

  beginCopyRow(length: number): void {
    this.#left = length
    this.#line = []
    if (length === 0) this.found.push('')
  }

  takeCopyRow(bytes: Buffer, at: number, end: number): void {
    this.#line.push(Buffer.from(bytes.subarray(at, end)))
    this.#left -= end - at
    if (this.#left === 0) this.found.push(Buffer.concat(this.#line).toString())
  }
}

const rows = [
  ['1', 'plain', null],
  ['', null, ''],
  [null, 'ünï ✓ 🙂', 'x'.repeat(130)],
  ['x'.repeat(200), 'y'.repeat(40_000), 'z'.repeat(33_000)],
  ['ÿ', '\u0080', 'after them'],
  ['2026-01-01 00:00:00+00', '{"a": 1}', 'é'.repeat(150)],
]
const lines = ['a,1\n', '', 'ünï\n', 'b'.repeat(100_000)]
const conversation = Buffer.concat([
  message('1'),
  message('2'),
  message('T', 'columns'),
  ...rows.slice(0, 3).map((row) => message('D', dataRow(row))),
  message('N', 'SNOTICE\0Mhello\0\0'),
  ...rows.slice(3).map((row) => message('D', dataRow(row))),
  message('C', 'SELECT 6\0'),
  message('Z', 'I'),
  message('H', Buffer.from([0, 0, 0])),
  ...lines.map((line) => message('d', line)),
  message('S', 'application_name\0x\0'.repeat(5_000)),
  message('c'),
  message('Z', 'I'),
])
const expected = ['1', '2', 'T', ...rows.slice(0, 3), 'N', ...rows.slice(3), 'C', 'Z', 'H', ...lines, 'S', 'c', 'Z']

describe('the messages of the server', () => {
  it.each([1, 2, 3, 4, 5, 6, 7, 11, 64, 1_000, 65_536, 1_000_000])(
    'are taken apart whole and in order, in pieces of %i bytes',
    (size) => {
      const recorded = new Recorded()
      recorded.feed(conversation, size)
      expect(recorded.found).toEqual(expected)
    },
  )

  it('give the text of each value, whatever its length and that of the others', () => {
    const fillings = ['x', 'é', '✓', '🙂']
    const lengths = [0, 1, 62, 63, 64, 127, 128, 129, 191, 255, 256, 257, 383, 384, 1_000, 2_000, 4_096]
    const wanted = lengths.flatMap((length) =>
      fillings.flatMap((filling) => [
        [filling.repeat(length), null, 'x'.repeat(length)],
        ['x'.repeat(length), filling, 'y'.repeat(128 - (length % 128))],
      ]),
    )
    const recorded = new Recorded()
    recorded.feed(Buffer.concat(wanted.map((row) => message('D', dataRow(row)))), 65_536)
    expect(recorded.found).toEqual(wanted)
  })

  it.each([1, 7, 1_000_000])('all go to pg where nobody waits for rows, in pieces of %i bytes', (size) => {
    const recorded = new Recorded()
    recorded.wanted = false
    recorded.feed(conversation, size)
    expect(recorded.found.join('')).toBe('12TDDDNDDDCZHddddScZ')
  })

  it.each([1, 7, 1_000, 1_000_000])('leave pg the rows of a COPY that it reads itself, in pieces of %i bytes', (size) => {
    const recorded = new Recorded()
    recorded.wanted = false
    recorded.feed(Buffer.concat(lines.map((line) => message('d', line))), size)
    expect(recorded.copied.map((row) => row.toString())).toEqual(lines)
  })

  it.each([
    ['Z', 6],
    ['Z', 2],
    ['D', 6],
    ['d', 6],
    ['d', 2],
  ])('end the connection where a %s has no length: the other side is no PostgreSQL', async (type, size) => {
    const recorded = new Recorded()
    const closed = once(recorded.stream, 'close')
    recorded.feed(Buffer.from([type.charCodeAt(0), 0, 0, 0, 3, 0x49]), size)
    await expect(closed).rejects.toThrow('the server sent a message without a length')
    expect(recorded.found).toEqual([])
  })

  it('go to whoever waits when pg knows what came before', () => {
    const recorded = new Recorded()
    const stream = new PassThrough()
    let isReady = false
    new MessageReader(stream, () => (isReady ? recorded : undefined)).on('data', () => (isReady = true))
    stream.emit('data', Buffer.concat([message('Z', 'I'), message('D', dataRow(['a', 'b', 'c']))]))
    expect(recorded.found).toEqual([['a', 'b', 'c']])
  })

  it('take no more memory than has come, whatever length they say', () => {
    const recorded = new Recorded()
    // HTTP/1.1: a message H of 1.4 GB, and D of 4 GB.
    recorded.feed(Buffer.from(`HTTP/1.1 400 Bad Request\r\n\r\n${'x'.repeat(200_000)}`), 1_000)
    const row = new Recorded()
    row.feed(Buffer.concat([Buffer.from([0x44, 0xff, 0xff, 0xff, 0xff]), Buffer.alloc(200_000)]), 1_000)
    expect([recorded.found, row.found]).toEqual([[], []])
  })
})
