import { readmeExample } from '@common-handlers/testkit'
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { createConnections } from '@common-handlers/connections'
import { getMssqlEngine, mssql } from '@common-handlers/mssql'
import { describe, expect, it } from 'vitest'
import { changed, columnOf, endless, failure, result, startTdsStub, type StubAnswer } from './tds-stub.ts'

// Against the stub of tds-stub.ts, which is no SQL Server: see there.

const alone = { reuse: false }
const config = (port: number, more: object = {}) => ({
  host: '127.0.0.1',
  port,
  database: 'app',
  username: 'etl',
  password: 'a password of some length',
  sslMode: 'disable' as const,
  ...more,
})

/** An answer by a word of the statement; the first statement of tedious sets the session up. */
const answers =
  (given: Readonly<Record<string, () => StubAnswer>>) =>
  (sql: string): StubAnswer =>
    Object.entries(given).find(([word]) => sql.includes(word))?.[1]() ?? changed(0)

describe('an engine on the stub', () => {
  it('reads every type exactly', async () => {
    await using stub = await startTdsStub(
      answers({
        everything: () =>
          result(
            columnOf.integer('big', 8, -9_223_372_036_854_775_808n, null),
            columnOf.integer('int', 4, -2_147_483_648n, 7n),
            columnOf.bit('bit', true, false),
            columnOf.decimal('decimal', 15, 5, -999_999_999_999_999n, 10n),
            columnOf.nvarchar('text', 'ä\n"😀', null),
            columnOf.varbinary('bytes', Buffer.from([0, 255]), Buffer.alloc(0)),
            columnOf.date('date', '0001-01-01', '9999-12-31'),
            columnOf.time('time', '23:59:59.9999999', '00:00:00'),
            columnOf.datetime2('at', ['2026-11-21', '10:00:00.1234567'], ['0001-01-01', '00:00:00.0000001']),
            columnOf.datetimeoffset('zone', ['2026-11-21', '08:00:00.1234567', 120], ['2026-11-21', '08:00:00', -60]),
            columnOf.datetime('old', [46_345, 1], [0, 25_919_999]),
          ),
      }),
    )
    await using engine = await getMssqlEngine(config(stub.port), alone)
    const rows = [
      {
        big: -9_223_372_036_854_775_808n,
        int: -2_147_483_648,
        bit: true,
        decimal: '-9999999999.99999',
        text: 'ä\n"😀',
        bytes: Buffer.from([0, 255]),
        date: '0001-01-01',
        time: '23:59:59.9999999',
        at: '2026-11-21 10:00:00.1234567',
        zone: '2026-11-21 08:00:00.1234567 +00:00',
        old: '2026-11-21 00:00:00.003',
      },
      {
        big: null,
        int: 7,
        bit: false,
        decimal: '0.00010',
        text: null,
        bytes: Buffer.alloc(0),
        date: '9999-12-31',
        time: '00:00:00.0000000',
        at: '0001-01-01 00:00:00.0000001',
        zone: '2026-11-21 08:00:00.0000000 +00:00',
        old: '1900-01-01 23:59:59.997',
      },
    ]
    expect(await engine.query('SELECT everything')).toEqual(rows)
    expect(await Array.fromAsync(engine.stream('SELECT everything'))).toEqual(rows)
  })

  it.each([
    ['decimal', () => columnOf.decimal('v', 38, 10), 'varchar(41)'],
    ['money', () => columnOf.money('v'), 'varchar(30)'],
    ['sql_variant', () => columnOf.variant('v'), 'nvarchar(4000)'],
  ])('refuses a %s that the driver would round, and says what to select', async (_, column, advice) => {
    await using stub = await startTdsStub(answers({ rounded: () => result(column()) }))
    await using engine = await getMssqlEngine(config(stub.port), alone)
    await expect(engine.query('SELECT rounded')).rejects.toMatchObject({
      code: 'MSSQL_VALUE_INEXACT',
      outcome: 'data',
      where: { column: 'v' },
      message: expect.stringContaining(advice) as string,
    })
    expect(await engine.execute('UPDATE')).toEqual({ rowsChanged: 0 })
  })

  it('says how many rows were changed, and refuses several results and two columns of one name', async () => {
    const one = () => result(columnOf.integer('a', 4, 1n))
    await using stub = await startTdsStub(
      answers({
        'UPDATE t': () => changed(3),
        twice: () => result(columnOf.integer('a', 4, 1n), columnOf.integer('a', 4, 2n)),
        several: () => Buffer.concat([one(), one()]),
        nothing: () => result(columnOf.integer('a', 4), columnOf.integer('a', 4)),
      }),
    )
    await using engine = await getMssqlEngine(config(stub.port), alone)
    expect(await engine.execute('UPDATE t SET a = 1')).toEqual({ rowsChanged: 3 })
    expect(await engine.execute('UPDATE t SET a = @p1', [1])).toEqual({ rowsChanged: 3 })
    await expect(engine.query('SELECT twice')).rejects.toMatchObject({ code: 'MSSQL_DUPLICATE_COLUMN' })
    await expect(engine.stream('SELECT nothing').next()).rejects.toMatchObject({ code: 'MSSQL_DUPLICATE_COLUMN' })
    await expect(engine.query('SELECT several')).rejects.toMatchObject({ code: 'MSSQL_QUERY_INVALID' })
  })

  it('says what the server says', async () => {
    await using stub = await startTdsStub(answers({ gone: () => failure(208, `Invalid object name 'gone'.`) }))
    await using engine = await getMssqlEngine(config(stub.port), alone)
    await expect(engine.query('SELECT * FROM gone')).rejects.toMatchObject({
      code: 'MSSQL_TABLE_NOT_FOUND',
      outcome: 'not-found',
      context: { number: 208 },
    })
  })

  it.each([
    [18_456, `Login failed for user 'etl'.`, 'MSSQL_LOGIN_REFUSED', 'auth'],
    [4060, 'Cannot open database "app" requested by the login.', 'MSSQL_DATABASE_NOT_FOUND', 'not-found'],
  ])('reads error %i of a login', async (number, message, code, outcome) => {
    await using stub = await startTdsStub(answers({}), { login: failure(number, message) })
    await expect(getMssqlEngine(config(stub.port), alone)).rejects.toMatchObject({ code, outcome, retry: 'never' })
  })

  it('says that the server has no TLS where it was asked for', async () => {
    await using stub = await startTdsStub(answers({}))
    const asked = getMssqlEngine(config(stub.port, { sslMode: 'verify-full' }), alone)
    await expect(asked).rejects.toMatchObject({ code: 'MSSQL_TLS_NOT_AGREED', outcome: 'connection' })
  })

  it('stops the server when rows are not taken, cancels when the loop is left, and goes on', async () => {
    let portions = 0
    await using stub = await startTdsStub(answers({ endless: () => endless(() => (portions += 1)) }))
    await using engine = await getMssqlEngine(config(stub.port, { maxConnections: 1 }), alone)
    let count = 0
    for await (const { text } of engine.stream('SELECT endless')) {
      expect(text).toHaveLength(1_000)
      count += 1
      if (count === 5_000) {
        let seen = -1
        const stopped = (): boolean => seen === (seen = portions)
        await expect.poll(stopped, { interval: 200, timeout: 20_000 }).toBe(true)
        break
      }
    }
    expect(stub.cancelled).toBe(1)
    expect(await engine.execute('UPDATE')).toEqual({ rowsChanged: 0 })
  })

  it('cancels on the server with its signal', async () => {
    await using stub = await startTdsStub(answers({ slow: () => 'nothing' }))
    await using engine = await getMssqlEngine(config(stub.port), alone)
    const abort = new AbortController()
    const reason = new RangeError('changed my mind')
    const slow = engine.query('SELECT slow', [], { signal: abort.signal })
    setTimeout(() => abort.abort(reason), 50)
    await expect(slow).rejects.toBe(reason)
    expect(stub.cancelled).toBe(1)
    await expect(engine.query('SELECT slow', [], { timeoutMs: 50 })).rejects.toMatchObject({ code: 'MSSQL_TIMEOUT' })
    expect(stub.cancelled).toBe(2)
  })

  it('says that the server went away in the middle, and comes back by itself', async () => {
    await using stub = await startTdsStub(answers({ slow: () => 'nothing', one: () => result(columnOf.integer('one', 4, 1n)) }))
    await using engine = await getMssqlEngine(config(stub.port), alone)
    const lost = engine.query('SELECT slow')
    setTimeout(() => stub.cut(), 50)
    await expect(lost).rejects.toMatchObject({ code: 'MSSQL_CONNECTION_LOST', retry: 'if-idempotent' })
    expect(await engine.query('SELECT one')).toEqual([{ one: 1 }])
  })

  it('goes on after a watermark', async () => {
    const asked: string[] = []
    const rows = result(columnOf.integer('id', 8, 1n, 2n), columnOf.nvarchar('at', '0.10', '0.10'))
    await using stub = await startTdsStub((sql) => {
      asked.push(sql)
      if (sql.includes('sys.columns')) {
        return result(
          columnOf.nvarchar('name', 'id', 'at'),
          columnOf.nvarchar('type', 'bigint', 'decimal'),
          columnOf.integer('length', 4, 8n, 17n),
          columnOf.integer('precision', 4, 19n, 38n),
          columnOf.integer('scale', 4, 0n, 2n),
          columnOf.nvarchar('collation', null, null),
          columnOf.integer('position', 4, 1n, null),
        )
      }
      return sql.includes('FROM [orders]') ? rows : changed(0)
    })
    await using connections = createConnections({ connectors: [mssql], variables: {} })
    await using connector = await connections.createConnector({ protocol: 'mssql', ...config(stub.port) })
    const query = { table: 'orders', watermarkColumn: 'at' }
    const { items } = await connector.fetchData(query)
    expect(items.map(({ key, watermark, data }) => [key, watermark, data])).toEqual([
      ['1', '["0.10",{"i":"1"}]', { id: 1n, at: '0.10' }],
      ['2', '["0.10",{"i":"2"}]', { id: 2n, at: '0.10' }],
    ])
    await connector.fetchData({ ...query, watermark: items[0]?.watermark })
    expect(asked.at(-1)).toContain(
      'SELECT [id] AS [id], CONVERT(varchar(41), [at]) AS [at] FROM [orders] WHERE [at] IS NOT NULL AND ' +
        '[at] >= CONVERT(decimal(38, 2), @p1) AND ([at] > CONVERT(decimal(38, 2), @p2) OR ' +
        '[at] = CONVERT(decimal(38, 2), @p3) AND [id] > @p4) ORDER BY [orders].[at], [orders].[id]',
    )
  })
})

