import { createConnections, ingestionResultSchema } from '@common-handlers/connections'
import { getMongodbClient, mongodb } from '@common-handlers/mongodb'
import { connectorConformance, describeWith, startMongoJavaServer } from '@common-handlers/testkit'
import { afterAll } from 'vitest'

describeWith([], 'mongodb', async () => {
  const server = await startMongoJavaServer()
  const connections = createConnections({ connectors: [mongodb], variables: {} })
  const config = { hosts: [new URL(server.url).host], database: 'shop' }
  afterAll(async () => {
    await connections.closeAllConnections()
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
  })
})
