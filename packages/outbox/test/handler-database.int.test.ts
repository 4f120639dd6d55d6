import { describeWith } from '@common-handlers/testkit'
import { beforeAll, describe, expect, it } from 'vitest'
import {
  type DatabaseContext,
  type Effect,
  Outbox,
  type OutboxRepository,
  OutboxWorker,
  type OutboxWorkerEvents,
} from '../src/index.ts'
import { ownOutbox, until } from './own-outbox.ts'

describeWith(['postgres'], 'handlers that use the database', ({ postgres }) => {
  const own = ownOutbox(postgres)
  const outbox = new Outbox()
  const empty = async (): Promise<boolean> => (await own.one<number>('SELECT count(*)::int FROM outbox.event')) === 0
  const written = (): Promise<number[]> => own.one('SELECT coalesce(array_agg(n ORDER BY n), ARRAY[]::int[]) FROM written')

  /** What a worker told, by the name of the event. */
  function listen(worker: OutboxWorker): Partial<Record<keyof OutboxWorkerEvents, unknown[]>> {
    const heard: Partial<Record<keyof OutboxWorkerEvents, unknown[]>> = {}
    for (const name of ['forgotten', 'held', 'exhausted', 'trouble'] as const)
      worker.on(name, (what: unknown) => void (heard[name] ??= []).push(what))
    return heard
  }

  beforeAll(() => own.pool.query('CREATE TABLE written (n int, pid int, UNIQUE (n))'))

  const write = async ({ getRepository }: DatabaseContext, n: number): Promise<void> => {
    await using repository = await getRepository()
    await repository.query('INSERT INTO written VALUES ($1, pg_backend_pid())', [n])
  }

  describe.each<Effect>(['tx', 'lease'])('effect %s', (effect) => {
    beforeAll(() => own.pool.query('DELETE FROM written'))

    it('gives a repository that writes, enqueues and rolls back', async () => {
      const handler = async (n: number, { getRepository }: DatabaseContext): Promise<void> => {
        await using repository = await getRepository()
        await repository.transaction(async () => {
          await repository.query('INSERT INTO written VALUES ($1)', [n])
          await repository.enqueue({ type: 'next', payload: n })
        })
        await expect(
          repository.transaction(async () => {
            await repository.query('INSERT INTO written VALUES ($1)', [n + 100])
            throw new Error('not this one')
          }),
        ).rejects.toThrow('not this one')
      }
      const next: number[] = []
      const handlers = { first: { effect, needsDb: true as const, handler }, next: (n: number) => void next.push(n) }
      await own.worker({ handlers }).start()
      await own.put('first', [1, 2, 3])
      await until(empty)
      expect(next.toSorted((a, b) => a - b)).toEqual([1, 2, 3])
      expect(await written()).toEqual([1, 2, 3])
      await own.pool.query('DELETE FROM written')
    })

    it('takes back what a handler forgot, says so, and lets nobody use it afterwards', async () => {
      let left: OutboxRepository | undefined
      let late: unknown
      const worker = own.worker({
        handlers: {
          forgetful: {
            effect,
            needsDb: true,
            handler: async (n: number, { getRepository }) => {
              left = await getRepository()
              await left.query('INSERT INTO written VALUES ($1)', [n])
              setTimeout(() => void getRepository().catch((error: unknown) => (late = error)), 200)
            },
          },
        },
      })
      const heard = listen(worker)
      await worker.start()
      await own.put('forgetful', [7])
      await until(empty)
      await expect(left?.query('SELECT 1')).rejects.toMatchObject({
        code: expect.stringMatching('OUTBOX_HANDLER_ENDED|OUTBOX_REPOSITORY_CLOSED'),
      })
      await until(() => late !== undefined)
      expect(late).toMatchObject({ code: 'OUTBOX_HANDLER_ENDED' })
      expect(heard.forgotten).toEqual([{ type: 'forgetful', repositories: 1 }])
      await own.pool.query('DELETE FROM written')
    })

    it('refuses a handler that did not say needsDb', async () => {
      const handler = async (_: unknown, context: object): Promise<void> => {
        await (context as DatabaseContext).getRepository()
      }
      await own.worker({ handlers: { undeclared: { effect, maxAttempts: 1, handler } } }).start()
      await own.put('undeclared', [1])
      await until(empty)
      expect(await own.one('SELECT error FROM outbox.dead_letter')).toContain('has no needsDb')
    })

    it('ends a statement that takes too long for its handler, on the server', async () => {
      const sleep =
        (ms: number) =>
        async (_: number, { getRepository }: DatabaseContext): Promise<void> => {
          await using repository = await getRepository()
          await repository.query('SELECT pg_sleep($1)', [ms / 1000])
        }
      const handlers = {
        slow: { effect, needsDb: true as const, queryTimeoutMs: 100, maxAttempts: 1, handler: sleep(60_000) },
        patient: { effect, needsDb: true as const, handler: sleep(300) },
      }
      await own.worker({ handlers, txConnections: 1 }).start()
      await outbox.enqueueMany(own.pool, [
        { type: 'slow', payload: 1 },
        { type: 'patient', payload: 2 },
        { type: 'slow', payload: 3 },
      ])
      await until(empty)
      const { rows } = await own.pool.query('SELECT type, error FROM outbox.dead_letter')
      expect(rows).toEqual([1, 2].map(() => ({ type: 'slow', error: expect.stringContaining('statement timeout') })))
      // The next one who gets the connection has no such limit.
      expect(await own.one('SHOW statement_timeout')).toBe('0')
    })
  })

  describe('effect tx', () => {
    beforeAll(() => own.pool.query('DELETE FROM written'))

    it('undoes what a failed handler wrote, and nothing of the others in its batch', async () => {
      const handler = async (n: number, context: DatabaseContext): Promise<void> => {
        await write(context, n)
        if (n % 5 === 0) throw new Error('five')
      }
      await own.worker({ handlers: { a: { effect: 'tx', needsDb: true, maxAttempts: 1, handler } } }).start()
      await own.put(
        'a',
        Array.from({ length: 20 }, (_, n) => n + 1),
      )
      await until(empty)
      expect(await written()).toEqual(Array.from({ length: 20 }, (_, n) => n + 1).filter((n) => n % 5 !== 0))
      expect(await own.one('SELECT count(*)::int FROM outbox.dead_letter')).toBe(4)
      await own.pool.query('DELETE FROM written')
    })

    it('takes a statement that failed and was passed over for a failed attempt', async () => {
      const handler = async (n: number, { getRepository }: DatabaseContext): Promise<void> => {
        await using repository = await getRepository()
        await repository.query('INSERT INTO written VALUES ($1)', [n])
        await repository.query('SELECT 1/0').catch(() => undefined)
      }
      await own.worker({ handlers: { a: { effect: 'tx', needsDb: true, maxAttempts: 1, handler } } }).start()
      await own.put('a', [1, 2])
      await until(empty)
      expect(await written()).toEqual([])
      expect(await own.one('SELECT array_agg(DISTINCT error) FROM outbox.dead_letter')).toEqual(['error: division by zero'])
    })

    it('finds the event whose constraint fails at COMMIT, and completes the others', async () => {
      await own.pool.query('CREATE TABLE checked (n int, CONSTRAINT once UNIQUE (n) DEFERRABLE INITIALLY DEFERRED)')
      const handler = async (n: number, { getRepository }: DatabaseContext): Promise<void> => {
        await using repository = await getRepository()
        await repository.query('INSERT INTO checked VALUES ($1)', [n === 6 ? 3 : n])
      }
      await own
        .worker({ handlers: { a: { effect: 'tx', needsDb: true, maxAttempts: 2, handler } }, txConnections: 1, backoffBaseMs: 5 })
        .start()
      await own.put(
        'a',
        Array.from({ length: 9 }, (_, n) => n + 1),
      )
      await until(empty)
      expect(await own.one('SELECT array_agg(n ORDER BY n) FROM checked')).toEqual([1, 2, 3, 4, 5, 7, 8, 9])
      expect(await own.one('SELECT error FROM outbox.dead_letter')).toContain('once')
    })

    it('gives up a handler that does not listen to its time-out, with all that its transaction did, once', async () => {
      const handler = async (n: number, context: DatabaseContext): Promise<void> => {
        await write(context, n)
        if (n === 2) await new Promise(() => undefined)
      }
      await own
        .worker({ handlers: { a: { effect: 'tx', needsDb: true, maxAttempts: 1, timeoutMs: 300, handler } }, txConnections: 1 })
        .start()
      await own.put('a', [1, 2, 3])
      await until(empty)
      expect(await written()).toEqual([1, 3])
      expect(await own.one('SELECT error FROM outbox.dead_letter')).toContain('took longer than 300 ms')
      await own.pool.query('DELETE FROM written')
    })
  })

  describe('effect lease', () => {
    const pids = async (): Promise<number> => own.one('SELECT count(DISTINCT pid)::int FROM written')

    it('takes connections of the pool, as many as it may, and tells who waits and who holds', async () => {
      let busy = 0
      let most = 0
      const handler = async (n: number, { getRepository }: DatabaseContext): Promise<void> => {
        await using repository = await getRepository()
        most = Math.max(most, ++busy)
        await repository.query('INSERT INTO written VALUES ($1, pg_backend_pid())', [n])
        await repository.query('SELECT pg_sleep(0.05)')
        busy -= 1
      }
      const worker = own.worker({
        handlers: { pooled: { needsDb: true, handler } },
        maxParallel: 8,
        poolMaxConnections: 2,
        poolMinConnections: 2,
        holdWarningMs: 20,
      })
      const heard = listen(worker)
      await worker.start()
      await own.put(
        'pooled',
        Array.from({ length: 12 }, (_, n) => n),
      )
      await until(empty)
      expect(most).toBe(2)
      expect(await pids()).toBeLessThanOrEqual(4)
      expect(heard.exhausted).toContainEqual({ type: 'pooled', waiting: 6 })
      expect(heard.held?.length).toBe(12)
      expect(worker.status.handlerConnections).toEqual({ inUse: 0, waiting: 0 })
      await own.pool.query('DELETE FROM written')
    })

    it('does not wait for a connection for ever', async () => {
      const handler = async (n: number, { getRepository }: DatabaseContext): Promise<void> => {
        await using repository = await getRepository()
        await repository.query('SELECT pg_sleep($1)', [n])
      }
      await own
        .worker({
          handlers: { a: { needsDb: true, maxAttempts: 1, connectTimeoutMs: 100, handler } },
          maxParallel: 2,
          poolMaxConnections: 1,
        })
        .start()
      await own.put('a', [0.5, 0.5])
      await until(empty)
      expect(await own.one('SELECT array_agg(error) FROM outbox.dead_letter')).toEqual([
        expect.stringContaining('the handler of a got none of the 1 connections of the pool within 100 ms'),
      ])
    })

    it('opens a connection of its own for long work, and closes it', async () => {
      const handlers = {
        long: { needsDb: true as const, usePool: false, handler: (n: number, context: DatabaseContext) => write(context, n) },
      }
      await own.worker({ handlers, useConnectionPool: true, maxParallel: 1 }).start()
      await own.put('long', [1, 2, 3])
      await until(empty)
      expect(await pids()).toBe(3)
      await until(
        async () => (await own.one('SELECT count(*)::int FROM pg_stat_activity WHERE pid IN (SELECT pid FROM written)')) === 0,
      )
      await own.pool.query('DELETE FROM written')
    })
  })

  it.each([
    [{ poolMaxConnections: 20, maxParallel: 10 }, 'poolMaxConnections: more than maxParallel'],
    [{ pollInterval: 1 }, 'pollInterval: '],
    [{ handlers: {} }, 'handlers: there is none'],
    [{ pool: { connect: () => Promise.reject(new Error('none')) } }, 'handlers.a: usePool is false'],
    [{ schema: '' }, 'the schema of an outbox'],
  ])('refuses %o', (options, message) => {
    const handlers = { a: { needsDb: true as const, usePool: false, handler: () => undefined } }
    const make = (): OutboxWorker => new OutboxWorker({ pool: own.pool, handlers, ...options })
    expect(make).toThrow(expect.objectContaining({ code: 'OUTBOX_CONFIG_INVALID', message: expect.stringContaining(message) }))
  })
})
