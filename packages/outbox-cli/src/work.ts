import { once } from 'node:events'
import { extname, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { type CommandContext, parseDuration } from '@common-handlers/cli'
import { ConfigError } from '@common-handlers/core'
import {
  OutboxMetrics,
  OutboxSupervisor,
  OutboxWorker,
  type OutboxWorkerOptions,
  supervised,
  type SupervisedStatus,
} from '@common-handlers/outbox'
import { connectionUrl, environmentOfProcesses, type OutboxCliConfig } from './config.ts'
import { openPool, type Pool } from './database.ts'

/** What the module of `outbox work <module>` exports as its default: the handlers, and how the worker is to be. */
export type WorkerModule = Omit<OutboxWorkerOptions, 'pool' | 'logger'>

export async function work(context: CommandContext<OutboxCliConfig>): Promise<void> {
  const { config, options, logger, signal } = context
  const grace = typeof options['grace'] === 'string' ? options['grace'] : '10s'
  const graceMs = parseDuration(grace, '--grace')
  const module = typeof options['module'] === 'string' ? options['module'] : ''
  const processes = Number(options['processes'] ?? 1)
  if (!Number.isInteger(processes) || processes < 1 || processes > 1000)
    throw new ConfigError('--processes: expected 1 to 1000', { code: 'CLI_USAGE' })
  const given = await load(module)
  const schema = given.schema ?? config.schema
  const pool = openPool(config, options['url'], logger)
  try {
    if (processes > 1) return await supervise(context, pool, schema, processes, ['work', module, '--grace', grace], graceMs)
    const worker = new OutboxWorker({ ...given, schema, pool, logger })
    // A supervisor's process is ended by what it agrees on with the supervisor.
    if (process.connected) {
      await supervised(worker, { graceMs, onStop: () => pool.end() })
      await new Promise(() => undefined)
    }
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

/** So many processes of this program, each with a worker, replaced when they die or hang. */
async function supervise(
  context: CommandContext<OutboxCliConfig>,
  pool: Pool,
  schema: string,
  processes: number,
  argv: readonly string[],
  graceMs: number,
): Promise<void> {
  const { config, options, logger, signal } = context
  const supervisor = new OutboxSupervisor({
    workers: processes,
    script: new URL(`./main${extname(import.meta.filename)}`, import.meta.url),
    args: [...argv, ...globalOptions(options)],
    env: environmentOfProcesses(connectionUrl(config, options['url'])),
    graceMs: graceMs + 5000,
    signals: false,
    logger,
  })
  const metrics = new OutboxMetrics({ outbox: { pool, schema } })
  context.metrics(async () => `${await metrics.render()}${processMetrics(supervisor.status())}`)
  signal.throwIfAborted()
  supervisor.start()
  await once(signal, 'abort')
  await supervisor.stop()
  signal.throwIfAborted()
}

/** What holds for this program holds for its processes; they do not listen. */
function globalOptions(options: Readonly<Record<string, unknown>>): string[] {
  const { config, set, logLevel, json } = options
  return [
    ...(typeof config === 'string' ? ['--config', config] : []),
    ...(Array.isArray(set) ? set.flatMap((setting) => ['--set', String(setting)]) : []),
    ...(typeof logLevel === 'string' ? ['--log-level', logLevel] : []),
    ...(json === true ? ['--json'] : []),
  ]
}

function processMetrics(status: readonly SupervisedStatus[]): string {
  const states = ['starting', 'running', 'stopping', 'waiting', 'stopped'] as const
  return [
    '# HELP outbox_processes Processes with workers, by their state',
    '# TYPE outbox_processes gauge',
    ...states.map((state) => `outbox_processes{state="${state}"} ${status.filter((one) => one.state === state).length}`),
    '# HELP outbox_process_restarts_total Processes that were replaced',
    '# TYPE outbox_process_restarts_total counter',
    `outbox_process_restarts_total ${status.reduce((sum, { restarts }) => sum + restarts, 0)}`,
    '',
  ].join('\n')
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
