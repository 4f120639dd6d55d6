import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { describeWith, type PostgresServer, startPostgres } from '@common-handlers/testkit'
import { afterAll, beforeAll, expect, it, vi } from 'vitest'
import { parseConfig } from '../src/config.ts'
import { Connection } from '../src/connection.ts'
import { connectClient, type Wire } from '../src/driver.ts'
import { Exchange } from '../src/exchange.ts'
import { PostgresHandler, type PostgresHandlerOptions } from '../src/index.ts'
import { allAtOnce, failure, ownDatabase } from './own-database.ts'

describeWith(['postgres'], 'the pool', ({ postgres }) => {
  const db = ownDatabase(postgres)

  it('leaks no connection in 100,000 loans, some of them aborted', { timeout: 120_000 }, async () => {
    await using pg = new PostgresHandler(db.options({ pool: { max: 8, waitTimeoutMs: 0 } }))
    let loans = 0
    let aborted = 0
    const caller = async (first: number): Promise<void> => {
      for (let n = first; n < 100_000; n += 16) {
        if (n % 100 === 0) {
          const abort = new AbortController()
          const call = pg.getRows('SELECT pg_sleep(30)', [], { signal: abort.signal })
          setTimeout(() => abort.abort(new Error('not wanted')), n % 3)
          await call.catch(() => aborted++)
          continue
        }
        // A loan and its return; nothing is sent.
        await pg.connect()
        if (++loans % 100 === 0) await nextTurn()
      }
    }
    await Promise.all(Array.from({ length: 16 }, (_, first) => caller(first)))
    expect([loans, aborted]).toEqual([99_000, 1_000])
    const { total, idle, busy, waiting, connecting, generations } = pg.poolStatus()
    expect({ busy, waiting, connecting, generations }).toEqual({ busy: 0, waiting: 0, connecting: 0, generations: 1 })
    expect(idle).toBe(total)
    expect(pg.poolStatus().loans).toBeGreaterThanOrEqual(99_000)
    expect(await db.activeBackends()).toBe(0)
    expect(await db.pg.getRows('SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database()')).toEqual([
      [total + db.pg.poolStatus().total],
    ])
  })

  it('leaves no active backend and loses no connection in 1,000 aborted queries', { timeout: 120_000 }, async () => {
    await using pg = new PostgresHandler(db.options({ pool: { max: 6, waitTimeoutMs: 0 } }))
    const reason = new Error('not wanted any more')
    let aborted = 0
    const caller = async (first: number): Promise<void> => {
      for (let n = first; n < 1_000; n += 6) {
        const abort = new AbortController()
        setTimeout(() => abort.abort(reason), n % 7)
        const error = await failure(pg.getRows('SELECT pg_sleep(30)', [], { signal: abort.signal }))
        if (error === reason) aborted++
      }
    }
    await Promise.all(Array.from({ length: 6 }, (_, first) => caller(first)))
    expect(aborted).toBe(1_000)
    expect(await db.activeBackends()).toBe(0)
    expect(pg.poolStatus()).toMatchObject({ lost: 0, busy: 0, total: 6, idle: 6, opened: 6 })
  })

  it('says when too many wait, and when one has waited too long', async () => {
    await using pg = new PostgresHandler(db.options({ pool: { max: 1, maxWaiting: 2, waitTimeoutMs: 2_000 } }))
    await pg.transaction(async () => {
      const waiting = [failure(pg.execute('SELECT 1')), failure(pg.execute('SELECT 1'))]
      await expect.poll(() => pg.poolStatus().waiting, { timeout: 20_000 }).toBe(2)
      expect(await failure(pg.execute('SELECT 1'))).toMatchObject({
        name: 'CapacityError',
        code: 'POSTGRES_POOL_QUEUE_FULL',
        retry: 'safe',
      })
      const codes = (await Promise.all(waiting)).map((error) => error['code'])
      expect(codes).toEqual(['POSTGRES_POOL_EXHAUSTED', 'POSTGRES_POOL_EXHAUSTED'])
    })
    expect(pg.poolStatus()).toMatchObject({ loans: 1, idle: 1, waiting: 0 })
    expect(pg.poolStatus().longestWaitMs).toBeGreaterThanOrEqual(1_999)
  })

  it('serves those who wait in their order', async () => {
    await using pg = new PostgresHandler(db.options({ pool: { max: 1 } }))
    const order: number[] = []
    await Promise.all(Array.from({ length: 20 }, (_, n) => pg.execute('SELECT 1').then(() => order.push(n))))
    expect(order).toEqual(Array.from({ length: 20 }, (_, n) => n))
  })

  it('closes what is idle for too long down to min, and what is too old', async () => {
    await using pg = new PostgresHandler(db.options({ pool: { max: 5, min: 2, idleTimeoutMs: 100 } }))
    await allAtOnce(pg, 5)
    expect(pg.poolStatus().opened).toBe(5)
    await expect.poll(() => pg.poolStatus().total, { timeout: 20_000 }).toBe(2)
    await sleep(250)
    expect(pg.poolStatus()).toMatchObject({ total: 2, idle: 2 })
    await using mortal = new PostgresHandler(db.options({ pool: { max: 1, maxLifetimeMs: 200 } }))
    const pid = async (): Promise<unknown> => (await mortal.getRows('SELECT pg_backend_pid()'))[0]?.[0]
    const first = await pid()
    await expect.poll(() => mortal.poolStatus().total, { timeout: 20_000 }).toBe(0)
    expect(await pid()).not.toBe(first)
    // One in use is not cut off; it is closed when it comes back.
    await mortal.execute('SELECT pg_sleep(0.3)')
    await expect.poll(() => mortal.poolStatus().total, { timeout: 20_000 }).toBe(0)
    expect(mortal.poolStatus()).toMatchObject({ opened: 2, lost: 0 })
  })

  it('close() cuts off a transaction whose work does not listen, and rolls it back', async () => {
    await db.pg.execute('CREATE TABLE deaf (a int)')
    const pg = new PostgresHandler(db.options())
    const deaf = failure(
      pg.transaction(async (transaction) => {
        await transaction.execute('INSERT INTO deaf VALUES (1)')
        await new Promise(() => undefined)
      }),
    )
    await expect.poll(() => pg.poolStatus().busy, { timeout: 20_000 }).toBe(1)
    await pg.close({ graceMs: 50 })
    expect(await deaf).toMatchObject({ code: 'POSTGRES_CLOSED', retry: 'if-idempotent' })
    await expect.poll(() => db.activeBackends()).toBe(0)
    expect(await db.pg.getRows('SELECT count(*)::int FROM deaf')).toEqual([[0]])
  })

  it('close() ends a call that nothing else ends', async () => {
    const config = parseConfig(db.options(), false)
    const { user, password } = db.address
    const client = await connectClient(config, false, { user, password }, new AbortController().signal)
    /** The server answers, and nobody hears it. */
    class Deaf extends Exchange<void> {
      readonly statement = 'SELECT 1'
      submit(wire: Wire): null {
        wire.query(this.statement)
        return null
      }
      handleReadyForQuery(): void {}
    }
    const closing = new AbortController()
    const connection = new Connection({ client, release: () => undefined })
    const call = failure(connection.exchange(new Deaf(), closing.signal))
    const reason = new Error('closing')
    closing.abort(reason)
    expect(await call).toBe(reason)
    await client.close()
  })

  it('a transaction ends by its time-out though its work does not listen', async () => {
    const error = await failure(db.pg.transaction(() => new Promise(() => undefined), { timeoutMs: 50 }))
    expect(error).toMatchObject({ code: 'POSTGRES_TIMEOUT' })
    expect(await db.pg.getRows('SELECT 1')).toEqual([[1]])
  })

  it('limits of the server hold for a handler, and for a transaction instead of them', async () => {
    await db.pg.execute('CREATE TABLE contended (a int)')
    const limits = { statementTimeoutMs: 5_000, lockTimeoutMs: 60, idleInTransactionTimeoutMs: 20_000 }
    await using pg = new PostgresHandler(db.options(limits))
    const shown = `SELECT current_setting('statement_timeout'), current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout')`
    expect(await pg.getRows(shown)).toEqual([['5s', '60ms', '20s']])
    const own = { statementTimeoutMs: 0, lockTimeoutMs: 70, idleInTransactionTimeoutMs: 80 }
    expect(await pg.transaction((transaction) => transaction.getRows(shown), own)).toEqual([['0', '70ms', '80ms']])
    expect(await pg.readSnapshot((reader) => reader.getRows(shown), own)).toEqual([['0', '70ms', '80ms']])
    expect(await pg.getRows(shown)).toEqual([['5s', '60ms', '20s']])
    await db.pg.transaction(async (transaction) => {
      await transaction.execute('LOCK TABLE contended')
      expect(await failure(pg.getRows('SELECT * FROM contended'))).toMatchObject({ code: 'POSTGRES_LOCK_NOT_AVAILABLE' })
    })
    const idle = pg.transaction(
      async (transaction) => {
        await sleep(300)
        await transaction.execute('SELECT 1')
      },
      { idleInTransactionTimeoutMs: 50 },
    )
    expect(await failure(idle)).toMatchObject({ code: 'POSTGRES_IDLE_IN_TRANSACTION', retry: 'safe' })
  })
})

