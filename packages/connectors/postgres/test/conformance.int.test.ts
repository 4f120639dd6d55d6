import { createConnections, ingestionResultSchema } from '@common-handlers/connections'
import { getPostgresEngine, postgres } from '@common-handlers/postgres'
import { connectorConformance, createDatabase, describeWith, runOnPostgres, sqlConformance } from '@common-handlers/testkit'
import { afterAll, beforeAll } from 'vitest'

describeWith(['postgres'], 'postgres', (server) => {
  const connections = createConnections({ connectors: [postgres], variables: {} })
  const { host, port, user: username, password } = server.postgres
  let database: Awaited<ReturnType<typeof createDatabase>>
  const config = { host, port, username, password, database: '' }

  beforeAll(async () => {
    database = await createDatabase(server.postgres, 'connector')
    config.database = database.database
    await runOnPostgres(
      database,
      'CREATE TABLE orders (id int8 PRIMARY KEY, at int4 NOT NULL); INSERT INTO orders SELECT i, i % 7 FROM generate_series(1, 10000) i',
    )
  })
  afterAll(async () => {
    await connections.closeAllConnections()
    await database.drop()
  })

  const query = { table: 'orders', watermarkColumn: 'at' }
  connectorConformance('postgres', {
    protocol: 'postgres',
    connections,
    schema: ingestionResultSchema,
    config,
    query,
    count: 10_000,
    after: (watermark) => ({ ...query, watermark }),
    at: (other) => ({ ...config, port: other }),
    refused: {
      ...config,
      password: 'not the password of anybody',
      get database() {
        return config.database
      },
    },
    another: {
      ...config,
      maxConnections: 2,
      get database() {
        return config.database
      },
    },
    secret: password,
  })

  sqlConformance('postgres', {
    protocol: 'postgres',
    connections,
    config,
    engine: () => getPostgresEngine(config, { reuse: false }),
    quote: (name) => `"${name.replaceAll('"', '""')}"`,
    bound: '$1::text',
    integer: 'int8',
    values: [
      ['NULL', null],
      ['true', true],
      ['9223372036854775807::int8', 9_223_372_036_854_775_807n],
      ['(-32768)::int2', -32_768],
      ['0.1::float4', 0.1],
      ['5e-324::float8', 5e-324],
      [`'NaN'::float8`, 'NaN'],
      ['12345678901234567890.123456789012345678900', '12345678901234567890.123456789012345678900'],
      [`'2026-11-21 10:00:00.123456+02'::timestamptz`, '2026-11-21 08:00:00.123456+00'],
      [`'0044-03-15 BC'::date`, '0044-03-15 BC'],
      [`'{"a":12345678901234567890}'::json`, '{"a":12345678901234567890}'],
      [`'{1,NULL}'::int4[]`, '{1,NULL}'],
      [`'\\x00ff'::bytea`, Buffer.from([0, 255])],
      [`E'ä\\n"'`, 'ä\n"'],
    ],
    watermarks: {
      int8: ['-1', '9007199254740992', '9007199254740993', '9223372036854775807'],
      numeric: ['-1e30', '0.1', '12345678901234567890.1', '12345678901234567890.10000000001'],
      float8: ['-1e300', '0.1', '0.30000000000000004'],
      float4: ['0.1', '0.2', '16777216'],
      timestamptz: [`'2026-11-21 10:00:00.123456+02'`, `'2026-11-21 08:00:00.123457Z'`, `'infinity'`],
      timestamp: [`'0044-03-15 BC'`, `'2026-11-21 10:00:00.123456'`, `'2026-11-21 10:00:00.123457'`],
      text: [`''`, `'a'`, `'it''s'`, `'ä'`],
      uuid: [`'00000000-0000-0000-0000-000000000001'`, `'ffffffff-0000-0000-0000-000000000001'`],
      bool: ['false', 'true'],
    },
    many: (rows, characters) => `SELECT n, repeat('x', ${characters}) AS text FROM generate_series(1, ${rows}) n`,
    slow: 'SELECT pg_sleep(60)',
    running: async () => {
      await using engine = await getPostgresEngine(config, { reuse: false })
      const rows = await engine.query(
        `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid()`,
      )
      return rows.length
    },
  })
})
