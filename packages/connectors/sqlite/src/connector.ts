import {
  type ConfigArgument,
  type ConnectionOptions,
  type ConnectorContext,
  type ConnectorDefinition,
  exactJson,
  getConnection,
  type IngestedItem,
  ingestedItem,
  type Leased,
  testConnection,
} from '@common-handlers/connections'
import type { CheckResult } from '@common-handlers/core'
import { type SqliteConfig, type SqliteConfigInput, sqliteConfigSchema } from './config.ts'
import type { SqliteEngine, SqliteRow } from './engine.ts'
import { type Extraction, extraction, type SqliteQuery, watermarkOf } from './incremental.ts'

/** SQLite files. */
export const sqlite: ConnectorDefinition<'sqlite', SqliteConfigInput, SqliteConfig, SqliteEngine, SqliteQuery> = {
  protocol: 'sqlite',
  prefix: 'SQLITE',
  packageName: '@common-handlers/sqlite',
  configSchema: sqliteConfigSchema,
  fromUrl: (url) => ({ databasePath: decodeURIComponent(url.pathname) }),
  open: async (config, { signal }) => {
    const engine = await createEngine(config)
    try {
      await engine.connect({ signal })
    } catch (error) {
      await engine.close()
      throw error
    }
    return engine
  },
  test: async (config, { signal }) => {
    await using engine = await createEngine(config)
    return await engine.check({ signal })
  },
  fetch: fetchRows,
}

/** An engine for a file; the same configuration gives the same engine, and `close()` gives it back. */
export function getSqliteEngine(
  config?: ConfigArgument<typeof sqlite>,
  options?: ConnectionOptions,
): Promise<Leased<SqliteEngine>> {
  return getConnection(sqlite, config, options)
}

/** Tries to open a file and to read from it. */
export function testSqliteConnection(
  config?: ConfigArgument<typeof sqlite>,
  options?: Parameters<typeof testConnection>[2],
): Promise<CheckResult> {
  return testConnection(sqlite, config, options)
}

/** SQLite is loaded with the first engine. */
async function createEngine(config: SqliteConfig): Promise<SqliteEngine> {
  const { SqliteEngine } = await import('./engine.ts')
  return new SqliteEngine(config)
}

async function* fetchRows(
  engine: SqliteEngine,
  query: SqliteQuery,
  { signal }: ConnectorContext,
): AsyncGenerator<IngestedItem, void, undefined> {
  const plan = await extraction(engine, query, signal)
  const source = `sqlite:${engine.path}${'table' in query ? `#${query.table}` : ''}`
  let position = 0
  for await (const row of engine.stream(plan.sql, plan.parameters, { signal })) {
    const watermark = watermarkOf(row, plan)
    const key = keyOf(row, plan)
    yield ingestedItem({
      source,
      ...(key === undefined ? {} : { key }),
      data: plan.hidden.length === 0 ? row : without(row, plan.hidden),
      ...(watermark === undefined ? {} : { watermark }),
      lineage: { protocol: 'sqlite', query: plan.sql, position: position++ },
    })
  }
}

/** One column as it is, several as a JSON list. */
function keyOf(row: SqliteRow, { key }: Extraction): string | undefined {
  const [only, ...more] = key
  if (only === undefined) return undefined
  return more.length === 0 ? String(row[only]) : exactJson(key.map((name) => row[name]))
}

const without = (row: SqliteRow, hidden: readonly string[]): SqliteRow =>
  Object.fromEntries(Object.entries(row).filter(([name]) => !hidden.includes(name)))
