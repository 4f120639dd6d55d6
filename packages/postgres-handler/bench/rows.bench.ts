// Rows by cursor, point queries and inserts: this handler against plain pg (with pg-cursor) and postgres.js, each in a
// process of its own, interleaved in one run, and all with the same conversion: int8 as bigint, the rest as text.
//   POSTGRES_URL=postgres://… node --conditions=@common-handlers/source bench/rows.bench.ts [rows] [queries] [rounds]
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import pg from 'pg'
import Cursor from 'pg-cursor'
import postgres from 'postgres'
import { PostgresHandler, sql } from '../src/index.ts'
import { makeAuditLog, table } from './audit-log-table.ts'

const url = process.env['POSTGRES_URL'] ?? 'postgres://postgres@127.0.0.1:5432/postgres'
const BATCH = 1_000
const CALLERS = 10
const all = `SELECT * FROM ${table}`
const byId = `SELECT * FROM ${table} WHERE id = $1`

interface Contender {
  /** Reads all rows one by one; gives how many. */
  rows(): Promise<number>
  query(id: number): Promise<unknown>
  end(): Promise<unknown>
}

const INT8 = 20
const asText = (value: string): string => value

const contenders: Readonly<Record<string, () => Contender>> = {
  handler: () => {
    const handler = new PostgresHandler({ url })
    return {
      rows: async () => {
        let count = 0
        for await (const row of handler.stream<{ id: bigint }>(all, [], { batchRows: BATCH })) if (row.id > 0n) count++
        return count
      },
      query: (id) => handler.getRecords(byId, [id]),
      end: () => handler.close(),
    }
  },
  pg: () => {
    const types = { getTypeParser: (oid: number) => (oid === INT8 ? BigInt : asText) }
    const pool = new pg.Pool({ connectionString: url, types, max: 10 })
    return {
      rows: async () => {
        let count = 0
        const client = await pool.connect()
        const cursor = client.query(new Cursor<{ id: bigint }>(all, [], { types }))
        for (let rows = await cursor.read(BATCH); rows.length > 0; rows = await cursor.read(BATCH)) {
          for (const row of rows) if (row.id > 0n) count++
        }
        await cursor.close()
        client.release()
        return count
      },
      query: (id) => pool.query(byId, [id]),
      end: () => pool.end(),
    }
  },
  'postgres.js': () => {
    const text = { to: 25, from: [114, 869, 1082, 1114, 1184, 2950, 3802], serialize: asText, parse: asText }
    const client = postgres(url, { max: 10, types: { bigint: postgres.BigInt, text }, onnotice: () => undefined })
    return {
      rows: async () => {
        let count = 0
        for await (const rows of client.unsafe(all).cursor(BATCH)) for (const row of rows) if ((row['id'] as bigint) > 0n) count++
        return count
      },
      query: (id) => client.unsafe(byId, [id], { prepare: true }),
      end: () => client.end(),
    }
  },
}

interface Measured {
  readonly rowsPerSecond: number
  readonly queriesPerSecond: number
  /** One after the other, on one connection. */
  readonly alonePerSecond: number
  readonly rss: number
}

/** In the process of one contender. */
async function measure(name: string, rows: number, queries: number): Promise<Measured> {
  const contender = contenders[name]?.()
  if (contender === undefined) throw new Error(`there is no ${name}`)
  // Until it is compiled.
  for (let id = 1; id <= 2_000; id++) await contender.query(id)
  await contender.rows()
  let start = performance.now()
  if ((await contender.rows()) !== rows) throw new Error(`${name} has not read every row`)
  const rowsPerSecond = rows / ((performance.now() - start) / 1000)
  const rss = process.resourceUsage().maxRSS / 1024
  const run = async (count: number, offset: number): Promise<void> => {
    for (let n = 0; n < count; n++) await contender.query(1 + ((offset + n * 7919) % rows))
  }
  await Promise.all(Array.from({ length: CALLERS }, (_, caller) => run(200, caller)))
  start = performance.now()
  await Promise.all(Array.from({ length: CALLERS }, (_, caller) => run(queries / CALLERS, caller * 104_729)))
  const queriesPerSecond = queries / ((performance.now() - start) / 1000)
  start = performance.now()
  await run(queries / 4, 0)
  const alonePerSecond = queries / 4 / ((performance.now() - start) / 1000)
  await contender.end()
  return { rowsPerSecond, queriesPerSecond, alonePerSecond, rss }
}

const median = (numbers: readonly number[]): number =>
  numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? Number.NaN

async function compare(rows: number, queries: number, rounds: number): Promise<void> {
  {
    await using handler = new PostgresHandler({ url })
    await makeAuditLog(handler, rows)
    await handler.execute(sql`SELECT count(*) FROM bench_audit_log`)
  }
  const found = new Map<string, Measured[]>(Object.keys(contenders).map((name) => [name, []]))
  const self = fileURLToPath(import.meta.url)
  for (let round = 0; round < rounds; round++) {
    for (const [name, measured] of found) {
      const args = ['--conditions=@common-handlers/source', self, '--contender', name, String(rows), String(queries)]
      measured.push(JSON.parse((await promisify(execFile)(process.execPath, args)).stdout) as Measured)
    }
  }
  process.stdout.write(`${rows} rows by cursor, ${queries} point queries by ${CALLERS} callers and by one, median of ${rounds}\n`)
  const medians = [...found].map(([name, measured]) => ({
    name,
    rows: median(measured.map((one) => one.rowsPerSecond)),
    queries: median(measured.map((one) => one.queriesPerSecond)),
    alone: median(measured.map((one) => one.alonePerSecond)),
    rss: median(measured.map((one) => one.rss)),
  }))
  const ours = medians[0]
  for (const { name, rows: cursor, queries: point, alone, rss } of medians) {
    const ratio = (our: number | undefined, their: number): string => ((our ?? Number.NaN) / their).toFixed(2)
    process.stdout.write(
      `${name.padEnd(12)} ${Math.round(cursor)} rows/s (handler ${ratio(ours?.rows, cursor)})   ` +
        `${Math.round(point)} queries/s (${ratio(ours?.queries, point)})   ${Math.round(alone)} alone (${ratio(ours?.alone, alone)})   peak RSS ${rss.toFixed(0)} MB\n`,
    )
  }
}

const [, , first, second, third, fourth] = process.argv
if (first === '--contender') {
  process.stdout.write(JSON.stringify(await measure(second ?? '', Number(third), Number(fourth))))
} else await compare(Number(first ?? 300_000), Number(second ?? 20_000), Number(third ?? 3))
