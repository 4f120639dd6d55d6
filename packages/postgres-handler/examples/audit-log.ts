// Writes a few rows, reads them exactly, and copies them out in one snapshot.
//   POSTGRES_URL=postgres://user:password@127.0.0.1:5432/database node --conditions=@common-handlers/source examples/audit-log.ts
import { ident, PostgresHandler, sql } from '@common-handlers/postgres-handler'

await using pg = new PostgresHandler({ url: process.env['POSTGRES_URL'] })
const table = ident('example_audit_log')

await pg.transaction(async (transaction) => {
  await transaction.execute(sql`DROP TABLE IF EXISTS ${table}`)
  await transaction.execute(
    sql`CREATE TABLE ${table} (id bigint PRIMARY KEY, at timestamptz NOT NULL, amount numeric(12,2), entry jsonb)`,
  )
  for (const [id, entry] of [{ a: 1 }, { note: 'two\nlines' }].entries()) {
    await transaction.execute(
      sql`INSERT INTO ${table} VALUES (${9007199254740993n + BigInt(id)}, ${'2026-01-01 00:00:00.123456+00'}, ${'10.50'}, ${entry})`,
    )
  }
})

for (const row of await pg.getRecords(sql`SELECT * FROM ${table} ORDER BY id`)) console.log(row)

const { columns } = await pg.describeTable('example_audit_log')
console.log(columns.map((column) => `${column.name} ${column.sourceType}`).join(', '))

await pg.readSnapshot(async (reader) => {
  for await (const block of reader.copyOut('COPY example_audit_log TO STDOUT (FORMAT csv)')) {
    console.log(`${block.rows} rows, ${block.bytes.length} bytes`)
  }
})

await pg.execute(sql`DROP TABLE ${table}`)
