// Fills a table, copies it into another one by several readers of one snapshot, and reads it row by row.
//   POSTGRES_URL=postgres://user:password@127.0.0.1:5432/database node --conditions=@common-handlers/source examples/move-table.ts
import { PassThrough } from 'node:stream'
import { PostgresHandler, sql } from '@common-handlers/postgres-handler'

await using pg = new PostgresHandler({ url: process.env['POSTGRES_URL'] })

await pg.batch([
  'DROP TABLE IF EXISTS example_source, example_target',
  'CREATE TABLE example_source (id bigint PRIMARY KEY, at timestamptz NOT NULL, tags text[])',
  'CREATE TABLE example_target (LIKE example_source)',
])
const events = Array.from({ length: 10_000 }, (_, id) => ({ id, at: new Date(id * 1000), tags: ['a', null] }))
console.log(await pg.insertMany('example_source', ['id', 'at', 'tags'], events), 'inserted')

await using snapshot = await pg.snapshot()
const ranges = await pg.ranges('example_source', { parts: 4 })
const copied = await Promise.all(
  ranges.map(async (range) => {
    const pipe = new PassThrough()
    const query = sql`COPY (SELECT * FROM example_source WHERE ${range}) TO STDOUT`
    const reading = pg.readSnapshot((reader) => reader.copyTo(query, pipe), { join: snapshot.name })
    const [{ rows }] = await Promise.all([pg.copyFrom('COPY example_target FROM STDIN', pipe), reading])
    return rows
  }),
)
console.log(
  ranges.length,
  'readers copied',
  copied.reduce((sum, rows) => sum + rows),
  'rows',
)

for await (const row of pg.stream('SELECT * FROM example_target ORDER BY id', [], {
  types: { timestamptz: 'date', 'text[]': 'array' },
})) {
  console.log(row)
  break
}

await pg.copyFrom('COPY example_target FROM STDIN', ['1\tyesterday\t{}\n', '2\tno time\t{}\n']).catch((error: Error) => {
  console.log(error.message)
})

await pg.executeScript('DROP TABLE example_source, example_target')
