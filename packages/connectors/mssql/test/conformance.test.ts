import { createConnections, ingestionResultSchema } from '@common-handlers/connections'
import { getMssqlEngine, mssql } from '@common-handlers/mssql'
import { connectorConformance, describeGiven, sqlConformance } from '@common-handlers/testkit'
import { afterAll, beforeAll, describe } from 'vitest'
import { changed, columnOf, result, startTdsStub, type TdsStub } from './tds-stub.ts'

const connections = createConnections({ connectors: [mssql], variables: {} })
afterAll(() => connections.closeAllConnections())

// How it is configured, read from, stopped and closed: on the stub of tds-stub.ts, which is no SQL Server.
describe('on the stub', () => {
  const password = 'a password of some length'
  const config = { host: '127.0.0.1', port: 1, database: 'app', username: 'etl', password, sslMode: 'disable' }
  const count = 10_000
  const numbers = Array.from({ length: count }, (_, index) => BigInt(index))
  let stub: TdsStub
  beforeAll(async () => {
    const rows = result(columnOf.integer('id', 8, ...numbers))
    const nothing = result(columnOf.nvarchar('v', 'found'))
    const catalog = result(
      columnOf.nvarchar('name', 'id'),
      columnOf.nvarchar('type', 'bigint'),
      columnOf.integer('length', 4, 8n),
      columnOf.integer('precision', 4, 19n),
      columnOf.integer('scale', 4, 0n),
      columnOf.nvarchar('collation', null),
      columnOf.integer('position', 4, 1n),
    )
    stub = await startTdsStub((sql) => {
      if (sql.includes('sys.columns')) return catalog
      if (sql.includes('FROM [orders]')) return rows
      return sql.includes('SELECT') ? nothing : changed(0)
    })
    config.port = stub.port
  })
  afterAll(() => stub[Symbol.asyncDispose]())

  connectorConformance('mssql', {
    protocol: 'mssql',
    connections,
    schema: ingestionResultSchema,
    config,
    query: { table: 'orders' },
    count,
    at: (port) => ({ ...config, port }),
    another: {
      ...config,
      applicationName: 'another',
      get port() {
        return config.port
      },
    },
    secret: password,
  })
})

// A real one, where there is one: mssql://user:password@host:1433/database?sslMode=require
describeGiven('TEST_MSSQL_URL', 'on SQL Server', ({ pathname, hostname, port, username, password, searchParams }) => {
  const config = {
    host: hostname,
    ...(port === '' ? {} : { port: Number(port) }),
    database: decodeURIComponent(pathname.slice(1)),
    username: decodeURIComponent(username),
    password: decodeURIComponent(password),
    sslMode: (searchParams.get('sslMode') ?? 'verify-full') as 'verify-full',
  }
  const quote = (name: string): string => `[${name.replaceAll(']', ']]')}]`
  const engine = () => getMssqlEngine(config, { reuse: false })

  beforeAll(async () => {
    await using made = await engine()
    await made.execute(`
      DROP TABLE IF EXISTS orders; CREATE TABLE orders (id bigint PRIMARY KEY, at int NOT NULL);
      INSERT INTO orders SELECT TOP (10000) ROW_NUMBER() OVER (ORDER BY (SELECT 1)), ROW_NUMBER() OVER (ORDER BY (SELECT 1)) % 7
        FROM sys.all_columns a CROSS JOIN sys.all_columns b`)
  })
  afterAll(async () => {
    await using made = await engine()
    await made.execute('DROP TABLE orders')
  })

  const query = { table: 'orders', watermarkColumn: 'at' }
  connectorConformance('mssql', {
    protocol: 'mssql',
    connections,
    schema: ingestionResultSchema,
    config,
    query,
    count: 10_000,
    after: (watermark) => ({ ...query, watermark }),
    at: (other) => ({ ...config, port: other }),
    refused: { ...config, password: 'not the password of anybody' },
    another: { ...config, applicationName: 'another' },
    secret: config.password,
  })

  sqlConformance('mssql', {
    protocol: 'mssql',
    connections,
    config,
    engine,
    quote,
    bound: '@p1',
    integer: 'bigint',
    values: [
      ['CAST(NULL AS int)', null],
      ['CAST(1 AS bit)', true],
      ['CAST(9223372036854775807 AS bigint)', 9_223_372_036_854_775_807n],
      ['CAST(1.5 AS decimal(10, 2))', '1.50'],
      [`CAST('2026-11-21 10:00:00.1234567' AS datetime2(7))`, '2026-11-21 10:00:00.1234567'],
      [`CAST('23:59:59.9999999' AS time(7))`, '23:59:59.9999999'],
      [`CAST('0001-01-01' AS date)`, '0001-01-01'],
      ['0x00FF', Buffer.from([0, 255])],
      [`N'ä"😀'`, 'ä"😀'],
    ],
    watermarks: {
      bigint: ['-1', '9007199254740992', '9007199254740993', '9223372036854775807'],
      'decimal(38, 11)': ['-1', '0.1', '12345678901234567890.1', '12345678901234567890.10000000001'],
      money: ['-1', '0.1', '922337203685477.5806', '922337203685477.5807'],
      float: ['-1e300', '0.1', '0.30000000000000004'],
      'datetime2(7)': [`'2026-11-21 10:00:00.1234567'`, `'2026-11-21 10:00:00.1234568'`],
      datetime: [`'2026-11-21 10:00:00.003'`, `'2026-11-21 10:00:00.007'`],
      'varchar(20)': [`''`, `'a'`, `'it''s'`],
      'nvarchar(20)': [`N''`, `N'a'`, `N'ä'`, `N'b'`],
    },
    many: (rows, characters) => `
      SELECT TOP (${rows}) ROW_NUMBER() OVER (ORDER BY (SELECT 1)) AS n, REPLICATE(CAST('x' AS varchar(max)), ${characters}) AS text
        FROM sys.all_columns a CROSS JOIN sys.all_columns b`,
    slow: `WAITFOR DELAY '00:01:00'; SELECT 1 AS v`,
    running: async () => {
      await using other = await engine()
      const rows = await other.query(
        `SELECT r.session_id FROM sys.dm_exec_requests r JOIN sys.dm_exec_sessions s ON s.session_id = r.session_id
          WHERE s.is_user_process = 1 AND r.session_id <> @@SPID AND s.program_name = 'common-handlers'`,
      )
      return rows.length
    },
  })
})
