import { createServer } from 'node:net'
import { Writable } from 'node:stream'
import { describeWith, startFaultProxy } from '@common-handlers/testkit'
import { beforeAll, expect, it } from 'vitest'
import { type AdvisoryLock, type HeldCredentials, PostgresHandler, type ReadSnapshot, type Transaction } from '../src/index.ts'
import { failure, ownDatabase } from './own-database.ts'

const forever = (): Promise<never> => new Promise(() => undefined)

describeWith(['postgres'], 'what is left behind', ({ postgres }) => {
  const db = ownDatabase(postgres)

  beforeAll(() => db.pg.executeScript('CREATE TABLE kept (id int)'))

  it('by a transaction, a snapshot or a lock cannot be used after its end, on a connection that is another’s by then', async () => {
    await using pg = new PostgresHandler(db.options({ pool: { max: 1 } }))
    let transaction: Transaction | undefined
    let reader: ReadSnapshot | undefined
    let lock: AdvisoryLock | undefined
    await pg.transaction(async (given) => void (transaction = given))
    await pg.readSnapshot(async (given) => void (reader = given))
    await pg.withAdvisoryLock('left', async (given) => void (lock = given))
    await pg.transaction(async (other) => {
      for (const left of [transaction, reader, lock]) {
        const error = await failure(left?.execute('INSERT INTO kept VALUES (1)') ?? forever())
        expect(error).toMatchObject({ name: 'ConflictError', code: 'POSTGRES_SCOPE_ENDED', retry: 'never' })
      }
      expect(await other.getRows('SELECT count(*)::int FROM kept')).toEqual([[0]])
    })
    expect(await db.pg.getRows('SELECT count(*)::int FROM kept')).toEqual([[0]])
  })

  it('by a branch of a failed transaction is cancelled, and what it asks for later is refused', async () => {
    await using pg = new PostgresHandler(db.options({ pool: { max: 1 } }))
    let branch: Promise<Error & Record<string, unknown>> | undefined
    const failed = pg.transaction(async (transaction) => {
      branch = failure(transaction.execute('SELECT pg_sleep(600)').then(() => transaction.execute('INSERT INTO kept VALUES (2)')))
      await Promise.all([branch.then(forever), Promise.reject(new Error('the other branch'))])
    })
    expect((await failure(failed)).message).toBe('the other branch')
    expect(await branch).toMatchObject({ code: 'POSTGRES_SCOPE_ENDED' })
    expect(await pg.getRows('SELECT count(*)::int FROM kept')).toEqual([[0]])
  })

  it('statements that nobody waited for are part of their transaction', async () => {
    const unwaited: Promise<unknown>[] = []
    await db.pg.transaction(async (transaction) => {
      unwaited.push(transaction.execute('SELECT pg_sleep(0.1)'), transaction.execute('INSERT INTO kept VALUES (3)'))
      await Promise.resolve()
    })
    await Promise.all(unwaited)
    expect(await db.pg.getRows('DELETE FROM kept RETURNING id')).toEqual([[3]])
  })

  it('by a COMMIT of one’s own is no transaction any more, and is not done again', async () => {
    let runs = 0
    const ended = db.pg.transaction(
      async (transaction) => {
        runs++
        await transaction.execute('INSERT INTO kept VALUES (4)')
        await transaction.execute('COMMIT')
        await transaction.execute('INSERT INTO kept VALUES (5)')
      },
      { retry: { attempts: 3 } },
    )
    expect(await failure(ended)).toMatchObject({ code: 'POSTGRES_TRANSACTION_ENDED', retry: 'never' })
    expect([runs, await db.pg.getRows('DELETE FROM kept RETURNING id')]).toEqual([1, [[4]]])
  })

  it('by a COMMIT of one’s own that fails is told too, with why it failed', async () => {
    await db.pg.execute('CREATE TABLE late (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)')
    const ended = db.pg.transaction(async (transaction) => {
      await transaction.execute('INSERT INTO late VALUES (1), (1)')
      await transaction.execute('COMMIT')
    })
    expect(await failure(ended)).toMatchObject({
      code: 'POSTGRES_TRANSACTION_ENDED',
      cause: { code: 'POSTGRES_ALREADY_EXISTS' },
    })
  })
})

