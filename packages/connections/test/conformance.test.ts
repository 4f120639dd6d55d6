import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createConnections, ingestionResultSchema } from '@common-handlers/connections'
import { connectorConformance } from '@common-handlers/testkit'
import { afterAll } from 'vitest'

const secret = 'the token of the suite'
const connections = createConnections({ variables: {} })
const server = createServer((request, response) => {
  if (request.headers.authorization !== `Bearer ${secret}`) return response.writeHead(401).end()
  const page = Number(new URL(request.url ?? '/', 'http://localhost').searchParams.get('page'))
  const records = page > 10 ? [] : Array.from({ length: 1000 }, (_, index) => ({ id: (page - 1) * 1000 + index }))
  return response.setHeader('content-type', 'application/json').end(JSON.stringify(records))
})
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
const at = (port: number) => ({ baseUrl: `http://127.0.0.1:${port}`, token: secret, attempts: 2, healthPath: '/?page=11' })

afterAll(async () => {
  await connections.closeAllConnections()
  server.close()
})

connectorConformance('http', {
  protocol: 'http',
  connections,
  schema: ingestionResultSchema,
  config: at((server.address() as AddressInfo).port),
  another: { ...at((server.address() as AddressInfo).port), attempts: 3 },
  query: { path: '/list', key: 'id', pages: { by: 'page' } },
  count: 10_000,
  at,
  secret,
})