it('the example of README.md', async () => {
  const root = join(import.meta.dirname, '..')
  const code = await readmeExample(root)
  const catalog = () =>
    result(
      columnOf.nvarchar('name', 'id', 'changed_at'),
      columnOf.nvarchar('type', 'bigint', 'datetime2'),
      columnOf.integer('length', 4, 8n, 8n),
      columnOf.integer('precision', 4, 19n, 27n),
      columnOf.integer('scale', 4, 0n, 7n),
      columnOf.nvarchar('collation', null, null),
      columnOf.integer('position', 4, 1n, null),
    )
  const order = () =>
    result(
      columnOf.integer('id', 8, 9_007_199_254_740_993n),
      columnOf.datetime2('changed_at', ['2026-11-21', '10:00:00.1234567']),
    )
  await using stub = await startTdsStub(
    answers({ 'sys.columns': catalog, '@p1': () => result(columnOf.integer('id', 8)), '[sales].[orders]': order }),
  )
  const variables = {
    MSSQL_HOST: '127.0.0.1',
    MSSQL_PORT: String(stub.port),
    MSSQL_DATABASE: 'app',
    MSSQL_USERNAME: 'etl',
    MSSQL_PASSWORD: 'a password of some length',
    MSSQL_SSL_MODE: 'disable',
  }
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['--conditions=@common-handlers/source', '--input-type=module-typescript', '-e', code],
    { cwd: root, env: { ...process.env, ...variables } },
  )
  expect(stdout).toBe(
    `{ id: 9007199254740993n, changed_at: '2026-11-21 10:00:00.1234567' } ["2026-11-21 10:00:00.1234567",{"i":"9007199254740993"}]\n`,
  )
})
