import { setTimeout as sleep } from 'node:timers/promises'
import {
  ConfigError,
  type ConfigTree,
  configKeys,
  environmentName,
  type Explained,
  fromText,
  HandlerError,
  loadConfig,
  type Logger,
  mergeConfig,
  scrub,
  setConfigValue,
} from '@common-handlers/core'
import type { z } from 'zod'
import {
  type App,
  type AppCommand,
  type CommandContext,
  type GlobalOptions,
  type LogLevel,
  logLevels,
  type Terminal,
} from './app.ts'
import { exitCodes, Interrupted } from './exit-code.ts'
import { exitCodeOf } from './exit-code-of.ts'
import { formatTable, parseDuration } from './format.ts'
import { createLogger } from './log.ts'
import { createProgress, type Progress } from './progress.ts'
import { createTelemetry, type Telemetry } from './telemetry.ts'

/** Runs one command, again and again where it was asked for, and returns the exit code. */
export async function runCommand<S extends z.ZodType>(
  app: App<S>,
  command: AppCommand<z.output<S>>,
  options: GlobalOptions & Readonly<Record<string, unknown>>,
  terminal: Terminal,
  signal: AbortSignal,
): Promise<number> {
  const human = terminal.stdout.isTTY === true && options.json !== true
  const humanLog = terminal.stderr.isTTY === true && options.json !== true
  const envLevel = terminal.env[`${app.envPrefix}_LOG_LEVEL`]
  const level = options.logLevel ?? (logLevels as readonly string[]).find((known) => known === envLevel) ?? 'info'
  const logger = createLogger({
    name: app.name,
    level: level as LogLevel,
    human: humanLog,
    write: (line) => void terminal.stderr.write(line),
  })
  const print: CommandContext<unknown>['print'] = ({ text, json }) =>
    void terminal.stdout.write(`${scrub(human ? text : JSON.stringify(json, jsonValue))}\n`)
  const given = (option: string | undefined, name: string): string | undefined =>
    option ?? (terminal.env[`${app.envPrefix}_${name}`] || undefined)
  const failure = (error: unknown): number => {
    const code = exitCodeOf(error)
    if (humanLog) terminal.stderr.write(`${scrub(describeFailure(error))}\n`)
    else logger.error({ error, exitCode: code }, `${command.name} failed`)
    return code
  }
  const once = async (telemetry: Telemetry | undefined): Promise<number> => {
    signal.throwIfAborted()
    await using loaded = await loadAppConfig(app, options, terminal, logger, signal)
    const drawn = (label: string): Progress =>
      createProgress({
        label,
        terminal: humanLog && options.progress,
        logger,
        write: (text) => void terminal.stderr.write(text),
        columns: () => terminal.stderr.columns ?? 80,
      })
    const result = await command.run({
      config: loaded.value,
      explain: loaded.explain,
      logger,
      signal,
      options,
      human,
      progress: (label) => telemetry?.observe(drawn(label)) ?? drawn(label),
      metrics: (source) => telemetry?.addMetrics(source),
      print,
    })
    return result ?? exitCodes.ok
  }
  try {
    if (options['keys'] === true && command.name === 'explain-config') {
      print(listKeys(app.envPrefix, await app.config()))
      return exitCodes.ok
    }
    const every = command.repeatable === true ? given(options.every, 'EVERY') : options.every
    if (every !== undefined && command.repeatable !== true) {
      throw new ConfigError(`--every: ${command.name} is not repeated`, { code: 'CLI_USAGE' })
    }
    const everyMs = every === undefined ? undefined : parseDuration(every, '--every')
    // Only what moves data has something to tell; a check beside it must not take its port.
    const tells = command.repeatable === true || command.lasting === true
    const listen = tells ? given(options.listen, 'LISTEN') : options.listen
    const push = tells ? given(options.pushMetrics, 'PUSH_METRICS') : options.pushMetrics
    const telemetry =
      listen === undefined && push === undefined ? undefined : await createTelemetry(app.name, command.name, logger)
    await using _listening = listen === undefined ? undefined : await telemetry?.listen(listen)
    for (;;) {
      telemetry?.runBegan()
      const code = await once(telemetry).catch((thrown: unknown) => {
        const error: unknown = signal.aborted && signal.reason instanceof Interrupted ? signal.reason : thrown
        return failure(error)
      })
      telemetry?.runEnded(code === exitCodes.ok ? 'ok' : signal.aborted ? 'interrupted' : 'failed')
      if (push !== undefined) await telemetry?.push(push)
      // What is wrong in the configuration is as wrong the next time.
      if (everyMs === undefined || code === exitCodes.usage) return code
      if (signal.aborted) return exitCodeOf(signal.reason)
      try {
        await sleep(everyMs, undefined, { signal })
      } catch {
        return failure(signal.reason)
      }
    }
  } catch (thrown) {
    return failure(thrown)
  }
}