describeWith(['postgres'], 'what shares a connection', ({ postgres }) => {
  const db = ownDatabase(postgres)
  const ids = async (): Promise<unknown[]> => (await db.pg.getRows('DELETE FROM shared RETURNING id')).flat()
  const busy = { name: 'ConflictError', code: 'POSTGRES_CONNECTION_BUSY', retry: 'never' }

  beforeAll(() =>
    db.pg.executeScript('CREATE TABLE shared (id int); CREATE TABLE numbers AS SELECT generate_series(1, 5000) AS n'),
  )

  it('is not undone by the savepoint of another branch', async () => {
    await db.pg.transaction(async (transaction) => {
      const opened = Promise.withResolvers<void>()
      const undone = failure(
        transaction.savepoint(async (inner) => {
          await inner.execute('INSERT INTO shared VALUES (1)')
          opened.resolve()
          expect(await failure(transaction.execute('INSERT INTO shared VALUES (2)'))).toMatchObject(busy)
          throw new Error('undo')
        }),
      )
      await opened.promise
      expect(await failure(transaction.savepoint(() => Promise.resolve()))).toMatchObject(busy)
      await undone
      await transaction.execute('INSERT INTO shared VALUES (3)')
    })
    expect(await ids()).toEqual([3])
  })

  it('is not undone by the end of a stream or an insertMany under a lock', async () => {
    await db.pg.withAdvisoryLock('shared', async (lock) => {
      for await (const { n } of lock.stream<{ n: number }>('SELECT n FROM numbers')) {
        expect(await failure(lock.execute('INSERT INTO shared VALUES (1)'))).toMatchObject(busy)
        if (n > 10) break
      }
      const rows = async function* () {
        yield { id: 2 }
        expect(await failure(lock.execute('INSERT INTO shared VALUES (3)'))).toMatchObject(busy)
        throw new Error('no more')
      }
      expect((await failure(lock.insertMany('shared', ['id'], rows()))).message).toBe('no more')
      await lock.execute('INSERT INTO shared VALUES (4)')
    })
    expect(await ids()).toEqual([4])
  })

  it('is refused, and does not wait for ever, inside the source or the sink of a COPY', async () => {
    await db.pg.transaction(async (transaction) => {
      const source = async function* () {
        yield '1\n'
        expect(await failure(transaction.getRows('SELECT 1'))).toMatchObject(busy)
        yield '2\n'
      }
      expect(await transaction.copyFrom('COPY shared FROM STDIN', source())).toMatchObject({ rows: 2 })
      await transaction.copyTo('COPY shared TO STDOUT', async () => {
        expect(await failure(transaction.getRows('SELECT 1'))).toMatchObject(busy)
      })
    })
    expect(await ids()).toEqual([1, 2])
  })

  it('is told that its transaction has ended, also where another began at once', async () => {
    for (const own of [['COMMIT AND CHAIN'], ['COMMIT', 'BEGIN'], ['ROLLBACK']]) {
      const ended = db.pg.transaction(async (transaction) => {
        await transaction.execute('INSERT INTO shared VALUES (1)')
        await transaction.batch(own).catch(() => undefined)
        await transaction.execute('INSERT INTO shared VALUES (2)').catch(() => undefined)
      })
      expect(await failure(ended)).toMatchObject({ code: 'POSTGRES_TRANSACTION_ENDED', retry: 'never' })
      expect(await ids()).toEqual(own[0] === 'ROLLBACK' ? [] : [1])
    }
  })

  it('is not kept by a stream whose loop stands still past its time-out', async () => {
    await using pg = new PostgresHandler(db.options({ pool: { max: 1 } }))
    const left = pg.stream('SELECT n FROM numbers', [], { timeoutMs: 100 })[Symbol.asyncIterator]()
    await left.next()
    expect(await pg.getRows('SELECT 1')).toEqual([[1]])
    const goOn = async (): Promise<void> => {
      while ((await left.next()).done !== true);
    }
    expect(await failure(goOn())).toMatchObject({ code: 'POSTGRES_TIMEOUT' })
    expect(await pg.getRows('SELECT 1')).toEqual([[1]])
  })

  it('by a COPY that was left where it stood is free at the end of its transaction', async () => {
    await using pg = new PostgresHandler(db.options({ pool: { max: 1 } }))
    let left: AsyncIterator<unknown> | undefined
    const failed = pg.transaction(async (transaction) => {
      const blocks = transaction.copyOut('COPY (SELECT generate_series(1, 3000000)) TO STDOUT', { blockBytes: 1000 })
      left = blocks[Symbol.asyncIterator]()
      await left.next()
    })
    expect(await failure(failed)).toMatchObject({ code: 'POSTGRES_TRANSACTION_FAILED' })
    expect(await pg.getRows('SELECT 1')).toEqual([[1]])
    expect(await failure(Promise.resolve(left?.next()))).toMatchObject({ code: 'POSTGRES_SCOPE_ENDED' })
  })
})

