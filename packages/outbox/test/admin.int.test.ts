import { describeWith } from '@common-handlers/testkit'
import { expect, it } from 'vitest'
import { OutboxAdmin, Outbox } from '../src/index.ts'
import { ownOutbox, until } from './own-outbox.ts'

describeWith(['postgres'], 'the administration of an outbox', ({ postgres }) => {
  const own = ownOutbox(postgres)
  const outbox = new Outbox()
  const admin = (): OutboxAdmin => new OutboxAdmin({ pool: own.pool })
  const typeOf = async (type: string) => (await admin().stats()).types.find((found) => found.type === type)

  /** Dead letters of a type, by a handler that fails at once. */
  const killAll = async (type: string, count: number): Promise<void> => {
    await own.put(
      type,
      Array.from({ length: count }, (_, n) => n),
    )
    const handler = (n: number): never => {
      throw new Error(`no ${n}`)
    }
    const worker = own.worker({ handlers: { [type]: { maxAttempts: 1, handler } }, batchSize: 1000, maxParallel: 100 })
    await worker.start()
    await until(async () => (await own.one<number>('SELECT count(*)::int FROM outbox.event')) === 0)
    await worker.stop()
  }

  it('counts each event where it stands, and tells who works', async () => {
    await outbox.enqueueMany(own.pool, [
      { type: 'ready', payload: 1 },
      { type: 'ready', payload: 2 },
      { type: 'later', payload: 3, availableAt: new Date(Date.now() + 60_000) },
      { type: 'broken', payload: 4 },
      { type: 'long', payload: 5 },
    ])
    await admin().pause('ready')
    await own.pool.query(`UPDATE outbox.event SET suspect = true WHERE type = 'broken'`)
    const going = Promise.withResolvers<void>()
    const worker = own.worker({
      name: 'night shift',
      handlers: { long: () => going.promise, later: () => undefined, ready: () => undefined },
    })
    await worker.start()
    await until(() => worker.status.running === 1)
    const stats = await admin().stats()
    const count = (type: string) => ({ ...stats.types.find((one) => one.type === type), oldestMs: undefined })
    const none = {
      ready: 0,
      delayed: 0,
      claimed: 0,
      suspect: 0,
      retrying: 0,
      blockedKeys: 0,
      deadLetters: 0,
      paused: false,
      oldestMs: undefined,
    }
    expect(count('ready')).toEqual({ ...none, type: 'ready', ready: 2, paused: true, workers: 1 })
    expect(count('later')).toEqual({ ...none, type: 'later', delayed: 1, workers: 1 })
    expect(count('broken')).toEqual({ ...none, type: 'broken', suspect: 1, workers: 0 })
    expect(count('long')).toEqual({ ...none, type: 'long', claimed: 1, workers: 1 })
    expect(stats.types.find(({ type }) => type === 'later')?.oldestMs).toBeUndefined()
    expect(stats.types.find(({ type }) => type === 'ready')?.oldestMs).toBeGreaterThanOrEqual(0)
    expect(stats.workers).toEqual([
      expect.objectContaining({ name: 'night shift', presence: 'session', alive: true, claims: 1, claimed: 1 }),
    ])
    going.resolve()
    await worker.stop()
    expect((await admin().stats()).workers).toEqual([])
  })

  it('knows a dead worker from a live one', async () => {
    await own.pool.query(`INSERT INTO outbox.worker (name, presence, types) VALUES ('ghost', 'session', '{ghostly}'),
      ('silent', 'heartbeat', '{ghostly}')`)
    await own.pool.query(`UPDATE outbox.worker SET beat_at = clock_timestamp() - interval '20 s' WHERE name = 'silent'`)
    await own.put('ghostly', [1])
    const stats = await admin().stats()
    expect(stats.workers.map(({ name, alive }) => [name, alive])).toEqual([
      ['ghost', false],
      ['silent', false],
    ])
    expect((await typeOf('ghostly'))?.workers).toBe(0)
    await own.pool.query('DELETE FROM outbox.worker')
  })

  it('shows which keys wait, and for what', async () => {
    const again = async (type: string, key: string) =>
      outbox.enqueueMany(own.pool, [
        { type, payload: 1, key },
        { type: 'next', payload: 2, key },
        { type: 'next', payload: 3, key },
      ])
    const [first] = await again('failing', 'order 1')
    await again('unknown', 'order 2')
    await again('paused', 'order 3')
    await admin().pause('paused')
    const worker = own.worker({
      backoffBaseMs: 600_000,
      handlers: { failing: () => Promise.reject(new Error('no')), next: () => undefined, paused: () => undefined },
    })
    await worker.start()
    await until(async () => (await typeOf('failing'))?.retrying === 1)
    const blocked = await admin().blockedKeys()
    expect(blocked.map(({ key, because, type, waiting }) => ({ key, because, type, waiting }))).toEqual([
      { key: 'order 1', because: 'retry', type: 'failing', waiting: 2 },
      { key: 'order 2', because: 'parked', type: 'unknown', waiting: 2 },
      { key: 'order 3', because: 'paused', type: 'paused', waiting: 2 },
    ])
    expect(blocked[0]).toMatchObject({ id: first, attempts: 1, error: 'Error: no' })
    expect((await typeOf('failing'))?.blockedKeys).toBe(1)
    // What bars the way is cancelled: the others go on.
    await admin().cancel(first ?? 0n)
    await until(async () => (await admin().list({ key: 'order 1' })).length === 0)
  })

  it('lists by type, state and key, page by page, and shows one with what it carries', async () => {
    await killAll('dying', 3)
    const [id] = await outbox.enqueueMany(own.pool, [
      { type: 'a', payload: { big: 'payload' }, key: 'k', headers: { from: 'here' }, priority: 3 },
      { type: 'a', payload: 2, availableAt: new Date(Date.now() + 60_000) },
      { type: 'b', payload: 3 },
    ])
    const all = await admin().list()
    expect(all.map(({ type, state }) => `${type} ${state}`)).toEqual([
      'dying dead',
      'dying dead',
      'dying dead',
      'a ready',
      'a delayed',
      'b ready',
    ])
    expect(all.map((event) => Number(event.id))).toEqual(all.map((event) => Number(event.id)).toSorted((a, b) => a - b))
    const pages = []
    for (let after = 0n; ;) {
      const page = await admin().list({ limit: 4, after })
      if (page.length === 0) break
      pages.push(page)
      after = page.at(-1)?.id ?? 0n
    }
    expect(pages.flat()).toEqual(all)
    expect((await admin().list({ type: 'a', state: 'delayed' })).length).toBe(1)
    expect((await admin().list({ state: 'dead' })).map(({ reason, attempts }) => [reason, attempts])).toEqual(
      [1, 2, 3].map(() => ['attempts', 1]),
    )
    expect((await admin().list({ key: 'k' })).map((event) => event.id)).toEqual([id])
    expect(await admin().show(id ?? 0n)).toMatchObject({
      state: 'ready',
      key: 'k',
      priority: 3,
      payload: { big: 'payload' },
      headers: { from: 'here' },
    })
    const [dead] = await admin().list({ state: 'dead' })
    expect(await admin().show(dead?.id ?? 0n)).toMatchObject({ state: 'dead', payload: 0, error: 'Error: no 0' })
    await expect(admin().show(1n << 60n)).rejects.toMatchObject({ code: 'OUTBOX_EVENT_NOT_FOUND' })
  })

  it('sends dead letters back, after a dry run that does nothing, also more than a batch', async () => {
    const count = 2500
    await killAll('dying', count)
    await killAll('other', 1)
    const dry = await admin().redrive({ type: 'dying', dryRun: true })
    expect(dry).toMatchObject({ count, types: { dying: count } })
    expect(dry.first).toHaveLength(100)
    expect(await own.one('SELECT count(*)::int FROM outbox.dead_letter')).toBe(count + 1)
    const done = await admin().redrive({ type: 'dying' })
    expect(done).toMatchObject({ count, types: { dying: count } })
    expect(done.first.map(({ from }) => from)).toEqual(dry.first.map(({ from }) => from))
    expect(await own.one('SELECT array_agg(type) FROM outbox.dead_letter')).toEqual(['other'])
    const seen: number[] = []
    await own.worker({ handlers: { dying: (n: number) => void seen.push(n) } }).start()
    await until(async () => (await own.one<number>('SELECT count(*)::int FROM outbox.event')) === 0)
    expect(seen.toSorted((a, b) => a - b)).toEqual(Array.from({ length: count }, (_, n) => n))
    await expect(admin().redrive({})).rejects.toMatchObject({ code: 'OUTBOX_NOTHING_CHOSEN' })
    expect((await admin().redrive({ reason: 'expired' })).count).toBe(0)
    expect((await admin().redrive({ all: true })).types).toEqual({ other: 1 })
  })

  it('ends a redrive although what it sends back dies again at once', async () => {
    await killAll('dying', 1500)
    const handler = (): never => {
      throw new Error('again')
    }
    await own.worker({ handlers: { dying: { maxAttempts: 1, handler } }, maxParallel: 100 }).start()
    expect((await admin().redrive({ type: 'dying' })).count).toBe(1500)
    await until(async () => (await own.one<number>('SELECT count(*)::int FROM outbox.dead_letter')) === 1500)
  })

  it('purges dead letters by type and age', async () => {
    await killAll('dying', 5)
    await own.pool.query(
      `UPDATE outbox.dead_letter SET died_at = died_at - interval '2 days' WHERE id IN (SELECT id FROM outbox.dead_letter ORDER BY id LIMIT 2)`,
    )
    const day = 86_400_000
    expect(await admin().purge({ type: 'dying', olderThanMs: day, dryRun: true })).toEqual({ count: 2, types: { dying: 2 } })
    expect(await admin().purge({ type: 'dying', olderThanMs: day })).toEqual({ count: 2, types: { dying: 2 } })
    expect(await admin().purge({ type: 'none' })).toEqual({ count: 0, types: {} })
    await expect(admin().purge({})).rejects.toMatchObject({ code: 'OUTBOX_NOTHING_CHOSEN' })
    expect(await admin().purge({ all: true })).toEqual({ count: 3, types: { dying: 3 } })
  })

  it('pauses and resumes a type under a worker that sleeps', async () => {
    const seen: unknown[] = []
    const worker = own.worker({ pollInterval: 60_000, handlers: { a: (n: unknown) => void seen.push(n) } })
    expect([await admin().pause('a'), await admin().pause('a')]).toEqual([true, false])
    await own.put('a', [1])
    await worker.start()
    await until(() => own.one('SELECT bool_and(idle) FROM outbox.worker'))
    expect(seen).toEqual([])
    // It is told: nobody waits for the poll of a minute.
    expect([await admin().resume('a'), await admin().resume('a')]).toEqual([true, false])
    await until(() => seen.length === 1)
  })

  it('cancels what waits, and nothing that a worker has begun', async () => {
    const [waiting] = await outbox.enqueueMany(own.pool, [{ type: 'waiting', payload: { n: 1 } }])
    expect(await admin().cancel(waiting ?? 0n)).toMatchObject({ type: 'waiting', payload: { n: 1 } })
    await expect(admin().cancel(waiting ?? 0n)).rejects.toMatchObject({ code: 'OUTBOX_EVENT_NOT_FOUND' })
    for (const effect of ['lease', 'tx'] as const) {
      const going = Promise.withResolvers<void>()
      const worker = own.worker({ handlers: { long: { effect, handler: () => going.promise } } })
      await worker.start()
      const [id] = await outbox.enqueueMany(own.pool, [{ type: 'long', payload: 1 }])
      await until(() => worker.status.running === 1)
      await expect(admin().cancel(id ?? 0n)).rejects.toMatchObject({ code: 'OUTBOX_EVENT_CLAIMED', retry: 'safe' })
      going.resolve()
      await worker.stop()
      expect(await own.one('SELECT count(*)::int FROM outbox.event')).toBe(0)
    }
  })

  it('survives the loss of its connection', async () => {
    const client = await own.connect()
    await client.query('BEGIN; LOCK TABLE outbox.policy')
    // Caught from the start: it fails before the statement that ends it has its own answer.
    const asked = admin()
      .policy()
      .catch((error: unknown) => error)
    const waiting = `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`
    await until(async () => (await own.one<number | undefined>(waiting)) !== undefined)
    await own.pool.query(`SELECT pg_terminate_backend(pid) FROM (${waiting}) w`)
    expect(String(await asked)).toMatch(/terminat/)
    await client.query('ROLLBACK')
    client.release()
    expect((await admin().policy()).archiveDays).toBeUndefined()
  })

  it('says so where there is no outbox', async () => {
    await expect(new OutboxAdmin({ pool: own.pool, schema: 'nowhere' }).stats()).rejects.toMatchObject({
      code: 'OUTBOX_SCHEMA_MISSING',
    })
  })
})
