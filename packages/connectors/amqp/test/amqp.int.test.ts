import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { amqp, getAmqpClient, testAmqpConnection } from '@common-handlers/amqp'
import { closeAllConnections, createConnections } from '@common-handlers/connections'
import type { Sink, StreamItem } from '@common-handlers/connections/streams'
import { Lake } from '@common-handlers/lake'
import { LocalFolderStore, MemoryStore } from '@common-handlers/storage'
import {
  committedNumbers,
  describeWith,
  memorySink,
  startFaultProxy,
  startRabbitMq,
  readmeExample,
} from '@common-handlers/testkit'
import { connect } from 'amqplib'
import { afterAll, afterEach, expect, it } from 'vitest'
import { publishTo } from './publish.ts'

const range = (count: number, from = 0): number[] => Array.from({ length: count }, (_, index) => from + index)
const sorted = (ids: readonly number[]): number[] => ids.toSorted((a, b) => a - b)

describeWith([], 'RabbitMQ', async () => {
  const server = await startRabbitMq({ tls: true })
  const folder = await mkdtemp(join(tmpdir(), 'amqp-'))
  const admin = await connect(server.url)
  const channel = await admin.createConfirmChannel()
  const left = async (queue: string): Promise<number> => (await channel.checkQueue(queue)).messageCount
  afterEach(() => closeAllConnections())
  afterAll(async () => {
    await admin.close()
    await server.stop()
    await rm(folder, { recursive: true })
  })

  it('gives each message with its properties and headers, its payload as it came, and leaves it there', async () => {
    await channel.assertExchange('shop', 'topic')
    await channel.assertQueue('exact')
    await channel.bindQueue('exact', 'shop', '#')
    channel.publish('shop', 'orders.new', Buffer.from('{"id":9007199254740993,"amount":1.10}'), {
      messageId: 'm-1',
      type: 'created',
      timestamp: 1_700_000_000,
      headers: { traceparent: '00-1-2-01', nested: { a: [1, true] } },
    })
    channel.publish('shop', 'orders.raw', Buffer.from([0, 255]))
    await channel.waitForConfirms()
    const client = await getAmqpClient(server.url)
    const items = await Array.fromAsync(client.read({ queue: 'exact' }))
    expect(items).toMatchObject([
      {
        source: 'amqp:exact',
        key: 'm-1',
        data: { id: 9_007_199_254_740_993n, amount: 1.1 },
        mediaType: 'application/json',
        attributes: {
          exchange: 'shop',
          routingKey: 'orders.new',
          messageId: 'm-1',
          type: 'created',
          timestamp: 1_700_000_000,
          headers: { traceparent: '00-1-2-01', nested: { a: [1, true] } },
        },
        first: false,
      },
      { key: expect.stringMatching(/^sha256:/) as string, data: new Uint8Array([0, 255]), first: true },
    ])
    expect(Buffer.from(items[0]?.received ?? []).toString()).toBe('{"id":9007199254740993,"amount":1.10}')
    expect(await left('exact')).toBe(2)
    const again = await Array.fromAsync(client.read({ queue: 'exact', limit: 2 }))
    expect(again.map(({ key, first }) => [key, first])).toEqual([
      ['m-1', false],
      [items[1]?.key, false],
    ])
  })

  it('consumes 10,000 messages into a lake, in batches, and acknowledges what is written', async () => {
    await publishTo(server.url, 'many', 10_000)
    const store = new MemoryStore()
    const lake = new Lake({ store, columns: { id: 'int64' } })
    const client = await getAmqpClient(server.url)
    const stop = new AbortController()
    let rows = 0
    const sink: Sink = {
      write: async (items) => {
        rows += (await lake.write(items)).rows
        if (rows === 10_000) stop.abort()
      },
    }
    expect(await client.consume({ queue: 'many' }, sink, { rows: 2500, signal: stop.signal })).toEqual({
      batches: 4,
      messages: 10_000,
    })
    expect(await committedNumbers(lake, store, 'id')).toEqual(range(10_000))
    expect(await left('many')).toBe(0)
  })

  it.each([
    ['an id', true],
    ['no id', false],
  ])(
    'loses nothing and writes nothing twice when it is killed before the acknowledgement: messages with %s',
    async (_name, withId) => {
      const queue = `kill-${String(withId)}`
      await publishTo(server.url, queue, 10_000, 0, withId)
      const place = join(folder, queue)
      const main = join(import.meta.dirname, 'killed-main.ts')
      const child = spawn(process.execPath, ['--conditions=@common-handlers/source', main, server.url, queue, place], {
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      let said = ''
      child.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()))
      const [, signal] = (await once(child, 'close')) as [unknown, string]
      expect([signal, said]).toEqual(['SIGKILL', '3000 written'])

      const store = new LocalFolderStore({ folder: place })
      const lake = new Lake({ store, columns: { id: 'int64' } })
      const client = await getAmqpClient(server.url)
      const stop = new AbortController()
      const sum = { rows: 0, duplicates: 0 }
      const sink: Sink = {
        write: async (items) => {
          const { rows, duplicates } = await lake.write(items)
          sum.rows += rows
          sum.duplicates += duplicates
          if (sum.rows + sum.duplicates === 7000) stop.abort()
        },
      }
      await client.consume({ queue }, sink, { rows: 3000, ms: 500, signal: stop.signal })
      expect(sum).toEqual({ rows: 4000, duplicates: 3000 })
      expect(await committedNumbers(lake, store, 'id')).toEqual(range(10_000))
      expect(await left(queue)).toBe(0)
    },
  )

  it('goes on when the server was gone', async () => {
    await publishTo(server.url, 'gone', 2000)
    await using proxy = await startFaultProxy({ host: server.host, port: server.port })
    const url = server.url.replace(String(server.port), String(proxy.port))
    const client = await getAmqpClient(`${url}?attempts=50`)
    const sink = memorySink()
    const stop = new AbortController()
    const consuming = client.consume({ queue: 'gone' }, sink, { rows: 500, ms: 200, signal: stop.signal })
    await sink.until(500)
    await proxy.refuse()
    await publishTo(server.url, 'gone', 1000, 2000)
    await proxy.accept()
    await sink.until(3000)
    stop.abort()
    await consuming
    expect(sorted(sink.ids)).toEqual(range(3000))
  })

  it('gives a bounded read up when the server is gone, and reads again when it is back', async () => {
    await publishTo(server.url, 'cut', 500)
    await using proxy = await startFaultProxy({ host: server.host, port: server.port })
    await using connections = createConnections({ connectors: [amqp], variables: {} })
    const { host, user: username, password } = server
    await using connector = await connections.createConnector({
      protocol: 'amqp',
      host,
      port: proxy.port,
      username,
      password,
      attempts: 2,
    })
    const items = connector.items({ queue: 'cut' })
    await items.next()
    await proxy.refuse()
    const rest = async (): Promise<void> => {
      for await (const _ of items);
    }
    await expect(rest()).rejects.toMatchObject({ outcome: 'connection', retry: expect.not.stringMatching('never') as string })
    await proxy.accept()
    while ((await left('cut')) < 500) await sleep(20)
    expect((await connector.fetchData({ queue: 'cut' })).items).toHaveLength(500)
  })

  it('finishes the batch under way when it is stopped, and gives back the rest', async () => {
    await publishTo(server.url, 'stop', 30)
    const client = await getAmqpClient(server.url)
    const written = Promise.withResolvers<void>()
    const stop = new AbortController()
    const got: StreamItem[] = []
    const sink: Sink = {
      write: async (items) => {
        got.push(...items)
        stop.abort(new Error('enough'))
        await written.promise
      },
    }
    const consuming = client.consume({ queue: 'stop' }, sink, { rows: 10, signal: stop.signal })
    while (got.length === 0) await sleep(10)
    expect(await left('stop')).toBe(0)
    written.resolve()
    expect(await consuming).toEqual({ batches: 1, messages: 10 })
    expect(got.map(({ key }) => key)).toEqual(range(10).map((id) => `m-${id}`))
    expect(await left('stop')).toBe(20)
  })

  it('shares a queue between two, each message with one of them', async () => {
    const [one, two] = await Promise.all([
      getAmqpClient(server.url, { reuse: false }),
      getAmqpClient(server.url, { reuse: false }),
    ])
    await channel.assertQueue('two')
    const [a, b] = [memorySink(), memorySink()]
    const stop = new AbortController()
    const options = { rows: 100, ms: 100, signal: stop.signal }
    const both = Promise.all([one.consume({ queue: 'two' }, a, options), two.consume({ queue: 'two' }, b, options)])
    await publishTo(server.url, 'two', 2000)
    while (a.ids.length + b.ids.length < 2000) await sleep(20)
    stop.abort()
    await both
    expect(sorted([...a.ids, ...b.ids])).toEqual(range(2000))
    expect([a.ids.length, b.ids.length].every((count) => count > 0)).toBe(true)
    await Promise.all([one.close(), two.close()])
  })

  it('sends what cannot be decoded to the dead-letter exchange, and loses it nowhere', async () => {
    await channel.assertQueue('mixed')
    await channel.assertExchange('dead', 'fanout')
    await publishTo(server.url, 'mixed', 1)
    channel.sendToQueue('mixed', Buffer.from('no JSON'), { messageId: 'bad', headers: { a: 1 }, type: 'x' })
    await publishTo(server.url, 'mixed', 1, 1)
    const client = await getAmqpClient(server.url)
    const query = { queue: 'mixed', deadLetterExchange: 'dead' }
    // No queue takes it.
    await expect(client.consume(query, memorySink(), { ms: 10 })).rejects.toMatchObject({
      code: 'AMQP_UNROUTABLE',
      retry: 'never',
    })
    await channel.assertQueue('graves')
    await channel.bindQueue('graves', 'dead', '')
    const sink = memorySink()
    const stop = new AbortController()
    const consuming = client.consume(query, sink, { ms: 50, signal: stop.signal })
    await sink.until(2)
    stop.abort()
    await consuming
    expect(sink.ids).toEqual([0, 1])
    const buried = await channel.get('graves', { noAck: true })
    expect(
      buried !== false && [
        buried.content.toString(),
        buried.properties.messageId,
        buried.properties.type,
        buried.properties.headers,
      ],
    ).toEqual(['no JSON', 'bad', 'x', { a: 1, 'x-source-queue': 'mixed', 'x-expected-format': 'json' }])
    expect(await left('mixed')).toBe(0)
  })

  it('the example of README.md', async () => {
    await publishTo(server.url, 'orders', 20)
    const place = join(folder, 'readme')
    const text = await readmeExample(join(import.meta.dirname, '..'))
    const code = text
      .replace("'localhost', username: 'etl'", "'127.0.0.1', username: 'test'")
      .replace('/data/lake', place)
      .replace('ms: 30_000', 'ms: 100')
    const child = spawn(
      process.execPath,
      ['--conditions=@common-handlers/source', '--input-type=module-typescript', '-e', code],
      {
        cwd: join(import.meta.dirname, '..'),
        stdio: ['ignore', 'pipe', 'inherit'],
        env: { ...process.env, AMQP_PORT: String(server.port), RABBITMQ_PASSWORD: server.password },
      },
    )
    const closed = once(child, 'close')
    let said = ''
    child.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()))
    const lake = new Lake({ store: new LocalFolderStore({ folder: place }), prefix: 'orders' })
    const rows = async (): Promise<number> =>
      (await Array.fromAsync(lake.listCommitted())).reduce((sum, one) => sum + one.rows, 0)
    while ((await rows()) < 20) await sleep(50)
    child.kill('SIGTERM')
    expect(await closed).toEqual([0, null])
    expect(said.split('\n').slice(0, 2)).toEqual(['m-0 { id: 0 }', 'm-1 { id: 1 }'])
  })

  it('is closed although a reading was left standing', async () => {
    await publishTo(server.url, 'left', 10)
    const client = await getAmqpClient(server.url, { reuse: false })
    const items = client.read({ queue: 'left' })
    await items.next()
    await client.close({ graceMs: 1 })
    await expect(items.next()).rejects.toMatchObject({ code: 'AMQP_CLOSED' })
    while ((await left('left')) < 10) await sleep(10)
  })

  it('says what it cannot use, and ends when its queue is deleted', async () => {
    const client = await getAmqpClient(server.url)
    await expect(client.consume({ queue: 'none' }, memorySink())).rejects.toMatchObject({ code: 'AMQP_NOT_FOUND' })
    await expect(Array.fromAsync(client.read({ queue: 'none' }))).rejects.toMatchObject({ code: 'AMQP_NOT_FOUND' })
    await channel.assertQueue('deleted')
    const ended = client.consume({ queue: 'deleted' }, memorySink()).catch((error: unknown) => error)
    while ((await channel.checkQueue('deleted')).consumerCount === 0) await sleep(10)
    await channel.deleteQueue('deleted')
    expect(await ended).toMatchObject({ code: 'AMQP_NOT_FOUND' })
    await expect(getAmqpClient(server.url.concat('/other'))).rejects.toMatchObject({ code: 'AMQP_VHOST_REFUSED' })
  })

  it('is reached over TLS with the authority of its certificate, and not without', async () => {
    const { url = '', caCert = '' } = server.tls ?? {}
    await using client = await getAmqpClient(`${url}?ca=${encodeURIComponent(caCert)}`)
    expect((await client.check()).ok).toBe(true)
    await expect(getAmqpClient(url)).rejects.toMatchObject({ code: 'AMQP_TLS_FAILED', retry: 'never' })
    const { host, port } = server
    const test = await testAmqpConnection({ host, port, username: 'test', password: 'wrong password' })
    expect(test.steps.at(-1)).toMatchObject({ name: 'log in', ok: false, error: { code: 'AMQP_UNAUTHORIZED' } })
    expect(JSON.stringify(test)).not.toContain('wrong password')
  })
})