const jsonValue = (_key: string, value: unknown): unknown => (typeof value === 'bigint' ? value.toString() : value)

function describeFailure(error: unknown): string {
  if (error instanceof Interrupted) return `${error.message}; nothing half-done is left visible`
  if (!HandlerError.is(error)) return `error: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`
  const again = error.retry === 'never' ? '' : '; trying again later may help'
  return `error: ${error.message}\n       (${error.code}${again})`
}

async function loadAppConfig<S extends z.ZodType>(
  app: App<S>,
  options: GlobalOptions,
  terminal: Terminal,
  logger: Logger,
  signal: AbortSignal,
): Promise<{ value: z.output<S>; explain: () => Explained[] } & AsyncDisposable> {
  const schema = await app.config()
  const layers = {
    schema,
    file: options.config ?? terminal.env[`${app.envPrefix}_CONFIG`],
    env: { prefix: app.envPrefix, variables: terminal.env },
    overrides: overridesOf(schema, options.set),
  }
  const { resolvers, [Symbol.asyncDispose]: dispose } = await app.resolvers(await mergeConfig(layers), {
    logger,
    signal,
    env: terminal.env,
  })
  try {
    const { value, explain } = await loadConfig({ ...layers, resolvers })
    return { value, explain, [Symbol.asyncDispose]: dispose }
  } catch (error) {
    await dispose()
    throw error
  }
}

/** `--set source.table=app.audit_log` as a tree. */
function overridesOf(schema: z.ZodType, settings: readonly string[]): ConfigTree {
  const keys = configKeys(schema)
  const tree: Record<string, unknown> = {}
  for (const setting of settings) {
    const at = setting.indexOf('=')
    if (at <= 0) {
      throw new ConfigError(`--set ${setting}: expected key=value, such as --set store=file:///data`, { code: 'CLI_USAGE' })
    }
    const path = setting.slice(0, at).split('.')
    const key = keys.find((candidate) => candidate.path.join('.') === path.join('.'))
    setConfigValue(tree, path, fromText(setting.slice(at + 1), key ?? { type: 'json', path }, '--set'))
  }
  return tree
}

/** What `explain-config` shows of a configuration. */
export function explainConfig({ explain, print }: CommandContext<unknown>): void {
  const lines = explain()
  const show = (value: unknown): string => (typeof value === 'string' ? value : JSON.stringify(value))
  print({
    text: formatTable([['key', 'value', 'from'], ...lines.map((line) => [line.key, show(line.value), line.origin])]),
    json: lines,
  })
}

function listKeys(envPrefix: string, schema: z.ZodType): { text: string; json: unknown } {
  const keys = configKeys(schema).map((key) => ({
    key: key.path.join('.'),
    environment: environmentName(envPrefix, key.path),
    type: key.type,
    default: key.required ? '(required)' : key.default,
    description: key.description,
  }))
  const rows = keys.map((key) => {
    const fallback = plain(key.default)
    return [key.key, key.type, fallback, key.environment, key.description ?? '']
  })
  return { text: formatTable([['key', 'type', 'default', 'environment', ''], ...rows]), json: keys }
}

/** A default that fits into a table; lists and objects do not. */
function plain(value: unknown): string {
  return typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean' ? String(value) : ''
}
