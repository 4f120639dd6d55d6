import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { closeAllConnections } from '@common-handlers/connections'
import type { Sink, StreamItem } from '@common-handlers/connections/streams'
import { getKafkaClient, testKafkaConnection } from '@common-handlers/kafka'
import { Lake } from '@common-handlers/lake'
import { LocalFolderStore, MemoryStore } from '@common-handlers/storage'
import { committedNumbers, describeWith, memorySink, startKafka, readmeExample } from '@common-handlers/testkit'
import { Admin, Producer } from '@platformatic/kafka'
import { afterAll, afterEach, expect, it } from 'vitest'
import { createTopic, publishTo, send } from './publish.ts'

const range = (count: number, from = 0): number[] => Array.from({ length: count }, (_, index) => from + index)
const sorted = (ids: readonly number[]): number[] => ids.toSorted((a, b) => a - b)

describeWith([], 'Kafka', async () => {
  const server = await startKafka({ secure: true })
  const { broker, security } = server
  if (security === undefined) throw new Error('the broker was asked for a login')
  const config = { brokers: [broker] }
  const folder = await mkdtemp(join(tmpdir(), 'kafka-'))
  const admin = new Admin({ clientId: 'test', bootstrapBrokers: [broker] })
  const committed = async (group: string, topic: string): Promise<string[]> => {
    const [found] = await admin.listConsumerGroupOffsets({ groups: [group] })
    const partitions = found?.topics.find(({ name }) => name === topic)?.partitions ?? []
    return partitions
      .toSorted((a, b) => a.partitionIndex - b.partitionIndex)
      .map(({ committedOffset }) => String(committedOffset))
  }
  afterEach(() => closeAllConnections())
  afterAll(async () => {
    await admin.close()
    await server.stop()
    await rm(folder, { recursive: true })
  })

  it('gives each message with its key and headers, its payload as it came, tombstones too', async () => {
    await createTopic(broker, 'exact', 1)
    await send(broker, 'exact', [
      {
        partition: 0,
        key: Buffer.from('one'),
        value: Buffer.from('{"id":9007199254740993,"amount":1.10}'),
        headers: new Map([
          [Buffer.from('traceparent'), Buffer.from('00-1-2-01')],
          [Buffer.from('raw'), Buffer.from([255])],
        ]),
      },
      { partition: 0, key: Buffer.from([0xff]) },
      { partition: 0, value: Buffer.from([0, 255]) },
    ])
    const client = await getKafkaClient(config)
    const items = await Array.fromAsync(client.read({ topic: 'exact' }))
    expect(items).toMatchObject([
      {
        source: expect.stringMatching(/^kafka:exact@[0-9a-f-]{36}$/) as string,
        key: '0/0',
        data: { id: 9_007_199_254_740_993n, amount: 1.1 },
        mediaType: 'application/json',
        attributes: {
          topic: 'exact',
          partition: 0,
          key: 'one',
          headers: [
            ['traceparent', '00-1-2-01'],
            ['raw', { base64: '/w==' }],
          ],
        },
      },
      { key: '0/1', data: null, bytes: 0, received: null, attributes: { key: { base64: '/w==' }, tombstone: true } },
      { key: '0/2', data: new Uint8Array([0, 255]), mediaType: 'application/octet-stream', attributes: { key: null } },
    ])
    expect(Buffer.from(items[0]?.received ?? []).toString()).toBe('{"id":9007199254740993,"amount":1.10}')
    // A group gives the same.
    const got: StreamItem[] = []
    const stop = new AbortController()
    const sink: Sink = {
      write: async (batch) => {
        got.push(...batch)
        stop.abort()
      },
    }
    await client.consume({ topics: ['exact'], group: 'exact' }, sink, { rows: 3, signal: stop.signal })
    const facts = ({ source, key, checksum, attributes, received }: StreamItem): unknown => ({
      source,
      key,
      checksum,
      attributes,
      received,
    })
    expect(got.map(facts)).toEqual(items.map(facts))
  })

  it('gives no message of an aborted transaction, however many there are', async () => {
    await createTopic(broker, 'transactions', 1)
    const base = { clientId: 'test', bootstrapBrokers: [broker], retries: 20, retryDelay: 100 }
    const producer = new Producer({ ...base, idempotent: true, transactionalId: 'test' })
    for (const [id, end] of ['commit', 'abort', 'abort', 'commit', 'abort'].entries()) {
      const transaction = await producer.beginTransaction()
      const message = { topic: 'transactions', partition: 0, value: Buffer.from(`{"id":${id}}`) }
      await transaction.send({ messages: [message, message] })
      await (end === 'commit' ? transaction.commit() : transaction.abort())
    }
    await producer.close()
    await send(broker, 'transactions', [{ partition: 0, value: Buffer.from('{"id":5}') }])
    const client = await getKafkaClient(config)
    const idOf = ({ data }: { readonly data?: unknown }): number => (data as { id: number }).id
    expect((await Array.fromAsync(client.read({ topic: 'transactions' }))).map(idOf)).toEqual([0, 0, 3, 3, 5])
    const got: number[] = []
    const stop = new AbortController()
    const sink: Sink = {
      write: async (items) => {
        got.push(...items.map(idOf))
        if (got.includes(5)) stop.abort()
      },
    }
    await client.consume({ topics: ['transactions'], group: 'transactions' }, sink, { ms: 50, signal: stop.signal })
    expect(got).toEqual([0, 0, 3, 3, 5])
  })

  it('reads to the end as of now, and not from a topic made anew', async () => {
    await createTopic(broker, 'anew', 2)
    await publishTo(broker, 'anew', 10, 2)
    const client = await getKafkaClient(config)
    const { watermark } = (await Array.fromAsync(client.read({ topic: 'anew', limit: 7 }))).at(-1) ?? {}
    const rest = await Array.fromAsync(client.read({ topic: 'anew', watermark }))
    expect(rest.map(({ key }) => key)).toEqual(['1/2', '1/3', '1/4'])
    await admin.deleteTopics({ topics: ['anew'] })
    await createTopic(broker, 'anew', 2)
    await using other = await getKafkaClient(config, { reuse: false })
    await expect(Array.fromAsync(other.read({ topic: 'anew', watermark }))).rejects.toMatchObject({
      code: 'KAFKA_WATERMARK_INVALID',
    })
    await expect(Array.fromAsync(other.read({ topic: 'none' }))).rejects.toMatchObject({ code: 'KAFKA_TOPIC_NOT_FOUND' })
    await expect(other.consume({ topics: ['none'], group: 'g' }, memorySink())).rejects.toMatchObject({
      code: 'KAFKA_TOPIC_NOT_FOUND',
    })
  })

  it('ends when its topic is deleted, and reads one of that name as another: none of its messages is taken for an old one', async () => {
    await createTopic(broker, 'renewed', 1)
    await publishTo(broker, 'renewed', 5, 1)
    const client = await getKafkaClient(config)
    const store = new MemoryStore()
    const lake = new Lake({ store, columns: { id: 'int64' } })
    const written = async (count: number): Promise<void> => {
      while ((await committedNumbers(lake, store, 'id')).length < count) await sleep(20)
    }
    const stop = new AbortController()
    const consume = (): Promise<unknown> =>
      client.consume({ topics: ['renewed'], group: 'g' }, lake, { ms: 50, signal: stop.signal }).catch((error: unknown) => error)
    const first = consume()
    await written(5)
    await admin.deleteTopics({ topics: ['renewed'] })
    await createTopic(broker, 'renewed', 1)
    await publishTo(broker, 'renewed', 5, 1, 5)
    // Or it goes on with the new one by itself, when it did not see that there was none for a moment.
    const isOver = await Promise.race([first.then(() => true), written(10).then(() => false)])
    if (isOver) expect(await first).toMatchObject({ code: 'KAFKA_TOPIC_NOT_FOUND' })
    const second = isOver ? consume() : first
    await written(10)
    stop.abort()
    await second
    expect(await committedNumbers(lake, store, 'id')).toEqual(range(10))
  })

  it('consumes 10,000 messages into a lake, in batches, and commits what is written', async () => {
    await createTopic(broker, 'many', 4)
    await publishTo(broker, 'many', 10_000, 4)
    const store = new MemoryStore()
    const lake = new Lake({ store, columns: { id: 'int64' } })
    const client = await getKafkaClient(config)
    const stop = new AbortController()
    let rows = 0
    const sink: Sink = {
      write: async (items) => {
        rows += (await lake.write(items)).rows
        if (rows === 10_000) stop.abort()
      },
    }
    const done = await client.consume({ topics: ['many'], group: 'lake' }, sink, { rows: 2500, signal: stop.signal })
    expect(done).toEqual({ batches: 4, messages: 10_000 })
    expect(await committedNumbers(lake, store, 'id')).toEqual(range(10_000))
    expect(await committed('lake', 'many')).toEqual(['2500', '2500', '2500', '2500'])
  })

  it('loses nothing and writes nothing twice when it is killed between the write and the commit', async () => {
    await createTopic(broker, 'kill', 2)
    await publishTo(broker, 'kill', 10_000, 2)
    const place = join(folder, 'killed')
    const main = join(import.meta.dirname, 'killed-main.ts')
    const child = spawn(process.execPath, ['--conditions=@common-handlers/source', main, broker, place], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    let said = ''
    child.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()))
    const [, signal] = (await once(child, 'close')) as [unknown, string]
    expect([signal, said]).toEqual(['SIGKILL', '3000 written'])

    const store = new LocalFolderStore({ folder: place })
    const lake = new Lake({ store, columns: { id: 'int64' } })
    // The group waits for the killed member until its session has ended.
    const client = await getKafkaClient({ ...config, sessionTimeoutMs: 6000 })
    const stop = new AbortController()
    const sum = { rows: 0, duplicates: 0 }
    const sink: Sink = {
      write: async (items) => {
        const { rows, duplicates } = await lake.write(items)
        sum.rows += rows
        sum.duplicates += duplicates
        if (sum.rows === 4000) stop.abort()
      },
    }
    await client.consume({ topics: ['kill'], group: 'lake' }, sink, { rows: 3000, ms: 500, signal: stop.signal })
    expect(sum).toEqual({ rows: 4000, duplicates: 3000 })
    expect(await committedNumbers(lake, store, 'id')).toEqual(range(10_000))
    expect(await committed('lake', 'kill')).toEqual(['5000', '5000'])
  })

  it('goes on when the broker was gone', async () => {
    await createTopic(broker, 'gone', 1)
    await publishTo(broker, 'gone', 2000, 1)
    const client = await getKafkaClient({ ...config, attempts: 100, sessionTimeoutMs: 6000, requestTimeoutMs: 3000 })
    const sink = memorySink()
    const stop = new AbortController()
    const consuming = client.consume({ topics: ['gone'], group: 'g' }, sink, { rows: 500, ms: 200, signal: stop.signal })
    await sink.until(500)
    await server.restart()
    await publishTo(broker, 'gone', 1000, 1, 2000)
    await sink.until(3000)
    stop.abort()
    await consuming
    expect(sorted(sink.ids)).toEqual(range(3000))
    expect((await Array.fromAsync(client.read({ topic: 'gone' }))).length).toBe(3000)
  })

  it('shares a group between two, gives the partitions of one that leaves to the other, and writes nothing twice', async () => {
    await createTopic(broker, 'two', 4)
    const own = { reuse: false }
    const [one, two] = await Promise.all([getKafkaClient(config, own), getKafkaClient(config, own)])
    const store = new MemoryStore()
    const [a, b] = [new Lake({ store, columns: { id: 'int64' } }), new Lake({ store, columns: { id: 'int64' } })]
    const rows = { a: 0, b: 0 }
    const sinkOf = (lake: Lake, name: 'a' | 'b'): Sink => ({
      write: async (items) => {
        rows[name] += (await lake.write(items)).rows
      },
    })
    const [stopOne, stopTwo] = [new AbortController(), new AbortController()]
    const query = { topics: ['two'], group: 'g' }
    const first = one.consume(query, sinkOf(a, 'a'), { rows: 100, ms: 50, signal: stopOne.signal })
    const second = two.consume(query, sinkOf(b, 'b'), { rows: 100, ms: 50, signal: stopTwo.signal })
    let sent = 0
    while (rows.a === 0 || rows.b === 0) {
      await publishTo(broker, 'two', 200, 4, sent)
      sent += 200
      await sleep(200)
    }
    stopOne.abort()
    await first
    await publishTo(broker, 'two', 200, 4, sent)
    sent += 200
    while (rows.a + rows.b < sent) await sleep(50)
    stopTwo.abort()
    await second
    expect(await committedNumbers(a, store, 'id')).toEqual(range(sent))
    await Promise.all([one.close(), two.close()])
  })

  it('the example of README.md', async () => {
    await createTopic(broker, 'orders', 1)
    await publishTo(broker, 'orders', 20, 1)
    const place = join(folder, 'readme')
    const text = await readmeExample(join(import.meta.dirname, '..'))
    const code = text.replace('localhost:9092', broker).replace('/data/lake', place).replace('ms: 30_000', 'ms: 100')
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
    expect(said.split('\n').slice(0, 2)).toEqual(['0/0 { id: 0 }', '0/1 { id: 1 }'])
  })

  it('is closed although a reading was left standing', async () => {
    await createTopic(broker, 'left', 1)
    await publishTo(broker, 'left', 10, 1)
    const client = await getKafkaClient(config, { reuse: false })
    const items = client.read({ topic: 'left' })
    await items.next()
    await client.close({ graceMs: 1 })
    // What was fetched before is still given.
    await expect(Array.fromAsync(items)).resolves.toHaveLength(9)
  })

  it('logs in with each mechanism, over TLS with the authority of its certificate, and not without', async () => {
    const { user: username, password, caCert: ca, saslBroker, saslTlsBroker, tlsBroker } = security
    for (const mechanism of ['plain', 'scram-sha-256', 'scram-sha-512'] as const) {
      await using client = await getKafkaClient({ brokers: [saslBroker], username, password, mechanism }, { reuse: false })
      expect((await client.check()).ok).toBe(true)
    }
    const url = `kafkas://${username}:${password}@${saslTlsBroker}`
    await using client = await getKafkaClient(`${url}?ca=${encodeURIComponent(ca)}`)
    expect((await client.check()).ok).toBe(true)
    await expect(getKafkaClient({ brokers: [tlsBroker], tls: true })).rejects.toMatchObject({
      code: 'KAFKA_TLS_FAILED',
      retry: 'never',
    })
    const test = await testKafkaConnection({ brokers: [saslBroker], username, password: 'wrong password' })
    expect(test.steps.at(-1)).toMatchObject({ name: 'log in', ok: false, error: { code: 'KAFKA_UNAUTHORIZED' } })
    expect(JSON.stringify(test)).not.toContain('wrong password')
  })
})
