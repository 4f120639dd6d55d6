import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { createServer as createTlsServer } from 'node:tls'
import { tlsInPrelogin } from './tls-in-prelogin.ts'

// Not SQL Server: a stub that speaks as much of its protocol (MS-TDS 7.4) as one login, statements and their results
// take, in clear or by TLS. What it answers is what the tests say, so it shows how the driver and we read the protocol, and
// nothing of how a server behaves.

/** A column and its values, as they go over the wire. */
export interface StubColumn {
  readonly name: string
  readonly typeInfo: readonly number[]
  readonly values: readonly Buffer[]
}

const text = (value: string): Buffer => Buffer.from(value, 'utf16le')
const short = (value: number): Buffer => Buffer.from([value & 0xff, value >> 8])
/** A length in one byte, and the text. */
const named = (value: string): Buffer => Buffer.concat([Buffer.from([value.length]), text(value)])
const little = (value: bigint | number, bytes: number): Buffer => {
  const buffer = Buffer.alloc(bytes)
  let rest = BigInt.asUintN(bytes * 8, BigInt(value))
  for (let at = 0; at < bytes; at++) {
    buffer[at] = Number(rest & 0xffn)
    rest >>= 8n
  }
  return buffer
}
const sized = (value: Buffer): Buffer => Buffer.concat([Buffer.from([value.length]), value])
const NULL = Buffer.from([0])
const COLLATION = [0x09, 0x04, 0xd0, 0x00, 0x34]
const MAX_TICKS = 7

/** 100 ns since midnight. */
const ticks = (time: string): Buffer => {
  const [hours = 0, minutes = 0, seconds = 0] = time.split(/[:.]/).map(Number)
  const fraction = BigInt((time.split('.')[1] ?? '').padEnd(7, '0'))
  return little(BigInt((hours * 60 + minutes) * 60 + seconds) * 10_000_000n + fraction, 5)
}
/** Days since 0001-01-01. */
const days = (date: string): Buffer => little((Date.parse(date) - Date.parse('0001-01-01')) / 86_400_000, 3)

/** Columns by type, of the values given; null is NULL. */
export const columnOf = {
  integer: (name: string, size: number, ...values: readonly (bigint | null)[]): StubColumn => ({
    name,
    typeInfo: [0x26, size],
    values: values.map((value) => (value === null ? NULL : sized(little(value, size)))),
  }),
  bit: (name: string, ...values: readonly boolean[]): StubColumn => ({
    name,
    typeInfo: [0x68, 1],
    values: values.map((value) => Buffer.from([1, Number(value)])),
  }),
  decimal: (name: string, precision: number, scale: number, ...values: readonly bigint[]): StubColumn => ({
    name,
    typeInfo: [0x6a, 17, precision, scale],
    values: values.map((value) =>
      sized(Buffer.concat([Buffer.from([value < 0n ? 0 : 1]), little(value < 0n ? -value : value, precision > 9 ? 8 : 4)])),
    ),
  }),
  money: (name: string, ...values: readonly bigint[]): StubColumn => ({
    name,
    typeInfo: [0x6e, 8],
    values: values.map((value) => sized(Buffer.concat([little(value >> 32n, 4), little(value & 0xffffffffn, 4)]))),
  }),
  variant: (name: string): StubColumn => ({ name, typeInfo: [0x62, 0, 0, 0, 0], values: [] }),
  nvarchar: (name: string, ...values: readonly (string | null)[]): StubColumn => ({
    name,
    typeInfo: [0xe7, 0x40, 0x1f, ...COLLATION],
    values: values.map((value) => (value === null ? short(0xffff) : Buffer.concat([short(text(value).length), text(value)]))),
  }),
  varbinary: (name: string, ...values: readonly Buffer[]): StubColumn => ({
    name,
    typeInfo: [0xa5, 0x40, 0x1f],
    values: values.map((value) => Buffer.concat([short(value.length), value])),
  }),
  date: (name: string, ...values: readonly string[]): StubColumn => ({
    name,
    typeInfo: [0x28],
    values: values.map((value) => sized(days(value))),
  }),
  time: (name: string, ...values: readonly string[]): StubColumn => ({
    name,
    typeInfo: [0x29, MAX_TICKS],
    values: values.map((value) => sized(ticks(value))),
  }),
  datetime2: (name: string, ...values: readonly (readonly [date: string, time: string])[]): StubColumn => ({
    name,
    typeInfo: [0x2a, MAX_TICKS],
    values: values.map(([date, time]) => sized(Buffer.concat([ticks(time), days(date)]))),
  }),
  datetimeoffset: (name: string, ...values: readonly (readonly [date: string, time: string, minutes: number])[]): StubColumn => ({
    name,
    typeInfo: [0x2b, MAX_TICKS],
    values: values.map(([date, time, minutes]) => sized(Buffer.concat([ticks(time), days(date), little(minutes, 2)]))),
  }),
  datetime: (name: string, ...values: readonly (readonly [days: number, threeHundredths: number])[]): StubColumn => ({
    name,
    typeInfo: [0x6f, 8],
    values: values.map(([day, part]) => sized(Buffer.concat([little(day, 4), little(part, 4)]))),
  }),
}

const metadata = (columns: readonly StubColumn[]): Buffer =>
  Buffer.concat([
    Buffer.from([0x81]),
    short(columns.length),
    ...columns.flatMap(({ name, typeInfo }) => [Buffer.from([0, 0, 0, 0, 1, 0, ...typeInfo]), named(name)]),
  ])

const row = (columns: readonly StubColumn[], index: number): Buffer =>
  Buffer.concat([Buffer.from([0xd1]), ...columns.map(({ values }) => values[index] ?? NULL)])

