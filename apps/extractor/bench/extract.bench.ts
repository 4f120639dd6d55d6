/**
 * 3 M rows of an audit log from a PostgreSQL server of this machine into a folder, and the same by psql and gzip:
 *
 *   npx -y pnpm@12 build && node apps/extractor/bench/extract.bench.ts [rows]
 *
 * With `--conditions=@common-handlers/source` it runs unbuilt, which costs some 30 MB and half a CPU second for the types.
 * Prints rows/s, MB/s of CSV, CPU seconds and the highest memory of the extractor, and the ratio of its CPU seconds to
 * those of `psql -c "\copy (…) to program 'gzip -1 > /dev/null'"`. Set BENCH_COMPRESSION to zstd or
 * none for those, and BENCH_STORE to s3 for an S3 server instead of the folder.
 */
import { execFile, spawn } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { setFlagsFromString } from 'node:v8'

const CHILD = '--as-child'

/** The extractor alone in its process, so that its CPU seconds and memory are its own. */
async function extractor(config: string): Promise<void> {
  // As main.ts does.
  setFlagsFromString('--semi-space-growth-factor=1')
  // By its own name: built or unbuilt, as this process was started.
  const [{ runApp }, { extractorApp }] = await Promise.all([
    import('@common-handlers/cli'),
    import('@common-handlers/audit-log-extractor'),
  ])
  let out = ''
  const terminal = {
    argv: ['run', '--config', config, '--log-level', 'warn'],
    env: {},
    stdout: { write: (text: string) => (out += text) },
    stderr: process.stderr,
  }
  process.exitCode = await runApp(extractorApp, terminal, new AbortController().signal)
  const { userCPUTime, systemCPUTime, maxRSS } = process.resourceUsage()
  const { rows, csvBytes, bytes, seconds } = JSON.parse(out) as Record<string, number>
  process.stdout.write(
    JSON.stringify({ rows, csvBytes, bytes, seconds, cpu: (userCPUTime + systemCPUTime) / 1e6, rss: maxRSS * 1024 }),
  )
}

async function measure(rows: number): Promise<void> {
  const { runOnPostgres, startPostgres, startSeaweedfs } = await import('@common-handlers/testkit')
  await using server = await startPostgres()
  const folder = await mkdtemp(join(tmpdir(), 'extract-bench-'))
  try {
    await runOnPostgres(
      server,
      'CREATE TABLE audit_log (id bigint PRIMARY KEY, occurred_at timestamptz, actor text, action text, entity text, entity_id uuid, payload jsonb)',
    )
    await runOnPostgres(
      server,
      `INSERT INTO audit_log
       SELECT g, '2026-01-01'::timestamptz + g * interval '1.000001 s', 'user-' || g % 997, (ARRAY['insert','update','delete'])[1 + g % 3], 'flight',
              md5(g::text)::uuid, jsonb_build_object('old', jsonb_build_object('delay', g % 60, 'distance', g % 4000, 'path', 'C:\\data\\' || g),
                'new', jsonb_build_object('delay', g % 61, 'distance', g % 4001, 'origin', 'SFO', 'destination', 'JFK', 'note', md5((g / 7)::text)))
         FROM generate_series(1, ${rows}) AS g`,
    )
    await runOnPostgres(server, 'VACUUM ANALYZE audit_log')
    const compression = process.env['BENCH_COMPRESSION'] ?? 'gzip'
    const config = join(folder, 'extractor.json')
    await using s3 = process.env['BENCH_STORE'] === 's3' ? await startSeaweedfs() : undefined
    const store =
      s3 === undefined
        ? { store: pathToFileURL(join(folder, 'landing')).href }
        : {
            store: `s3://${s3.bucket}/bench`,
            s3: { endpoint: s3.endpoint, accessKeyId: s3.accessKeyId, secretAccessKey: s3.secretAccessKey },
          }
    const { host, port, user, password, database } = server
    await writeFile(
      config,
      JSON.stringify({
        dataset: 'audit_log',
        ...store,
        source: { table: 'audit_log' },
        postgres: { host, port, user, password, database },
        output: { compression },
      }),
    )
    const child = spawn(process.execPath, [...process.execArgv, import.meta.filename, CHILD, config], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    let out = ''
    child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()))
    await new Promise((resolve) => child.once('close', resolve))
    const own = JSON.parse(out) as Record<'rows' | 'csvBytes' | 'bytes' | 'seconds' | 'cpu' | 'rss', number>
    const psql = await byPsql(server.url, { gzip: 'gzip -1', zstd: 'zstd -q -1', none: 'cat' }[compression] ?? 'gzip -1')
    const million = (value: number): string => (value / 1e6).toFixed(0)
    const lines = [
      `extractor: ${own.rows} rows in ${own.seconds.toFixed(1)} s, ${Math.round(own.rows / own.seconds)} rows/s, ${million(own.csvBytes / own.seconds)} MB/s of CSV`,
      `           ${million(own.csvBytes)} MB of CSV, ${million(own.bytes)} MB stored, ${own.cpu.toFixed(2)} CPU seconds, at most ${million(own.rss)} MB of memory`,
      psql === undefined
        ? 'psql: not on this machine'
        : `psql:      ${psql.seconds.toFixed(1)} s, ${psql.cpu.toFixed(2)} CPU seconds; ratio of CPU seconds ${(own.cpu / psql.cpu).toFixed(2)}`,
    ]
    process.stdout.write(`${lines.join('\n')}\n`)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/** The time of psql and of the program it feeds, both. */
async function byPsql(url: string, program: string): Promise<{ seconds: number; cpu: number } | undefined> {
  const copy = `\\copy (SELECT * FROM audit_log ORDER BY id) TO PROGRAM '${program} > /dev/null' (FORMAT csv, NULL '\\N')`
  const script = 'command -v psql > /dev/null || exit 42; TIMEFORMAT="%R %U %S"; time psql -q -X -c "$1" > /dev/null'
  try {
    const { stderr } = await promisify(execFile)('bash', ['-c', script, 'bash', copy], {
      env: { ...process.env, ...pgVariables(url) },
    })
    const [seconds = 0, user = 0, system = 0] = stderr.trim().split(/\s+/).slice(-3).map(Number)
    return { seconds, cpu: user + system }
  } catch (error) {
    if ((error as { code?: unknown }).code === 42) return undefined
    throw error
  }
}

function pgVariables(url: string): Record<string, string> {
  const { hostname, port, username, password, pathname } = new URL(url)
  return { PGHOST: hostname, PGPORT: port, PGUSER: username, PGPASSWORD: password, PGDATABASE: pathname.slice(1) }
}

const [first, second] = process.argv.slice(2)
await (first === CHILD ? extractor(second ?? '') : measure(Number(first ?? 3_000_000)))
