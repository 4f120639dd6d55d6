import { createServer } from 'node:net'
import { inspect } from 'node:util'
import { describeWith, freePorts } from '@common-handlers/testkit'
import { expect, it } from 'vitest'
import { PostgresHandler } from '../src/index.ts'
import { failure, ownDatabase } from './own-database.ts'

describeWith(['postgres'], 'faults', ({ postgres }) => {
  const db = ownDatabase(postgres)
  const connecting = async (more: object): Promise<Error & Record<string, unknown>> => {
    await using pg = new PostgresHandler(db.options(more))
    return await failure(pg.connect())
  }

  it('a wrong password or user is an AuthError that shows no password', async () => {
    const error = await connecting({ password: 'certainly-wrong-pw' })
    expect(error).toMatchObject({
      name: 'AuthError',
      code: 'POSTGRES_LOGIN_REFUSED',
      retry: 'never',
      context: { sqlState: '28P01' },
    })
    expect(`${inspect(error, { depth: 9, showHidden: true })}${JSON.stringify(error)}`).not.toContain('certainly-wrong')
    expect(await connecting({ user: 'nobody_here' })).toMatchObject({ name: 'AuthError', code: 'POSTGRES_LOGIN_REFUSED' })
  })

  it('close() lets go of a connection that a silent server never finishes', async () => {
    const silent = createServer((socket) => socket.on('error', () => undefined).resume())
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
    const address = silent.address()
    const port = typeof address === 'object' && address !== null ? address.port : 0
    const pg = new PostgresHandler(db.options({ port, connectTimeoutMs: 600_000 }))
    expect(await failure(pg.connect({ timeoutMs: 100 }))).toMatchObject({ outcome: 'timeout' })
    // The pool would wait for ten minutes, and this test fail of its own limit.
    await pg.close()
    await new Promise((resolve) => silent.close(resolve))
  })

  it('no password, where one is asked for, is an AuthError too, whatever PGPASSWORD holds, and leaves no socket', async () => {
    const sockets = (): number => process.getActiveResourcesInfo().filter((name) => name === 'TCPSocketWrap').length
    const { host, port, user, database, password } = db.address
    process.env['PGPASSWORD'] = password
    try {
      await using pg = new PostgresHandler({ host, port, user, database })
      expect(await failure(pg.connect())).toMatchObject({ name: 'AuthError', code: 'POSTGRES_LOGIN_REFUSED' })
    } finally {
      delete process.env['PGPASSWORD']
    }
    // No handler of this file is open at this point.
    await expect.poll(sockets).toBe(0)
  })

  it('a missing database is named', async () => {
    const error = await connecting({ database: 'no_such_db' })
    expect(error).toMatchObject({ name: 'NotFoundError', code: 'POSTGRES_DATABASE_NOT_FOUND' })
    expect(error.message).toContain('no_such_db')
  })

  it('a server that is not there, or does not answer, is a ConnectionError that may be tried again', async () => {
    const [port = 0] = await freePorts(1)
    expect(await connecting({ port, connectTimeoutMs: 1_000 })).toMatchObject({ code: 'POSTGRES_CONNECT_FAILED', retry: 'safe' })
    const silent = createServer((socket) => socket.on('error', () => undefined).resume())
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
    const address = silent.address()
    const silentPort = typeof address === 'object' && address !== null ? address.port : 0
    expect(await connecting({ port: silentPort, connectTimeoutMs: 200 })).toMatchObject({
      code: 'POSTGRES_CONNECT_TIMEOUT',
      retry: 'safe',
    })
    await new Promise((resolve) => silent.close(resolve))
  })

  it('a server without TLS is refused where TLS was asked for', async () => {
    expect(await connecting({ sslMode: 'require' })).toMatchObject({ code: 'POSTGRES_TLS_NOT_OFFERED', retry: 'never' })
  })

  it('missing tables, columns, schemas and functions are named, with the hint of the server', async () => {
    await db.pg.execute('CREATE TABLE there (amount int)')
    const of = (query: string) => failure(db.pg.getRecords(query))
    const column = await of('SELECT amont FROM there')
    expect(column).toMatchObject({ name: 'NotFoundError', code: 'POSTGRES_COLUMN_NOT_FOUND' })
    expect(column.message).toMatch(/"amont" does not exist.*there\.amount/)
    const table = await of('SELECT * FROM not_there')
    expect(table).toMatchObject({ name: 'NotFoundError', code: 'POSTGRES_TABLE_NOT_FOUND' })
    expect(table.message).toContain('"not_there"')
    expect(await of('CREATE TABLE no_schema.t (a int)')).toMatchObject({ code: 'POSTGRES_SCHEMA_NOT_FOUND' })
    expect(await of('SELECT no_function()')).toMatchObject({ code: 'POSTGRES_FUNCTION_NOT_FOUND' })
  })

  it('a refused table names the GRANT, and with it the query runs', async () => {
    await db.pg.executeScript(`CREATE TABLE guarded (a int); CREATE ROLE reader_1 LOGIN PASSWORD 'reader-one-pw'`)
    try {
      await using pg = new PostgresHandler(db.options({ user: 'reader_1', password: 'reader-one-pw' }))
      const error = await failure(pg.getRecords('SELECT * FROM guarded'))
      expect(error).toMatchObject({ name: 'PermissionError', code: 'POSTGRES_PERMISSION_DENIED' })
      const [, grant = ''] = /run: (GRANT .*)$/.exec(error.message) ?? []
      await db.pg.execute(grant)
      expect(await pg.getRecords('SELECT * FROM guarded')).toEqual([])
    } finally {
      await db.pg.executeScript('DROP OWNED BY reader_1; DROP ROLE reader_1')
    }
  })

  it('check() reports each step, and the GRANTs that are missing', async () => {
    await db.pg.executeScript(`CREATE SCHEMA closed; CREATE TABLE closed.t (a int); CREATE TABLE open_t (a int, b int);
      CREATE ROLE reader_2 LOGIN PASSWORD 'reader-two-pw'; GRANT SELECT (a, b) ON open_t TO reader_2`)
    try {
      await using pg = new PostgresHandler(db.options({ user: 'reader_2', password: 'reader-two-pw' }))
      const good = await pg.check({ tables: ['open_t'] })
      expect(good).toMatchObject({
        ok: true,
        steps: [
          { name: 'connect', ok: true },
          { name: 'read open_t', ok: true },
        ],
      })
      expect(good.steps[0]?.detail).toMatch(/^PostgreSQL \d+/)
      const bad = await pg.check({ tables: ['open_t', 'closed.t'] })
      expect(bad).toMatchObject({
        ok: false,
        steps: [{ ok: true }, { ok: true }, { ok: false, error: { code: 'POSTGRES_PERMISSION_DENIED' } }],
      })
      expect(bad.steps[2]?.error?.message).toContain('GRANT USAGE ON SCHEMA closed TO reader_2')
      await db.pg.execute('GRANT USAGE ON SCHEMA closed TO reader_2')
      const still = await pg.check({ tables: ['closed.t'] })
      expect(still.steps[1]?.error?.message).toContain('GRANT SELECT ON "closed"."t" TO "reader_2"')
      expect((await pg.check({ tables: ['gone'] })).steps[1]?.error?.code).toBe('POSTGRES_TABLE_NOT_FOUND')
    } finally {
      await db.pg.executeScript('DROP OWNED BY reader_2; DROP ROLE reader_2')
    }
    await using wrong = new PostgresHandler(db.options({ password: 'wrong-wrong' }))
    expect(await wrong.check()).toMatchObject({
      ok: false,
      steps: [{ name: 'connect', ok: false, error: { code: 'POSTGRES_LOGIN_REFUSED' } }],
    })
  })

  it('a killed idle backend is logged, and the next call has another one', async () => {
    const warnings: object[] = []
    const logger = {
      trace() {},
      debug() {},
      info() {},
      error() {},
      warn: (facts: object) => warnings.push(facts),
      child: () => logger,
    }
    await using pg = new PostgresHandler(db.options({ logger }))
    await Promise.all([1, 2, 3].map(() => pg.execute('SELECT pg_sleep(0.05)')))
    await db.terminateOthers()
    await expect.poll(() => warnings.length).toBe(3)
    expect(await pg.getRecords('SELECT 1 AS one')).toEqual([{ one: 1 }])
  })

  it('a backend killed during a statement leaves it open whether the statement was applied', async () => {
    const lost = failure(db.pg.execute('SELECT pg_sleep(60)'))
    await using other = new PostgresHandler(db.options())
    await expect
      .poll(
        async () =>
          (
            await other.getRows(
              `SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'SELECT pg_sleep(60%'`,
            )
          )[0]?.[0],
      )
      .toBe(1)
    await other.execute(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'SELECT pg_sleep(60%'`,
    )
    expect(await lost).toMatchObject({ name: 'ConnectionError', code: 'POSTGRES_CONNECTION_LOST', retry: 'if-idempotent' })
  })

  it('a constraint names itself', async () => {
    await db.pg.executeScript(
      'CREATE TABLE strict (id int PRIMARY KEY, n int CONSTRAINT positive CHECK (n > 0)); INSERT INTO strict VALUES (1, 1)',
    )
    expect(await failure(db.pg.execute('INSERT INTO strict VALUES (1, 2)'))).toMatchObject({
      name: 'ConflictError',
      code: 'POSTGRES_ALREADY_EXISTS',
      context: { constraint: 'strict_pkey', table: 'strict' },
    })
    expect(await failure(db.pg.execute('INSERT INTO strict VALUES (2, 0)'))).toMatchObject({
      name: 'DataError',
      code: 'POSTGRES_CONSTRAINT_VIOLATED',
      context: { constraint: 'positive' },
    })
  })
})
