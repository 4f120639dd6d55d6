import { randomUUID } from 'node:crypto'
import { createConnections, ingestionResultSchema } from '@common-handlers/connections'
import { getMongodbClient, mongodb, type MongodbConfigInput } from '@common-handlers/mongodb'
import { connectorConformance, describeGiven, describeWith, startMongoJavaServer } from '@common-handlers/testkit'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { startLoginProxy } from './login-proxy.ts'

describeWith([], 'mongodb', async () => {
  const server = await startMongoJavaServer()
  const account = { username: 'etl', password: 'a very secret password' }
  // The server has no logins.
  const proxy = await startLoginProxy(Number(new URL(server.url).port), account)
  const connections = createConnections({ connectors: [mongodb], variables: {} })
  const open = { hosts: [`127.0.0.1:${proxy.port}`], database: 'shop' }
  const config = { ...open, ...account }
  afterAll(async () => {
    await connections.closeAllConnections()
    await proxy[Symbol.asyncDispose]()
    await server.stop()
  })

  await using client = await getMongodbClient(config, { reuse: false })
  const documents = Array.from({ length: 10_000 }, (_, index) => ({ _id: index, at: BigInt(index % 7) }))
  await client.command({ insert: 'orders', documents })

  const query = { collection: 'orders', watermarkField: 'at' }
  connectorConformance('mongodb', {
    protocol: 'mongodb',
    connections,
    schema: ingestionResultSchema,
    config,
    query,
    count: 10_000,
    after: (watermark) => ({ ...query, watermark }),
    at: (port) => ({ ...config, hosts: [`127.0.0.1:${port}`] }),
    another: { ...config, batchSize: 100 },
    refused: { ...config, password: 'not the password of anybody' },
    secret: account.password,
  })

  it('says that nobody may read without a login', async () => {
    await using made = await getMongodbClient(open, { reuse: false })
    await expect(made.find('orders')).rejects.toMatchObject({ code: 'MONGODB_FORBIDDEN', outcome: 'permission' })
  })
})

// A real one, where there is one: mongodb://user:password@host:27017/database?tls=true. The user may write to the database.
describeGiven('TEST_MONGODB_URL', 'on MongoDB', ({ host, pathname, username, password, searchParams }) => {
  const account = { username: decodeURIComponent(username), password: decodeURIComponent(password) }
  const config: MongodbConfigInput = {
    hosts: [host],
    database: decodeURIComponent(pathname.slice(1)),
    tls: searchParams.get('tls') === 'true',
    directConnection: true,
    ...(username === '' ? {} : account),
  }
  const collection = `orders ${randomUUID()}`
  const connections = createConnections({ connectors: [mongodb], variables: {} })
  const client = () => getMongodbClient(config, { reuse: false })

  beforeAll(async () => {
    await using made = await client()
    const documents = Array.from({ length: 10_000 }, (_, index) => ({ _id: index, at: BigInt(index % 7) }))
    await made.command({ insert: collection, documents })
  })
  afterAll(async () => {
    await connections.closeAllConnections()
    await using made = await client()
    await made.command({ drop: collection })
  })

  const query = { collection, watermarkField: 'at' }
  connectorConformance('mongodb', {
    protocol: 'mongodb',
    connections,
    schema: ingestionResultSchema,
    config,
    query,
    count: 10_000,
    after: (watermark) => ({ ...query, watermark }),
    at: (port) => ({ ...config, hosts: [`127.0.0.1:${port}`] }),
    ...(username === '' ? {} : { refused: { ...config, password: 'not the password of anybody' }, secret: account.password }),
  })

  it('reads changes, or says why there are none', async () => {
    await using made = await client()
    await using connector = await connections.createConnector({ protocol: 'mongodb', ...config })
    const since = new Date().toISOString()
    await made.command({ insert: collection, documents: [{ _id: -1 }] })
    await made.command({ delete: collection, deletes: [{ q: { _id: -1 }, limit: 1 }] })
    const { setName, msg } = await made.command({ isMaster: 1 })
    const fetched = await connector.fetchData({ changes: collection, since }).catch((error: unknown) => error)
    if (fetched instanceof Error) {
      // One server alone has none.
      expect([fetched, setName, msg]).toEqual([expect.objectContaining({ code: 'MONGODB_NOT_SUPPORTED' }), undefined, undefined])
      return
    }
    const { items } = ingestionResultSchema.parse(fetched)
    const [, inserted] = items.toReversed()
    expect(items.at(-1)).toMatchObject({ key: '-1', data: { operationType: 'delete' } })
    const rest = await connector.fetchData({ changes: collection, watermark: inserted?.watermark })
    expect(rest.items.map(({ watermark }) => watermark)).toEqual([items.at(-1)?.watermark])
  })
})
