// One system at a time, in a process of its own: drains what is there and says what it took.
//   node systems.mjs <system>, with BENCH_URL, BENCH_EVENTS, BENCH_PEERS (a folder that holds node_modules)
import { migrate, Outbox, OutboxWorker } from '@common-handlers/outbox'
import { connectionString, payload, peer, pool } from './database-and-peers.mjs'

const { BENCH_EVENTS, BENCH_KEYS } = process.env
const count = Number(BENCH_EVENTS)
const keys = Number(BENCH_KEYS ?? 0)
const all = Array.from({ length: count }, (_, n) => n)

/** Resolves when it was called for each event. */
function counter() {
  const done = Promise.withResolvers()
  let seen = 0
  const perKey = new Map()
  let violations = 0
  return {
    done: done.promise,
    get violations() {
      return violations
    },
    see({ n }) {
      if (keys > 0) {
        const key = n % keys
        if ((perKey.get(key) ?? -1) > n) violations += 1
        perKey.set(key, n)
      }
      if (++seen === count) done.resolve()
    },
  }
}

async function emptied(query) {
  for (;;) {
    const { rows } = await pool.query({ text: query, rowMode: 'array' })
    if (rows[0][0] === 0) return
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}

const ours = (effect) => ({
  async fill() {
    await migrate(pool)
    const outbox = new Outbox()
    for (let start = 0; start < count; start += 1000)
      await outbox[effect === 'log' ? 'appendMany' : 'enqueueMany'](
        pool,
        all
          .slice(start, start + 1000)
          .map((n) => ({ type: 'bench', payload: payload(n), ...(keys > 0 ? { key: `key ${n % keys}` } : {}) })),
      )
  },
  async drain(seen) {
    // Everything on: a schema check, the signal, the listeners that metrics need.
    const schema = {
      '~standard': {
        version: 1,
        vendor: 'bench',
        validate: (value) =>
          typeof value.n === 'number' && typeof value.text === 'string' ? { value } : { issues: [{ message: 'no' }] },
      },
    }
    let settled = 0
    const handler = (event, { signal }) => {
      if (!signal.aborted) seen.see(event)
    }
    const definition = { effect, schema, handler, ...(effect === 'log' ? { consumer: 'bench' } : {}) }
    const worker = new OutboxWorker({ pool, batchSize: 500, maxParallel: 24, handlers: { bench: definition } })
    worker.on('settled', () => (settled += 1))
    await worker.start()
    await seen.done
    await emptied(effect === 'log' ? 'SELECT lag FROM outbox.log_progress()' : 'SELECT count(*)::int FROM outbox.event')
    return () => worker.stop()
  },
})

const systems = {
  'outbox tx': ours('tx'),
  'outbox lease': ours('lease'),
  'outbox log': ours('log'),
  'graphile-worker': {
    async fill() {
      const { makeWorkerUtils } = await peer('graphile-worker')
      const utils = await makeWorkerUtils({ pgPool: pool })
      await utils.migrate()
      for (let start = 0; start < count; start += 1000)
        await utils.addJobs(
          all
            .slice(start, start + 1000)
            .map((n) => ({ identifier: 'bench', payload: payload(n), ...(keys > 0 ? { queueName: `key ${n % keys}` } : {}) })),
        )
      await utils.release()
    },
    async drain(seen) {
      const { run } = await peer('graphile-worker')
      const { Logger } = await peer('graphile-worker')
      const runner = await run({
        pgPool: pool,
        noHandleSignals: true,
        concurrency: 24,
        logger: new Logger(() => () => undefined),
        taskList: { bench: (event) => seen.see(event) },
        // As its documentation says for speed. Its local queue does not keep the order of a queue.
        ...(keys > 0
          ? {}
          : { preset: { worker: { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 } } }),
      })
      await seen.done
      await emptied('SELECT count(*)::int FROM graphile_worker._private_jobs')
      return () => runner.stop()
    },
  },
  'pg-boss': boss({}),
  'pg-boss transactional': boss({ transactional: true }),
  'pg-transactional-outbox': {
    async fill() {
      const { DatabaseSetup } = await peer('pg-transactional-outbox')
      const at = {
        outboxOrInbox: 'outbox',
        database: 'bench',
        schema: 'public',
        table: 'outbox',
        listenerRole: 'postgres',
        nextMessagesName: 'next_outbox',
      }
      await pool.query(DatabaseSetup.dropAndCreateTable(at))
      await pool.query(DatabaseSetup.createPollingFunction(at))
      await pool.query(DatabaseSetup.setupPollingIndexes(at))
      await pool.query(
        `INSERT INTO public.outbox (id, aggregate_type, aggregate_id, message_type, payload, metadata, segment, concurrency)
         SELECT gen_random_uuid(), 'bench', g::text, 'bench', json_build_object('n', g, 'text', repeat('x', 180)), '{}', NULL, 'parallel' FROM generate_series(0, $1 - 1) g`,
        [count],
      )
    },
    async drain(seen) {
      const { initializePollingMessageListener, getDisabledLogger } = await peer('pg-transactional-outbox')
      const [shutdown] = initializePollingMessageListener(
        {
          outboxOrInbox: 'outbox',
          dbListenerConfig: { connectionString, max: 30 },
          dbHandlerConfig: { connectionString, max: 30 },
          settings: {
            dbSchema: 'public',
            dbTable: 'outbox',
            nextMessagesFunctionName: 'next_outbox',
            nextMessagesBatchSize: 24,
            nextMessagesPollingIntervalInMs: 10,
          },
        },
        { handle: async (message) => seen.see(message.payload) },
        getDisabledLogger(),
      )
      await seen.done
      await emptied('SELECT count(*)::int FROM public.outbox WHERE processed_at IS NULL')
      return shutdown
    },
  },
}

function boss(more) {
  const make = async () => {
    const { PgBoss } = await peer('pg-boss')
    const made = new PgBoss({ connectionString, max: 20, schedule: false, supervise: false })
    made.on('error', () => undefined)
    await made.start()
    return made
  }
  return {
    async fill() {
      const made = await make()
      await made.createQueue('bench', keys > 0 ? { policy: 'key_strict_fifo' } : {})
      for (let start = 0; start < count; start += 1000)
        await made.insert(
          'bench',
          all
            .slice(start, start + 1000)
            .map((n) => ({ data: payload(n), ...(keys > 0 ? { singletonKey: `key ${n % keys}` } : {}) })),
        )
      await made.stop({ graceful: false })
    },
    async drain(seen) {
      const made = await make()
      const options = { batchSize: 500, localConcurrency: 10, burstWhenBatchFull: true, pollingIntervalSeconds: 0.5, ...more }
      await made.work('bench', options, async (jobs) => {
        for (const { data } of jobs) seen.see(data)
      })
      await seen.done
      await emptied(`SELECT count(*)::int FROM pgboss.job WHERE name = 'bench' AND state <> 'completed'`)
      return () => made.stop({ graceful: false })
    },
  }
}

const system = systems[process.argv[2]]
await system.fill()
process.send({ state: 'filled' })
await new Promise((resolve) => process.once('message', resolve))
const seen = counter()
const cpu = process.cpuUsage()
const began = performance.now()
const stop = await system.drain(seen)
const { user, system: kernel } = process.cpuUsage(cpu)
process.send({ state: 'drained', ms: performance.now() - began, cpuUs: user + kernel, violations: seen.violations })
await Promise.race([stop(), new Promise((resolve) => setTimeout(resolve, 3000))])
process.exit(0)
