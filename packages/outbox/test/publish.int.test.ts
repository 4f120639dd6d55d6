import { createHmac } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { LocalFolderStore } from '@common-handlers/storage'
import { describeWith, startNats } from '@common-handlers/testkit'
import { jetstream, jetstreamManager } from '@nats-io/jetstream'
import { connect } from '@nats-io/transport-node'
import { afterAll, expect, it } from 'vitest'
import { Outbox } from '../src/index.ts'
import { publish, toJetStream, toObjectStore, toWebhook } from '../src/publish.ts'
import { ownOutbox, until } from './own-outbox.ts'

describeWith(['postgres'], 'publishing', async ({ postgres }) => {
  const nats = await startNats()
  afterAll(() => nats.stop())
  const own = ownOutbox(postgres)
  const outbox = new Outbox()
  const empty = async (): Promise<boolean> => (await own.one<number>('SELECT count(*)::int FROM outbox.event')) === 0

  it('to a JetStream: each event once, though it was sent twice', async () => {
    const connection = await connect({ servers: nats.url })
    const manager = await jetstreamManager(connection)
    await manager.streams.add({ name: 'ORDERS', subjects: ['orders.>'] })
    const jetStream = jetstream(connection)
    let lost = 0
    const stuttering = {
      publish: async (...message: Parameters<typeof jetStream.publish>) => {
        await jetStream.publish(...message)
        if (lost++ === 0) throw new Error('the answer was lost')
      },
    }
    const handler = toJetStream(stuttering, { subject: ({ type }) => `orders.${type}` })
    await own.worker({ handlers: { created: handler }, backoffBaseMs: 10 }).start()
    await outbox.enqueueMany(
      own.pool,
      [1, 2, 3].map((n) => ({ type: 'created', payload: { n }, key: 'one' })),
    )
    await until(empty)
    const { state } = await manager.streams.info('ORDERS')
    expect([lost, state.messages]).toEqual([4, 3])
    const bodies = await Promise.all([1, 2, 3].map(async (seq) => (await manager.streams.getMessage('ORDERS', { seq }))?.json()))
    expect(bodies).toEqual([{ n: 1 }, { n: 2 }, { n: 3 }])
    await connection.drain()
  })

  it('to a webhook: signed, with one id, waiting as it is told, dead where the webhook is gone', async () => {
    const answers = [
      { status: 503, headers: { 'retry-after': '0' } },
      { status: 302, headers: { location: '/elsewhere' } },
      { status: 204 },
      { status: 410 },
    ]
    const requests: { readonly headers: IncomingMessage['headers']; readonly body: string; readonly url: string | undefined }[] =
      []
    const server = createServer((request, response) => {
      void text(request).then((body) => {
        requests.push({ headers: request.headers, body, url: request.url })
        const answer = answers[requests.length - 1]
        response.writeHead(answer?.status ?? 500, answer?.headers).end('what it says')
      })
    }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    const key = Buffer.from('a key of 24 bytes at least')
    const handler = toWebhook({ url: `http://127.0.0.1:${port}/hook`, secret: `whsec_${key.toString('base64')}` })
    await own.worker({ handlers: { hook: handler }, backoffBaseMs: 10 }).start()
    await outbox.enqueue(own.pool, { type: 'hook', payload: { text: 'ä' }, headers: { traceparent: '00-1-2-01' } })
    await until(empty)
    await outbox.enqueue(own.pool, { type: 'hook', payload: null })
    await until(empty)
    server.close()
    expect(requests.map(({ url, body }) => [url, body])).toEqual([
      ...Array.from({ length: 3 }, () => ['/hook', '{"text":"ä"}']),
      ['/hook', 'null'],
    ])
    expect(new Set(requests.slice(0, 3).map(({ headers }) => headers['webhook-id'])).size).toBe(1)
    for (const { headers, body } of requests) {
      const signed = `${String(headers['webhook-id'])}.${String(headers['webhook-timestamp'])}.${body}`
      expect(headers['webhook-signature']).toBe(`v1,${createHmac('sha256', key).update(signed).digest('base64')}`)
    }
    expect(requests[0]?.headers['traceparent']).toBe('00-1-2-01')
    expect(await own.one('SELECT error FROM outbox.dead_letter')).toBe('the webhook is gone (410)')
  })

  it('to a webhook that cannot be reached, or does not answer: a failed attempt that names the host alone', async () => {
    const silent = createServer(() => undefined).listen(0, '127.0.0.1')
    await once(silent, 'listening')
    const { port } = silent.address() as AddressInfo
    const more = { maxAttempts: 1, requestTimeoutMs: 100 }
    const handlers = {
      silent: toWebhook({ url: `http://127.0.0.1:${port}/?token=private`, ...more }),
      closed: toWebhook({ url: 'http://127.0.0.1:9/?token=private', ...more }),
    }
    await own.worker({ handlers }).start()
    await outbox.enqueueMany(own.pool, [
      { type: 'silent', payload: 1 },
      { type: 'closed', payload: 2 },
    ])
    await until(empty)
    silent.closeAllConnections()
    silent.close()
    const { rows } = await own.pool.query<{ error: string }>('SELECT error FROM outbox.dead_letter ORDER BY type')
    expect(rows.map(({ error }) => error)).toEqual([
      expect.stringContaining('127.0.0.1:9: '),
      `OperationTimeoutError: 127.0.0.1:${port} did not answer within 100 ms`,
    ])
    expect(JSON.stringify(rows)).not.toContain('private')
  })

  it('to an object store, and as one likes', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'outbox-objects-'))
    const seen: unknown[] = []
    await using store = new LocalFolderStore({ folder })
    const handlers = {
      'order.created': toObjectStore(store),
      own: publish(({ id, payload }) => void seen.push([id, payload]), { source: 'shop' }),
    }
    await own.worker({ handlers }).start()
    const [first, second] = await outbox.enqueueMany(own.pool, [
      { type: 'order.created', payload: { n: 1 } },
      { type: 'own', payload: { n: 2 } },
    ])
    await until(empty)
    const day = new Date().toISOString().slice(0, 10)
    expect(await readFile(join(folder, 'order.created', day, `${String(first)}.json`), 'utf8')).toBe('{"n":1}')
    expect(seen).toEqual([[`shop-${String(second)}`, { n: 2 }]])
    await rm(folder, { recursive: true })
  })
})
