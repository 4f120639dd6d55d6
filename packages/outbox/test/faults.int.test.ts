import { setTimeout as sleep } from 'node:timers/promises'
import { describeWith, type PostgresAddress, startFaultProxy } from '@common-handlers/testkit'
import pg from 'pg'
import { afterEach, describe, expect, it } from 'vitest'
import {
  type Effect,
  type Handlers,
  logProgress,
  migrate,
  Outbox,
  type OutboxRepository,
  OutboxWorker,
  retryAfter,
  type Verdict,
} from '../src/index.ts'
import { ownOutbox, until, WAITING } from './own-outbox.ts'

// What goes wrong in processes, connections and handlers, one thing at a time. Each of these was once a way to lose, to
// repeat or to hold up an event.

const connection = ({ host, port, user, password, database }: PostgresAddress): pg.PoolConfig => ({
  host,
  port,
  user,
  password,
  database,
})

describeWith(['postgres'], 'when something goes wrong', ({ postgres }) => {
  const own = ownOutbox(postgres)
  const outbox = new Outbox()
  const empty = async (): Promise<boolean> => (await own.one<number>('SELECT count(*)::int FROM outbox.event')) === 0
  const cut = (which: string): Promise<unknown> =>
    own.pool.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE $1`,
      [which],
    )

  describe.each<Effect>(['tx', 'lease'])('in a handler with the effect %s', (effect) => {
    const thrown: readonly (readonly [string, unknown, string])[] = [
      ['null', null, 'null'],
      ['undefined', undefined, 'undefined'],
      ['a text', 'no', 'no'],
      ['a symbol', Symbol('s'), 'Symbol(s)'],
      ['what has no text', Object.create(null), 'an error without a text'],
      ['half of a character', new Error('\ud83d'), 'Error: \ufffd'],
      ['NUL', new Error('a\0b'), 'Error: a\ufffdb'],
      ['a character on the edge', new Error(`${'x'.repeat(1992)}\u{1f600}${'x'.repeat(9)}`), `Error: ${'x'.repeat(1992)}\ufffd…`],
    ]
    it.each(thrown)('takes %s as an error', async (_, error, text) => {
      let attempts = 0
      const handler = (n: number): void => {
        if (n > 0) return
        attempts += 1
        throw error
      }
      await own.worker({ handlers: { a: { effect, handler, maxAttempts: 2 } }, backoffBaseMs: 1 }).start()
      await own.put('a', [0, 1, 2])
      await until(empty)
      expect(attempts).toBe(2)
      expect(await own.one('SELECT error FROM outbox.dead_letter')).toBe(text)
    })

    it.each([NaN, Infinity, 1e300, -5])('takes %d for the wait until the next attempt', async (delayMs) => {
      const seen: number[] = []
      const handler = (n: number): Verdict | undefined => (seen.push(n), n === 0 ? retryAfter(delayMs) : undefined)
      await own.worker({ handlers: { a: { effect, handler, maxAttempts: 2 } } }).start()
      await own.put('a', [0, 1, 2])
      await until(() => seen.includes(2))
      await until(async () => (await own.one<number>('SELECT count(*)::int FROM outbox.event WHERE attempts = 0')) === 0)
      expect(seen.slice(0, 3)).toEqual([0, 1, 2])
    })

    it('waits for promises of any make', async () => {
      let ended = 0
      const handler = (): Promise<void> => {
        // oxlint-disable-next-line unicorn/no-thenable -- as query builders have it
        const thenable = { then: (done: () => void) => void setTimeout(() => ((ended += 1), done()), 200) }
        return thenable as unknown as Promise<void>
      }
      await own.worker({ handlers: { a: { effect, handler } } }).start()
      await own.put('a', [1])
      await until(empty)
      expect(ended).toBe(1)
    })

    it('goes on when a listener throws', async () => {
      const seen: number[] = []
      const worker = own.worker({ handlers: { a: { effect, handler: (n: number) => void seen.push(n) } }, batchSize: 2 })
      worker.on('settled', () => {
        throw new Error('a listener that is broken')
      })
      await worker.start()
      await own.put('a', [1, 2, 3, 4, 5])
      await until(empty)
      expect(seen.toSorted((a, b) => a - b)).toEqual([1, 2, 3, 4, 5])
    })

    it('stops a handler that hangs in its schema', async () => {
      const schema = { '~standard': { version: 1 as const, vendor: 'test', validate: () => new Promise<never>(() => undefined) } }
      await own.worker({ handlers: { a: { effect, schema, handler: () => undefined, timeoutMs: 50, maxAttempts: 1 } } }).start()
      await own.put('a', [1])
      await until(empty)
      expect(await own.one('SELECT error FROM outbox.dead_letter')).toContain('took longer than 50 ms')
    })

    it('takes every payload that JSON knows, and keys and types of any text', async () => {
      const payloads = [
        null,
        true,
        0,
        -1.5e300,
        '',
        'é\u{1f600}\u0000\ud800',
        [],
        [[null]],
        {},
        { '': { a: [1] }, __proto__x: 1 },
      ]
      const odd = `it's "odd" \\ {a,b} \u{1f600} %s $1 é`
      const seen: unknown[] = []
      const keys: unknown[] = []
      const handler = (payload: unknown, { event }: { event: { key: string | undefined } }): void => {
        seen.push(payload)
        keys.push(event.key)
      }
      await own.worker({ handlers: { [odd]: { effect, handler } } }).start()
      for (const payload of payloads) await outbox.enqueue(own.pool, { type: odd, payload, key: odd, headers: { [odd]: odd } })
      await outbox.enqueue(own.pool, { type: odd, payload: 'x'.repeat(1_000_000), key: odd })
      await outbox.enqueue(own.pool, { type: odd, payload: 'the empty key', key: '' })
      await until(empty)
      const ofKey = seen.filter((payload) => payload !== 'the empty key')
      expect(ofKey.slice(0, payloads.length)).toEqual(payloads)
      expect(ofKey).toHaveLength(payloads.length + 1)
      expect(seen).toHaveLength(payloads.length + 2)
      expect(new Set(keys)).toEqual(new Set([odd, '']))
    })

    it('counts beyond what a number can', async () => {
      await own.pool.query('ALTER TABLE outbox.event ALTER COLUMN id RESTART WITH 9007199254740993')
      const ids: bigint[] = []
      const failed = new Set<bigint>()
      const handler = (_: unknown, { event: { id } }: { event: { id: bigint } }): void => {
        if (!failed.has(id)) {
          failed.add(id)
          throw new Error('once')
        }
        ids.push(id)
      }
      await own.worker({ handlers: { a: { effect, handler } }, backoffBaseMs: 1 }).start()
      await own.put('a', [1, 2, 3], { key: () => 'k' })
      await until(empty)
      const first = ids[0] ?? 0n
      expect(ids).toEqual([first, first + 1n, first + 2n])
    })

    it('works with batches of one and one handler at a time', async () => {
      const seen: number[] = []
      const handler = async (n: number): Promise<void> => (await sleep(1), void seen.push(n))
      const settings = { batchSize: 1, maxParallel: 1, txConnections: 1 }
      await own.worker({ handlers: { a: { effect, handler } }, ...settings }).start()
      await own.put('a', [1, 2, 3], { key: () => 'k' })
      await own.put('a', [4, 5])
      await until(empty)
      expect(seen.toSorted((a, b) => a - b)).toEqual([1, 2, 3, 4, 5])
    })

    it('keeps two schemas apart', async () => {
      const schema = `other "${effect}" outbox`
      await migrate(own.pool, { schema })
      const seen: string[] = []
      const handlers = (of: string): Handlers => ({ a: { effect, handler: (n: number) => void seen.push(`${of} ${n}`) } })
      const one = own.worker({ handlers: handlers('one') })
      const two = own.worker({ handlers: handlers('two'), schema })
      await Promise.all([one.start(), two.start()])
      await outbox.enqueue(own.pool, { type: 'a', payload: 1, key: 'k' })
      await new Outbox({ schema }).enqueue(own.pool, { type: 'a', payload: 2, key: 'k' })
      await until(() => seen.length === 2)
      expect(new Set(seen)).toEqual(new Set(['one 1', 'two 2']))
      await two.stop()
    })
  })

  describe('in transactions', () => {
    it('fails an attempt that did not wait for its statement, and completes the others', async () => {
      await own.pool.query('CREATE TABLE IF NOT EXISTS unawaited (n int)')
      const handler = async (n: number, { getRepository }: { getRepository: () => Promise<OutboxRepository> }): Promise<void> => {
        const repository = await getRepository()
        const writing = repository.query('INSERT INTO unawaited VALUES ($1)', [n])
        if (n !== 2) await writing
      }
      const handlers: Handlers = { a: { effect: 'tx', needsDb: true, handler, maxAttempts: 2 } }
      await own.worker({ handlers, backoffBaseMs: 1, txConnections: 1 }).start()
      await own.put('a', [1, 2, 3])
      await until(empty)
      expect(await own.one('SELECT array_agg(n ORDER BY n) FROM unawaited')).toEqual([1, 3])
      expect(await own.one('SELECT error FROM outbox.dead_letter')).toContain('await it')
    })

    it('does not count the loss of its connection, ends the handler and does the work again', async () => {
      const signals: boolean[] = []
      let begun = 0
      const handler = async (_: unknown, context: { signal: AbortSignal; getRepository: () => Promise<OutboxRepository> }) => {
        const repository = await context.getRepository()
        await repository.query(`SELECT 'the connection to cut'`)
        begun += 1
        if (begun > 1) return
        await new Promise<void>((resolve) => context.signal.addEventListener('abort', () => resolve()))
        signals.push(context.signal.aborted)
      }
      const worker = own.worker({ handlers: { a: { effect: 'tx', needsDb: true, handler } }, txConnections: 1 })
      const attempts: number[] = []
      worker.on('settled', ({ attempt }) => void attempts.push(attempt))
      await worker.start()
      await own.put('a', [1])
      await until(() => begun === 1)
      await cut(`SELECT 'the connection to cut'%`)
      await until(empty)
      expect([signals, attempts, begun]).toEqual([[true], [1], 2])
    })

    it('counts it when an event loses its connection again and again', async () => {
      const handler = async (n: number, { getRepository }: { getRepository: () => Promise<OutboxRepository> }): Promise<void> => {
        const repository = await getRepository()
        if (n === 1) await repository.query('SELECT pg_terminate_backend(pg_backend_pid())')
      }
      const handlers: Handlers = { a: { effect: 'tx', needsDb: true, handler, maxAttempts: 1 } }
      await own.worker({ handlers, txConnections: 1 }).start()
      await own.put('a', [1, 2, 3])
      await until(empty)
      expect(await own.one('SELECT array_agg(payload::text) FROM outbox.dead_letter')).toEqual(['1'])
    })

    it('does not let its own due events wait for a long handler of another type', async () => {
      const handlers: Handlers = {
        long: { effect: 'tx', handler: (_: unknown, { signal }: { signal: AbortSignal }) => aborted(signal) },
      }
      const long = own.worker({ handlers, txConnections: 1 })
      const seen: unknown[] = []
      const quick = own.worker({ handlers: { quick: { handler: (n: number) => void seen.push(n) } }, pollInterval: 100 })
      await outbox.enqueue(own.pool, { type: 'quick', payload: 1, availableAt: new Date(Date.now() - 1000) })
      await own.put('long', [0])
      await long.start()
      await until(() => long.status.running === 1)
      await quick.start()
      await until(() => seen.length === 1)
      await long.stop({ graceMs: 0 })
      expect(await own.one(`SELECT attempts FROM outbox.event WHERE type = 'long'`)).toBe(0)
    })

    it('commits no effect of an event that has left meanwhile', async () => {
      await own.put('a', [1])
      const id = await own.one<string>('SELECT id FROM outbox.event')
      const finish = `SELECT outbox.finish(ARRAY[$1::bigint, 1], NULL, true)`
      await expect(own.pool.query(finish, [id])).rejects.toThrow('of 2 events that are done 1 are there no more')
      expect(await empty()).toBe(false)
    })
  })

  describe('between workers', () => {
    it.each<Effect>(['tx', 'lease'])('sees the claim that was made while it looked: %s', async (effect) => {
      await own.put('a', [1])
      await own.put('a', [2], { key: () => 'k' })
      const worker = await own.one<string>(`INSERT INTO outbox.worker (name, presence) VALUES ('w', 'heartbeat') RETURNING id`)
      const lock = await own.connect()
      const claimer = await own.connect()
      try {
        await lock.query('BEGIN')
        // The table of paused types is read after the claims of the others.
        await lock.query('LOCK TABLE outbox.paused')
        await claimer.query('BEGIN')
        const claiming = claimer.query(
          `SELECT id FROM outbox.claim($1, $2, '{a}', '{10}', 10, true, 0, '{}', '{}', '{}', 0, NULL, false) WHERE id IS NOT NULL`,
          [worker, effect],
        )
        await until(async () => (await own.one<number>(WAITING)) > 0)
        await own.pool.query(
          `INSERT INTO outbox.claim (worker_id, effect, ids, keys) SELECT -1, 'lease', array_agg(id), '{k}' FROM outbox.event`,
        )
        await lock.query('COMMIT')
        expect((await claiming).rows).toEqual([])
        await claimer.query('ROLLBACK')
      } finally {
        lock.release(true)
        claimer.release(true)
      }
      await own.pool.query('DELETE FROM outbox.worker WHERE id = $1', [worker])
    })

    it('does not look at keys of which all events wait for their time', async () => {
      await own.put('a', Array.from({ length: 500 }).fill(1), { key: (index) => `k${index}` })
      await own.pool.query(`UPDATE outbox.event SET available_at = clock_timestamp() + interval '1 hour'`)
      const claimer = await own.connect()
      try {
        await claimer.query('BEGIN')
        await claimer.query(`SELECT FROM outbox.claim(1, 'tx', '{a}', '{10}', 10, true, 0, '{}', '{}', '{}', 0, NULL, false)`)
        expect(await own.one('SELECT count(*)::int FROM (SELECT FROM outbox.lane FOR UPDATE SKIP LOCKED) free')).toBe(64)
      } finally {
        claimer.release(true)
      }
    })

    it('takes nothing over while the transaction that holds it is open', async () => {
      await own.put('a', [1])
      const old = `clock_timestamp() - interval '1 minute'`
      const worker = await own.one<string>(
        `INSERT INTO outbox.worker (name, presence, beat_at) VALUES ('w', 'heartbeat', ${old}) RETURNING id`,
      )
      const claim = `claim(${worker}, 'tx', '{a}', '{10}', 10, true, 0, '{}', '{}', '{}', 0, NULL, false, 0)`
      const claimed = (): Promise<number> => own.one(`SELECT count(id)::int FROM outbox.${claim}`)
      const rescue = `SELECT outbox.rescue(-1, '15 seconds', 3)`
      expect(await claimed()).toBe(1)
      const holder = await own.connect()
      await holder.query('BEGIN')
      const { rows } = await holder.query<{ held: string | null }>(`SELECT outbox.hold(${worker}, 0, 0) AS held`)
      expect(rows[0]?.held).not.toBeNull()
      // Neither by another worker, nor by this one on another connection.
      expect(await own.one(rescue)).toBe(0)
      expect(await claimed()).toBe(0)
      await holder.query('ROLLBACK')
      expect(await claimed()).toBe(1)
      expect(await own.one(rescue)).toBe(1)
      expect(await own.one(`SELECT outbox.hold(${worker}, 0, 0)`)).toBeNull()
      expect(await own.one('SELECT suspect FROM outbox.event')).toBe(true)
    })

    it('looks at once for what it claimed when the answer was lost', async () => {
      let lose = false
      const pool = {
        connect: async () => {
          const client = await own.pool.connect()
          const query = client.query.bind(client) as (...call: unknown[]) => Promise<unknown>
          const losing = async (...call: [string | { readonly text: string }, unknown[]?]): Promise<unknown> => {
            const text = typeof call[0] === 'string' ? call[0] : call[0].text
            const answer = await query(...call)
            if (!lose || !text.includes('.claim(')) return answer
            lose = false
            throw new Error('the answer is lost')
          }
          client.query = losing as typeof client.query
          return client
        },
      }
      const seen: unknown[] = []
      const worker = own.worker({
        handlers: { a: { effect: 'tx', handler: (n: number) => void seen.push(n) } },
        pool,
        pollInterval: 60_000,
      })
      await worker.start()
      // Until it looks rarely by itself: the next time after five seconds, and then after ten.
      await sleep(5600)
      lose = true
      await outbox.enqueue(own.pool, { type: 'a', payload: 1 })
      await until(() => seen.length === 1, 5000)
      expect(lose).toBe(false)
    })

    it('lets a due event wait for no handler that runs', async () => {
      const seen: string[] = []
      const handlers: Handlers = {
        long: { effect: 'tx', handler: (_: unknown, { signal }: { signal: AbortSignal }) => aborted(signal) },
        quick: { effect: 'tx', handler: () => void seen.push('quick') },
      }
      const worker = own.worker({ handlers, txConnections: 2, pollInterval: 60_000 })
      await worker.start()
      // As above.
      await sleep(5600)
      await outbox.enqueue(own.pool, { type: 'quick', payload: 1, availableAt: new Date(Date.now() + 1000) })
      await sleep(100)
      await outbox.enqueue(own.pool, { type: 'long', payload: 1 })
      await until(() => seen.length === 1, 3500)
      expect(worker.status.running).toBe(1)
      await worker.stop({ graceMs: 0 })
    })

    it('says when another one was quicker, so that it looks again', async () => {
      await own.put(
        'a',
        Array.from({ length: 20 }, (_, n) => n),
      )
      const register = `INSERT INTO outbox.worker (name, presence) VALUES ('w', 'heartbeat') RETURNING id`
      const [first, second] = [await own.one<string>(register), await own.one<string>(register)]
      const [quick, holder] = [await own.connect(), await own.connect()]
      await quick.query('BEGIN')
      await quick.query(
        `INSERT INTO outbox.claim (worker_id, effect, loop, ids) SELECT ${first}, 'tx', 0, array_agg(id) FROM outbox.event`,
      )
      // Between its look at what is claimed and its search.
      await holder.query('BEGIN')
      await holder.query('LOCK outbox.paused IN ACCESS EXCLUSIVE MODE')
      const outrun = own.one<{ readonly outrun: boolean }>(
        `SELECT meta FROM outbox.claim(${second}, 'tx', '{a}', '{10}', 10, true, 0, '{}', '{}', '{}', 0, NULL, false, 0) WHERE id IS NULL`,
      )
      await until(async () => (await own.one<number>(WAITING)) === 1)
      await quick.query('COMMIT')
      await holder.query('COMMIT')
      expect(await outrun).toMatchObject({ outrun: true, claim: null })
    })

    it('holds no lane while a handler runs: other keys of it go on', async () => {
      const { rows } = await own.pool.query<{ key: string }>(
        `SELECT 'k' || n AS key FROM generate_series(1, 1000) n WHERE hashtextextended('k' || n, 0) & 63 = 7 LIMIT 2`,
      )
      const [long, quick] = rows.map(({ key }) => key)
      const seen: unknown[] = []
      const handlers: Handlers = {
        long: { effect: 'tx', handler: (_: unknown, { signal }: { signal: AbortSignal }) => aborted(signal) },
        quick: { effect: 'tx', handler: (n: number) => void seen.push(n) },
      }
      await own.put('long', [0], { key: () => long ?? '' })
      const worker = own.worker({ handlers, txConnections: 2 })
      await worker.start()
      await until(() => worker.status.running === 1)
      await own.put('quick', [1], { key: () => quick ?? '' })
      await until(() => seen.length === 1)
      expect(worker.status.running).toBe(1)
      await worker.stop({ graceMs: 0 })
    })

    it('frees what a worker claimed while it was signed off', async () => {
      await own.put('a', [1])
      const worker = await own.one<string>(`INSERT INTO outbox.worker (name, presence) VALUES ('w', 'session') RETURNING id`)
      const claiming = await own.connect()
      await claiming.query('BEGIN')
      await claiming.query(
        `SELECT * FROM outbox.claim(${worker}, 'tx', '{a}', '{10}', 10, true, 0, '{}', '{}', '{}', 0, NULL, false, 0)`,
      )
      const left = own.pool.query(`SELECT outbox.sign_off(${worker})`)
      await until(async () => (await own.one<number>(WAITING)) === 1)
      await claiming.query('COMMIT')
      await left
      expect(await own.one('SELECT (SELECT count(*) FROM outbox.worker) + (SELECT count(*) FROM outbox.claim)')).toBe('0')
      // And should there ever be one.
      await own.pool.query(
        `INSERT INTO outbox.claim (worker_id, effect, ids) SELECT ${worker}, 'lease', array_agg(id) FROM outbox.event`,
      )
      expect(await own.one(`SELECT outbox.rescue(-1, '15 seconds', 3)`)).toBe(1)
      expect(await own.one('SELECT count(*)::int FROM outbox.claim')).toBe(0)
    })

    it('claims each event once, whatever isolation its login comes with', async () => {
      await own.pool.query(
        `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = serializable', current_database()); END $$`,
      )
      try {
        await own.pool.query(`
          CREATE TABLE isolation AS SELECT ''::text AS effect, ''::text AS level WHERE false;
          CREATE FUNCTION note_isolation() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO public.isolation VALUES (NEW.effect, current_setting('transaction_isolation'));
            RETURN NEW;
          END $$;
          CREATE TRIGGER note_isolation AFTER INSERT ON outbox.claim FOR EACH ROW EXECUTE FUNCTION note_isolation()`)
        const strict = new pg.Pool({ ...connection(own.address), max: 20 })
        strict.on('error', () => undefined)
        const running = new Set<string>()
        const beside: string[] = []
        const run =
          (kind: string) =>
          async (n: number): Promise<void> => {
            const name = `${kind} ${n}`
            if (running.has(name)) beside.push(name)
            running.add(name)
            await sleep(1)
            running.delete(name)
          }
        const handlers: Handlers = {
          t: { effect: 'tx', handler: run('t') as never },
          l: { effect: 'lease', handler: run('l') as never },
        }
        for (const kind of ['t', 'l'])
          await own.put(
            kind,
            Array.from({ length: 200 }, (_, n) => n),
          )
        for (let n = 0; n < 3; n++) await own.worker({ handlers, pool: strict, batchSize: 10 }).start()
        await until(empty)
        expect(beside).toEqual([])
        expect(await own.one('SELECT count(*)::int FROM outbox.dead_letter')).toBe(0)
        const { rows } = await own.pool.query('SELECT DISTINCT effect, level FROM isolation ORDER BY effect')
        expect(rows).toEqual([
          { effect: 'lease', level: 'read committed' },
          { effect: 'tx', level: 'read committed' },
        ])
      } finally {
        await own.pool.query('DROP FUNCTION IF EXISTS note_isolation CASCADE; DROP TABLE IF EXISTS isolation')
        await own.pool.query(
          `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET default_transaction_isolation', current_database()); END $$`,
        )
      }
    })

    it.each<Effect>(['tx', 'lease'])(
      'fails a handler that rolls back, or does not wait for its repository, with %s',
      async (effect) => {
        await own.pool.query('CREATE TABLE IF NOT EXISTS careless (n int)')
        const handlers: Handlers = {
          hasty: {
            effect,
            needsDb: true,
            maxAttempts: 1,
            handler: (_: unknown, { getRepository }: { getRepository: () => Promise<OutboxRepository> }) => {
              void getRepository()
            },
          },
          ...(effect === 'tx'
            ? {
                back: {
                  effect,
                  needsDb: true,
                  maxAttempts: 1,
                  handler: async (
                    n: number,
                    { getRepository }: { getRepository: () => Promise<OutboxRepository> },
                  ): Promise<void> => {
                    const repository = await getRepository()
                    await repository.query('INSERT INTO careless VALUES ($1)', [n])
                    if (n === 2) await repository.query('ROLLBACK')
                  },
                },
              }
            : {}),
        }
        await own.put('hasty', [0])
        if (effect === 'tx') await own.put('back', [0, 1, 2])
        await own.worker({ handlers }).start()
        await until(empty)
        const { rows } = await own.pool.query<{ type: string; error: string }>(
          'SELECT type, error FROM outbox.dead_letter ORDER BY type',
        )
        const hasty = { type: 'hasty', error: expect.stringContaining('returned without waiting for it') as string }
        const back = { type: 'back', error: expect.stringContaining('has rolled back the transaction') as string }
        expect(rows).toEqual(effect === 'tx' ? [back, hasty] : [hasty])
        expect(await own.one('SELECT coalesce(array_agg(n ORDER BY n), $1) FROM careless', ['{}'])).toEqual(
          effect === 'tx' ? [0, 1] : expect.anything(),
        )
        await own.pool.query('DROP TABLE careless')
      },
    )

    it('lets a worker that was buried claim nothing', async () => {
      await own.put('a', [1])
      for (const [effect, loop] of [
        ['lease', null],
        ['tx', 0],
      ]) {
        const { rows } = await own.pool.query(
          `SELECT id FROM outbox.claim(12345, $1, '{a}', '{10}', 10, true, 0, '{}', '{}', '{}', 0, NULL, false, $2)`,
          [effect, loop],
        )
        expect(rows).toEqual([{ id: null }])
      }
      expect(await own.one('SELECT count(*)::int FROM outbox.claim')).toBe(0)
    })

    it('settles nothing under a claim that another one took over', async () => {
      await own.put('a', [1, 2])
      const ids = await own.one<string[]>('SELECT array_agg(id ORDER BY id) FROM outbox.event')
      const insert = `INSERT INTO outbox.claim (worker_id, effect, ids) VALUES (1, 'lease', $1) RETURNING id`
      const [gone, kept] = [await own.one<string>(insert, [[ids[0]]]), await own.one<string>(insert, [[ids[1]]])]
      await own.pool.query('DELETE FROM outbox.claim WHERE id = $1', [gone])
      const both = [gone, kept]
      expect(await own.one('SELECT outbox.settle($1, $2, NULL, $2, NULL)', [ids, both])).toEqual([gone])
      expect(await own.one('SELECT array_agg(id) FROM outbox.event')).toEqual([ids[0]])
    })

    it('counts a retry once, however often it is said', async () => {
      await own.put('a', [1])
      const id = await own.one<string>('SELECT id FROM outbox.event')
      const failed = `[{ "id": ${id}, "attempts": 0, "verdict": "retry", "delay": 0, "error": "no" }]`
      for (let n = 0; n < 2; n++) await own.pool.query(`SELECT outbox.finish('{}', $1)`, [failed])
      expect(await own.one('SELECT attempts FROM outbox.event')).toBe(1)
    })

    it('does not stop for a suspect that may not run yet', async () => {
      await own.put('a', [1, 2], { key: () => 'k' })
      await own.pool.query(
        `UPDATE outbox.event SET suspect = payload::text = '2',
          available_at = CASE payload::text WHEN '1' THEN clock_timestamp() + interval '1 hour' END`,
      )
      const meta = `SELECT meta ->> 'suspects' FROM outbox.claim(1, 'tx', '{a}', '{10}', 10, true, 0, '{}', '{}', '{}', 0, NULL, false)`
      expect(await own.one(meta)).toBe('false')
      const seen: number[] = []
      await own.worker({ handlers: { a: { effect: 'tx', handler: (n: number) => void seen.push(n) } } }).start()
      await own.pool.query('UPDATE outbox.event SET available_at = NULL')
      await until(empty)
      expect(seen).toEqual([1, 2])
    })
  })

  describe('in a worker of leases', () => {
    it('frees what it held when another one took over, also keys that waited for a place', async () => {
      const seen: number[] = []
      let hold = true
      const handler = async (n: number, { signal }: { signal: AbortSignal }): Promise<void> => {
        if (hold) await aborted(signal)
        else seen.push(n)
      }
      const worker = own.worker({ handlers: { a: { handler, concurrency: 1 } } })
      const lost = new Promise<void>((resolve) => void worker.once('lost', resolve))
      await worker.start()
      await own.put('a', [1, 2, 3, 4], { key: (index) => `k${index % 2}` })
      await until(() => worker.status.running === 1)
      hold = false
      await own.pool.query('DELETE FROM outbox.worker; DELETE FROM outbox.claim')
      await cut('LISTEN%')
      await cut('%outbox.rescue%')
      await cut('%"outbox".rescue%')
      await lost
      await until(empty)
      expect(seen.toSorted((a, b) => a - b)).toEqual([1, 2, 3, 4])
    })

    it('settles an event that it has twice, its first claim being gone, and stops', async () => {
      let begun = 0
      const both = Promise.withResolvers<void>()
      const handler = async (): Promise<void> => {
        begun += 1
        if (begun === 1) await own.pool.query('DELETE FROM outbox.claim')
        else both.resolve()
        await both.promise
      }
      const worker = own.worker({ handlers: { a: { handler } }, pollInterval: 50 })
      await worker.start()
      await own.put('a', [1])
      await until(empty)
      await worker.stop({ graceMs: 2000 })
      expect([begun, await own.one('SELECT count(*)::int FROM outbox.worker')]).toEqual([2, 0])
    })

    it('completes nothing under a claim that is gone', async () => {
      const outcomes: string[] = []
      let begun = 0
      const handler = async (): Promise<void> => {
        begun += 1
        if (begun === 1) await own.pool.query('DELETE FROM outbox.claim')
      }
      const worker = own.worker({ handlers: { a: { handler } } })
      worker.on('settled', ({ outcome, attempt }) => void outcomes.push(`${outcome} ${attempt}`))
      await worker.start()
      await own.put('a', [1])
      await until(empty)
      expect([begun, outcomes]).toEqual([2, ['done 1']])
    })

    it('takes up its work again when its session was cut, and loses no attempt', async () => {
      const seen: number[] = []
      const handler = async (n: number): Promise<void> => (await sleep(20), void seen.push(n))
      const worker = own.worker({ handlers: { a: { handler } } })
      const attempts = new Set<number>()
      worker.on('settled', ({ attempt, outcome }) => void (outcome === 'done' && attempts.add(attempt)))
      await worker.start()
      await own.put(
        'a',
        Array.from({ length: 300 }, (_, n) => n),
      )
      for (let n = 0; n < 3; n++) {
        await sleep(100)
        await cut('%"outbox"%')
      }
      await until(empty)
      expect(new Set(seen).size).toBe(300)
      expect([...attempts]).toEqual([1])
    })

    it('keeps neither a key nor a retry for the sake of a long handler of the same claim', async () => {
      const seen: string[] = []
      const handler = async (
        n: number,
        { signal, event }: { signal: AbortSignal; event: { attempt: number } },
      ): Promise<void> => {
        if (n === 0) await aborted(signal)
        if (n === 2 && event.attempt === 1) throw new Error('not yet')
        seen.push(`${n}`)
      }
      const worker = own.worker({ handlers: { a: { handler } }, backoffBaseMs: 1 })
      await own.put('a', [0, 1, 2], { key: (index) => `k${index}` })
      await worker.start()
      await until(() => seen.includes('1'))
      await own.put('a', [3, 4], { key: (index) => `k${index + 1}` })
      await until(() => seen.length === 4)
      expect(seen.indexOf('2')).toBeLessThan(seen.indexOf('4'))
      expect(new Set(seen)).toEqual(new Set(['1', '2', '3', '4']))
      await worker.stop({ graceMs: 0 })
    })

    it('lets no type starve another, whatever its limits', async () => {
      const seen: string[] = []
      const handler = async (n: string): Promise<void> => (await sleep(2), void seen.push(n))
      const handlers: Handlers = { slow: { handler, ratePerSecond: 50 }, one: { handler, concurrency: 1 }, free: { handler } }
      const worker = own.worker({ handlers, maxParallel: 2, batchSize: 5 })
      const many = Array.from({ length: 100 })
      await own.put('slow', many.slice(50).fill('slow'), { key: (index) => `s${index}` })
      await own.put('one', many.slice(50).fill('one'), { key: (index) => `o${index}` })
      await own.put('free', many.fill('free'))
      await worker.start()
      await until(empty)
      expect(seen).toHaveLength(200)
    })
  })

  describe('at the start and the end', () => {
    const proxies: { stop(): Promise<void> }[] = []
    const pools: pg.Pool[] = []
    const workers: OutboxWorker[] = []
    afterEach(async () => {
      // A test that failed left its worker at work, which holds on to its connections.
      for (const proxy of proxies.splice(0)) await proxy.stop()
      await Promise.all(workers.splice(0).map((worker) => worker.stop({ graceMs: 0 })))
      for (const pool of pools.splice(0)) await pool.end()
    })

    it('stops while it starts, and leaves nothing behind', async () => {
      const worker = new OutboxWorker({ pool: own.pool, handlers: { a: () => undefined } })
      const starting = worker.start()
      await worker.stop()
      await starting
      expect(worker.status.state).toBe('stopped')
      expect(await own.one('SELECT count(*)::int FROM outbox.worker')).toBe(0)
    })

    it.each<Effect>(['tx', 'lease'])('stops while the server is out of reach: %s', async (effect) => {
      const proxy = await startFaultProxy(own.address)
      proxies.push(proxy)
      const { user, password, database } = own.address
      const pool = new pg.Pool({ host: proxy.host, port: proxy.port, user, password, database, max: 10 })
      pool.on('error', () => undefined)
      pools.push(pool)
      let begun = 0
      const handler = async (_: unknown, { signal }: { signal: AbortSignal }): Promise<void> => ((begun += 1), aborted(signal))
      const worker = new OutboxWorker({ pool, handlers: { a: { effect, handler } } })
      workers.push(worker)
      await worker.start()
      await own.put('a', [1, 2, 3])
      await until(() => begun > 0)
      await proxy.refuse()
      await worker.stop({ graceMs: 300 })
      expect(worker.status.state).toBe('stopped')
      // What it held is another's.
      const seen: number[] = []
      await own.worker({ handlers: { a: { effect, handler: (n: number) => void seen.push(n) } } }).start()
      await until(empty)
      expect(seen.toSorted((a, b) => a - b)).toEqual([1, 2, 3])
    })

    it.each<Effect>(['tx', 'lease', 'log'])(
      'goes on when its connections fall silent, and nobody ends them: %s',
      async (effect) => {
        const proxy = await startFaultProxy(own.address)
        proxies.push(proxy)
        const { user, password, database } = own.address
        const pool = new pg.Pool({ host: proxy.host, port: proxy.port, user, password, database, max: 10 })
        pool.on('error', () => undefined)
        pools.push(pool)
        const seen: number[] = []
        const handler = async (n: number): Promise<void> => {
          // What the server answers from now on is heard by nobody.
          if (n === 2 && !seen.includes(n)) proxy.abandon()
          seen.push(n)
        }
        const handlers: Handlers =
          effect === 'log' ? { a: { effect, consumer: 'c', handler } } : { a: { effect, handler, queryTimeoutMs: 500 } }
        const worker = new OutboxWorker({ pool, handlers, queryTimeoutMs: 500, pollInterval: 100 })
        workers.push(worker)
        await worker.start()
        const holder = (): Promise<number | undefined> =>
          own.one(`SELECT pid FROM pg_locks JOIN pg_database d ON d.oid = database
            WHERE locktype = 'advisory' AND granted AND datname = current_database() AND objid::bigint = (SELECT id FROM outbox.worker)`)
        const before = await holder()
        expect(before).toBeTypeOf('number')
        const events = [1, 2, 3].map((payload) => ({ type: 'a', payload }))
        await (effect === 'log' ? outbox.appendMany(own.pool, events) : outbox.enqueueMany(own.pool, events))
        const over = async (): Promise<boolean> =>
          effect === 'log' ? (await logProgress(own.pool))[0]?.lagEvents === 0 : await empty()
        await until(async () => seen.includes(3) && (await over()))
        // The same worker, known to the server under one id; what it had lost is ended there too.
        await until(async () => ![before, undefined].includes(await holder()))
        await until(async () => (await own.one<number>('SELECT count(*)::int FROM outbox.claim')) === 0)
        expect(await own.one('SELECT count(*)::int FROM outbox.worker')).toBe(1)
        expect(await own.one('SELECT count(*)::int FROM outbox.dead_letter')).toBe(0)
        await worker.stop()
        expect(await own.one('SELECT count(*)::int FROM outbox.worker')).toBe(0)
      },
    )

    it.each<Effect>(['tx', 'lease'])('stops while a suspect runs alone, and gives back all connections: %s', async (effect) => {
      const pool = new pg.Pool({ ...own.address, max: 10 })
      pools.push(pool)
      await own.put('a', [1])
      await own.pool.query('UPDATE outbox.event SET suspect = true')
      const worker = new OutboxWorker({
        pool,
        handlers: { a: { effect, handler: (_: unknown, { signal }: { signal: AbortSignal }) => aborted(signal) } },
      })
      await worker.start()
      await until(() => worker.status.running === 1)
      await worker.stop({ graceMs: 50 })
      expect(pool.totalCount - pool.idleCount).toBe(0)
      expect(await own.one('SELECT attempts + crashes FROM outbox.event')).toBe(0)
    })

    it.each([true, false])(
      'holds nothing against an event whose statement outlives its worker (suspect: %s)',
      async (suspect) => {
        const handler = async (
          _: unknown,
          { getRepository }: { getRepository: () => Promise<OutboxRepository> },
        ): Promise<void> => {
          const repository = await getRepository()
          await repository.query('SELECT pg_sleep(1)')
        }
        const asleep = `SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'`
        await own.put('a', [1])
        await own.pool.query('UPDATE outbox.event SET suspect = $1', [suspect])
        const worker = own.worker({ handlers: { a: { effect: 'tx', needsDb: true, handler } } })
        await worker.start()
        await until(async () => (await own.one(asleep)) === 1)
        await worker.stop({ graceMs: 0 })
        const left = 'SELECT ARRAY[(SELECT count(*) FROM outbox.worker), (SELECT count(*) FROM outbox.claim)]::int[]'
        expect([await own.one(asleep), await own.one(left)]).toEqual([1, [0, 1]])
        const rescue = `SELECT outbox.rescue(-1, '15 seconds', 1)`
        expect(await own.one(rescue)).toBe(0)
        await until(async () => (await own.one(rescue)) === 1)
        expect([await own.one(asleep), await own.one(left)]).toEqual([0, [0, 0]])
        const { rows } = await own.pool.query('SELECT suspect, attempts, crashes FROM outbox.event')
        expect(rows).toEqual([{ suspect, attempts: 0, crashes: 0 }])
      },
    )
  })
})

/** Ends when it is told to. */
function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve())
  })
}
