import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type FaultProxy, startFaultProxy } from '@common-handlers/testkit'

/** A server that sends back what it gets, or `bulk` bytes at once for the word "bulk". */
const bulk = 5_000_000
let echo: Server
let proxy: FaultProxy
const clients: Socket[] = []

beforeEach(async () => {
  echo = createServer((socket) => {
    socket.on('error', () => undefined)
    socket.on('data', (chunk: Buffer) => socket.write(chunk.toString() === 'bulk' ? Buffer.alloc(bulk, 7) : chunk))
  })
  await new Promise<void>((resolve) => echo.listen(0, '127.0.0.1', resolve))
  proxy = await startFaultProxy({ host: '127.0.0.1', port: (echo.address() as AddressInfo).port })
})

afterEach(async () => {
  for (const client of clients.splice(0)) client.destroy()
  await proxy.stop()
  await new Promise((resolve) => echo.close(resolve))
})

describe('startFaultProxy', () => {
  it('passes bytes both ways and an end on', async () => {
    const client = await join()
    expect(await say(client, 'hello')).toBe('hello')
    expect(proxy.connections).toBe(1)
    client.end()
    await once(client, 'close')
    await expect.poll(() => proxy.connections).toBe(0)
  })

  it('passes more than fits into any buffer, whole', async () => {
    const client = await join()
    client.write('bulk')
    let received = 0
    client.on('data', (chunk: Buffer) => {
      received += chunk.length
      client.pause()
      setImmediate(() => client.resume())
    })
    await expect.poll(() => received, { timeout: 10_000 }).toBe(bulk)
  })

  it('cuts by a reset, and serves the next connection', async () => {
    const client = await join()
    await say(client, 'a')
    const error = once(client, 'error')
    proxy.cut()
    expect(await error).toMatchObject([{ code: 'ECONNRESET' }])
    expect(await say(await join(), 'b')).toBe('b')
  })

  it('cuts by an end without an error', async () => {
    const client = await join()
    await say(client, 'a')
    let failed = false
    client.on('error', () => (failed = true))
    proxy.cut('end')
    await once(client, 'close')
    expect(failed).toBe(false)
  })

  it('refuses, and accepts again on the same port', async () => {
    const client = await join()
    await say(client, 'a')
    const broken = once(client, 'error')
    const { port } = proxy
    await proxy.refuse()
    await broken
    await expect(join()).rejects.toMatchObject({ code: 'ECONNREFUSED' })
    await proxy.accept()
    expect(proxy.port).toBe(port)
    expect(await say(await join(), 'b')).toBe('b')
  })

  it('holds bytes back while it stalls, new connections included, and loses none', async () => {
    const old = await join()
    await say(old, 'a')
    proxy.stall()
    const young = await join()
    const answers = [say(old, 'one'), say(young, 'two')]
    expect(await Promise.race([...answers, sleep(150, 'nothing')])).toBe('nothing')
    proxy.resume()
    expect(await Promise.all(answers)).toEqual(['one', 'two'])
  })

  it('abandons connections, whose other side never learns of it, and serves new ones', async () => {
    const old = await join()
    await say(old, 'a')
    const served: Socket[] = []
    echo.on('connection', (socket) => served.push(socket))
    proxy.abandon()
    expect(proxy.connections).toBe(0)
    expect(await Promise.race([say(old, 'b'), sleep(150, 'nothing')])).toBe('nothing')
    old.destroy()
    await once(old, 'close')
    expect(await say(await join(), 'c')).toBe('c')
    await sleep(50)
    // The server still takes the old connection for alive.
    expect(served).toHaveLength(1)
    expect(await new Promise((resolve) => echo.getConnections((_, count) => resolve(count)))).toBe(2)
  })

  it('ends each connection after exactly the bytes it may have', async () => {
    proxy.limitBytes(1_000_000)
    for (let round = 0; round < 2; round++) expect(await receive(await join(), 'bulk')).toBe(1_000_000)
    proxy.limitBytes(Infinity)
    expect(await say(await join(), 'free')).toBe('free')
  })

  it('limits one connection alone when told so, and the other direction', async () => {
    proxy.limitBytes(3, { once: true, direction: 'to-server' })
    const client = await join()
    expect(await receive(client, 'abcdef')).toBe(0)
    expect(await say(await join(), 'abcdef')).toBe('abcdef')
  })

  it('passes on that the server is down', async () => {
    await new Promise((resolve) => echo.close(resolve))
    const client = await join()
    expect(await once(client, 'error')).toMatchObject([{ code: 'ECONNRESET' }])
    expect(proxy.connections).toBe(0)
  })
})

async function join(): Promise<Socket> {
  const client = connect(proxy.port, proxy.host)
  clients.push(client)
  await once(client, 'connect')
  return client
}

async function say(client: Socket, word: string): Promise<string> {
  client.write(word)
  const [chunk] = (await once(client, 'data')) as [Buffer]
  return chunk.toString()
}

/** The number of bytes that came before the connection broke. */
async function receive(client: Socket, word: string): Promise<number> {
  let received = 0
  client.on('data', (chunk: Buffer) => (received += chunk.length))
  client.write(word)
  await once(client, 'close')
  return received
}
