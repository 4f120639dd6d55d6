// node --conditions=@common-handlers/source bench/dialect.bench.ts
import { encodeOneRowALine, type RowBlock } from '@common-handlers/dataset'

const BLOCK_BYTES = 1024 * 1024
const ROUNDS = 300

/** Rows as an audit log has them: 300 bytes, a JSON document with doubled quotes, one in `every` with a line break. */
function block(every: number): RowBlock {
  const rows: Buffer[] = []
  for (let id = 0, size = 0; size < BLOCK_BYTES; id++) {
    const note = id % every === every - 1 ? '"line one\nline two"' : 'delayed by weather'
    const json = `"{""id"": ${id}, ""origin"": ""SFO"", ""destination"": ""ORD"", ""delay"": ${id % 97}, ""carrier"": ""UA"", ""tail"": ""N${id}UA"", ""note"": null}"`
    const row = Buffer.from(`${id},2026-11-21 10:15:30.123456+00,agent-${id % 10},UPDATE,flights,${id * 7},\\N,${json},${note}\n`)
    rows.push(row)
    size += row.length
  }
  let end = 0
  return { bytes: Buffer.concat(rows), rowEnds: Uint32Array.from(rows, (row) => (end += row.length)), rows: rows.length }
}

function measure(title: string, given: RowBlock): void {
  for (let round = 0; round < 30; round++) encodeOneRowALine(given)
  const cpu = process.cpuUsage()
  for (let round = 0; round < ROUNDS; round++) encodeOneRowALine(given)
  const { user, system } = process.cpuUsage(cpu)
  const seconds = (user + system) / 1e6
  const megabytes = (given.bytes.length * ROUNDS) / 1e6
  process.stdout.write(
    `${title.padEnd(36)} ${(megabytes / seconds).toFixed(0).padStart(6)} MB per CPU second, ${((given.rows * ROUNDS) / seconds / 1e6).toFixed(1)} M rows/s\n`,
  )
}

measure('no awkward row', block(Infinity))
measure('1 % of the rows with a line break', block(100))
measure('every row with a line break', block(1))
