// 3,000,000 audit rows made from flights-3m.parquet: PostgreSQL → S3 → Iceberg through Trino, with the CPU seconds and the peak
// memory of both programs, and psql's COPY through gzip in the same run as the reference.
// Built, as the image holds them:  pnpm build && pnpm bench demo/bench/main-job.bench.ts [rows]
import { execFile, spawn } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { formatBytes, formatCount, formatTable } from '@common-handlers/cli'
import { DuckDbHandler } from '@common-handlers/duckdb-handler'
import { PostgresHandler } from '@common-handlers/postgres-handler'
import { runOnPostgres } from '@common-handlers/testkit'
import { createApplication, dataFile } from '../src/flights.ts'
import { realStage } from '../src/real-stage.ts'

const wanted = Number(process.argv[2] ?? 3_000_000)
const root = new URL('../../', import.meta.url).pathname
const folder = await mkdtemp(join(tmpdir(), 'bench-'))

interface Measured {
  readonly seconds: number
  readonly cpuSeconds: number
  readonly peakBytes: number
  readonly out: string
}

/** Runs a program and reads its CPU time and peak memory from /proc just before it ends. */
async function measure(command: string, args: readonly string[], env: NodeJS.ProcessEnv = process.env): Promise<Measured> {
  const began = performance.now()
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'], env })
  let out = ''
  child.stdout.on('data', (chunk: Buffer) => (out += String(chunk)))
  let peakBytes = 0
  let cpuSeconds = 0
  const poll = setInterval(() => {
    void Promise.all([readFile(`/proc/${child.pid}/status`, 'utf8'), readFile(`/proc/${child.pid}/stat`, 'utf8')])
      .then(([status, stat]) => {
        peakBytes = Math.max(peakBytes, Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1] ?? 0) * 1024)
        const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
        // utime, stime and those of children that have ended, in ticks of 1/100 s.
        cpuSeconds = [11, 12, 13, 14].reduce((sum, index) => sum + Number(fields[index] ?? 0), 0) / 100
      })
      .catch(() => undefined)
  }, 50)
  const code = await new Promise<number | null>((resolve) => child.on('close', resolve))
  clearInterval(poll)
  if (code !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${String(code)}`)
  return { seconds: (performance.now() - began) / 1000, cpuSeconds, peakBytes, out }
}

try {
  await using stage = await realStage(join(folder, 'stage'), { heapMegabytes: 2048 })
  await using postgres = new PostgresHandler(stage.postgres)
  await createApplication(stage.postgres, postgres, stage.extractorPassword)
  const csv = join(folder, 'flights.csv')
  {
    await using duckdb = new DuckDbHandler({ path: ':memory:' })
    await duckdb.execute(
      `copy (select row_number() over (), date, delay, distance, origin, destination from read_parquet('${dataFile('flights-3m.parquet')}') limit ${wanted}) to '${csv}' (format csv, header false)`,
    )
  }
  await promisify(execFile)('chmod', ['-R', 'a+rX', folder])
  await runOnPostgres(
    stage.postgres,
    `create unlogged table app.staged (id bigint, departed_at timestamptz, delay_minutes integer, distance_miles integer, origin text, destination text);
     copy app.staged from '${csv}' (format csv);
     insert into app.audit_log (occurred_at, actor, action, entity, entity_id, new_row)
       select departed_at + id % 1000000 * interval '1 microsecond', 'replay', 'insert', 'flights', id, to_jsonb(staged) from app.staged;
     drop table app.staged`,
  )
  await runOnPostgres(stage.postgres, 'vacuum analyze app.audit_log')

  const app = (name: string, config: string): Promise<Measured> =>
    measure(process.execPath, [
      '--conditions=@common-handlers/source',
      `${root}apps/${name}/src/main.ts`,
      'run',
      '--config',
      config,
    ])
  const { host, port, user, password, database } = stage.postgres
  const psql = await measure(
    'bash',
    [
      '-o',
      'pipefail',
      '-c',
      `psql -X -q -c "copy (select * from app.audit_log order by id) to stdout (format csv)" | gzip -1 | wc -c`,
    ],
    { ...process.env, PGHOST: host, PGPORT: String(port), PGUSER: user, PGPASSWORD: password, PGDATABASE: database },
  )
  const extractor = await app('extractor', stage.extractorConfig)
  const ingestor = await app('ingestor', stage.ingestorConfig)
  const { rows, bytes } = JSON.parse(extractor.out) as { rows: number; bytes: number }
  const line = (name: string, one: Measured): string[] => [
    name,
    `${one.seconds.toFixed(1)} s`,
    `${formatCount(rows / one.seconds)} rows/s`,
    `${one.cpuSeconds.toFixed(1)} CPU s`,
    one.peakBytes === 0 ? '' : `${formatBytes(one.peakBytes)} peak RSS`,
    `${(psql.seconds / one.seconds).toFixed(2)} × psql | gzip -1`,
  ]
  process.stdout.write(
    `${formatCount(rows)} rows, ${formatBytes(bytes)} of files\n${formatTable([line('psql | gzip -1', { ...psql, peakBytes: 0 }), line('extractor', extractor), line('ingestor', ingestor)])}\n`,
  )
  const limit = 200_000_000
  for (const [name, { peakBytes }] of Object.entries({ extractor, ingestor })) {
    if (peakBytes > limit)
      process.stdout.write(`${name}: ${formatBytes(peakBytes)} is above the ${formatBytes(limit)} it promises\n`)
  }
} finally {
  await rm(folder, { recursive: true, force: true })
}
