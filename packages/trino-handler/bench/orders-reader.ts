/* oxlint-disable no-console -- it talks to whoever runs it */
// Run by read-orders.bench.ts in a process of its own.
import type { Encoding } from '@common-handlers/trino-handler'

const [reader = '', url = ''] = process.argv.slice(2)
const SQL = 'SELECT * FROM tpch.sf1.orders'

async function byTrinoClient(): Promise<number> {
  const { Trino, BasicAuth } = await import('trino-client')
  let rows = 0
  const trino = Trino.create({ server: url, auth: new BasicAuth('test') })
  for await (const page of await trino.query(SQL)) rows += page.data?.length ?? 0
  return rows
}

async function byHandler(): Promise<number> {
  const { TrinoHandler } = await import('@common-handlers/trino-handler')
  const encodings = reader.startsWith('direct') ? [] : [reader as Encoding]
  await using trino = new TrinoHandler({ url, user: 'test', spooling: { encodings } })
  let rows = 0
  if (reader.endsWith('objects')) for await (const page of trino.pages(SQL)) rows += page.rows.length
  else for await (const page of trino.pages(SQL, [], { rowMode: 'arrays' })) rows += page.rows.length
  return rows
}

const cpu = process.cpuUsage()
const begun = performance.now()
const rows = await (reader === 'trino-client' ? byTrinoClient() : byHandler())
const seconds = (performance.now() - begun) / 1000
const { user, system } = process.cpuUsage(cpu)
const rssMegabytes = process.resourceUsage().maxRSS / 1024
console.log(JSON.stringify({ rows, seconds, cpuSeconds: (user + system) / 1e6, rssMegabytes }))
