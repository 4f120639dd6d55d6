/* oxlint-disable no-console -- it talks to whoever runs it */
// Writes a batch once, whatever happens to this process: `node exactly-once.ts http://127.0.0.1:8080 test lake`
import { createSchema, createTable, dropTable, ident, snapshotByQueryId, sql, TrinoHandler } from '@common-handlers/trino-handler'

const [url = 'http://127.0.0.1:8080', user = 'test', catalog = 'lake'] = process.argv.slice(2)
await using trino = new TrinoHandler({ url, user })

const table = { catalog, schema: 'example', table: `audit_${Date.now()}` }
await createSchema(trino, table)
await createTable(trino, table, [
  { name: 'id', type: 'bigint', nullable: false },
  { name: 'action', type: 'varchar' },
])

// 1. The server gives the statement an id. Nothing runs.
const submitted = await trino.submit(
  sql`INSERT INTO ${ident(table.catalog, table.schema, table.table)} SELECT n, ${'insert'} FROM UNNEST(sequence(1, 1000)) AS t(n)`,
)
console.log('submitted, state', await trino.queryState(submitted.queryId))

// 2. Write submitted.handle down where the next process finds it. 3. Run the statement.
const { updateCount } = await submitted.follow()

// 4. The proof, also for a process that only has the id.
const snapshot = await snapshotByQueryId(trino, table, submitted.queryId)
console.log('wrote', updateCount, 'rows; the snapshot added', snapshot?.addedRecords)
await dropTable(trino, table)
