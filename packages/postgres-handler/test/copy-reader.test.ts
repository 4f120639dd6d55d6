import { EventEmitter } from 'node:events'
import { PassThrough } from 'node:stream'
import { describe, expect, it } from 'vitest'
import { asksForHeader, CopyReader } from '../src/copy-reader.ts'
import type { Wire } from '../src/driver.ts'
import { MessageReader } from '../src/message-reader.ts'
import { readAll } from './own-database.ts'
import { message } from './wire-messages.ts'

/** A COPY of the given rows as the server sends it, with a notice and a parameter between the rows. */
function conversation(rows: readonly string[], reported = rows.length): Buffer {
  const middle = Math.floor(rows.length / 2)
  return Buffer.concat([
    message('H', Buffer.from([0, 0, 0])),
    ...rows.slice(0, middle).map((row) => message('d', row)),
    message('N', 'SNOTICE\0Mhello\0\0'),
    message('S', 'application_name\0x\0'),
    ...rows.slice(middle).map((row) => message('d', row)),
    message('c'),
    message('C', `COPY ${reported}\0`),
    message('Z', 'I'),
  ])
}

/** The socket of a connection with pg's parser replaced by a list of the messages it was given. */
class RecordedWire extends EventEmitter {
  readonly stream = new PassThrough()
  readonly forwarded: string[] = []
  readonly reader: CopyReader

  constructor(reader: CopyReader) {
    super()
    this.reader = reader
    new MessageReader(this.stream, () => reader).on('data', (bytes: Buffer) => {
      for (let at = 0; at < bytes.length; at += 1 + bytes.readInt32BE(at + 1)) this.#message(bytes.subarray(at))
    })
  }

  start(): this {
    this.reader.submit(this as unknown as Wire)
    return this
  }

  query(): void {}

  #message(bytes: Buffer): void {
    const type = bytes.toString('latin1', 0, 1)
    this.forwarded.push(type)
    if (type === 'H') this.emit('copyOutResponse', { binary: bytes[5] === 1 })
    if (type === 'C') this.reader.handleCommandComplete({ text: bytes.toString('latin1', 5, bytes.indexOf(0, 5)) })
    if (type === 'Z') this.emit('readyForQuery')
  }
}

async function* blocksOf(reader: CopyReader) {
  for (let block = await reader.next(); block !== undefined; block = await reader.next()) yield block
}

const rows = ['a,1\n', '', 'b\n'.repeat(40), 'ünï\n', 'last']

describe('the COPY reader', () => {
  it.each([1, 2, 3, 4, 5, 6, 7, 11, 64, 10_000])('puts rows together from chunks of %i bytes', async (size) => {
    const reader = new CopyReader('copy t to stdout', { blockBytes: 16 })
    const wire = new RecordedWire(reader).start()
    const bytes = conversation(rows)
    const reading = readAll(blocksOf(reader))
    for (let at = 0; at < bytes.length; at += size) wire.stream.write(bytes.subarray(at, at + size))
    expect((await reading).rows.map(String)).toEqual(rows)
    expect(wire.forwarded.join('')).toBe('HNScCZ')
  })

  it('stops reading while nobody takes the blocks', async () => {
    const reader = new CopyReader('copy t to stdout', { blockBytes: 1024 })
    const wire = new RecordedWire(reader).start()
    const row = 'x'.repeat(1000)
    const bytes = conversation(Array.from({ length: 200 }, () => row))
    for (let at = 0; at < bytes.length; at += 1024) wire.stream.write(bytes.subarray(at, at + 1024))
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect(wire.stream.isPaused()).toBe(true)
    expect(wire.stream.readableLength + wire.stream.writableLength).toBeGreaterThan(190_000)
    expect((await readAll(blocksOf(reader))).rows).toHaveLength(200)
  })

  it('says so when the server counted other rows than came', async () => {
    const reader = new CopyReader('copy t to stdout')
    const wire = new RecordedWire(reader).start()
    wire.stream.write(conversation(rows, rows.length + 1))
    await expect(readAll(blocksOf(reader))).rejects.toMatchObject({ name: 'DataError', code: 'POSTGRES_COPY_ROW_COUNT' })
  })

  it('ends when the socket closes in the middle', async () => {
    const reader = new CopyReader('copy t to stdout')
    const wire = new RecordedWire(reader).start()
    wire.stream.write(conversation(rows).subarray(0, 40))
    await new Promise((resolve) => setImmediate(resolve))
    wire.stream.destroy()
    await expect(readAll(blocksOf(reader))).rejects.toThrow('terminated unexpectedly')
    expect(reader.finished).toBe(true)
  })

  it('goes on reading, and keeps nothing, once the rows are not wanted', async () => {
    const reader = new CopyReader('copy t to stdout', { blockBytes: 64 })
    const wire = new RecordedWire(reader).start()
    const bytes = conversation(rows)
    wire.stream.write(bytes.subarray(0, 25))
    await new Promise((resolve) => setImmediate(resolve))
    reader.discard(new Error('enough'))
    wire.stream.write(bytes.subarray(25))
    await expect(reader.next()).rejects.toThrow('enough')
    await new Promise((resolve) => setImmediate(resolve))
    expect(reader.finished).toBe(true)
  })

  it.each([
    ['copy t to stdout', false],
    ['COPY t TO STDOUT (FORMAT csv, HEADER)', true],
    ['COPY t TO STDOUT WITH CSV HEADER', true],
    ['COPY t TO STDOUT (HEADER true, FORMAT csv)', true],
    ['COPY t TO STDOUT (FORMAT csv, HEADER false)', false],
    ['COPY t TO STDOUT (FORMAT csv, HEADER off)', false],
    [`COPY t TO STDOUT (FORMAT csv, NULL 'header')`, false],
    ['COPY (select header from t) TO STDOUT', false],
  ])('knows whether %s gives a header line', (statement, expected) => {
    expect(asksForHeader(statement)).toBe(expected)
  })
})
