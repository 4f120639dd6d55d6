import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { closeAllConnections, createConnections } from '@common-handlers/connections'
import type { Sink, StreamItem } from '@common-handlers/connections/streams'
import { Lake } from '@common-handlers/lake'
import { getNatsClient, nats, testNatsConnection } from '@common-handlers/nats'
import { LocalFolderStore } from '@common-handlers/storage'
import { committedNumbers, describeWith, memorySink, startFaultProxy, startNats, readmeExample } from '@common-handlers/testkit'
import { jetstream, jetstreamManager } from '@nats-io/jetstream'
import { headers } from '@nats-io/transport-node'
import { afterAll, afterEach, expect, it } from 'vitest'
import { connectTo, publishTo } from './publish.ts'

const range = (count: number): number[] => Array.from({ length: count }, (_, index) => index)
const sorted = (ids: readonly number[]): number[] => ids.toSorted((a, b) => a - b)

describeWith([], 'NATS', async () => {
  const server = await startNats()
  const reach = { servers: [`127.0.0.1:${server.port}`] }
  const folder = await mkdtemp(join(tmpdir(), 'nats-'))
  const admin = await connectTo(reach)
  const manager = await jetstreamManager(admin)
  afterEach(() => closeAllConnections())
  afterAll(async () => {
    await admin.close()
    await server.stop()
    await rm(folder, { recursive: true })
  })

  it('gives each message with its subject, time and headers, its payload as it came', async () => {
    await manager.streams.add({ name: 'EXACT', subjects: ['exact.>'] })
    const client = jetstream(admin)
    const more = headers()
    more.append('a', '1')
    more.append('a', '2')
    more.append('traceparent', '00-1-2-01')
    await client.publish('exact.one', '{"id":9007199254740993,"amount":1.10}', { headers: more })
    await client.publish('exact.two', new Uint8Array([0, 255]))
    await client.publish('exact.three', '')
    const connection = await getNatsClient(reach)
    const items = await Array.fromAsync(connection.read({ stream: 'EXACT' }))
    const { created } = await manager.streams.info('EXACT')
    expect(items).toMatchObject([
      {
        source: `nats:EXACT@${created}`,
        key: '1',
        data: { id: 9_007_199_254_740_993n, amount: 1.1 },
        mediaType: 'application/json',
        attributes: {
          subject: 'exact.one',
          time: expect.stringMatching(/^2\d{3}-.*\.\d{9}Z$/) as string,
          headers: { a: ['1', '2'], traceparent: '00-1-2-01' },
        },
        lineage: { protocol: 'nats', query: 'EXACT', position: 0 },
      },
      { key: '2', data: new Uint8Array([0, 255]), mediaType: 'application/octet-stream' },
      { key: '3', data: new Uint8Array([]), bytes: 0 },
    ])
    expect(items.map(({ received }) => Buffer.from(received ?? []).toString('latin1'))).toEqual([
      '{"id":9007199254740993,"amount":1.10}',
      '\0\xff',
      '',
    ])
    expect(await Array.fromAsync(connection.read({ stream: 'EXACT', subjects: ['exact.t*'] }))).toEqual([])
    const two = await Array.fromAsync(connection.read({ stream: 'EXACT', subjects: ['exact.two', 'exact.one'], limit: 1 }))
    expect(two.map(({ key }) => key)).toEqual(['1'])
    // No consumer is left behind.
    expect((await manager.streams.info('EXACT')).state.consumer_count).toBe(0)
  })

  it('reads to the end as of now, past messages that are gone, and not from a stream made anew', async () => {
    await publishTo(reach, 'GAPS', 10)
    for (const sequence of [1, 5, 10]) await manager.streams.deleteMessage('GAPS', sequence)
    const client = await getNatsClient(reach)
    const items = await Array.fromAsync(client.read({ stream: 'GAPS' }))
    expect(items.map(({ key }) => Number(key))).toEqual([2, 3, 4, 6, 7, 8, 9])
    const { watermark } = items.at(-1) ?? {}
    expect(await Array.fromAsync(client.read({ stream: 'GAPS', watermark }))).toEqual([])
    await manager.streams.delete('GAPS')
    await publishTo(reach, 'GAPS', 3)
    await expect(Array.fromAsync(client.read({ stream: 'GAPS', watermark }))).rejects.toMatchObject({
      code: 'NATS_WATERMARK_INVALID',
    })
  })

  it('consumes 10,000 messages into a lake, in batches, and acknowledges what is written', async () => {
    await publishTo(reach, 'MANY', 10_000)
    const lake = new Lake({ store: new LocalFolderStore({ folder: join(folder, 'many') }), columns: { id: 'int64' } })
    const client = await getNatsClient(reach)
    const stop = new AbortController()
    const sink: Sink = {
      write: async (items) => {
        await lake.write(items)
        if (items.at(-1)?.key === '10000') stop.abort()
      },
    }
    const done = await client.consume({ stream: 'MANY', consumer: 'lake' }, sink, { rows: 2500, signal: stop.signal })
    expect(done).toEqual({ batches: 4, messages: 10_000 })
    const all = await Array.fromAsync(lake.listCommitted())
    expect(all.map(({ rows }) => rows)).toEqual([2500, 2500, 2500, 2500])
    expect(await manager.consumers.info('MANY', 'lake')).toMatchObject({
      num_pending: 0,
      num_ack_pending: 0,
      ack_floor: { stream_seq: 10_000 },
    })
  })

  it('loses nothing and writes nothing twice when it is killed between the write and the acknowledgement', async () => {
    await publishTo(reach, 'KILL', 10_000)
    // What the killed process had is delivered again after the time of its acknowledgement, not of the default's 30 s.
    await manager.consumers.add('KILL', { durable_name: 'lake', ack_policy: 'explicit', ack_wait: 1e9, max_ack_pending: 20_000 })
    const place = join(folder, 'killed')
    const main = join(import.meta.dirname, 'killed-main.ts')
    const child = spawn(process.execPath, ['--conditions=@common-handlers/source', main, reach.servers[0] ?? '', place], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    let said = ''
    child.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()))
    const [, signal] = (await once(child, 'close')) as [unknown, string]
    expect([signal, said]).toEqual(['SIGKILL', '3000 written'])
    expect(await manager.consumers.info('KILL', 'lake')).toMatchObject({ ack_floor: { stream_seq: 3000 } })

    const store = new LocalFolderStore({ folder: place })
    const lake = new Lake({ store, columns: { id: 'int64' } })
    const client = await getNatsClient(reach)
    const stop = new AbortController()
    let duplicates = 0
    const sink: Sink = {
      write: async (items) => {
        duplicates += (await lake.write(items)).duplicates
        const rows = (await Array.fromAsync(lake.listCommitted())).reduce((sum, one) => sum + one.rows, 0)
        if (rows === 10_000 && duplicates >= 3000) stop.abort()
      },
    }
    await client.consume({ stream: 'KILL', consumer: 'lake' }, sink, { rows: 3000, ms: 500, signal: stop.signal })
    expect(duplicates).toBe(3000)
    expect(await committedNumbers(lake, store, 'id')).toEqual(range(10_000))
  })

  it('goes on when the server was gone', async () => {
    await publishTo(reach, 'GONE', 2000)
    await using proxy = await startFaultProxy({ host: '127.0.0.1', port: server.port })
    const client = await getNatsClient({ servers: [`127.0.0.1:${proxy.port}`], attempts: 50 })
    const sink = memorySink()
    const stop = new AbortController()
    const consuming = client.consume({ stream: 'GONE', consumer: 'c' }, sink, { rows: 500, ms: 200, signal: stop.signal })
    await sink.until(500)
    await proxy.refuse()
    await publishTo(reach, 'GONE', 2000, 2000)
    await proxy.accept()
    // Those that were on their way come again when their time is up; new ones at once.
    await sink.until(2500)
    stop.abort()
    await consuming
    expect(new Set(sink.ids).size).toBe(sink.ids.length)
  })

  it('gives a bounded read up when the server is gone, and reads again when it is back', async () => {
    await publishTo(reach, 'CUT', 3000)
    await using proxy = await startFaultProxy({ host: '127.0.0.1', port: server.port })
    await using connections = createConnections({ connectors: [nats], variables: {} })
    await using connector = await connections.createConnector({
      protocol: 'nats',
      servers: [`127.0.0.1:${proxy.port}`],
      attempts: 2,
    })
    const items = connector.items({ stream: 'CUT' })
    await items.next()
    await proxy.refuse()
    const rest = async (): Promise<void> => {
      for await (const _ of items);
    }
    await expect(rest()).rejects.toMatchObject({ outcome: 'connection', retry: expect.not.stringMatching('never') as string })
    await proxy.accept()
    expect((await connector.fetchData({ stream: 'CUT' })).items).toHaveLength(3000)
  })

  it('finishes the batch under way when it is stopped, and gives back the next one at once', async () => {
    await publishTo(reach, 'STOP', 30)
    const client = await getNatsClient(reach)
    const written = Promise.withResolvers<void>()
    const stop = new AbortController()
    const got: StreamItem[] = []
    const consuming = client.consume(
      { stream: 'STOP', consumer: 'c' },
      {
        write: async (items) => {
          got.push(...items)
          stop.abort(new Error('enough'))
          await written.promise
        },
      },
      { rows: 10, signal: stop.signal },
    )
    await sleep(50)
    written.resolve()
    expect(await consuming).toEqual({ batches: 1, messages: 10 })
    expect(got.map(({ key }) => Number(key))).toEqual(range(10).map((index) => index + 1))
    const other = memorySink()
    const end = new AbortController()
    const rest = client.consume({ stream: 'STOP', consumer: 'c' }, other, { ms: 50, signal: end.signal })
    // Well before the 30 s after which the server would deliver them again.
    await other.until(20)
    end.abort()
    await rest
    expect(sorted(other.ids)).toEqual(range(30).slice(10))
  })

  it('keeps a long batch its own', async () => {
    await publishTo(reach, 'SLOW', 700)
    await manager.consumers.add('SLOW', { durable_name: 'c', ack_policy: 'explicit', ack_wait: 3e8 })
    const client = await getNatsClient(reach)
    const sink = memorySink()
    const stop = new AbortController()
    const slow: Sink = {
      write: async (items) => {
        await sleep(1000)
        await sink.write(items)
      },
    }
    const consuming = client.consume({ stream: 'SLOW', consumer: 'c' }, slow, { rows: 400, ms: 100, signal: stop.signal })
    await sink.until(700)
    stop.abort()
    await consuming
    expect(sink.batches).toEqual([400, 300])
    expect(await manager.consumers.info('SLOW', 'c')).toMatchObject({ num_redelivered: 0, num_ack_pending: 0 })
  })

  it('shares a consumer between two, each message with one of them', async () => {
    await publishTo(reach, 'TWO', 4000)
    const [one, two] = await Promise.all([getNatsClient(reach, { reuse: false }), getNatsClient(reach, { reuse: false })])
    const [a, b] = [memorySink(), memorySink()]
    const stop = new AbortController()
    const query = { stream: 'TWO', consumer: 'c' }
    const options = { rows: 500, ms: 100, signal: stop.signal }
    const both = Promise.all([one.consume(query, a, options), two.consume(query, b, options)])
    while (a.ids.length + b.ids.length < 4000) await sleep(20)
    stop.abort()
    await both
    expect(sorted([...a.ids, ...b.ids])).toEqual(range(4000))
    expect([a.ids.length, b.ids.length].every((count) => count > 0)).toBe(true)
    await Promise.all([one.close(), two.close()])
  })

  it('writes again what the sink refused, and ends with what it refuses for good', async () => {
    await publishTo(reach, 'SINK', 10)
    const client = await getNatsClient(reach)
    const refused = client.consume(
      { stream: 'SINK', consumer: 'c' },
      { write: () => Promise.reject(new Error('no')) },
      { rows: 10 },
    )
    await expect(refused).rejects.toThrow('no')
    const sink = memorySink()
    const stop = new AbortController()
    const again = client.consume({ stream: 'SINK', consumer: 'c' }, sink, { rows: 10, signal: stop.signal })
    await sink.until(10)
    await client.close()
    await closeAllConnections()
    expect((await again).messages).toBe(10)
    stop.abort()
  })

  it('the example of README.md', async () => {
    await publishTo(reach, 'ORDERS', 20)
    const place = join(folder, 'readme')
    const text = await readmeExample(join(import.meta.dirname, '..'))
    const code = text
      .replace('localhost:4222', `127.0.0.1:${server.port}`)
      .replace('/data/lake', place)
      .replace('ms: 30_000', 'ms: 100')
    const child = spawn(
      process.execPath,
      ['--conditions=@common-handlers/source', '--input-type=module-typescript', '-e', code],
      { cwd: join(import.meta.dirname, '..'), stdio: ['ignore', 'pipe', 'inherit'] },
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
    expect(said.split('\n').slice(0, 2)).toEqual(['1 { id: 0 }', '2 { id: 1 }'])
  })

  it('is closed although a reading was left standing', async () => {
    await publishTo(reach, 'LEFT', 10)
    const client = await getNatsClient(reach, { reuse: false })
    const items = client.read({ stream: 'LEFT' })
    await items.next()
    await client.close({ graceMs: 1 })
    await expect(items.next()).rejects.toMatchObject({ code: 'NATS_CLOSED' })
  })

  it('says what it cannot use', async () => {
    await publishTo(reach, 'ODD', 1)
    await manager.consumers.add('ODD', { durable_name: 'unasked', ack_policy: 'none' })
    await manager.consumers.add('ODD', { durable_name: 'narrow', ack_policy: 'explicit', filter_subject: 'ODD.a' })
    const client = await getNatsClient(reach)
    const sink = memorySink()
    await expect(client.consume({ stream: 'ODD', consumer: 'unasked' }, sink)).rejects.toMatchObject({
      code: 'NATS_CONSUMER_UNUSABLE',
    })
    await expect(client.consume({ stream: 'ODD', consumer: 'narrow', subjects: ['ODD.b'] }, sink)).rejects.toThrow(
      'its subjects are ODD.a',
    )
    await expect(client.consume({ stream: 'NONE', consumer: 'c' }, sink)).rejects.toMatchObject({ code: 'NATS_STREAM_NOT_FOUND' })
    await expect(Array.fromAsync(client.read({ stream: 'NONE' }))).rejects.toMatchObject({ code: 'NATS_STREAM_NOT_FOUND' })
  })
})

