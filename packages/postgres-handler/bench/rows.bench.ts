// Rows by cursor and point queries: this handler against plain pg (with pg-cursor) and postgres.js, each in a process of its
// own, interleaved in one run, and all with the same conversion: int8 as bigint, the rest as text. The package is measured as
// it is installed: built, which `pnpm run bench` sees to. The CPU time is the client's.
//   POSTGRES_URL=postgres://… pnpm run bench packages/postgres-handler/bench/rows.bench.ts [rows] [queries] [rounds]
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { PostgresHandler, sql } from '../src/index.ts'
import { makeAuditLog } from './audit-log-table.ts'

const url = process.env['POSTGRES_URL'] ?? 'postgres://postgres@127.0.0.1:5432/postgres'
const [rows = 300_000, queries = 20_000, rounds = 5] = process.argv.slice(2).map(Number)

/** What rows-contender.mjs prints. */
interface Measured {
  readonly rowsPerSecond: number
  /** Microseconds. */
  readonly cpuPerRow: number
  /** MB at the peak, of a process that only reads rows. */
  readonly rss: number
  /** By ten callers. */
  readonly queriesPerSecond: number
  /** One after the other, on one connection. */
  readonly alonePerSecond: number
}

const median = (numbers: readonly number[]): number =>
  numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? Number.NaN

async function measure(name: string): Promise<Measured> {
  const contender = fileURLToPath(new URL('rows-contender.mjs', import.meta.url))
  const run = async (what: string): Promise<object> => {
    const args = [contender, name, what, String(rows), String(queries)]
    const { stdout } = await promisify(execFile)(process.execPath, args, { env: { ...process.env, POSTGRES_URL: url } })
    return JSON.parse(stdout) as object
  }
  return { ...(await run('rows')), ...(await run('queries')) } as Measured
}

{
  await using handler = new PostgresHandler({ url })
  await makeAuditLog(handler, rows)
  await handler.execute(sql`SELECT count(*) FROM bench_audit_log`)
}
const found = new Map<string, Measured[]>(['handler', 'pg', 'postgres.js'].map((name) => [name, []]))
for (let round = 0; round < rounds; round++) for (const [name, measured] of found) measured.push(await measure(name))
process.stdout.write(`${rows} rows by cursor, ${queries} point queries by ten callers and by one, median of ${rounds}\n`)
const medians = [...found].map(([name, measured]) => {
  const of = (key: keyof Measured): number => median(measured.map((one) => one[key]))
  return {
    name,
    rows: of('rowsPerSecond'),
    cpu: of('cpuPerRow'),
    rss: of('rss'),
    queries: of('queriesPerSecond'),
    alone: of('alonePerSecond'),
  }
})
const ours = medians[0]
for (const { name, rows: cursor, cpu, rss, queries: point, alone } of medians) {
  const ratio = (our: number | undefined, their: number): string => ((our ?? Number.NaN) / their).toFixed(2)
  process.stdout.write(
    `${name.padEnd(12)} ${Math.round(cursor)} rows/s (handler ${ratio(ours?.rows, cursor)})   CPU ${cpu.toFixed(2)} us/row (${ratio(ours?.cpu, cpu)})   ` +
      `peak RSS ${rss.toFixed(0)} MB   ${Math.round(point)} queries/s (${ratio(ours?.queries, point)})   ${Math.round(alone)} alone (${ratio(ours?.alone, alone)})\n`,
  )
}
