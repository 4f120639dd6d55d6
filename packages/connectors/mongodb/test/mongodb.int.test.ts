import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { closeAllConnections, createConnections, exactJson } from '@common-handlers/connections'
import {
  getMongodbClient,
  mongodb,
  type MongodbConfigInput,
  type MongodbQuery,
  testMongodbConnection,
} from '@common-handlers/mongodb'
import { describeWith, startFaultProxy, startMongoJavaServer, readmeExample } from '@common-handlers/testkit'
import { afterAll, afterEach, expect, it } from 'vitest'

const root = join(import.meta.dirname, '..')

describeWith([], 'mongodb', async () => {
  const [server, secure] = await Promise.all([startMongoJavaServer(), startMongoJavaServer({ tls: true })])
  const host = new URL(server.url).host
  let databases = 0
  const config = (more: Partial<MongodbConfigInput> = {}): MongodbConfigInput => ({
    hosts: [host],
    database: `test${databases}`,
    ...more,
  })
  const proxied = async () => startFaultProxy({ host: '127.0.0.1', port: Number(new URL(server.url).port) })
  const run = async (query: MongodbQuery) => {
    await using connections = createConnections({ connectors: [mongodb], variables: {} })
    await using connector = await connections.createConnector({ protocol: 'mongodb', ...config() })
    return (await connector.fetchData(query)).items
  }
  afterEach(async () => {
    await closeAllConnections()
    databases += 1
  })
  afterAll(() => Promise.all([server.stop(), secure.stop()]))

  it('gives every value exactly', async () => {
    const client = await getMongodbClient(config())
    const values = {
      _id: { $oid: '6b01f9eecc21e7f2bc30a22e' },
      long: -9_223_372_036_854_775_808n,
      small: 5n,
      int: 7,
      double: 0.1,
      decimal: { $numberDecimal: '12345678901234567890.12340' },
      date: new Date('2026-11-21T10:00:00.123Z'),
      old: { $date: { $numberLong: '-62135596800001' } },
      bytes: new Uint8Array([0, 255]),
      uuid: { $uuid: '8c6a2c8e-3b8e-4c55-9a0c-0f6f5c9f1a11' },
      timestamp: { $timestamp: { t: 4_000_000_000, i: 2 } },
      pattern: { $regularExpression: { pattern: 'a(', options: 'i' } },
      text: 'ä\0\n"',
      list: [null, true, { deep: 9_007_199_254_740_993n }],
    }
    await client.command({ insert: 'all', documents: [values] })
    const [found] = await client.find('all')
    expect(found).toEqual({
      ...values,
      _id: '6b01f9eecc21e7f2bc30a22e',
      decimal: '12345678901234567890.12340',
      date: '2026-11-21T10:00:00.123Z',
      old: '0000-12-31T23:59:59.999Z',
      uuid: '8c6a2c8e-3b8e-4c55-9a0c-0f6f5c9f1a11',
    })
    expect(await client.find('all', { filter: { long: values.long, _id: values._id } })).toHaveLength(1)
  })

  it('goes on after any document, whatever its types, ties included', async () => {
    const client = await getMongodbClient(config())
    const places = [
      1n,
      1.5,
      { $numberDecimal: '1.50' },
      9_007_199_254_740_992n,
      9_007_199_254_740_993n,
      '10',
      '9',
      { $oid: '6b01f9eecc21e7f2bc30a22e' },
      true,
      new Uint8Array([1]),
      new Date(0),
      new Date(1),
    ]
    const ids = [2n ** 60n, 'a', { $oid: '6b01f9eecc21e7f2bc30a22f' }]
    const documents = ids.flatMap((id, index) => places.map((at, place) => ({ _id: { id, place, index }, at })))
    const plain = ids.map((_id) => ({ _id, at: 1 }))
    await client.command({ insert: 'mixed', documents: [...documents, ...plain, { _id: 'null', at: null }, { _id: 'none' }] })
    for (const [watermarkField, count] of [
      ['at', documents.length + plain.length],
      ['_id', documents.length + plain.length + 2],
    ] as const) {
      const query = { collection: 'mixed', watermarkField }
      const all = await run(query)
      expect(all).toHaveLength(count)
      for (const [index, { watermark }] of all.entries()) {
        const rest = await run({ ...query, watermark })
        expect(rest.map(({ key }) => key)).toEqual(all.slice(index + 1).map(({ key }) => key))
      }
    }
  })

  it('refuses what has no place in the order, and a watermark that is not its own', async () => {
    const client = await getMongodbClient(config())
    await client.command({ insert: 'lists', documents: [{ _id: 1, at: [1, 2], in: { at: 5 } }] })
    await expect(run({ collection: 'lists', watermarkField: 'at' })).rejects.toMatchObject({ code: 'MONGODB_WATERMARK_UNUSABLE' })
    const [item] = await run({ collection: 'lists', watermarkField: 'in.at', fields: ['in'] })
    expect(item).toMatchObject({ key: '1', data: { in: { at: 5 } }, watermark: '[{"$numberInt":"5"},{"$numberInt":"1"}]' })
    expect(Object.keys(item?.data as object)).toEqual(['in'])
    await expect(run({ collection: 'lists', watermarkField: 'in.at', fields: ['at'] })).rejects.toThrow('fields must hold')
    await expect(run({ collection: 'lists', watermark: '[1]' })).rejects.toThrow('a watermark needs its watermarkField')
    for (const watermark of ['', '1', '[1]', '[null,1]', '[[1],1]', '[{"$numberDouble":"NaN"},1]']) {
      const query = { collection: 'lists', watermarkField: 'at', watermark }
      await expect(run(query)).rejects.toMatchObject({ code: 'MONGODB_WATERMARK_INVALID' })
    }
    await expect(run({ changes: 'lists', watermark: '[1]' })).rejects.toMatchObject({ code: 'MONGODB_WATERMARK_INVALID' })
  })

  it('reads the changes of a collection, from a time and after any of them', async () => {
    const client = await getMongodbClient(config())
    const since = new Date().toISOString()
    await client.command({ insert: 'other', documents: [{ _id: 0 }] })
    await client.command({ insert: 'orders', documents: [{ _id: 1n, n: 1 }, { _id: 2n }] })
    await client.command({ delete: 'orders', deletes: [{ q: { _id: 1n }, limit: 1 }] })
    const query = { changes: 'orders', since, waitMs: 200 }
    const all = await run(query)
    expect(all.map(({ key, data }) => [key, (data as { operationType: string }).operationType])).toEqual([
      ['1', 'insert'],
      ['2', 'insert'],
      ['1', 'delete'],
    ])
    expect(all[0]?.data).toMatchObject({ fullDocument: { _id: 1n, n: 1 }, documentKey: { _id: 1n } })
    for (const [index, { watermark }] of all.entries()) {
      const rest = await run({ changes: 'orders', watermark, waitMs: 200 })
      expect(rest.map(({ watermark: place }) => place)).toEqual(all.slice(index + 1).map(({ watermark: place }) => place))
    }
    expect(await run({ changes: 'orders', waitMs: 200 })).toEqual([])
    await expect(run({ ...query, since: 'yesterday' })).rejects.toMatchObject({ code: 'MONGODB_QUERY_INVALID' })
  })

  it('waits for changes until it is aborted', async () => {
    const client = await getMongodbClient(config())
    await using connections = createConnections({ connectors: [mongodb], variables: {} })
    await using connector = await connections.createConnector({ protocol: 'mongodb', ...config() })
    const abort = new AbortController()
    const items = connector.items(
      { changes: 'orders', since: new Date().toISOString(), waitMs: Infinity },
      { signal: abort.signal },
    )
    const first = items.next()
    await client.command({ insert: 'orders', documents: [{ _id: 1n }] })
    expect((await first).value).toMatchObject({ key: '1' })
    const second = items.next()
    abort.abort(new RangeError('enough'))
    await expect(second).rejects.toThrow('enough')
  })

  it('gives the result of an aggregation', async () => {
    const client = await getMongodbClient(config())
    await client.command({ insert: 'orders', documents: [1n, 2n, 3n].map((n) => ({ _id: n, odd: n % 2n === 1n, n })) })
    const pipeline = [{ $group: { _id: '$odd', sum: { $sum: '$n' } } }, { $sort: { _id: 1 } }]
    const items = await run({ collection: 'orders', pipeline })
    expect(exactJson(items.map(({ data }) => data))).toBe('[{"_id":false,"sum":2},{"_id":true,"sum":4}]')
  })

  it('leaves no cursor on the server when a loop is left or aborted', async () => {
    const client = await getMongodbClient(config({ batchSize: 2 }))
    await client.command({ insert: 'orders', documents: Array.from({ length: 1000 }, (_, _id) => ({ _id })) })
    const abort = new AbortController()
    for (const how of ['leave', 'abort'] as const) {
      const { cursor } = (await client.command({ find: 'orders', batchSize: 1 })) as { cursor: { id: bigint } }
      const rows = client.stream('orders', {}, { signal: abort.signal })
      await rows.next()
      // The server counts its cursors.
      const more = { getMore: cursor.id + 1n, collection: 'orders', batchSize: 1 }
      await client.command(more)
      if (how === 'leave') await rows.return()
      else {
        abort.abort(new RangeError('enough'))
        await expect(rows.next()).rejects.toThrow('enough')
      }
      await expect.poll(() => client.command(more).catch(({ code }) => code as string)).toBe('MONGODB_CURSOR_LOST')
    }
  })

  it('says that the server is gone in the middle, and finds it again', async () => {
    await using proxy = await proxied()
    const client = await getMongodbClient(config({ hosts: [`127.0.0.1:${proxy.port}`], batchSize: 2, connectTimeoutMs: 2000 }))
    await client.command({ insert: 'orders', documents: Array.from({ length: 10 }, (_, _id) => ({ _id })) })
    const rows = client.stream('orders', {})
    for (let row = 0; row < 2; row++) await rows.next()
    await proxy.refuse()
    await expect(rows.next()).rejects.toMatchObject({ outcome: 'connection' })
    await expect(client.find('orders', {}, { timeoutMs: 5000 })).rejects.toMatchObject({
      code: 'MONGODB_UNREACHABLE',
      retry: 'safe',
    })
    await proxy.accept()
    expect(await client.find('orders')).toHaveLength(10)
  })

  it('waits no longer than it is told for a server that is silent, and closes beside it', async () => {
    await using proxy = await proxied()
    const hosts = [`127.0.0.1:${proxy.port}`]
    const client = await getMongodbClient(config({ hosts, answerTimeoutMs: 300, attempts: 1 }), { reuse: false })
    proxy.stall()
    await expect(client.command({ ping: 1 })).rejects.toMatchObject({ code: 'MONGODB_NO_ANSWER', outcome: 'timeout' })
    const abort = new AbortController()
    const asked = client.command({ ping: 1 }, { signal: abort.signal })
    setTimeout(() => abort.abort(new RangeError('enough')), 50)
    await expect(asked).rejects.toThrow('enough')
    await client.close({ graceMs: 0 })
  })

  it('asks for a certificate that it can trust', async () => {
    const there = { ...config({ hosts: [new URL(secure.url).host], tls: true }), connectTimeoutMs: 500, attempts: 1 }
    await expect(getMongodbClient(there)).rejects.toMatchObject({ code: 'MONGODB_TLS_FAILED', retry: 'never' })
    expect((await testMongodbConnection(there)).steps.at(-1)).toMatchObject({
      ok: false,
      error: { code: 'CONNECTIONS_CERTIFICATE_UNTRUSTED' },
    })
    const report = await testMongodbConnection({ ...there, ca: secure.caCert })
    expect(report.ok, JSON.stringify(report)).toBe(true)
    expect(report.steps.map(({ name }) => name)).toEqual([
      'read the configuration',
      'find 127.0.0.1',
      expect.stringMatching(/^reach port/),
      'trust the certificate',
      'log in',
      'version',
      'rights',
      'latency',
    ])
  })

  it('says what this server does not know, a login among it, and shows no password', async () => {
    const password = 'a very secret password'
    const refused = getMongodbClient(config({ username: 'etl', password }))
    await expect(refused).rejects.toMatchObject({ code: 'MONGODB_NOT_SUPPORTED' })
    await expect(refused).rejects.not.toThrow(password)
  })

  it('serves two configurations side by side', async () => {
    const one = await getMongodbClient(config())
    const two = await getMongodbClient(`mongodb://${host}/other?batchSize=1`)
    await one.command({ insert: 'orders', documents: [{ _id: 1 }] })
    await two.command({ drop: 'orders' }).catch(() => undefined)
    expect([await one.find('orders'), await two.find('orders')]).toEqual([[{ _id: 1 }], []])
    await one.close()
    await two.command({ insert: 'orders', documents: [{ _id: 2 }] })
    expect(await two.find('orders')).toEqual([{ _id: 2 }])
  })

  it.each([
    [{ insert: 'orders', documents: [{ _id: 1 }] }, 'MONGODB_EXISTS', 'conflict'],
    [{ find: 'orders', filter: { $bad: 1 } }, 'MONGODB_REFUSED', 'remote'],
    [{ notACommand: 1 }, 'MONGODB_NOT_SUPPORTED', 'remote'],
    [{ find: 'orders', filter: { at: new Date(Number.NaN) } }, 'MONGODB_QUERY_INVALID', 'config'],
  ])('%j is %s', async (command, code, outcome) => {
    const client = await getMongodbClient(config())
    await client.command({ insert: 'orders', documents: [{ _id: 1 }] })
    await expect(client.command(command)).rejects.toMatchObject({ code, outcome, retry: 'never' })
  })

  it('the example of README.md', async () => {
    const code = await readmeExample(root)
    const { stdout } = await promisify(execFile)(
      process.execPath,
      ['--conditions=@common-handlers/source', '--input-type=module-typescript', '-e', code],
      { cwd: root, env: { ...process.env, MONGODB_HOST: host } },
    )
    expect(stdout).toBe(`{ _id: 1, total: 9007199254740993n, at: '2026-11-21T10:00:00.000Z' }\n1\n`)
  })
})