describeWith([], 'NATS with TLS and a login', async () => {
  const server = await startNats({ secure: true })
  const { security } = server
  if (security === undefined) throw new Error('the server was asked for TLS')
  const { user, password, caCert } = security
  const servers = [`127.0.0.1:${server.port}`]
  afterAll(() => server.stop())

  it('is reached by a URL with the authority of its certificate, and not without', async () => {
    const url = `nats://${user}:${password}@127.0.0.1:${server.port}`
    await using client = await getNatsClient(`${url}?ca=${encodeURIComponent(caCert)}`)
    const checked = await client.check()
    expect(checked, JSON.stringify(checked)).toMatchObject({ ok: true })
    expect(checked.steps.map(({ name }) => name)).toContain('trust the certificate')
    const untrusted = await testNatsConnection({ servers, tls: true, username: user, password })
    expect(untrusted.steps.at(-1)).toMatchObject({
      name: 'trust the certificate',
      ok: false,
      error: { code: 'CONNECTIONS_CERTIFICATE_UNTRUSTED' },
    })
    await expect(getNatsClient(url)).rejects.toMatchObject({ code: 'NATS_TLS_FAILED', retry: 'never' })
    const test = await testNatsConnection({ servers, username: user, password: 'wrong password', ca: caCert })
    expect(test.steps.at(-1)).toMatchObject({ name: 'log in', ok: false, error: { code: 'NATS_UNAUTHORIZED' } })
    expect(JSON.stringify(test)).not.toContain('wrong password')
    await closeAllConnections()
  })
})
