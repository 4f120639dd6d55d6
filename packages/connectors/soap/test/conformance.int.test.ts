import { createConnections, ingestionResultSchema } from '@common-handlers/connections'
import { soap } from '@common-handlers/soap'
import { connectorConformance, describeWith, startSoap } from '@common-handlers/testkit'
import { afterAll } from 'vitest'

const COUNT = 10_000

describeWith([], 'soap', async () => {
  const server = await startSoap()
  const connections = createConnections({ connectors: [soap], variables: {} })
  afterAll(async () => {
    await connections.closeAllConnections()
    await server.stop()
  })

  const { wsdlUrl, user: username, password } = server
  const config = { wsdlUrl, username, password }
  const query = { operation: 'GetOrders', args: { since: 1, count: COUNT }, items: 'return', key: 'id', watermark: 'id' }
  connectorConformance('soap', {
    protocol: 'soap',
    connections,
    schema: ingestionResultSchema,
    config,
    another: { ...config, timeoutMs: 20_000 },
    query,
    count: COUNT,
    // The service counts from the id that it is given.
    after: (watermark) => ({ ...query, args: { since: Number(watermark) + 1, count: COUNT - Number(watermark) } }),
    at: (port) => ({ ...config, wsdlUrl: `http://127.0.0.1:${port}/orders?wsdl` }),
    refused: { ...config, password: 'wrong horse' },
    secret: password,
  })
})