// describeWith says whether there are binaries at all; a server that is taken down is one of its own.
describeWith(['postgres'], 'a server that goes away', () => {
  let server: PostgresServer | undefined
  const options = (more: PostgresHandlerOptions = {}): PostgresHandlerOptions => {
    if (server === undefined) throw new Error('asked for before beforeAll')
    const { host, port, user, password, database } = server
    return { host, port, user, password, database, ...more }
  }
  const patient = { attempts: 100, budgetMs: 30_000 }

  beforeAll(async () => {
    server = await startPostgres({ settings: { fsync: 'on', synchronous_commit: 'on' } })
  })
  afterAll(() => server?.stop())

  it('is waited for by calls that are idempotent; of others it is said that they may have been applied', async () => {
    await using pg = new PostgresHandler(options({ retry: patient }))
    const read = pg.getRows('SELECT pg_sleep(3), 1', [], { idempotent: true })
    const write = failure(pg.execute('SELECT pg_sleep(60)'))
    const inTransaction = failure(pg.transaction((transaction) => transaction.execute('SELECT pg_sleep(60)')))
    const asleep = `SELECT count(*)::int FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'`
    await expect.poll(async () => (await pg.getRows(asleep))[0]?.[0], { timeout: 20_000 }).toBe(3)
    await server?.restart()
    expect((await read)[0]?.[1]).toBe(1)
    expect(await write).toMatchObject({ code: 'POSTGRES_CONNECTION_LOST', retry: 'if-idempotent' })
    expect(await inTransaction).toMatchObject({ code: 'POSTGRES_CONNECTION_LOST', retry: 'safe' })
    // Nothing was sent yet: a new call waits for the server without being told that it is idempotent.
    await server?.down({ graceful: true })
    const late = pg.getRows('SELECT 1')
    await sleep(200)
    await server?.up()
    expect(await late).toEqual([[1]])
  })

  it('loses nothing that was acknowledged, whichever backend is killed with kill -9', { timeout: 120_000 }, async () => {
    await using pg = new PostgresHandler(options({ retry: patient, pool: { max: 6, waitTimeoutMs: 0 } }))
    await pg.execute('CREATE TABLE acknowledged (id int PRIMARY KEY)')
    const acknowledged = new Set<number>()
    const unknown = new Set<number>()
    const others: unknown[] = []
    let next = 0
    const stop = new AbortController()
    const writer = async (inTransaction: boolean): Promise<void> => {
      while (!stop.signal.aborted) {
        const id = ++next
        const insert = 'INSERT INTO acknowledged VALUES ($1)'
        try {
          if (inTransaction) await pg.transaction((transaction) => transaction.execute(insert, [id]))
          else await pg.execute(insert, [id])
          acknowledged.add(id)
        } catch (error) {
          const { outcome, retry } = error as { outcome?: string; retry?: string }
          if (outcome !== 'connection' || retry === 'never') {
            others.push(error)
            return
          }
          if (retry === 'if-idempotent') unknown.add(id)
        }
      }
    }
    const writers = [true, false, true, false, true, false].map(writer)
    for (let kills = 0; kills < 4; kills++) {
      await sleep(300)
      // Right after a crash there may be none but the one that asks.
      const victims = await vi.waitUntil(
        async () => {
          const found = await pg.getRows<[number]>(
            `SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() LIMIT 1`,
            [],
            { idempotent: true },
          )
          return found.length > 0 && found
        },
        { timeout: 60_000 },
      )
      for (const [pid] of victims) process.kill(pid, 'SIGKILL')
      const before = acknowledged.size
      await expect.poll(() => acknowledged.size, { timeout: 60_000 }).toBeGreaterThan(before + 20)
    }
    stop.abort()
    await Promise.all(writers)
    const there = new Set((await pg.getRows('SELECT id FROM acknowledged')).map(([id]) => Number(id)))
    expect(others).toEqual([])
    expect([...acknowledged].filter((id) => !there.has(id))).toEqual([])
    // What is there and was not acknowledged is what was reported as open.
    expect([...there].filter((id) => !acknowledged.has(id) && !unknown.has(id))).toEqual([])
    expect(acknowledged.size).toBeGreaterThan(100)
  })
})
