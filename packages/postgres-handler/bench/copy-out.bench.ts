// COPY of an audit log: this handler against psql, interleaved in one run, both reading and keeping nothing.
//   POSTGRES_URL=postgres://… node --conditions=@common-handlers/source bench/copy-out.bench.ts [rows] [rounds]
// Needs psql and bash. The CPU seconds are the client's; the wall time is mostly the server's.
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { PostgresHandler } from '../src/index.ts'
import { makeAuditLog, table } from './audit-log-table.ts'

const run = promisify(execFile)
const rows = Number(process.argv[2] ?? 1_000_000)
const rounds = Number(process.argv[3] ?? 5)
const url = process.env['POSTGRES_URL'] ?? 'postgres://postgres@127.0.0.1:5432/postgres'

interface Measured {
  readonly wall: number
  readonly cpu: number
}

await using pg = new PostgresHandler({ url })
await makeAuditLog(pg, rows)

const copy = `COPY ${table} TO STDOUT (FORMAT csv)`
let bytes = 0

async function handler(): Promise<Measured> {
  const [start, cpu] = [performance.now(), process.cpuUsage()]
  let seen = 0
  bytes = 0
  for await (const block of pg.copyOut(copy)) {
    seen += block.rows
    bytes += block.bytes.length
    block.release()
  }
  if (seen !== rows) throw new Error(`${seen} rows came`)
  const { user, system } = process.cpuUsage(cpu)
  return { wall: (performance.now() - start) / 1000, cpu: (user + system) / 1e6 }
}

async function psql(): Promise<Measured> {
  const start = performance.now()
  // `times` ends with what bash's children used: user and system, as 0m1.234s.
  const script = `psql -X -q "$POSTGRES_URL" -c "\\copy ${table} to /dev/null (format csv)" && times`
  const { stdout } = await run('bash', ['-c', script], { env: { ...process.env, POSTGRES_URL: url } })
  const wall = (performance.now() - start) / 1000
  const used = [...(stdout.trim().split('\n').at(-1) ?? '').matchAll(/(\d+)m([\d.]+)s/g)]
  return { wall, cpu: used.reduce((sum, [, minutes, seconds]) => sum + Number(minutes) * 60 + Number(seconds), 0) }
}

/** Of the package as it is installed, in megabytes: what strips types from the sources takes 50 MB by itself. Needs `tsc -b`. */
async function peakMemory(): Promise<number> {
  const script = `const { PostgresHandler } = await import(process.argv[1])
    await using pg = new PostgresHandler({ url: process.env.POSTGRES_URL })
    for await (const block of pg.copyOut(process.argv[2])) block.release()
    console.log(process.resourceUsage().maxRSS / 1024)`
  const built = new URL('../dist/index.js', import.meta.url).href
  const args = ['--input-type=module', '--eval', script, built, copy]
  const { stdout } = await run(process.execPath, args, { env: { ...process.env, POSTGRES_URL: url } })
  return Number(stdout)
}

const median = (numbers: readonly number[]): number =>
  numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? Number.NaN

await handler()
await psql()
const ours: Measured[] = []
const theirs: Measured[] = []
for (let round = 0; round < rounds; round++) {
  ours.push(await handler())
  theirs.push(await psql())
}
const summary = (name: string, all: readonly Measured[]): Measured => {
  const found = { wall: median(all.map((one) => one.wall)), cpu: median(all.map((one) => one.cpu)) }
  process.stdout.write(
    `${name.padEnd(10)} wall ${found.wall.toFixed(2)} s   client CPU ${found.cpu.toFixed(2)} s   ${Math.round(rows / found.wall)} rows/s\n`,
  )
  return found
}
process.stdout.write(`${rows} rows, ${(bytes / 1e6).toFixed(0)} MB, median of ${rounds}\n`)
const our = summary('handler', ours)
const their = summary('psql', theirs)
const rss = await peakMemory()
process.stdout.write(
  `ratio      wall ${(our.wall / their.wall).toFixed(2)}   client CPU ${(our.cpu / their.cpu).toFixed(2)}   peak RSS ${rss.toFixed(0)} MB\n`,
)
