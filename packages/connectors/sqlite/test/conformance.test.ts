import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { createConnections, ingestionResultSchema } from '@common-handlers/connections'
import { sqlite } from '@common-handlers/sqlite'
import { connectorConformance } from '@common-handlers/testkit'
import { afterAll } from 'vitest'

const folder = mkdtempSync(join(tmpdir(), 'sqlite-'))
const databasePath = join(folder, 'source.db')
const connections = createConnections({ connectors: [sqlite], variables: {} })

afterAll(async () => {
  await connections.closeAllConnections()
  rmSync(folder, { recursive: true })
})

const made = new DatabaseSync(databasePath)
made.exec(`
  CREATE TABLE orders (id INTEGER PRIMARY KEY, at INTEGER NOT NULL);
  INSERT INTO orders WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) SELECT i, i % 7 FROM n`)
made.close()

const query = { table: 'orders', watermarkColumn: 'at' }
connectorConformance('sqlite', {
  protocol: 'sqlite',
  connections,
  schema: ingestionResultSchema,
  config: { databasePath },
  query,
  count: 10_000,
  after: (watermark) => ({ ...query, watermark }),
})
