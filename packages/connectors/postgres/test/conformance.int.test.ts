import { createConnections, ingestionResultSchema } from '@common-handlers/connections'
import { postgres } from '@common-handlers/postgres'
import { connectorConformance, createDatabase, describeWith, runOnPostgres } from '@common-handlers/testkit'
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
    secret: password,
  })
})
