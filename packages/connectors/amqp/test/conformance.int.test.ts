import { createConnections, ingestionResultSchema } from '@common-handlers/connections'
import { amqp } from '@common-handlers/amqp'
import { connectorConformance, describeWith, startRabbitMq } from '@common-handlers/testkit'
import { afterAll } from 'vitest'
import { publishTo } from './publish.ts'

describeWith([], 'on a server', async () => {
  const server = await startRabbitMq()
  const connections = createConnections({ connectors: [amqp], variables: {} })
  afterAll(async () => {
    await connections.closeAllConnections()
    await server.stop()
  })
  const config = { host: server.host, port: server.port, username: server.user, password: server.password }
  await publishTo(server.url, 'orders', 500)

  connectorConformance('amqp', {
    protocol: 'amqp',
    connections,
    schema: ingestionResultSchema,
    config,
    query: { queue: 'orders' },
    count: 500,
    at: (port) => ({ ...config, port }),
    refused: { ...config, password: 'a wrong password' },
    secret: server.password,
  })
})
