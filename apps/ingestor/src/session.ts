import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'
import { ConfigError, type Logger } from '@common-handlers/core'
import type { IngestorConfig } from './config.ts'
import type { Engine } from './engine.ts'
import { openStore, type RunStore } from './store.ts'
import { TrinoEngine } from './trino-engine.ts'

/** The store and the engine of one invocation, closed together. */
export interface Session extends AsyncDisposable {
  readonly config: IngestorConfig
  readonly store: RunStore
  readonly engine: Engine
  readonly logger: Logger
  /** Names this invocation in the ledger. */
  readonly owner: string
}

/**
 * Opens store and engine. Nothing is connected before the first call; DuckDB is loaded only when it is the engine.
 * `readOnly` keeps a DuckDB file as it is.
 */
export async function openSession(
  config: IngestorConfig,
  logger: Logger,
  options: { readonly readOnly?: boolean } = {},
): Promise<Session> {
  const store = openStore(config, logger)
  try {
    const engine = await openEngine(config, store, logger, options.readOnly ?? false)
    return {
      config,
      store,
      engine,
      logger,
      owner: `${hostname()}/${process.pid}/${randomBytes(4).toString('hex')}`,
      [Symbol.asyncDispose]: async () => {
        await engine[Symbol.asyncDispose]()
        await store.objects.close()
      },
    }
  } catch (error) {
    await store.objects.close()
    throw error
  }
}

async function openEngine(config: IngestorConfig, store: RunStore, logger: Logger, readOnly: boolean): Promise<Engine> {
  const { engine, trino, duckdb } = config
  if (engine === 'trino' && trino !== undefined) return new TrinoEngine({ config, trino, store: store.objects, logger })
  if (engine === 'duckdb' && duckdb !== undefined) {
    const { openDuckDbEngine } = await import('./duckdb-engine.ts')
    return openDuckDbEngine({ config, duckdb, store: store.objects, logger, readOnly })
  }
  throw new ConfigError(`engine ${engine} needs the key ${engine}`, { code: 'CONFIG_INVALID' })
}
