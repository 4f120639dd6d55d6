import { describeWith, startKafka, startRabbitMq } from '@common-handlers/testkit'
import { Consumer, Producer, stringDeserializers, stringSerializers } from '@platformatic/kafka'
import { connect } from 'amqplib'
import { afterAll, expect, it } from 'vitest'
import { Outbox } from '../src/index.ts'
import { toAmqp, toKafka } from '../src/publish.ts'
import { ownOutbox, until } from './own-outbox.ts'

describeWith(['postgres'], 'publishing to RabbitMQ', async ({ postgres }) => {
  const server = await startRabbitMq()
  afterAll(() => server.stop())
  const own = ownOutbox(postgres)
  const outbox = new Outbox()

  it('is done when a queue has the message, and fails where none takes it', async () => {
    const connection = await connect(server.url)
    const channel = await connection.createConfirmChannel()
    await channel.assertExchange('shop', 'direct')
    await channel.assertQueue('orders')
    await channel.bindQueue('orders', 'shop', 'created')
    const handlers = {
      created: toAmqp(channel, { exchange: 'shop', routingKey: ({ type }) => type }),
      nowhere: toAmqp(channel, { exchange: 'shop', routingKey: 'nowhere', maxAttempts: 1 }),
    }
    await own.worker({ handlers }).start()
    const [first, second] = await outbox.enqueueMany(own.pool, [
      { type: 'created', payload: { n: 1 }, key: 'one', headers: { traceparent: '00-1-2-01' } },
      { type: 'created', payload: { n: 2 }, key: 'one' },
      { type: 'nowhere', payload: { n: 3 } },
    ])
    await until(async () => (await own.one<number>('SELECT count(*)::int FROM outbox.event')) === 0)
    const got = [await channel.get('orders', { noAck: true }), await channel.get('orders', { noAck: true })]
    expect(
      got.map((message) => message !== false && [message.properties.messageId, message.properties.type, String(message.content)]),
    ).toEqual([
      [`outbox-${String(first)}`, 'created', '{"n":1}'],
      [`outbox-${String(second)}`, 'created', '{"n":2}'],
    ])
    expect(got[0] !== false && got[0]?.properties.headers).toEqual({ traceparent: '00-1-2-01' })
    expect(await channel.get('orders', { noAck: true })).toBe(false)
    expect(await own.one('SELECT error FROM outbox.dead_letter')).toContain('no queue is bound that takes the message')
    await connection.close()
  })
})

describeWith(['postgres'], 'publishing to Kafka', async ({ postgres }) => {
  const server = await startKafka()
  afterAll(() => server.stop())
  const own = ownOutbox(postgres)
  const outbox = new Outbox()

  it('is done when all replicas have the message, with the key of the event', async () => {
    const base = { clientId: 'outbox', bootstrapBrokers: [server.broker] }
    const producer = new Producer({ ...base, serializers: stringSerializers, autocreateTopics: true })
    await own.worker({ handlers: { created: toKafka(producer, { topic: 'orders' }) }, backoffBaseMs: 50 }).start()
    const ids = await outbox.enqueueMany(
      own.pool,
      [1, 2, 3].map((n) => ({ type: 'created', payload: { n }, key: 'one' })),
    )
    await until(async () => (await own.one<number>('SELECT count(*)::int FROM outbox.event')) === 0, 30_000)
    expect(await own.one('SELECT count(*)::int FROM outbox.dead_letter')).toBe(0)
    await producer.close()
    const consumer = new Consumer({ ...base, groupId: 'test', deserializers: stringDeserializers })
    const stream = await consumer.consume({ topics: ['orders'], mode: 'earliest', autocommit: false })
    const seen: unknown[] = []
    for await (const { key, value, headers } of stream) {
      seen.push([key, value, headers.get('message-id'), headers.get('event-type')])
      if (seen.length === 3) break
    }
    expect(seen).toEqual([1, 2, 3].map((n, index) => ['one', `{"n":${n}}`, `outbox-${String(ids[index])}`, 'created']))
    await consumer.close(true)
  }, 60_000)
})
