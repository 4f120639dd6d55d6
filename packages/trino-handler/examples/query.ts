/* oxlint-disable no-console -- it talks to whoever runs it */
// Reads from the TPC-H catalog that every Trino can have: `node query.ts http://127.0.0.1:8080 test`
import { sql, TrinoHandler } from '@common-handlers/trino-handler'

const [url = 'http://127.0.0.1:8080', user = 'test'] = process.argv.slice(2)
await using trino = new TrinoHandler({ url, user })

const region = 'EUROPE'
const { rows } = await trino.query<{ name: string; customers: bigint; balance: string }>(sql`
  SELECT n.name, count(*) AS customers, CAST(sum(c.acctbal) AS decimal(20,2)) AS balance
  FROM tpch.tiny.customer c JOIN tpch.tiny.nation n USING (nationkey) JOIN tpch.tiny.region r USING (regionkey)
  WHERE r.name = ${region} GROUP BY n.name ORDER BY n.name`)
for (const row of rows) console.log(row.name.padEnd(15), String(row.customers).padStart(3), row.balance.padStart(10))

// Row by row, in bounded memory; leaving the loop ends the query on the server.
let orders = 0
for await (const order of trino.stream<{ orderkey: bigint }>('SELECT orderkey FROM tpch.tiny.orders ORDER BY orderkey')) {
  if (order.orderkey > 100n) break
  orders++
}
console.log(`${orders} orders up to number 100`)
