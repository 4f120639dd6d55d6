// How soon an idle worker begins: from the moment in which enqueue is called, its commit included, to the first line of the
// handler. Each system has a database and a process of its own on one server with fsync on; all are idle while one of them
// has a message, message by message, in an order that is drawn anew.
//   node --conditions=@common-handlers/source bench/pickup.bench.ts [samples]
// The peers are installed with npm into a temporary folder (bench/peers).
import { type ChildProcess, execFile, fork } from 'node:child_process'
import { once } from 'node:events'
import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { createDatabase, startPostgres } from '@common-handlers/testkit'

const samples = Number(process.argv[2] ?? 200)
/** Not counted: plans and machine code are made with the first messages. */
const WARM_UP = 10
const names = [
  'bare',
  'outbox tx',
  'outbox lease',
  'outbox log',
  'graphile-worker',
  'graphile-worker, local queue',
  'pg-boss',
] as const

const peers = await mkdtemp(join(tmpdir(), 'outbox-peers-'))
await cp(join(import.meta.dirname, 'peers/package.json'), join(peers, 'package.json'))
await promisify(execFile)('npm', ['install', '--no-audit', '--no-fund', '--silent'], { cwd: peers })
await using server = await startPostgres({
  settings: { fsync: 'on', shared_buffers: '256MB', max_wal_size: '4GB', checkpoint_timeout: '1h' },
})

async function start(name: string): Promise<ChildProcess> {
  const { url } = await createDatabase(server, 'bench')
  const child = fork(join(import.meta.dirname, 'pickup.mjs'), [name], {
    execArgv: ['--conditions=@common-handlers/source', '--no-warnings'],
    env: { ...process.env, BENCH_URL: url, BENCH_PEERS: peers },
  })
  await Promise.race([once(child, 'message'), once(child, 'exit').then(() => Promise.reject(new Error(`${name} ended`)))])
  return child
}

const systems: { readonly name: string; readonly child: ChildProcess; readonly times: number[] }[] = []
for (const name of names) systems.push({ name, child: await start(name), times: [] })
for (let n = 0; n < WARM_UP + samples; n++) {
  const order = systems.map((system) => ({ system, place: Math.random() })).toSorted((a, b) => a.place - b.place)
  for (const { system } of order) {
    await sleep(20 + Math.random() * 30)
    system.child.send(n)
    const [{ ms }] = (await once(system.child, 'message')) as [{ ms: number }]
    if (n >= WARM_UP) system.times.push(ms)
  }
}
for (const { child } of systems) {
  const ended = once(child, 'exit')
  child.kill('SIGKILL')
  await ended
}

const at = (times: readonly number[], share: number): number =>
  times.toSorted((a, b) => a - b)[Math.min(times.length - 1, Math.floor(times.length * share))] ?? 0
const best = (share: number): number =>
  Math.min(...systems.filter(({ name }) => /graphile|boss/.test(name)).map(({ times }) => at(times, share)))
console.log(`${samples} messages of 200 bytes, one at a time; milliseconds`)
console.log('| system | p50 | p90 | p99 | p50 of the best peer | p99 of the best peer |')
console.log('|---|---|---|---|---|---|')
for (const { name, times } of systems) {
  const cells = [0.5, 0.9, 0.99].map((share) => at(times, share).toFixed(1))
  const ratios = [0.5, 0.99].map((share) => `${(at(times, share) / best(share)).toFixed(2)} times`)
  console.log(`| ${[name, ...cells, ...ratios].join(' | ')} |`)
}
await rm(peers, { recursive: true })