/** The end of an answer: how many rows, and whether it was cancelled. */
const done = (rows = 0, status = 0x10): Buffer =>
  Buffer.concat([Buffer.from([0xfd]), short(status), short(0xc1), little(rows, 8)])

export const result = (...columns: readonly StubColumn[]): Buffer => {
  const count = columns[0]?.values.length ?? 0
  return Buffer.concat([metadata(columns), ...Array.from({ length: count }, (_, index) => row(columns, index)), done(count)])
}

export const failure = (number: number, message: string): Buffer => {
  const body = Buffer.concat([
    little(number, 4),
    Buffer.from([1, 16]),
    short(message.length),
    text(message),
    named('stub'),
    named(''),
    little(1, 4),
  ])
  return Buffer.concat([Buffer.from([0xaa]), short(body.length), body, done(0, 0x02)])
}

export const changed = (rows: number): Buffer => done(rows)

/** What a statement is answered with: all at once, or portion by portion as long as the client reads. */
export type StubAnswer = Buffer | 'nothing' | AsyncIterable<Buffer>

export interface TdsStub extends AsyncDisposable {
  readonly port: number
  /** How many times a statement was cancelled. */
  readonly cancelled: number
  /** Breaks all connections. */
  cut(): void
}

/** Rows without end of 1 000 characters each, ten at a time. */
export async function* endless(onPortion: () => void): AsyncGenerator<Buffer> {
  const columns = [columnOf.nvarchar('text', 'x'.repeat(1_000))]
  yield metadata(columns)
  for (;;) {
    onPortion()
    yield Buffer.concat(Array.from({ length: 10 }, () => row(columns, 0)))
  }
}

const PRELOGIN = 0x12
const LOGIN = 0x10
const ATTENTION = 0x06

export interface StubOptions {
  /** An error in place of a login. */
  readonly login?: Buffer
  /** TLS with this key and certificate as PEM: inside the login, or from the first byte on (TDS 8.0). */
  readonly tls?: { readonly key: string; readonly cert: string; readonly begins: 'in the login' | 'at once' }
}

/** Starts the stub. `answer`: by the text of a statement. */
export async function startTdsStub(answer: (sql: string) => StubAnswer, options: StubOptions = {}): Promise<TdsStub> {
  const { login, tls } = options
  const sockets = new Set<Socket>()
  let cancelled = 0
  const serve = (socket: Socket): void => {
    sockets.add(socket)
    socket.on('error', () => undefined)
    socket.on('close', () => sockets.delete(socket))
    let stream: Socket = socket
    let generation = 0
    const send = async (tokens: Buffer, isLast: boolean): Promise<void> => {
      for (let at = 0; at < Math.max(tokens.length, 1); at += 4_000) {
        const part = tokens.subarray(at, at + 4_000)
        const header = Buffer.from([4, isLast && at + 4_000 >= tokens.length ? 1 : 0, 0, 0, 0, 0, 1, 0])
        header.writeUInt16BE(part.length + 8, 2)
        if (!stream.write(Buffer.concat([header, part])) && !socket.destroyed) {
          await once(stream, 'drain').catch(() => undefined)
        }
      }
    }
    const respond = async (sql: string): Promise<void> => {
      const mine = ++generation
      const given = answer(sql)
      if (given === 'nothing') return
      if (Buffer.isBuffer(given)) return send(given, true)
      for await (const portion of given) {
        if (mine !== generation || socket.destroyed) return
        await send(portion, false)
      }
    }
    let buffered = Buffer.alloc(0)
    let message: Buffer[] = []
    const hear = (chunk: Buffer): void => {
      buffered = Buffer.concat([buffered, chunk])
      while (buffered.length >= 8 && buffered.length >= buffered.readUInt16BE(2)) {
        const packet = buffered.subarray(0, buffered.readUInt16BE(2))
        buffered = buffered.subarray(packet.length)
        message.push(packet.subarray(8))
        if (packet[1] !== 1) continue
        const body = Buffer.concat(message)
        message = []
        if (packet[0] === PRELOGIN) {
          const isNext = tls?.begins === 'in the login'
          // Version 16.0, and "encryption is on", or "I cannot encrypt".
          void send(Buffer.from([0, 0, 11, 0, 6, 1, 0, 17, 0, 1, 0xff, 16, 0, 0, 0, 0, 0, isNext ? 1 : 2]), true)
          if (!isNext) continue
          socket.off('data', hear)
          stream = tlsInPrelogin(socket, tls)
          stream.on('data', hear)
        } else if (packet[0] === LOGIN) {
          const program = Buffer.concat([Buffer.from([1, 0x74, 0, 0, 4]), named('stub'), Buffer.from([16, 0, 0, 0])])
          void send(login ?? Buffer.concat([Buffer.from([0xad]), short(program.length), program, done()]), true)
        } else if (packet[0] === ATTENTION) {
          cancelled += 1
          generation += 1
          void send(done(0, 0x20), true)
        } else {
          // Texts of a call stand at even or odd places.
          const sql = body.toString('utf16le') + body.subarray(1).toString('utf16le')
          void respond(sql.includes('set textsize') ? '' : sql)
        }
      }
    }
    socket.on('data', hear)
  }
  const isBare = tls?.begins !== 'at once'
  const server = isBare ? createServer(serve) : createTlsServer({ ...tls, ALPNProtocols: ['tds/8.0'] }, serve)
  server.on('tlsClientError', () => undefined)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const cut = (): void => {
    for (const socket of sockets)
      if (isBare) socket.resetAndDestroy()
      else socket.destroy()
  }
  return {
    port: (server.address() as AddressInfo).port,
    get cancelled() {
      return cancelled
    },
    cut,
    async [Symbol.asyncDispose]() {
      cut()
      server.close()
      await once(server, 'close')
    },
  }
}
