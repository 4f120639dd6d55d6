// Loads a CSV into a database file in one transaction, and asks it: node examples/load-csv.ts
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DuckDbHandler, ident, readCsv } from '@common-handlers/duckdb-handler'

const folder = await mkdtemp(join(tmpdir(), 'load-csv-'))
const file = join(folder, 'flights.csv')
await writeFile(file, 'id,origin,delay\n1,SFO,12.50\n2,SFO,\\N\n9007199254740993,ORD,-3.25\n')

await using db = new DuckDbHandler({ path: join(folder, 'lake.duckdb'), memoryLimit: '256MB' })

const table = ident('flights')
const loaded = await db.transaction(async (transaction) => {
  await transaction.execute(`CREATE TABLE ${table} (id BIGINT, origin VARCHAR, delay DECIMAL(6,2))`)
  const columns = ['id', 'origin', 'delay']
  return transaction.execute(
    `INSERT INTO ${table} SELECT CAST(id AS BIGINT), origin, CAST(delay AS DECIMAL(6,2)) FROM ${readCsv([file], columns)}`,
  )
})
console.log(`loaded ${loaded.rowsChanged} rows`)

const { rows } = await db.query(
  `SELECT origin, max(id) AS newest, sum(delay) AS delay FROM ${table} GROUP BY origin ORDER BY origin`,
)
for (const row of rows) console.log(row)

const check = await db.check()
console.log(check.steps.map((step) => `${step.name}: ${step.ok ? step.detail : step.error?.code}`).join(', '))

await db.close()
await rm(folder, { recursive: true })
