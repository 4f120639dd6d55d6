import { describeWith } from '@common-handlers/testkit'
import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { deadLetter, discard, type Effect, type Handlers, Outbox, retryAfter } from '../src/index.ts'
import { ownOutbox, until } from './own-outbox.ts'

describeWith(['postgres'], 'the outbox', ({ postgres }) => {
  const own = ownOutbox(postgres)
  const outbox = new Outbox()
  const empty = async (): Promise<boolean> => (await own.one<number>('SELECT count(*)::int FROM outbox.event')) === 0

  describe.each<Effect>(['tx', 'lease'])('with the effect %s', (effect) => {
    it('hands each committed event to its handler once, and none that was rolled back', async () => {
      const seen: unknown[] = []
      await own.worker({ handlers: { a: { effect, handler: (payload) => void seen.push(payload) } } }).start()
      const client = await own.connect()
      await client.query('BEGIN')
      await outbox.enqueue(client, { type: 'a', payload: { n: 1 } })
      await client.query('ROLLBACK')
      await client.query('BEGIN')
      const ids = await outbox.enqueueMany(client, [
        { type: 'a', payload: { n: 2 } },
        { type: 'a', payload: { n: 3 } },
      ])
      expect(ids).toHaveLength(2)
      await new Promise((resolve) => setTimeout(resolve, 100))
      expect(seen).toEqual([])
      await client.query('COMMIT')
      client.release()
      await until(empty)
      expect(seen).toEqual([{ n: 2 }, { n: 3 }])
    })

    it('drains a backlog with several workers, each event once', async () => {
      const count = 5000
      await own.put(
        'many',
        Array.from({ length: count }, (_, n) => n),
      )
      const seen: number[] = []
      const handlers = { many: { effect, handler: (n: number) => void seen.push(n) } }
      await Promise.all([1, 2, 3].map(() => own.worker({ handlers, batchSize: 100 }).start()))
      await until(empty)
      expect(seen.toSorted((a, b) => a - b)).toEqual(Array.from({ length: count }, (_, n) => n))
    })

    it('keeps the order of each key, through failures, with several workers', async () => {
      const keys = 20
      const each = 50
      await own.put(
        'keyed',
        Array.from({ length: keys * each }, (_, n) => ({ key: n % keys, n: Math.floor(n / keys) })),
        {
          key: (index) => `key ${index % keys}`,
        },
      )
      const seen = new Map<number, number[]>()
      const failedOnce = new Set<string>()
      const handler = async ({ key, n }: { key: number; n: number }): Promise<void> => {
        if (n % 10 === 3 && !failedOnce.has(`${key} ${n}`)) {
          failedOnce.add(`${key} ${n}`)
          throw new Error('not yet')
        }
        if (n % 7 === 0) await new Promise((resolve) => setTimeout(resolve, 1))
        seen.set(key, [...(seen.get(key) ?? []), n])
      }
      const handlers = { keyed: { effect, handler } }
      await Promise.all([1, 2, 3].map(() => own.worker({ handlers, batchSize: 50, backoffBaseMs: 20 }).start()))
      await until(empty)
      expect(failedOnce.size).toBe(keys * 5)
      expect(seen.size).toBe(keys)
      for (const order of seen.values()) expect(order).toEqual(Array.from({ length: each }, (_, n) => n))
    })

    it('keeps the order of two events of one transaction', async () => {
      const seen: string[] = []
      const handlers: Handlers = {
        first: { effect, handler: (n) => void seen.push(`first ${n}`) },
        second: { effect, handler: (n) => void seen.push(`second ${n}`) },
      }
      await Promise.all([1, 2].map(() => own.worker({ handlers }).start()))
      for (let n = 0; n < 100; n++) {
        await outbox.enqueueMany(own.pool, [
          { type: 'first', payload: n, key: `order ${n}` },
          { type: 'second', payload: n, key: `order ${n}` },
        ])
      }
      await until(empty)
      for (let n = 0; n < 100; n++) expect(seen.indexOf(`first ${n}`)).toBeLessThan(seen.indexOf(`second ${n}`))
      expect(seen).toHaveLength(200)
    })

    it('does as the handler says', async () => {
      const attempts: number[] = []
      const handlers: Handlers = {
        again: {
          effect,
          handler: (_: unknown, { event }) => (attempts.push(event.attempt), event.attempt < 3 ? retryAfter(10) : undefined),
        },
        useless: { effect, handler: () => discard('nobody wants it') },
        broken: { effect, handler: () => deadLetter('no address') },
        failing: { effect, maxAttempts: 2, handler: () => Promise.reject(new Error('it never works')) },
        typed: { effect, schema: z.strictObject({ n: z.number() }), handler: () => undefined },
      }
      await own.worker({ handlers, backoffBaseMs: 10 }).start()
      const types = Object.keys(handlers)
      await outbox.enqueueMany(
        own.pool,
        types.map((type) => ({ type, payload: { n: type } })),
      )
      await until(empty)
      expect(attempts).toEqual([1, 2, 3])
      const { rows } = await own.pool.query('SELECT type, reason, attempts, error FROM outbox.dead_letter ORDER BY type')
      expect(rows).toEqual([
        { type: 'broken', reason: 'verdict', attempts: 1, error: 'no address' },
        { type: 'failing', reason: 'attempts', attempts: 2, error: 'Error: it never works' },
        { type: 'typed', reason: 'invalid', attempts: 0, error: expect.stringContaining('n: ') },
      ])
    })

    it('waits for availableAt, drops duplicates within their window, lets go of what has expired', async () => {
      const seen: unknown[] = []
      await own.worker({ handlers: { a: { effect, handler: (payload) => void seen.push(payload) } } }).start()
      const dedup = { key: `once ${effect}`, windowMs: 60_000 }
      const ids = await outbox.enqueueMany(own.pool, [
        { type: 'a', payload: 'later', availableAt: new Date(Date.now() + 700) },
        { type: 'a', payload: 'once', dedup },
        { type: 'a', payload: 'twice', dedup },
        { type: 'a', payload: 'too late', expiresAt: new Date(Date.now() - 1000) },
      ])
      expect(ids.map((id) => typeof id)).toEqual(['bigint', 'bigint', 'undefined', 'bigint'])
      await until(() => seen.length === 1)
      expect(seen).toEqual(['once'])
      await until(empty)
      expect(seen).toEqual(['once', 'later'])
      expect(await own.one('SELECT reason FROM outbox.dead_letter')).toBe('expired')
    })

    it('leaves events of types that it does not know, and of types that are paused', async () => {
      const seen: unknown[] = []
      await own.pool.query(`INSERT INTO outbox.paused (type) VALUES ('paused')`)
      await own.put('unknown', [1])
      await own.put('paused', [2])
      await own.put('known', [3])
      await own
        .worker({
          handlers: {
            known: { effect, handler: (n) => void seen.push(n) },
            paused: { effect, handler: (n) => void seen.push(n) },
          },
        })
        .start()
      await until(() => seen.length === 1)
      await new Promise((resolve) => setTimeout(resolve, 300))
      expect(seen).toEqual([3])
      expect(await own.one('SELECT array_agg(type ORDER BY type) FROM outbox.event')).toEqual(['paused', 'unknown'])
    })
  })

  it('is woken by what is written to the table itself, where the trigger is there', async () => {
    await own.pool.query(
      'CREATE TRIGGER wake AFTER INSERT ON outbox.event FOR EACH STATEMENT EXECUTE FUNCTION outbox.wake_on_insert()',
    )
    await own.worker({ handlers: { a: () => undefined } }).start()
    await until(async () => (await own.one('SELECT count(*)::int FROM outbox.worker WHERE idle')) === 1)
    const listener = await own.connect()
    let notified = false
    listener.once('notification', () => (notified = true))
    await listener.query('LISTEN "outbox:outbox"')
    await own.put('a', [1])
    await expect.poll(() => notified, { timeout: 20_000 }).toBe(true)
    await until(empty)
    listener.release(true)
    await own.pool.query('DROP TRIGGER wake ON outbox.event')
  })
})
