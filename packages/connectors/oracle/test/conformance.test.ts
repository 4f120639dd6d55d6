import { createConnections, ingestionResultSchema } from '@common-handlers/connections'
import { getOracleEngine, oracle } from '@common-handlers/oracle'
import { connectorConformance, describeGiven, sqlConformance } from '@common-handlers/testkit'
import { afterAll, beforeAll, expect, it } from 'vitest'

const connections = createConnections({ connectors: [oracle], variables: {} })
afterAll(() => connections.closeAllConnections())

it('is there by its protocol', () => {
  expect(connections.protocols).toContain('oracle')
})

// A real one, where there is one: oracle://user:password@host:1521/service?sslMode=disable
describeGiven('TEST_ORACLE_URL', 'on Oracle', ({ pathname, hostname, port, username, password, searchParams }) => {
  const config = {
    host: hostname,
    ...(port === '' ? {} : { port: Number(port) }),
    serviceName: decodeURIComponent(pathname.slice(1)),
    username: decodeURIComponent(username),
    password: decodeURIComponent(password),
    sslMode: (searchParams.get('sslMode') ?? 'disable') as 'disable',
  }
  const engine = () => getOracleEngine(config, { reuse: false })

  beforeAll(async () => {
    await using made = await engine()
    await made.execute('DROP TABLE orders').catch(() => undefined)
    await made.execute('CREATE TABLE orders (id NUMBER(19) PRIMARY KEY, at NUMBER(5) NOT NULL)')
    await made.execute('INSERT INTO orders SELECT LEVEL, MOD(LEVEL, 7) FROM dual CONNECT BY LEVEL <= 10000')
  })
  afterAll(async () => {
    await using made = await engine()
    await made.execute('DROP TABLE orders')
  })

  const query = { table: 'ORDERS', watermarkColumn: 'AT' }
  connectorConformance('oracle', {
    protocol: 'oracle',
    connections,
    schema: ingestionResultSchema,
    config,
    query,
    count: 10_000,
    after: (watermark) => ({ ...query, watermark }),
    at: (other) => ({ ...config, port: other }),
    refused: { ...config, password: 'not the password of anybody' },
    another: { ...config, fetchRows: 10 },
    secret: config.password,
  })

  sqlConformance('oracle', {
    protocol: 'oracle',
    connections,
    config,
    engine,
    quote: (name) => `"${name}"`,
    forbidden: '"',
    bound: ':1',
    from: 'FROM dual',
    integer: 'NUMBER(19)',
    values: [
      ['CAST(NULL AS NUMBER)', null],
      ['CAST(9223372036854775807 AS NUMBER(19))', 9_223_372_036_854_775_807n],
      ['CAST(12345678901234567890.1234567891 AS NUMBER(38, 10))', '12345678901234567890.1234567891'],
      ['TO_BINARY_DOUBLE(0.1)', 0.1],
      [`TO_CHAR(TIMESTAMP '2026-11-21 10:00:00.123456789', 'YYYY-MM-DD HH24:MI:SS.FF9')`, '2026-11-21 10:00:00.123456789'],
      [`HEXTORAW('00FF')`, Buffer.from([0, 255])],
      [`TO_CLOB('text')`, 'text'],
    ],
    watermarks: {
      'NUMBER(19)': ['-1', '9007199254740992', '9007199254740993', '9223372036854775807'],
      NUMBER: ['-1', '0.1', '12345678901234567890.1', '12345678901234567890.10000000001'],
      DATE: [`DATE '2026-11-21'`, `TIMESTAMP '2026-11-21 10:00:01'`],
      'TIMESTAMP(9)': [`TIMESTAMP '2026-11-21 10:00:00.123456788'`, `TIMESTAMP '2026-11-21 10:00:00.123456789'`],
      'TIMESTAMP(6) WITH TIME ZONE': [`TIMESTAMP '2026-11-21 10:00:00.1 +02:00'`, `TIMESTAMP '2026-11-21 08:00:00.2 +00:00'`],
      'VARCHAR2(20)': [`'a'`, `'it''s'`],
    },
    many: (rows, characters) =>
      `SELECT LEVEL AS "n", RPAD(TO_CLOB('x'), ${characters}, 'x') AS "text" FROM dual CONNECT BY LEVEL <= ${rows}`,
  })
})
