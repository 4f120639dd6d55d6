import { once } from 'node:events'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, expect, it } from 'vitest'
import { type BodyMemory, Wire } from '../src/wire.ts'

// Answers that the two servers never give, byte by byte, from a socket that the test writes.

let server: Server | undefined
let wire: Wire | undefined
const sockets: Socket[] = []

/** A server that gives the n-th request the n-th answer, in pieces of so many bytes. */
async function serving(answers: readonly string[], piece = 1_000_000): Promise<Wire> {
  let asked = 0
  server = createServer((socket) => {
    sockets.push(socket)
    socket.on('error', () => undefined)
    const write = async (answer: Buffer): Promise<void> => {
      for (let start = 0; start < answer.length; start += piece) {
        socket.write(answer.subarray(start, start + piece))
        if (piece < 100) await sleep(0)
      }
      if (answer.includes('until close')) socket.end()
    }
    socket.on('data', () => void write(Buffer.from(answers[asked++] ?? '', 'latin1')))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  wire = new Wire({ host: '127.0.0.1', port, tls: false, connectTimeoutMs: 1000 })
  return wire
}

afterEach(() => {
  wire?.destroy()
  for (const socket of sockets.splice(0)) socket.destroy()
  server?.close()
})

/** Takes so many bytes, and no more. */
function memoryOf(bytes: Buffer): BodyMemory {
  let filled = 0
  return {
    space: () => bytes.subarray(filled),
    filled: (count) => {
      filled += count
      return true
    },
  }
}

const get = { method: 'GET', target: '/', headers: { host: 'h' } }
const options = { signal: new AbortController().signal, stallTimeoutMs: 1000 }

it.each([1, 3, 1_000_000])(
  'reads chunks, trailers and interim answers in pieces of %i bytes, and uses the connection again',
  async (piece) => {
    const chunked =
      'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\nx-a: 2\r\n\r\n5;ext=1\r\nhello\r\n7\r\n, world\r\n0\r\nx-trailer: 1\r\n\r\n'
    const sized = 'HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc'
    const empty = 'HTTP/1.1 204 No Content\r\n\r\n'
    const one = await serving([chunked, sized, empty, sized], piece)
    const first = await one.collect(get, options)
    expect(first.body.toString()).toBe('hello, world')
    expect(first.headers['x-a']).toBe('1, 2')
    expect((await one.collect(get, options)).body.toString()).toBe('abc')
    expect((await one.collect(get, options)).status).toBe(204)
    const bytes = Buffer.alloc(3)
    await one.readInto(get, options, () => memoryOf(bytes))
    expect(bytes.toString()).toBe('abc')
    expect(sockets).toHaveLength(1)
  },
)

it('reads a body without a length to the end of its connection, and takes another one for the next request', async () => {
  const one = await serving([
    'HTTP/1.1 200 OK\r\n\r\nuntil close',
    'HTTP/1.1 200 OK\r\nConnection: close\r\ncontent-length: 1\r\n\r\nx',
  ])
  expect((await one.collect(get, options)).body.toString()).toBe('until close')
  expect((await one.collect(get, options)).body.toString()).toBe('x')
  expect(sockets).toHaveLength(2)
  expect(one.connections).toBe(0)
})

it.each([
  ['a body that is longer than it was to be', 'HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabcd', RangeError],
  ['another protocol', 'SSH-2.0-OpenSSH_9.2\r\n\r\n', TypeError],
])('fails on %s', async (_, answer, kind) => {
  const one = await serving([answer])
  await expect(one.readInto(get, options, () => memoryOf(Buffer.alloc(3)))).rejects.toBeInstanceOf(kind)
  expect(one.connections).toBe(0)
})

it.each([
  ['a chunk without a size', 'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n', 'ECONNRESET'],
  ['silence', '', 'ESOCKETTIMEDOUT'],
  ['silence in the body', 'HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc', 'ESOCKETTIMEDOUT'],
])('fails on %s', async (_, answer, code) => {
  const one = await serving([answer])
  await expect(one.collect(get, { ...options, stallTimeoutMs: 50 })).rejects.toMatchObject({ code })
  expect(one.connections).toBe(0)
})

it('ends with its signal, and does not begin after it', async () => {
  const one = await serving([''])
  const stop = new AbortController()
  const asked = one.collect(get, { signal: stop.signal, stallTimeoutMs: 0 })
  const reason = new Error('enough')
  setTimeout(() => stop.abort(reason), 20)
  await expect(asked).rejects.toBe(reason)
  await expect(one.collect(get, { signal: stop.signal, stallTimeoutMs: 0 })).rejects.toBe(reason)
  expect(one.connections).toBe(0)
})
