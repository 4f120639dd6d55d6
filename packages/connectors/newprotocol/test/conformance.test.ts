import { createConnections, ingestionResultSchema } from '@common-handlers/connections'
import { newprotocol } from '@common-handlers/newprotocol'
import { connectorConformance } from '@common-handlers/testkit'
import { afterAll } from 'vitest'
import { startNewprotocolServer } from './newprotocol-server.ts'

const server = await startNewprotocolServer(10_000)
const connections = createConnections({ connectors: [newprotocol], variables: {} })

afterAll(async () => {
  await connections.closeAllConnections()
  await server[Symbol.asyncDispose]()
})

const { port, username, password } = server
const config = { host: '127.0.0.1', port, username, password }
const query = { table: 'orders' }
connectorConformance('newprotocol', {
  protocol: 'newprotocol',
  connections,
  schema: ingestionResultSchema,
  config,
  another: { ...config, answerTimeoutMs: 20_000 },
  query,
  count: 10_000,
  after: (watermark) => ({ ...query, watermark }),
  at: (other) => ({ ...config, port: other }),
  refused: { ...config, password: 'wrong horse' },
  secret: password,
})