describeWith(['postgres'], 'the time-out of a call', ({ postgres }) => {
  const db = ownDatabase(postgres)

  it('holds while it waits for another statement of its transaction', async () => {
    const stop = new AbortController()
    await db.pg
      .transaction(async (transaction) => {
        const running = failure(transaction.execute('SELECT pg_sleep(600)', [], { signal: stop.signal }))
        const waiting = await failure(transaction.execute('SELECT 1', [], { timeoutMs: 30 }))
        expect(waiting).toMatchObject({ code: 'POSTGRES_TIMEOUT' })
        stop.abort(new Error('enough'))
        await running
        await transaction.execute('ROLLBACK')
      })
      .catch(() => undefined)
    expect(await db.activeBackends()).toBe(0)
  })

  it('and close() end the work under a lock that does not listen', async () => {
    expect(await failure(db.pg.withAdvisoryLock('deaf', forever, { timeoutMs: 30 }))).toMatchObject({ code: 'POSTGRES_TIMEOUT' })
    const pg = new PostgresHandler(db.options())
    const locked = Promise.withResolvers<void>()
    const deaf = failure(pg.withAdvisoryLock('deaf', () => (locked.resolve(), forever())))
    await locked.promise
    await pg.close({ graceMs: 0 })
    expect(await deaf).toMatchObject({ code: 'POSTGRES_CLOSED' })
    await db.pg.withAdvisoryLock('deaf', async () => undefined, { wait: false })
  })

  it('holds for a sink that stands still, and rows that do not come', async () => {
    const still = new Writable({ write: () => undefined })
    const copied = db.pg.copyTo('COPY (SELECT generate_series(1, 3000000)) TO STDOUT', still, { timeoutMs: 300 })
    expect(await failure(copied)).toMatchObject({ code: 'POSTGRES_TIMEOUT' })
    expect(still.destroyed).toBe(true)
    expect(await failure(db.pg.copyTo('COPY (SELECT 1) TO STDOUT', forever, { timeoutMs: 300 }))).toMatchObject({
      code: 'POSTGRES_TIMEOUT',
    })
    await db.pg.execute('CREATE TABLE never (a int)')
    await db.pg.transaction(async (transaction) => {
      const rows: AsyncIterable<{ a: number }> = { [Symbol.asyncIterator]: () => ({ next: forever }) }
      expect(await failure(transaction.insertMany('never', ['a'], rows, { timeoutMs: 300 }))).toMatchObject({
        code: 'POSTGRES_TIMEOUT',
      })
    })
    expect(await db.activeBackends()).toBe(0)
  })

  it('of connecting is told as such, not as a pool that is exhausted', async () => {
    const silent = createServer((socket) => socket.on('error', () => undefined).resume())
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
    const address = silent.address()
    const port = typeof address === 'object' && address !== null ? address.port : 0
    await using pg = new PostgresHandler(
      db.options({ port, connectTimeoutMs: 300, pool: { waitTimeoutMs: 300 }, retry: { attempts: 1 } }),
    )
    expect(await failure(pg.execute('SELECT 1'))).toMatchObject({ code: 'POSTGRES_CONNECT_TIMEOUT', retry: 'safe' })
    await new Promise((resolve) => silent.close(resolve))
  })

  it('of connecting holds for a credentials function that does not answer, and it is asked again', async () => {
    const { user, password, ...place } = db.options()
    let asked = 0
    await using pg = new PostgresHandler({
      ...place,
      connectTimeoutMs: 2_000,
      credentials: () => (++asked === 1 ? forever() : Promise.resolve({ user: String(user), password: String(password) })),
    })
    expect(await pg.getRows('SELECT 1')).toEqual([[1]])
    expect(asked).toBe(2)
  })

  it('of connecting gives credentials back that a provider gives too late', async () => {
    const { user, password, ...place } = db.options()
    const late = Promise.withResolvers<HeldCredentials>()
    let released = 0
    const held = { user: String(user), password: String(password), expiresAt: Infinity, release: () => void released++ }
    const credentials = { acquire: () => late.promise, on: () => undefined, off: () => undefined }
    await using pg = new PostgresHandler({ ...place, credentials, connectTimeoutMs: 200, retry: { attempts: 1 } })
    const error = await failure(pg.execute('SELECT 1'))
    expect(error).toMatchObject({ code: 'POSTGRES_CONNECT_TIMEOUT' })
    expect(error.message).toContain('the credentials were not given')
    late.resolve(held)
    await expect.poll(() => released).toBe(1)
    expect(await pg.getRows('SELECT 1')).toEqual([[1]])
    await pg.close()
    expect(released).toBe(2)
  })
})

describeWith(['postgres'], 'a connection', ({ postgres }) => {
  const db = ownDatabase(postgres)

  it('is not out of step after a COPY among other statements', async () => {
    await using pg = new PostgresHandler(db.options({ pool: { max: 1 } }))
    await pg.execute('CREATE TABLE target (a int)')
    for (const batch of [
      ['COPY target FROM STDIN', 'SELECT 1'],
      ['SELECT 1', 'COPY target FROM STDIN'],
    ]) {
      expect((await failure(pg.batch(batch))).message).toContain('copyFrom')
      expect(await pg.getRows('SELECT 2')).toEqual([[2]])
      expect(await pg.getRows('SELECT 3')).toEqual([[3]])
    }
  })

  it('that does not answer the ROLLBACK is given up', async () => {
    await using proxy = await startFaultProxy(db.address)
    await using pg = new PostgresHandler(db.options({ host: '127.0.0.1', port: proxy.port }))
    const gone = pg.transaction(async (transaction) => {
      await transaction.execute('SELECT 1')
      proxy.stall()
      throw new Error('not this way')
    })
    expect((await failure(gone)).message).toBe('not this way')
    await expect.poll(() => pg.poolStatus().total, { timeout: 20_000 }).toBe(0)
  })
})
