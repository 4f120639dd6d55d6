import { describeWith } from '@common-handlers/testkit'
import { expect, it } from 'vitest'
import { PostgresHandler } from '../src/index.ts'
import { ownDatabase } from './own-database.ts'

describeWith(['postgres'], 'asPool', ({ postgres }) => {
  const db = ownDatabase(postgres)

  it('lends connections with the calls of a pg.Pool, and takes them back as they were', async () => {
    await using pg = new PostgresHandler(db.options({ pool: { max: 1 } }))
    const pool = pg.asPool()
    const client = await pool.connect()
    const { rows, rowCount, command } = await client.query('SELECT $1::int AS n', [1])
    expect([rows, rowCount, command]).toEqual([[{ n: 1 }], 1, 'SELECT'])
    const heard: unknown[] = []
    client.on('notification', (message: { readonly payload: string }) => void heard.push(message.payload))
    await client.query('LISTEN somewhere')
    await client.query(`NOTIFY somewhere, 'this'`)
    expect(heard).toEqual(['this'])
    expect([[client.processID]]).toEqual(
      await client.query('SELECT pg_backend_pid() AS pid').then(({ rows: [row] }) => [[row.pid]]),
    )
    client.release()
    client.release()
    await expect(client.query('SELECT 1')).rejects.toThrow('given back')
    expect(await pg.getRows('SELECT 2')).toEqual([[2]])
    expect(pg.poolStatus()).toMatchObject({ total: 1, busy: 0 })
  })

  it('lends connections that the handler has used, and uses those that were lent', async () => {
    await using pg = new PostgresHandler(db.options({ pool: { max: 1 } }))
    const pool = pg.asPool()
    for (let round = 0; round < 3; round++) {
      expect(await pg.getRecords('SELECT 1 AS n')).toEqual([{ n: 1 }])
      await expect(pg.getRecords('SELECT 1 / 0')).rejects.toThrow('division by zero')
      const client = await pool.connect()
      expect((await client.query('SELECT generate_series(1, 3) AS n')).rows).toEqual([{ n: 1 }, { n: 2 }, { n: 3 }])
      client.release()
    }
    expect(pg.poolStatus()).toMatchObject({ total: 1, busy: 0 })
  })

  it.each([
    ['in the middle of a transaction', 'BEGIN', undefined],
    ['with an error', 'SELECT 1', new Error('it is broken')],
  ])('closes what is given back %s', async (_, text, error) => {
    await using pg = new PostgresHandler(db.options({ pool: { max: 1 } }))
    const client = await pg.asPool().connect()
    await client.query(text)
    const { processID } = client
    client.release(error)
    expect(await pg.getRows<[number]>('SELECT pg_backend_pid()')).not.toEqual([[processID]])
  })

  it('ends what is still lent when the handler is closed', async () => {
    const pg = new PostgresHandler(db.options())
    const pool = pg.asPool()
    const client = await pool.connect()
    const running = client.query('SELECT pg_sleep(60)').catch((error: Error) => error)
    let closed = false
    const closing = pg.close({ graceMs: 50 }).then(() => (closed = true))
    await expect(pool.connect()).rejects.toMatchObject({ code: 'POSTGRES_CLOSED' })
    await new Promise((resolve) => setTimeout(resolve, 200))
    expect(closed).toBe(true)
    expect(await running).toBeInstanceOf(Error)
    client.release()
    await closing
  })
})
