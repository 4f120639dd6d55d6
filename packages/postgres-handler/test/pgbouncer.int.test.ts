import { describeWith, runOnPostgres, startPgBouncer } from '@common-handlers/testkit'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { PostgresHandler, type PostgresHandlerOptions } from '../src/index.ts'
import { failure, ownDatabase, readAll } from './own-database.ts'

describeWith(['postgres'], 'behind PgBouncer in transaction mode', async ({ postgres }) => {
  // Two servers for all clients, so that each gets one that others have used.
  const bouncer = await startPgBouncer(postgres, { settings: { default_pool_size: '2' } })
  const db = ownDatabase(postgres)
  afterAll(() => bouncer.stop())
  const options = (more: PostgresHandlerOptions = {}): PostgresHandlerOptions =>
    db.options({ host: bouncer.host, port: bouncer.port, poolerMode: 'transaction', ...more })

  beforeAll(async () => {
    const { database } = db.address
    // What a database may have set, and what no session setting of ours reaches through the pooler.
    await db.pg.executeScript(`
      ALTER DATABASE ${database} SET TimeZone = 'Asia/Kathmandu';
      ALTER DATABASE ${database} SET DateStyle = 'German';
      ALTER DATABASE ${database} SET IntervalStyle = 'iso_8601';
      ALTER DATABASE ${database} SET extra_float_digits = -3;
      ALTER DATABASE ${database} SET bytea_output = 'escape';
      CREATE TABLE kept (id int)`)
  })

  const VALUES = `SELECT '2026-01-02 03:04:05.678901+00'::timestamptz::text, '1 day 2 hours'::interval::text,
    0.1::float8 + 0.2::float8, '\\x00ff'::bytea, '2026-02-01'::date, $1::timestamptz`
  const AT = '2026-03-04 05:06:07.000001+00'
  const EXACT = ['2026-01-02 03:04:05.678901+00', '1 day 02:00:00', '0.30000000000000004', '\\x00ff', '2026-02-01', AT]

  it('reads the same values as on the server itself, in every way of reading', async () => {
    await using pg = new PostgresHandler(options())
    expect(await pg.getRows(VALUES, [AT])).toEqual([EXACT])
    expect(await pg.transaction((transaction) => transaction.getRows(VALUES, [AT]))).toEqual([EXACT])
    expect(await pg.readSnapshot((reader) => reader.getRows(VALUES, [AT]))).toEqual([EXACT])
    const [, second] = await pg.batch(['SELECT 1', `SELECT '2026-02-01 00:00+00'::timestamptz AS at`])
    expect(second?.records).toEqual([{ at: '2026-02-01 00:00:00+00' }])
    const streamed = []
    for await (const row of pg.stream(`SELECT '1 day 2 hours'::interval AS i, n FROM generate_series(1, 300) AS n`))
      streamed.push(row)
    expect([streamed.length, streamed.at(-1)]).toEqual([300, { i: '1 day 02:00:00', n: 300 }])
    const copied = await readAll(pg.copyOut(`COPY (${VALUES.replace('$1', `'${AT}'`)}) TO STDOUT (FORMAT csv)`))
    expect(String(copied.bytes)).toBe(`${EXACT.join(',')}\n`)
    await pg.executeScript(`CREATE TABLE moments (at timestamptz, bytes bytea)`)
    await pg.copyFrom('COPY moments FROM STDIN', ['2026-02-01 00:00:00\t\\\\x00ff\n'])
    // 1 February at midnight in UTC, and not 2 January in Kathmandu.
    expect(await db.pg.getRows('SELECT at, bytes FROM moments')).toEqual([['2026-02-01 00:00:00+00', '\\x00ff']])
  })

  it('leaves nothing of it to the other clients of the same servers', async () => {
    await using pg = new PostgresHandler(options({ statementTimeoutMs: 5_000 }))
    await Promise.all(Array.from({ length: 20 }, () => pg.getRows(VALUES, [AT])))
    await pg.transaction((transaction) => transaction.execute('SELECT 1'), { lockTimeoutMs: 1_000 })
    // Another program on the same servers, which sets nothing, has what the database says.
    const { user, password, database } = db.address
    const { host, port } = options() as { host: string; port: number }
    const plain = { host, port, user, password, database }
    const expected = { TimeZone: 'Asia/Kathmandu', bytea_output: 'escape', statement_timeout: '0', lock_timeout: '0' }
    const checks = Object.entries(expected).map(
      ([name, value]) => `ASSERT current_setting('${name}') = '${value}', '${name} is ' || current_setting('${name}')`,
    )
    const outcomes = await Promise.allSettled(
      [...checks, ...checks, ...checks].map((check) => runOnPostgres(plain, `DO $$ BEGIN ${check}; END $$`)),
    )
    expect(outcomes.filter(({ status }) => status === 'rejected')).toEqual([])
  })

  it('serves more clients than it has servers, and reports what fails as on the server itself', async () => {
    await using pg = new PostgresHandler(options({ pool: { max: 12, waitTimeoutMs: 0 } }))
    const ids = Array.from({ length: 200 }, (_, id) => id)
    await Promise.all(ids.map((id) => pg.execute('INSERT INTO kept VALUES ($1)', [id])))
    expect(await pg.getRows('SELECT count(DISTINCT id)::int FROM kept')).toEqual([[200]])
    const wrong = await failure(pg.getRows('SELECT amont FROM kept'))
    expect(wrong).toMatchObject({
      code: 'POSTGRES_COLUMN_NOT_FOUND',
      context: { statement: 'SELECT amont FROM kept', position: '8' },
    })
    expect(await failure(pg.batch(['SELECT 1', 'SELECT amont FROM kept']))).toMatchObject({
      context: { place: 'statement 2 of 2' },
    })
    const undone = pg.transaction(async (transaction) => {
      await transaction.execute('DELETE FROM kept')
      throw new Error('no')
    })
    expect((await failure(undone)).message).toBe('no')
    expect(await pg.getRows('SELECT count(*)::int FROM kept')).toEqual([[200]])
    expect(pg.poolStatus()).toMatchObject({ lost: 0 })
  })

  it('cancels through it, and the connection stays good', async () => {
    await using pg = new PostgresHandler(options({ pool: { max: 2 } }))
    for (let n = 0; n < 20; n++) {
      expect(await failure(pg.execute('SELECT pg_sleep(60)', [], { timeoutMs: 20 + n }))).toMatchObject({
        code: 'POSTGRES_TIMEOUT',
      })
    }
    for await (const block of pg.copyOut(`COPY (SELECT generate_series(1, 10000000), repeat('x', 100)) TO STDOUT`)) {
      if (block.rows > 0) break
    }
    expect(await db.activeBackends()).toBe(0)
    expect(await pg.getRows(VALUES, [AT])).toEqual([EXACT])
    expect(pg.poolStatus()).toMatchObject({ lost: 0 })
  })

  it('is found out where the options say that it is a server', async () => {
    await using pg = new PostgresHandler(options({ poolerMode: 'session' }))
    const error = await failure(pg.connect())
    expect(error).toMatchObject({ name: 'ConfigError', code: 'POSTGRES_POOLER_MODE', retry: 'never' })
    expect(error.message).toContain('poolerMode')
  })
})
