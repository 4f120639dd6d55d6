// How fast a backlog is drained, beside other queues on PostgreSQL with their documented fast settings, on one server
// with fsync on, each system in a process of its own, in shuffled order.
//   node --conditions=@common-handlers/source bench/drain.bench.ts [events] [rounds] [keys]
// With keys the events are ordered by key. The peers are installed with npm into a temporary folder (bench/peers).
import { execFile, fork } from 'node:child_process'
import { once } from 'node:events'
import { cp, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { createDatabase, startPostgres } from '@common-handlers/testkit'
import pg from 'pg'

const run = promisify(execFile)
const events = Number(process.argv[2] ?? 50_000)
const rounds = Number(process.argv[3] ?? 5)
const keys = Number(process.argv[4] ?? 0)
/** Those that take longer get fewer. */
const fewer: Readonly<Record<string, number>> = {
  'pg-transactional-outbox': 2000,
  ...(keys > 0 ? { 'graphile-worker': 2000 } : {}),
}
const names = [
  'outbox tx',
  'outbox lease',
  'outbox log',
  'graphile-worker',
  'pg-boss',
  ...(keys > 0 ? [] : ['pg-boss transactional', 'pg-transactional-outbox']),
]

interface Measured {
  readonly perSecond: number
  readonly nodeUs: number
  readonly serverUs: number
  readonly walBytes: number
  readonly violations: number
}

const peers = await mkdtemp(join(tmpdir(), 'outbox-peers-'))
await cp(join(import.meta.dirname, 'peers/package.json'), join(peers, 'package.json'))
await run('npm', ['install', '--no-audit', '--no-fund', '--silent'], { cwd: peers })
await using server = await startPostgres({
  settings: { fsync: 'on', shared_buffers: '256MB', max_wal_size: '4GB', checkpoint_timeout: '1h' },
})

/** CPU of all processes of the server, in microseconds; a process that has ended counts with its parent. */
async function serverCpu(): Promise<number> {
  let ticks = 0
  for (const pid of await server.pids()) {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined)
    const fields = stat?.slice(stat.lastIndexOf(')') + 2).split(' ') ?? []
    ticks += Number(fields[11] ?? 0) + Number(fields[12] ?? 0) + Number(fields[13] ?? 0) + Number(fields[14] ?? 0)
  }
  return ticks * 10_000
}

async function measure(name: string): Promise<Measured> {
  const count = Math.min(events, fewer[name] ?? events)
  const database = await createDatabase(server, 'bench')
  const client = new pg.Client({ connectionString: database.url })
  await client.connect()
  const wal = async (): Promise<bigint> =>
    BigInt((await client.query<{ n: string }>(`SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::text AS n`)).rows[0]?.n ?? 0)
  const child = fork(join(import.meta.dirname, 'systems.mjs'), [name], {
    execArgv: ['--conditions=@common-handlers/source', '--no-warnings'],
    env: { ...process.env, BENCH_URL: database.url, BENCH_EVENTS: String(count), BENCH_KEYS: String(keys), BENCH_PEERS: peers },
  })
  const ended = once(child, 'exit')
  try {
    await Promise.race([once(child, 'message'), ended.then(() => Promise.reject(new Error(`${name} ended`)))])
    const [walBefore, cpuBefore] = [await wal(), await serverCpu()]
    child.send('go')
    const [{ ms, cpuUs, violations }] = (await once(child, 'message')) as [{ ms: number; cpuUs: number; violations: number }]
    const [walAfter, cpuAfter] = [await wal(), await serverCpu()]
    return {
      perSecond: (count / ms) * 1000,
      nodeUs: cpuUs / count,
      serverUs: (cpuAfter - cpuBefore) / count,
      walBytes: Number(walAfter - walBefore) / count,
      violations,
    }
  } finally {
    child.kill('SIGKILL')
    await ended
    await client.end()
    await database.drop()
  }
}

const results = new Map<string, Measured[]>(names.map((name) => [name, []]))
for (let round = 1; round <= rounds; round++) {
  const order = names.map((name) => ({ name, place: Math.random() })).toSorted((a, b) => a.place - b.place)
  for (const { name } of order) {
    const measured = await measure(name)
    results.get(name)?.push(measured)
    process.stderr.write(`${round} ${name}: ${Math.round(measured.perSecond)}/s\n`)
  }
}

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0
const reference = median((results.get('graphile-worker') ?? []).map(({ perSecond }) => perSecond))
console.log(
  `${events} events of 200 bytes${keys > 0 ? `, ${keys} keys` : ''}, median of ${rounds}; µs of CPU and bytes of WAL a message`,
)
console.log('| system | messages/s | of graphile-worker | Node | server | both | WAL | out of order |')
console.log('|---|---|---|---|---|---|---|---|')
for (const [name, all] of results) {
  const of = (pick: (measured: Measured) => number): number => median(all.map(pick))
  const cells = [
    Math.round(of(({ perSecond }) => perSecond)).toLocaleString('en'),
    `${(of(({ perSecond }) => perSecond) / reference).toFixed(2)} times`,
    of(({ nodeUs }) => nodeUs).toFixed(1),
    of(({ serverUs }) => serverUs).toFixed(1),
    of(({ nodeUs, serverUs }) => nodeUs + serverUs).toFixed(1),
    Math.round(of(({ walBytes }) => walBytes)),
    keys > 0 ? of(({ violations }) => violations) : '–',
  ]
  console.log(`| ${name} | ${cells.join(' | ')} |`)
}
await rm(peers, { recursive: true })
