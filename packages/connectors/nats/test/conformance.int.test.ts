import { createConnections, ingestionResultSchema } from '@common-handlers/connections'
import { nats } from '@common-handlers/nats'
import { connectorConformance, describeWith, startNats } from '@common-handlers/testkit'
import { afterAll } from 'vitest'
import { publishTo } from './publish.ts'

describeWith([], 'on a server', async () => {
  const server = await startNats({ secure: true })
  const { security } = server
  if (security === undefined) throw new Error('the server was asked for TLS')
  const connections = createConnections({ connectors: [nats], variables: {} })
  afterAll(async () => {
    await connections.closeAllConnections()
    await server.stop()
  })
  const { user: username, password, caCert: ca } = security
  const config = { servers: [`127.0.0.1:${server.port}`], username, password, ca }
  await publishTo(config, 'ORDERS', 1000)

  const query = { stream: 'ORDERS' }
  connectorConformance('nats', {
    protocol: 'nats',
    connections,
    schema: ingestionResultSchema,
    config,
    query,
    count: 1000,
    after: (watermark) => ({ ...query, watermark }),
    at: (port) => ({ ...config, servers: [`127.0.0.1:${port}`] }),
    refused: { ...config, password: 'a wrong password' },
    another: { ...config, requestTimeoutMs: 5000 },
    secret: password,
  })
})
