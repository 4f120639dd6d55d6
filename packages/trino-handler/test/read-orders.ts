/* oxlint-disable no-console -- it talks to whoever runs it */
import { TrinoHandler } from '../src/index.ts'

// Run by statements.int.test.ts in a process with a heap of 64 MB; the rows take more than 600.
const [url = '', user = ''] = process.argv.slice(2)
await using trino = new TrinoHandler({ url, user })
let rows = 0
let sum = 0n
for await (const row of trino.stream<{ orderkey: bigint }>('SELECT * FROM tpch.sf1.orders')) {
  rows++
  sum += row.orderkey
}
console.log(JSON.stringify({ rows, sum: String(sum) }))
