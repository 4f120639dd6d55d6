import { once } from 'node:events'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { type CommandContext, parseDuration } from '@common-handlers/cli'
import { ConfigError } from '@common-handlers/core'
import { OutboxMetrics, OutboxWorker, type OutboxWorkerOptions } from '@common-handlers/outbox'
import type { OutboxCliConfig } from './config.ts'
import { openPool } from './database.ts'

/** What the module of `outbox work <module>` exports as its default: the handlers, and how the worker is to be. */
export type WorkerModule = Omit<OutboxWorkerOptions, 'pool' | 'logger'>

export async function work(context: CommandContext<OutboxCliConfig>): Promise<void> {
  const { config, options, logger, signal } = context
  const graceMs = parseDuration(typeof options['grace'] === 'string' ? options['grace'] : '10s', '--grace')
  const given = await load(typeof options['module'] === 'string' ? options['module'] : '')
  const pool = openPool(config, options['url'], logger)
  try {
    const schema = given.schema ?? config.schema
    const worker = new OutboxWorker({ ...given, schema, pool, logger })
    const metrics = new OutboxMetrics({ workers: [worker], outbox: { pool, schema } })
    context.metrics(() => metrics.render())
    signal.throwIfAborted()
    await worker.start()
    if (!signal.aborted) await once(signal, 'abort')
    await worker.stop({ graceMs })
    signal.throwIfAborted()
  } finally {
    await pool.end()
  }
}

/** TypeScript runs as it is: the types are stripped by Node. */
async function load(path: string): Promise<WorkerModule> {
  let loaded: { readonly default?: unknown }
  try {
    loaded = (await import(pathToFileURL(resolve(path)).href)) as { readonly default?: unknown }
  } catch (cause) {
    throw invalid(path, `it cannot be loaded: ${cause instanceof Error ? cause.message : String(cause)}`, cause)
  }
  const { default: given } = loaded
  if (typeof given !== 'object' || given === null || !('handlers' in given))
    throw invalid(path, 'its default export is { handlers: { … }, … }')
  for (const key of ['pool', 'logger']) if (key in given) throw invalid(path, `${key} is given by the program`)
  return given as WorkerModule
}

function invalid(path: string, message: string, cause?: unknown): ConfigError {
  return new ConfigError(`${path}: ${message}`, { code: 'OUTBOX_CLI_MODULE_INVALID', ...(cause === undefined ? {} : { cause }) })
}
