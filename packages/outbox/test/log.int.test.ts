import { describeWith } from '@common-handlers/testkit'
import { beforeAll, beforeEach, expect, it } from 'vitest'
import { type DatabaseContext, logProgress, Outbox, type OutboxRepository } from '../src/index.ts'
import { ownOutbox, until } from './own-outbox.ts'

interface Written {
  readonly writer: number
  readonly n: number
}

describeWith(['postgres'], 'the log', ({ postgres }) => {
  const own = ownOutbox(postgres)
  const outbox = new Outbox()
  const consumed = async (name = 'a'): Promise<boolean> => {
    const progress = await logProgress(own.pool)
    return progress.find((consumer) => consumer.name === name)?.lagEvents === 0
  }

  beforeAll(() => own.pool.query('CREATE TABLE effect (n bigserial, consumer text, id bigint, payload json)'))
  beforeEach(() => own.pool.query('TRUNCATE outbox.log, effect; DELETE FROM outbox.consumer'))

  const insert = async (repository: OutboxRepository, consumer: string, id: bigint, payload: unknown): Promise<void> => {
    await repository.query('INSERT INTO effect (consumer, id, payload) VALUES ($1, $2, $3)', [
      consumer,
      id,
      JSON.stringify(payload),
    ])
  }

  it('gives each consumer each event once, in order, also when workers share it', async () => {
    const writes = (consumer: string) =>
      ({
        effect: 'log',
        consumer,
        needsDb: true,
        handler: async (payload: unknown, { event, getRepository }: DatabaseContext) => {
          await insert(await getRepository(), consumer, event.id, payload)
        },
      }) as const
    const handlers = { created: [writes('index'), writes('mail')], deleted: writes('index') }
    await Promise.all([1, 2, 3].map(() => own.worker({ handlers, batchSize: 20 }).start()))
    for (let n = 0; n < 200; n++)
      await outbox.appendMany(own.pool, [
        { type: 'created', payload: n, key: `k ${n}`, headers: { h: '1' } },
        { type: 'deleted', payload: n },
        { type: 'other', payload: n },
      ])
    await until(async () => (await consumed('index')) && (await consumed('mail')))
    const seen = (consumer: string): Promise<number[]> =>
      own.one(`SELECT json_agg(payload ORDER BY n) FROM effect WHERE consumer = $1`, [consumer])
    expect(await seen('mail')).toEqual(Array.from({ length: 200 }, (_, n) => n))
    expect(await seen('index')).toEqual(Array.from({ length: 200 }, (_, n) => [n, n]).flat())
  })

  it('loses nothing of writers whose transactions overlap; a cursor of ids does', { timeout: 60_000 }, async () => {
    const seen: Written[] = []
    const handlers = { w: { effect: 'log', consumer: 'a', handler: (payload: Written) => void seen.push(payload) } } as const
    await Promise.all([1, 2].map(() => own.worker({ handlers, batchSize: 50 }).start()))

    const naive: Written[] = []
    let last = '0'
    const writing = new AbortController()
    const read = async (): Promise<void> => {
      const { rows } = await own.pool.query<{ id: string; payload: Written }>(
        'SELECT id, payload FROM outbox.log WHERE id > $1 ORDER BY id',
        [last],
      )
      naive.push(...rows.map(({ payload }) => payload))
      last = rows.at(-1)?.id ?? last
    }
    const follow = (async () => {
      while (!writing.signal.aborted) await read()
      await read()
    })()

    const committed = new Map<number, number[]>()
    const pause = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, Math.random() * 8))
    const write = async (writer: number): Promise<void> => {
      const client = await own.connect()
      const done: number[] = []
      let n = 0
      for (let turn = 0; turn < 100; turn++) {
        await client.query('BEGIN')
        const mine: number[] = []
        for (let event = 0; event < 1 + Math.floor(Math.random() * 3); event++) {
          mine.push(n)
          await outbox.append(client, { type: 'w', payload: { writer, n: n++ } })
          await pause()
        }
        if (Math.random() < 0.2) await client.query('ROLLBACK')
        else {
          await client.query('COMMIT')
          done.push(...mine)
        }
      }
      client.release()
      committed.set(writer, done)
    }
    await Promise.all(Array.from({ length: 8 }, (_, writer) => write(writer)))
    writing.abort()
    await follow
    await until(() => consumed())
    const byWriter = (events: readonly Written[], writer: number): number[] =>
      events.filter((event) => event.writer === writer).map(({ n }) => n)
    for (const [writer, numbers] of committed) expect(byWriter(seen, writer)).toEqual(numbers)
    expect(naive.length).toBeLessThan(seen.length)
  })

  it('waits for older transactions, and says which process holds it up', async () => {
    const seen: unknown[] = []
    const handlers = { w: { effect: 'log', consumer: 'a', handler: (payload: unknown) => void seen.push(payload) } } as const
    await own.worker({ handlers }).start()
    const slow = await own.connect()
    await slow.query('BEGIN')
    await outbox.append(slow, { type: 'w', payload: 'slow' })
    const pid = (await slow.query<{ pid: number }>('SELECT pg_backend_pid() AS pid')).rows[0]?.pid
    await outbox.append(own.pool, { type: 'w', payload: 'quick' })
    // Transactions are the server's: another one that is older holds it up first.
    await until(async () => (await logProgress(own.pool))[0]?.heldBackBy === pid)
    const [progress] = await logProgress(own.pool)
    expect(progress).toMatchObject({ name: 'a', lagEvents: 1, fencedEvents: 1 })
    expect(progress?.lagSeconds).toBeGreaterThan(0)
    expect(seen).toEqual([])
    await slow.query('COMMIT')
    slow.release()
    await until(() => seen.length === 2)
    expect(seen).toEqual(['slow', 'quick'])
    await until(async () => (await consumed()) && (await logProgress(own.pool))[0]?.heldBackBy === undefined)
  })

  it('puts an event behind those that were committed when it was appended, however old its transaction is', async () => {
    const seen: unknown[] = []
    const handlers = { w: { effect: 'log', consumer: 'a', handler: (payload: unknown) => void seen.push(payload) } } as const
    const [old, other] = [await own.connect(), await own.connect()]
    await old.query('BEGIN')
    // It has its place among the transactions from here on.
    await old.query(`INSERT INTO effect (payload) VALUES ('0')`)
    await outbox.append(other, { type: 'w', payload: 'created' })
    await outbox.append(old, { type: 'w', payload: 'changed' })
    await own.worker({ handlers, pollInterval: 50 }).start()
    await until(async () => (await logProgress(own.pool))[0]?.fencedEvents === 1)
    await old.query('COMMIT')
    await until(() => seen.length === 2)
    expect(seen).toEqual(['created', 'changed'])
    old.release()
    other.release()
  })

  it('stops at an event that fails, tries it again, and goes on when it is a dead letter, which can be redriven', async () => {
    const seen: string[] = []
    let fail = true
    const handlers = {
      w: {
        effect: 'log',
        consumer: 'a',
        needsDb: true,
        maxAttempts: 3,
        handler: async (payload: string, { event, getRepository }: DatabaseContext) => {
          await using repository = await getRepository()
          await insert(repository, 'a', event.id, payload)
          seen.push(`${payload} ${event.attempt}`)
          if (payload === 'bad' && fail) throw new Error('it never works')
        },
      },
    } as const
    await outbox.appendMany(
      own.pool,
      ['x', 'good', 'bad', 'after'].map((payload) => ({ type: payload === 'x' ? 'x' : 'w', payload })),
    )
    await own.worker({ handlers, backoffBaseMs: 20 }).start()
    await until(() => consumed())
    expect(seen).toEqual(['good 1', 'bad 1', 'bad 2', 'bad 3', 'after 1'])
    expect(await own.one('SELECT json_agg(payload ORDER BY n) FROM effect')).toEqual(['good', 'after'])
    const { rows } = await own.pool.query('SELECT type, reason, attempts, error, payload FROM outbox.dead_letter')
    expect(rows).toEqual([{ type: 'w@a', reason: 'attempts', attempts: 3, error: 'Error: it never works', payload: 'bad' }])
    fail = false
    await own.pool.query(
      `WITH gone AS (DELETE FROM outbox.dead_letter RETURNING *) INSERT INTO outbox.event (type, payload) SELECT type, payload FROM gone`,
    )
    await until(async () => (await own.one<string>('SELECT count(*)::text FROM effect')) === '3')
  })

  it('undoes the batch with the position when it cannot be committed, and finds the event that breaks it', async () => {
    await own.pool.query(`CREATE TABLE once (n int UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO once VALUES (3)`)
    const handlers = {
      w: {
        effect: 'log',
        consumer: 'a',
        needsDb: true,
        maxAttempts: 2,
        handler: async (n: number, { getRepository }: DatabaseContext) => {
          await using repository = await getRepository()
          await repository.query('INSERT INTO once VALUES ($1)', [n])
        },
      },
    } as const
    await outbox.appendMany(
      own.pool,
      [1, 2, 3, 4, 5].map((payload) => ({ type: 'w', payload })),
    )
    await own.worker({ handlers, backoffBaseMs: 10 }).start()
    await until(() => consumed())
    expect(await own.one('SELECT json_agg(n ORDER BY n) FROM once')).toEqual([1, 2, 3, 4, 5])
    expect(await own.one('SELECT json_agg(json_build_array(reason, payload)) FROM outbox.dead_letter')).toEqual([['attempts', 3]])
  })

  it('gives up a handler that does not end, without what it wrote', async () => {
    const seen: string[] = []
    const handlers = {
      w: {
        effect: 'log',
        consumer: 'a',
        needsDb: true,
        maxAttempts: 2,
        timeoutMs: 200,
        handler: async (payload: string, { event, getRepository }: DatabaseContext) => {
          seen.push(payload)
          const repository = await getRepository()
          await insert(repository, 'a', event.id, payload)
          if (payload === 'hangs') await new Promise(() => undefined)
        },
      },
    } as const
    await outbox.appendMany(
      own.pool,
      ['first', 'hangs', 'last'].map((payload) => ({ type: 'w', payload })),
    )
    await own.worker({ handlers, backoffBaseMs: 10 }).start()
    await until(() => consumed())
    expect(await own.one('SELECT json_agg(payload ORDER BY n) FROM effect')).toEqual(['first', 'last'])
    expect(await own.one('SELECT json_agg(json_build_array(reason, payload)) FROM outbox.dead_letter')).toEqual([
      ['attempts', 'hangs'],
    ])
  })

  it('begins where it is told to, and stops before a type that is paused', async () => {
    const seen: string[] = []
    const handlers = (consumer: string, start: 'beginning' | 'end') => {
      const handler = (payload: string): void => void seen.push(`${consumer} ${payload}`)
      const definition = { effect: 'log', consumer, start, handler } as const
      return { v: definition, w: definition }
    }
    const lags = async (): Promise<number[]> => (await logProgress(own.pool)).map(({ lagEvents }) => lagEvents)
    await outbox.append(own.pool, { type: 'w', payload: 'old' })
    await own.pool.query(`INSERT INTO outbox.paused (type) VALUES ('w')`)
    // What is committed is in the past also where an older transaction is open, and what that one wrote is not.
    const older = await own.connect()
    await older.query('BEGIN')
    await outbox.append(older, { type: 'v', payload: 'open' })
    await outbox.append(own.pool, { type: 'v', payload: 'between' })
    await outbox.append(older, { type: 'w', payload: 'open too' })
    await outbox.append(own.pool, { type: 'v', payload: 'behind' })
    await own.worker({ handlers: handlers('all', 'beginning'), pollInterval: 50 }).start()
    await own.worker({ handlers: handlers('new', 'end'), pollInterval: 50 }).start()
    await until(async () => (await lags()).length === 2)
    expect(await lags()).toEqual([3, 0])
    const state = `SELECT meta::json ->> 'state' FROM outbox.read_log('new', -1, '{v,w}', 9, false, 0, NULL) WHERE id IS NULL`
    await until(async () => (await own.one(state)) === 'end')
    await older.query('COMMIT')
    await until(async () => String(await lags()) === '5,1')
    await new Promise((resolve) => setTimeout(resolve, 300))
    expect(seen).toEqual(['new open'])
    await own.pool.query('DELETE FROM outbox.paused')
    await until(async () => (await lags()).every((lag) => lag === 0))
    await outbox.append(own.pool, { type: 'w', payload: 'young' })
    await until(() => seen.length === 9)
    const all = ['behind', 'between', 'old', 'open', 'open too', 'young'].map((payload) => `all ${payload}`)
    expect(seen.toSorted()).toEqual([...all, 'new open', 'new open too', 'new young'])
  })

  it('leaves a consumer alone that takes types which this worker does not know', async () => {
    const seen: string[] = []
    const handler = (payload: string): void => void seen.push(payload)
    const taking = (...types: string[]) =>
      Object.fromEntries(types.map((type) => [type, { effect: 'log', consumer: 'a', handler } as const]))
    const older = own.worker({ handlers: taking('v1'), pollInterval: 50 })
    const troubles: unknown[] = []
    older.on('trouble', (error) => void troubles.push(error))
    await older.start()
    await outbox.append(own.pool, { type: 'v1', payload: 'first' })
    await until(() => seen.length === 1)
    const newer = own.worker({ handlers: taking('v1', 'v2'), pollInterval: 50 })
    await newer.start()
    await until(() => troubles.length > 0)
    expect(troubles).toEqual([
      expect.objectContaining({ code: 'OUTBOX_CONSUMER_FOREIGN', message: expect.stringContaining('v2') }),
    ])
    await newer.stop()
    await outbox.append(own.pool, { type: 'v2', payload: 'second' })
    await new Promise((resolve) => setTimeout(resolve, 300))
    expect(seen).toEqual(['first'])
    await own.worker({ handlers: taking('v1', 'v2') }).start()
    await until(() => seen.length === 2)
  })

  it('runs alone what a worker had begun when it died, and lays the killer to rest', async () => {
    const seen: string[] = []
    const handlers = { w: { effect: 'log', consumer: 'a', handler: (payload: string) => void seen.push(payload) } } as const
    await outbox.appendMany(
      own.pool,
      ['a', 'killer', 'b'].map((payload) => ({ type: 'w', payload })),
    )
    // Three lives of workers that die of it: with the batch, then alone.
    await own.pool.query(`SELECT outbox.add_consumer('a', '{w}', 'beginning')`)
    const die = async (alone: boolean, expected: string): Promise<void> => {
      const client = await own.connect()
      const worker = -Math.ceil(Math.random() * 1e9)
      try {
        let rows: { id: string | null; meta: string; payload: string | null }[] = []
        // The server may not have noticed yet that the one before is gone.
        await until(async () => {
          await client.query('ROLLBACK; BEGIN')
          ;({ rows } = await client.query(`SELECT id, meta, payload FROM outbox.read_log('a', $1, '{w}', 100, $2, 10000, NULL)`, [
            worker,
            alone,
          ]))
          if (rows[0]?.id === null && rows[0].meta.includes('"noted"')) await client.query('COMMIT')
          return rows[0]?.id !== null
        })
        expect(rows[0]?.payload).toBe(JSON.stringify(expected))
        await own.pool.query(`SELECT outbox.begin_log('a', NULL, $1, $2)`, [worker, rows.length - 1])
      } finally {
        client.release(true)
      }
    }
    await die(false, 'a')
    const innocent = own.worker({
      handlers: {
        w: {
          ...handlers.w,
          handler: (payload: string) => {
            if (payload === 'killer') throw new Error('stop here')
            seen.push(payload)
          },
        },
      },
      backoffBaseMs: 60_000,
    })
    await innocent.start()
    await until(async () => (await own.one<number>(`SELECT attempts FROM outbox.consumer`)) > 0)
    await innocent.stop()
    await own.pool.query('UPDATE outbox.consumer SET retry_at = NULL')
    await die(true, 'killer')
    await die(true, 'killer')
    await die(true, 'killer')
    await own.worker({ handlers }).start()
    await until(() => consumed())
    expect(seen).toEqual(['a', 'b'])
    expect(await own.one('SELECT json_agg(json_build_array(reason, payload)) FROM outbox.dead_letter')).toEqual([
      ['crash', 'killer'],
    ])
  })

  it('is taken over at once when the connection of its worker dies', async () => {
    const seen: string[] = []
    let entered = 0
    const handlers = {
      w: {
        effect: 'log',
        consumer: 'a',
        needsDb: true,
        handler: async (payload: string, { event, getRepository }: DatabaseContext) => {
          const repository = await getRepository()
          await insert(repository, 'a', event.id, payload)
          if (entered++ === 0) {
            await own.pool.query(
              `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'idle in transaction'`,
            )
          }
          seen.push(payload)
        },
      },
    } as const
    await outbox.append(own.pool, { type: 'w', payload: 'x' })
    await Promise.all([1, 2].map(() => own.worker({ handlers, pollInterval: 50 }).start()))
    await until(() => consumed())
    expect(await own.one('SELECT count(*)::int FROM effect')).toBe(1)
    expect(await own.one('SELECT count(*)::int FROM outbox.dead_letter')).toBe(0)
  })

  it('empties what every consumer has read, and nothing else, while writers write', async () => {
    const turn = (): Promise<number> => own.one(`SELECT outbox.turn_log('0')`)
    await own.pool.query(`SELECT outbox.add_consumer('slow', '{w}', 'beginning')`)
    await outbox.append(own.pool, { type: 'w', payload: 1 })
    await turn()
    await outbox.append(own.pool, { type: 'w', payload: 2 })
    expect(await own.one('SELECT count(DISTINCT slot)::int FROM outbox.log')).toBe(2)
    for (let n = 0; n < 6; n++) await turn()
    expect(await own.one('SELECT count(*)::int FROM outbox.log')).toBe(2)
    const seen: number[] = []
    const handlers = { w: { effect: 'log', consumer: 'slow', handler: (n: number) => void seen.push(n) } } as const
    await own.worker({ handlers }).start()
    const open = await own.connect()
    await open.query('BEGIN')
    await outbox.append(open, { type: 'w', payload: 3 })
    await until(() => seen.length === 2)
    for (let n = 0; n < 6; n++) await turn()
    await open.query('COMMIT')
    open.release()
    await until(() => seen.length === 3)
    for (let n = 0; n < 6; n++) await turn()
    expect(seen).toEqual([1, 2, 3])
    expect(await own.one('SELECT count(*)::int FROM outbox.log')).toBe(0)
    expect(await own.one(`SELECT sum(n_dead_tup)::int FROM pg_stat_user_tables WHERE relname ~ '^log_[0-9]$'`)).toBe(0)
  })
})
