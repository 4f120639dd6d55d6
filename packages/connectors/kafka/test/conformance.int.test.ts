import { createConnections, ingestionResultSchema } from '@common-handlers/connections'
import { kafka } from '@common-handlers/kafka'
import { connectorConformance, describeWith, startKafka } from '@common-handlers/testkit'
import { afterAll } from 'vitest'
import { createTopic, publishTo } from './publish.ts'

describeWith([], 'on a cluster', async () => {
  const server = await startKafka({ secure: true })
  const { security } = server
  if (security === undefined) throw new Error('the broker was asked for a login')
  const connections = createConnections({ connectors: [kafka], variables: {} })
  afterAll(async () => {
    await connections.closeAllConnections()
    await server.stop()
  })
  const config = {
    brokers: [security.saslTlsBroker],
    username: security.user,
    password: security.password,
    ca: security.caCert,
    requestTimeoutMs: 3000,
  }
  await createTopic(server.broker, 'orders', 3)
  await publishTo(server.broker, 'orders', 1000, 3)

  const query = { topic: 'orders' }
  connectorConformance('kafka', {
    protocol: 'kafka',
    connections,
    schema: ingestionResultSchema,
    config,
    query,
    count: 1000,
    after: (watermark) => ({ ...query, watermark }),
    at: (port) => ({ ...config, brokers: [`127.0.0.1:${port}`], attempts: 2 }),
    refused: { ...config, password: 'a wrong password' },
    another: { ...config, brokers: [server.broker], username: undefined, password: undefined, ca: undefined },
    secret: security.password,
  })
})
