import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { createConnections, ingestionResultSchema } from '@common-handlers/connections'
import { getSqliteEngine, sqlite } from '@common-handlers/sqlite'
import { connectorConformance, sqlConformance } from '@common-handlers/testkit'
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
  another: { databasePath, readOnly: true },
  query,
  count: 10_000,
  after: (watermark) => ({ ...query, watermark }),
})

sqlConformance('sqlite', {
  protocol: 'sqlite',
  connections,
  config: { databasePath },
  engine: () => getSqliteEngine({ databasePath }, { reuse: false }),
  quote: (name) => `"${name.replaceAll('"', '""')}"`,
  bound: '?',
  integer: 'INTEGER',
  values: [
    ['NULL', null],
    ['9223372036854775807', 9_223_372_036_854_775_807n],
    ['0.1', 0.1],
    [`'ä' || char(10) || '"'`, 'ä\n"'],
    [`x'00ff'`, new Uint8Array([0, 255])],
  ],
  watermarks: {
    INTEGER: ['-1', '9007199254740992', '9007199254740993', '9223372036854775807'],
    REAL: ['-1e300', '0.1', '0.30000000000000004'],
    TEXT: [`''`, `'2026-11-21 10:00:00.123456'`, `'2026-11-21 10:00:00.123457'`, `'it''s'`, `'ä'`],
  },
  many: (rows, characters) =>
    `WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < ${rows}) SELECT n, printf('%.*c', ${characters}, 'x') AS text FROM c`,
})
