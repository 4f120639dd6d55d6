import { createConnections, ingestionResultSchema } from '@common-handlers/connections'
import { gsheets } from '@common-handlers/gsheets'
import { connectorConformance } from '@common-handlers/testkit'
import { afterAll } from 'vitest'
import { foreignCredentials, startSheetsServer } from './sheets-server.ts'

const connections = createConnections({ connectors: [gsheets], variables: {} })
const server = await startSheetsServer()
afterAll(async () => {
  await connections.closeAllConnections()
  await server[Symbol.asyncDispose]()
})

const COUNT = 10_000
const rows = Array.from({ length: COUNT }, (_, index) => [index + 1, `order ${index + 1}`, index % 2 === 0])
server.sheets.set('orders', { rows: [['id', 'name', 'paid'], ...rows], columns: 3 })

const { spreadsheetId, credentials, apiUrl } = server
const config = { spreadsheetId, credentials, apiUrl, retryBudgetMs: 1 }
const query = { range: 'orders' }
connectorConformance('gsheets', {
  protocol: 'gsheets',
  connections,
  schema: ingestionResultSchema,
  config,
  another: { ...config, timeoutMs: 20_000 },
  query,
  count: COUNT,
  after: (watermark) => ({ ...query, watermark }),
  at: (port) => {
    const there = `http://127.0.0.1:${port}`
    const key = { ...(JSON.parse(credentials) as object), token_uri: `${there}/token` }
    return { ...config, apiUrl: there, credentials: JSON.stringify(key) }
  },
  refused: { ...config, credentials: foreignCredentials(credentials) },
  secret: credentials.slice(100, 200),
})

// The same against Google's own: a service account that may read a spreadsheet whose sheet "orders" has a header line and
// three rows at least.
const { GSHEETS_TEST_CREDENTIALS: key, GSHEETS_TEST_SPREADSHEET: own } = process.env
if (key !== undefined && own !== undefined) {
  const real = { spreadsheetId: own, credentials: key }
  await using connector = await connections.createConnector({ protocol: 'gsheets', ...real })
  const { items } = await connector.fetchData(query)
  connectorConformance('gsheets of Google', {
    protocol: 'gsheets',
    connections,
    schema: ingestionResultSchema,
    config: real,
    query,
    count: items.length,
    after: (watermark) => ({ ...query, watermark }),
    refused: { ...real, credentials: foreignCredentials(key) },
  })
}
