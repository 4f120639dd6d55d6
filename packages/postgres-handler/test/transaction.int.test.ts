import { describeWith } from '@common-handlers/testkit'
import { beforeAll, expect, it } from 'vitest'
import { PostgresHandler, sql } from '../src/index.ts'
import { failure, ownDatabase, readAll } from './own-database.ts'

describeWith(['postgres'], 'transactions', ({ postgres }) => {
  const db = ownDatabase(postgres)
  const count = async (): Promise<unknown> => (await db.pg.getRecords('SELECT count(*)::int AS n FROM items'))[0]?.['n']

  beforeAll(async () => {
    await db.pg.execute('CREATE TABLE items (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)')
  })

  it('are committed whole or not at all', async () => {
    const result = await db.pg.transaction(async (transaction) => {
      await Promise.all([1, 2, 3].map((id) => transaction.execute(sql`INSERT INTO items (id) VALUES (${id})`)))
      return 'kept'
    })
    expect([result, await count()]).toEqual(['kept', 3])
    const reason = new Error('changed my mind')
    const undone = db.pg.transaction(async (transaction) => {
      await transaction.execute('DELETE FROM items')
      throw reason
    })
    expect(await failure(undone)).toBe(reason)
    expect(await count()).toBe(3)
  })

  it('that swallow a failed statement are not reported as committed', async () => {
    const swallowed = db.pg.transaction(async (transaction) => {
      await transaction.execute('INSERT INTO items (id) VALUES (99)')
      await transaction.execute('INSERT INTO items (id) VALUES (1)').catch(() => undefined)
    })
    expect(await failure(swallowed)).toMatchObject({ name: 'ConflictError', code: 'POSTGRES_TRANSACTION_FAILED' })
    expect(await count()).toBe(3)
  })

  it('are rolled back by an abort in the middle', async () => {
    const abort = new AbortController()
    const aborted = db.pg.transaction(
      async (transaction) => {
        await transaction.execute('DELETE FROM items')
        setTimeout(() => abort.abort(new Error('stop')), 20)
        await transaction.execute('SELECT pg_sleep(60)')
      },
      { signal: abort.signal },
    )
    expect((await failure(aborted)).message).toBe('stop')
    expect([await count(), await db.activeBackends()]).toEqual([3, 0])
  })

  it('have the isolation and access that were asked for', async () => {
    const shown = (options: object): Promise<unknown> =>
      db.pg.transaction(async (transaction) => {
        const settings = ['transaction_isolation', 'transaction_read_only', 'transaction_deferrable']
        return Promise.all(settings.map(async (name) => (await transaction.getRows(`SHOW ${name}`))[0]?.[0]))
      }, options)
    expect(await shown({})).toEqual(['read committed', 'off', 'off'])
    expect(await shown({ isolation: 'serializable', readOnly: true, deferrable: true })).toEqual(['serializable', 'on', 'on'])
    const written = db.pg.transaction((transaction) => transaction.execute('DELETE FROM items'), { readOnly: true })
    expect(await failure(written)).toMatchObject({ name: 'PermissionError', code: 'POSTGRES_READ_ONLY' })
  })

  it('that cannot be serialized may be tried again safely', async () => {
    const conflict = db.pg.transaction(
      async (one) => {
        await one.getRecords('SELECT * FROM items')
        await db.pg.execute('UPDATE items SET n = n + 1')
        await one.execute('UPDATE items SET n = n + 1')
      },
      { isolation: 'serializable' },
    )
    expect(await failure(conflict)).toMatchObject({ code: 'POSTGRES_SERIALIZATION_FAILED', retry: 'safe' })
  })

  it('whose connection is lost before COMMIT may be tried again safely', async () => {
    const lost = db.pg.transaction(async (transaction) => {
      await transaction.execute('DELETE FROM items')
      await db.terminateOthers()
      await transaction.execute('SELECT 1')
    })
    expect(await failure(lost)).toMatchObject({ name: 'ConnectionError', retry: 'safe' })
    expect(await count()).toBe(3)
  })

  it('refuse a statement while a COPY is being read on their connection, instead of waiting for ever', async () => {
    const left = db.pg.readSnapshot(async (reader) => {
      for await (const block of reader.copyOut('COPY (SELECT generate_series(1, 3000000)) TO STDOUT', { blockBytes: 1000 })) {
        expect(block.rows).toBeGreaterThan(0)
        expect(await failure(reader.getRecords('SELECT 1'))).toMatchObject({ code: 'POSTGRES_CONNECTION_BUSY' })
        break
      }
    })
    // Leaving a COPY before its end fails its transaction on the server.
    expect(await failure(left)).toMatchObject({ code: 'POSTGRES_TRANSACTION_FAILED' })
    expect(await db.activeBackends()).toBe(0)
  })

  it('do not leak settings or open transactions to the next user of a connection', async () => {
    await using pg = new PostgresHandler(db.options({ pool: { max: 1 } }))
    await pg.execute(`SET TimeZone = 'Asia/Tokyo'`)
    expect(await pg.getRows(`SELECT '2024-01-01 00:00:00+00'::timestamptz`)).toEqual([['2024-01-01 00:00:00+00']])
    await pg.execute('BEGIN')
    await pg.execute('INSERT INTO items (id) VALUES (500)')
    expect(await pg.getRows('SELECT count(*)::int FROM items WHERE id = 500')).toEqual([[1]])
    await pg.execute('DELETE FROM items WHERE id = 500')
    const [[pid] = []] = await pg.getRows('SELECT pg_backend_pid()')
    await pg.transaction(async (transaction) => transaction.execute(`SET LOCAL TimeZone = 'Asia/Tokyo'`))
    expect(await pg.getRows('SELECT pg_backend_pid()')).toEqual([[pid]])
  })

  it('show one moment in a snapshot, and say which', async () => {
    const before = await count()
    const seen: string[] = []
    await db.pg.transaction(async (open) => {
      const [[running] = []] = await open.getRows('SELECT pg_current_xact_id()::text')
      // A later transaction that has ended puts the running one between xmin and xmax.
      await db.pg.execute('UPDATE items SET n = 0')
      await db.pg.readSnapshot(async (reader) => {
        const { snapshot } = reader
        expect(snapshot.id).toBe(`${snapshot.xmin}:${snapshot.xmax}:${snapshot.xip.join(',')}`)
        expect(snapshot.xip).toContain(running)
        expect(snapshot.lsn).toMatch(/^[0-9A-F]+\/[0-9A-F]+$/)
        expect(snapshot.serverVersion).toMatch(/^\d+/)
        await db.pg.execute('INSERT INTO items (id) VALUES (1000)')
        const { rows } = await readAll(reader.copyOut('COPY items (id) TO STDOUT'))
        seen.push(...rows.map(String))
        expect(await reader.getRecords('SELECT count(*)::int AS n FROM items')).toEqual([{ n: before }])
        expect((await reader.getRows('SELECT pg_current_snapshot()::text'))[0]).toEqual([snapshot.id])
        expect(await reader.describeTable('items')).toMatchObject({ name: '"public"."items"' })
      })
    })
    expect(seen).toHaveLength(Number(before))
    expect(seen).not.toContain('1000\n')
    expect(await count()).toBe(Number(before) + 1)
  })

  it('write nothing in a snapshot', async () => {
    const written = db.pg.readSnapshot((reader) => reader.execute('DELETE FROM items'))
    expect(await failure(written)).toMatchObject({ name: 'PermissionError', code: 'POSTGRES_READ_ONLY' })
  })
})
