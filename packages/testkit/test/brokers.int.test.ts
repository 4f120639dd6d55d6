import { once } from 'node:events'
import { connect } from 'node:net'
import type { Duplex } from 'node:stream'
import { connect as connectTls } from 'node:tls'
import { describeWith, type RabbitMqServer, startKafka, startRabbitMq } from '@common-handlers/testkit'
import { afterAll, expect, it } from 'vitest'
import { kafkaRequest } from '../src/servers/kafka.ts'
import { cleanEnd, endOf } from './end-of-server.ts'

describeWith([], 'startRabbitMq', async () => {
  const server = await startRabbitMq({ tls: true })
  afterAll(() => server.stop())

  it('carries a message', async () => {
    expect(await manage(server, 'PUT', 'queues/%2f/orders', { durable: true })).toBe(undefined)
    const message = { properties: {}, routing_key: 'orders', payload: 'one', payload_encoding: 'string' }
    expect(await manage(server, 'POST', 'exchanges/%2f/amq.default/publish', message)).toEqual({ routed: true })
    const take = { count: 1, ackmode: 'ack_requeue_false', encoding: 'auto' }
    expect(await manage(server, 'POST', 'queues/%2f/orders/get', take)).toMatchObject([{ payload: 'one' }])
    await expect(manage({ ...server, password: 'wrong' }, 'GET', 'whoami')).rejects.toThrow('401')
  })

  it('speaks AMQP by TLS', async () => {
    const socket = connectTls({ host: '127.0.0.1', port: Number(new URL(server.tls?.url ?? '').port), ca: server.tls?.caCert })
    socket.write('AMQP\0\0\u0009\u0001')
    const [frame] = (await once(socket, 'data')) as [Buffer]
    socket.destroy()
    // A method frame on channel 0 with connection.start.
    expect([frame[0], frame.readUInt16BE(1), frame.readUInt16BE(7), frame.readUInt16BE(9)]).toEqual([1, 0, 10, 10])
  })

  it('listens on loopback alone, and leaves no process, epmd included', async () => {
    expect(await endOf(server, { graceful: true })).toEqual(cleanEnd)
  })
})

describeWith([], 'startKafka', async () => {
  const server = await startKafka({ secure: true })
  afterAll(() => server.stop())
  if (server.security === undefined) throw new Error('it was asked for')
  const { user, password, saslBroker, tlsBroker, saslTlsBroker, caCert } = server.security
  const at = (broker: string): { host: string; port: number } => ({ host: '127.0.0.1', port: Number(broker.split(':')[1]) })

  it('logs in with SASL, without TLS and with it', async () => {
    for (const open of [() => connect(at(saslBroker)), () => connectTls({ ...at(saslTlsBroker), ca: caCert })]) {
      expect(await saslLogin(open(), user, password)).toEqual({
        mechanisms: ['PLAIN', 'SCRAM-SHA-256', 'SCRAM-SHA-512'],
        code: 0,
      })
      // SASL_AUTHENTICATION_FAILED
      expect(await saslLogin(open(), user, 'wrong')).toMatchObject({ code: 58 })
    }
  })

  it('names itself by TLS', async () => {
    const socket = connectTls({ ...at(tlsBroker), ca: caCert })
    const metadata = await kafkaRequest(socket, { key: 3, version: 1 }, Buffer.alloc(4))
    socket.destroy()
    // One broker, whose id is 1, host and port as in the address.
    expect([metadata.readInt32BE(0), metadata.readInt32BE(4)]).toEqual([1, 1])
    expect(`${metadata.subarray(10, 19)}:${metadata.readInt32BE(19)}`).toBe(tlsBroker)
  })

  it('listens on loopback alone, and leaves no process', async () => {
    expect(await endOf(server)).toEqual(cleanEnd)
  })
})

/** The mechanisms that are offered, and the error code of a login with PLAIN. */
async function saslLogin(socket: Duplex, user: string, password: string): Promise<{ mechanisms: string[]; code: number }> {
  try {
    const handshake = await kafkaRequest(socket, { key: 17, version: 1 }, Buffer.from('\0\u0005PLAIN'))
    const mechanisms: string[] = []
    for (let at = 6; at < handshake.length; at += 2 + handshake.readInt16BE(at)) {
      mechanisms.push(handshake.toString('latin1', at + 2, at + 2 + handshake.readInt16BE(at)))
    }
    const login = Buffer.from(`\0${user}\0${password}`)
    const length = Buffer.alloc(4)
    length.writeInt32BE(login.length)
    const answer = await kafkaRequest(socket, { key: 36, version: 0 }, Buffer.concat([length, login]))
    return { mechanisms: mechanisms.toSorted(), code: answer.readInt16BE(0) }
  } finally {
    socket.destroy()
  }
}

async function manage(server: RabbitMqServer, method: string, path: string, body?: object): Promise<unknown> {
  const response = await fetch(`${server.managementUrl}/api/${path}`, {
    method,
    headers: { authorization: `Basic ${btoa(`${server.user}:${server.password}`)}`, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
  const text = await response.text()
  if (!response.ok) throw new Error(`${path} answered ${response.status}: ${text}`)
  return text === '' ? undefined : JSON.parse(text)
}
