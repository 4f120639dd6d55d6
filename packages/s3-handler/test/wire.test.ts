import { execFile } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { createServer as createTlsServer, getCACertificates, setDefaultCACertificates } from 'node:tls'
import { promisify } from 'node:util'
import { afterEach, describe, expect, it } from 'vitest'
import { type BodyMemory, LATE_BYTES, Wire } from '../src/wire.ts'

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

// What a server does to a connection: it is told what it gets and what it may do.
type Reaction = (socket: Socket, request: string, count: number) => void

/** A server that reacts to what comes on each connection, and how many connections there were. */
async function reacting(react: Reaction): Promise<Wire> {
  let count = 0
  server = createServer((socket) => {
    sockets.push(socket)
    socket.on('error', () => undefined)
    socket.on('data', (bytes) => react(socket, bytes.toString('latin1'), ++count))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  wire = new Wire({ host: '127.0.0.1', port: (server.address() as AddressInfo).port, tls: false, connectTimeoutMs: 1000 })
  return wire
}

const ok = 'HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok'
const put = { method: 'PUT', target: '/', headers: { host: 'h', 'content-length': '3' }, body: Buffer.from('abc') }

describe('a connection that the server closes just when it is used again', () => {
  /** Answers the first request and closes the connection when the second one comes on it. */
  const closing: Reaction = (socket, _, count) => void (count === 2 ? socket.destroy() : socket.write(ok))

  it.each([
    ['a read', get],
    ['a look', { ...get, method: 'HEAD' }],
    ['a read of one version', { ...get, headers: { host: 'h', 'if-match': '"a"' } }],
    ['a write', put],
    ['a delete', { ...get, method: 'DELETE' }],
  ])('is no failure of %s, which goes over another one at once', async (_, request) => {
    const one = await reacting((socket, text, count) => {
      if (count === 2) socket.destroy()
      else socket.write(text.startsWith('HEAD') ? 'HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n' : ok)
    })
    await one.collect(get, options)
    expect((await one.collect(request, options)).status).toBe(200)
    expect(sockets).toHaveLength(2)
  })

  it.each([
    ['a write with a condition', { ...put, headers: { ...put.headers, 'if-none-match': '*' } }],
    ['a delete with a condition', { ...get, method: 'DELETE', headers: { host: 'h', 'if-match': '"a"' } }],
    ['a post', { ...put, method: 'POST' }],
  ])('is one of %s, whose caller must know that it may have been done', async (_, request) => {
    const one = await reacting(closing)
    await one.collect(get, options)
    await expect(one.collect(request, options)).rejects.toMatchObject({ code: 'ECONNRESET' })
    expect(sockets).toHaveLength(1)
  })

  it('is one when the new connection is closed too, and when part of an answer had come', async () => {
    const one = await reacting((socket, _, count) => {
      if (count === 1) socket.write(ok)
      else if (count === 4) socket.end('HTTP/1.1 200 OK\r\ncontent-le')
      else socket.destroy()
    })
    await one.collect(get, options)
    await expect(one.collect(get, options)).rejects.toMatchObject({ code: 'ECONNRESET' })
    expect(sockets).toHaveLength(2)
    await expect(one.collect(get, options)).rejects.toMatchObject({ code: 'ECONNRESET' })
    expect(one.connections).toBe(0)
  })

  it('is not asked again by a call that was aborted', async () => {
    const one = await reacting((socket, _, count) => void (count === 1 && socket.write(ok)))
    await one.collect(get, options)
    const stop = new AbortController()
    const asked = one.collect(get, { signal: stop.signal, stallTimeoutMs: 0 })
    stop.abort(new Error('enough'))
    await expect(asked).rejects.toBe(stop.signal.reason)
    expect(sockets).toHaveLength(1)
  })
})

it('gives an answer, and drops a connection on which more comes than was asked for', async () => {
  const one = await serving([`${ok}HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil`, ok])
  expect((await one.collect(get, options)).body.toString()).toBe('ok')
  expect(one.connections).toBe(0)
  expect((await one.collect(get, options)).body.toString()).toBe('ok')
  expect(sockets).toHaveLength(2)
})

it('knows that no body follows the answer to HEAD, and 304, whatever their length says', async () => {
  const sized = 'HTTP/1.1 200 OK\r\ncontent-length: 5000000\r\n\r\n'
  const one = await serving([sized, 'HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n', ok])
  const head = await one.collect({ ...get, method: 'HEAD' }, options)
  expect([head.status, head.headers['content-length'], head.body.byteLength]).toEqual([200, '5000000', 0])
  expect((await one.collect(get, options)).status).toBe(304)
  expect((await one.collect(get, options)).body.toString()).toBe('ok')
  expect(sockets).toHaveLength(1)
})

it.each([true, false])('hears a server that refuses a body before it has read it (and closes: %s)', async (closes) => {
  const refusal = 'HTTP/1.1 403 Forbidden\r\ncontent-length: 6\r\n\r\ndenied'
  const one = await reacting((socket, _, count) => {
    if (count > 1) return
    socket.pause()
    if (closes) socket.end(refusal)
    else socket.write(refusal)
  })
  const body = Buffer.alloc(32 * 1024 * 1024)
  const large = { ...put, headers: { host: 'h', 'content-length': String(body.length) }, body }
  const answer = await one.collect(large, options)
  expect([answer.status, answer.body.toString()]).toEqual([403, 'denied'])
  // The rest of the body is not sent, so nothing else can be.
  expect(one.connections).toBe(0)
})

it.each([
  ['a head', 'HTTP/1.1 200 OK\r\nx: ' + 'a'.repeat(300_000)],
  ['a line before a chunk', 'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;' + 'a'.repeat(300_000)],
])('fails on %s without an end', async (_, answer) => {
  const one = await serving([answer])
  await expect(one.collect(get, options)).rejects.toBeInstanceOf(RangeError)
  expect(one.connections).toBe(0)
})

it.each([
  ['two lengths', 'HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok'],
  ['a chunk that is longer than it says', 'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nokay\r\n0\r\n\r\n'],
])('fails on %s', async (_, answer) => {
  const one = await serving([answer])
  await expect(one.collect(get, options)).rejects.toMatchObject({ code: 'ECONNRESET' })
  expect(one.connections).toBe(0)
})

it.each(['connecting', 'waiting', 'reading a body', 'sending a body'])('ends with its signal while %s', async (state) => {
  const begun = Promise.withResolvers<void>()
  const one = await reacting((socket) => {
    if (state === 'reading a body') socket.write('HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc')
    if (state === 'sending a body') socket.pause()
    begun.resolve()
  })
  const stop = new AbortController()
  const body = Buffer.alloc(state === 'sending a body' ? 32 * 1024 * 1024 : 1)
  const request = { ...put, headers: { host: 'h', 'content-length': String(body.length) }, body }
  const asked = one.collect(request, { signal: stop.signal, stallTimeoutMs: 0 })
  if (state !== 'connecting') await begun.promise
  stop.abort(new Error('enough'))
  await expect(asked).rejects.toBe(stop.signal.reason)
  expect(one.connections).toBe(0)
})

describe('memory that is full', () => {
  /** Ready for so many bytes, then full until it is emptied; counts what comes although it had said that it is full. */
  async function readSlowly(one: Wire, size: number): Promise<{ readonly late: number; readonly sum: string }> {
    const hash = createHash('sha256')
    const room = Buffer.alloc(READY_BYTES + LATE_BYTES)
    let [held, late, most, full] = [0, 0, 0, false]
    await one.readInto(get, options, (_, resume) => ({
      space: () => room.subarray(held),
      filled: (count) => {
        hash.update(room.subarray(held, held + count))
        held += count
        if (full) late += count
        most = Math.max(most, late)
        if (full || held < READY_BYTES) return !full
        full = true
        setTimeout(() => {
          ;[held, late, full] = [0, 0, false]
          resume()
        }, 2)
        return false
      },
    }))
    expect(size).toBeGreaterThan(20 * room.length)
    return { late: most, sum: hash.digest('hex') }
  }
  const READY_BYTES = 64 * 1024
  const bytes = randomBytes(4 * 1024 * 1024 + 5)
  const answer = Buffer.concat([Buffer.from(`HTTP/1.1 200 OK\r\ncontent-length: ${bytes.length}\r\n\r\n`), bytes])
  const sum = createHash('sha256').update(bytes).digest('hex')

  it('is no more than a little for a body that nobody reads', async () => {
    const large = Buffer.alloc(64 * 1024 * 1024, 'x')
    const head = `HTTP/1.1 200 OK\r\ncontent-length: ${large.length}\r\n\r\n`
    const one = await reacting((socket) => {
      socket.write(head)
      socket.write(large)
    })
    const { body } = await one.open(get, options)
    if (!(body instanceof Readable)) throw new TypeError('no stream')
    for (let look = 0; look < 20; look++) {
      await sleep(10)
      expect(body.readableLength).toBeLessThanOrEqual(256 * 1024 + LATE_BYTES)
    }
    let read = 0
    for await (const chunk of body) read += (chunk as Buffer).length
    expect(read).toBe(large.length)
    expect(one.connections).toBe(1)
  })

  it('hears no more than was on its way', async () => {
    const one = await reacting((socket) => void socket.write(answer))
    const read = await readSlowly(one, bytes.length)
    expect(read).toEqual({ late: 0, sum })
  })

  it('hears no more than was on its way over TLS, where one read is several records', async () => {
    const folder = await mkdtemp(join(tmpdir(), 's3-wire-'))
    const before = getCACertificates('default')
    try {
      const files = ['-keyout', 'key.pem', '-out', 'cert.pem', '-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1']
      await promisify(execFile)('openssl', ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', ...files], {
        cwd: folder,
      })
      const cert = await readFile(join(folder, 'cert.pem'), 'utf8')
      setDefaultCACertificates([...before, cert])
      const secure = createTlsServer({ key: await readFile(join(folder, 'key.pem')), cert }, (socket) => {
        sockets.push(socket)
        socket.on('error', () => undefined)
        socket.on('data', () => void socket.write(answer))
      }).listen(0, '127.0.0.1')
      server = secure
      await once(secure, 'listening')
      const { port } = secure.address() as AddressInfo
      wire = new Wire({ host: '127.0.0.1', port, tls: true, connectTimeoutMs: 5000 })
      const read = await readSlowly(wire, bytes.length)
      expect(read.sum).toBe(sum)
      expect(read.late).toBeLessThanOrEqual(LATE_BYTES)
    } finally {
      setDefaultCACertificates(before)
      await rm(folder, { recursive: true })
    }
  })
})
