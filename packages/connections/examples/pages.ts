// A list that comes in pages, behind OAuth 2 and a server that is sometimes busy; and what to do about a protocol that is not there.
import { createServer } from 'node:http'
import { closeAllConnections, createConnections, getConnection } from '@common-handlers/connections'
import { HandlerError } from '@common-handlers/core'

let requests = 0
const server = createServer((request, response) => {
  const url = new URL(request.url ?? '/', 'http://localhost')
  response.setHeader('content-type', 'application/json')
  if (url.pathname === '/token') return response.end('{"access_token":"issued for an hour","expires_in":3600}')
  if (request.headers.authorization !== 'Bearer issued for an hour') return response.writeHead(401).end()
  requests += 1
  if (requests === 2) return response.writeHead(429, { 'retry-after': '0' }).end()
  const after = Number(url.searchParams.get('cursor') ?? 0)
  const orders = [after + 1, after + 2].map((id) => ({ id, amount: id * 10 }))
  return response.end(JSON.stringify({ data: { orders }, next: after < 4 ? String(after + 2) : null }))
})
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
const address = server.address()
const baseUrl = `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}`

await using connections = createConnections()
const login = { tokenUrl: `${baseUrl}/token`, clientId: 'extractor', clientSecret: 'correct horse' }
const connector = await connections.createConnector({ protocol: 'http', baseUrl, ...login })
const result = await connector.fetchData({
  path: '/orders',
  items: 'data.orders',
  key: 'id',
  pages: { by: 'cursor', at: 'next' },
})
for (const { key, data, lineage } of result.items) console.log(lineage.position, key, data)

try {
  await getConnection('ftp')
} catch (error) {
  console.log(HandlerError.is(error) ? error.code : error)
}
await connector.close()
await closeAllConnections()
server.close()
