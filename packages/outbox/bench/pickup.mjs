// One system at a time, in a process of its own: has an idle worker, and says for each message how soon it was picked up.
//   node pickup.mjs <system>, with BENCH_URL, BENCH_PEERS (a folder that holds node_modules)
import { migrate, Outbox, OutboxWorker } from '@common-handlers/outbox'
import pg from 'pg'
import { connectionString, payload, peer, pool } from './database-and-peers.mjs'

let picked = Promise.withResolvers()
const pick = () => picked.resolve(performance.now())

/** Each starts a worker and gives what enqueues one message, committed when it resolves. */
const systems = {
  // What the disk and the server allow: one connection writes and notifies, the other one hears it. Nothing is claimed.
  async bare() {
    await pool.query('CREATE TABLE bare (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payload json NOT NULL)')
    const ear = new pg.Client({ connectionString })
    await ear.connect()
    ear.on('notification', pick)
    await ear.query('LISTEN bare')
    return (message) =>
      pool.query(`WITH made AS (INSERT INTO bare (payload) VALUES ($1) RETURNING id) SELECT pg_notify('bare', '') FROM made`, [
        JSON.stringify(message),
      ])
  },
  'outbox tx': () => ours('tx'),
  'outbox lease': () => ours('lease'),
  'outbox log': () => ours('log'),
  'graphile-worker': () => graphile(),
  'graphile-worker, local queue': () => graphile({ localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 }),
  async 'pg-boss'() {
    const { PgBoss } = await peer('pg-boss')
    const boss = new PgBoss({ connectionString, max: 20, useListenNotify: true })
    boss.on('error', () => undefined)
    await boss.start()
    await boss.createQueue('bench', { notify: true })
    await boss.work('bench', { pollingIntervalSeconds: 0.5 }, async () => pick())
    return (message) => boss.send('bench', message)
  },
}

async function ours(effect) {
  await migrate(pool)
  const outbox = new Outbox()
  const definition = { effect, handler: pick, ...(effect === 'log' ? { consumer: 'bench' } : {}) }
  await new OutboxWorker({ pool, handlers: { bench: definition } }).start()
  return (message) => outbox[effect === 'log' ? 'append' : 'enqueue'](pool, { type: 'bench', payload: message })
}

async function graphile(worker = {}) {
  const { run, Logger, makeWorkerUtils } = await peer('graphile-worker')
  const utils = await makeWorkerUtils({ pgPool: pool })
  await utils.migrate()
  const logger = new Logger(() => () => undefined)
  await run({ pgPool: pool, noHandleSignals: true, concurrency: 10, logger, taskList: { bench: pick }, preset: { worker } })
  return (message) => utils.addJob('bench', message)
}

const enqueue = await systems[process.argv[2]]()
async function measure(n) {
  picked = Promise.withResolvers()
  const began = performance.now()
  await enqueue(payload(n))
  process.send({ ms: (await picked.promise) - began })
}
process.on('message', (n) => void measure(n))
process.send('ready')
