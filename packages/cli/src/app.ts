import { setTimeout as sleep } from 'node:timers/promises'
import {
  type ConfigTree,
  ConfigError,
  configKeys,
  environmentName,
  type Explained,
  fromText,
  HandlerError,
  loadConfig,
  type Logger,
  mergeConfig,
  type ReferenceResolver,
  scrub,
  setConfigValue,
} from '@common-handlers/core'
import { Command, CommanderError, Option } from 'commander'
import type { z } from 'zod'
import { exitCodeHelp, exitCodeOf, exitCodes, Interrupted } from './exit-code.ts'
import { formatTable, parseDuration } from './format.ts'
import { createLogger, type LogLevel, logLevels } from './log.ts'
import { createProgress, type Progress } from './progress.ts'
import { askHealth, createTelemetry, type Telemetry } from './telemetry.ts'

/** Where a program writes and what it is given; a test passes its own. */
export interface Terminal {
  readonly argv: readonly string[]
  readonly env: Readonly<Record<string, string | undefined>>
  readonly stdout: { write(text: string): unknown; readonly isTTY?: boolean }
  readonly stderr: { write(text: string): unknown; readonly isTTY?: boolean; readonly columns?: number }
}

/** What a command works with. */
export interface CommandContext<T> {
  readonly config: T
  /** Which layer gave each key. */
  readonly explain: () => Explained[]
  readonly logger: Logger
  /** Aborted by SIGINT and SIGTERM. */
  readonly signal: AbortSignal
  /** The command's own options, by their long names in camel case. */
  readonly options: Readonly<Record<string, unknown>>
  /** True when stdout is read by a person; false for a pipe or `--json`. */
  readonly human: boolean
  progress(label: string): Progress
  /** Prints the result: the text for a person, the JSON in one line for a machine. */
  print(result: { readonly text: string; readonly json: unknown }): void
}

export interface AppOption {
  /** commander's spelling: `--run <id>`. */
  readonly flags: string
  readonly description: string
}

export interface AppCommand<T> {
  readonly name: string
  readonly summary: string
  /** Shown by `<command> --help`: what it does, what it changes, an example. */
  readonly help?: string
  readonly options?: readonly AppOption[]
  /** True for a command that `--every` may repeat: one that does nothing when there is nothing to do. */
  readonly repeatable?: boolean
  /** Returns the exit code; nothing means 0. */
  readonly run: (context: CommandContext<T>) => Promise<number | undefined | void>
}

export interface App<S extends z.ZodType> {
  readonly name: string
  readonly version: string
  readonly description: string
  /** `EXTRACTOR` makes `EXTRACTOR_STORE` stand for the key `store`. */
  readonly envPrefix: string
  readonly config: S
  readonly commands: readonly AppCommand<z.output<S>>[]
  /** Shown below the top help: where to start. */
  readonly help: string
  /** Who reads references. Gets the configuration as merged so far, for finding the vault; called once, when the first reference is met. */
  readonly resolvers: (
    tree: ConfigTree,
    context: { readonly logger: Logger; readonly signal: AbortSignal; readonly env: Terminal['env'] },
  ) => Promise<AppResolvers>
}

export interface AppResolvers extends AsyncDisposable {
  readonly resolvers: Readonly<Record<string, ReferenceResolver>>
}

interface GlobalOptions {
  readonly config?: string
  readonly set: readonly string[]
  readonly logLevel?: LogLevel
  readonly json?: boolean
  readonly every?: string
  readonly listen?: string
  readonly pushMetrics?: string
  readonly progress: boolean
}

/** Runs the program to its end and returns the exit code. Reads nothing from the process but what it is given. */
export async function runApp<S extends z.ZodType>(app: App<S>, terminal: Terminal, signal: AbortSignal): Promise<number> {
  let code: number = exitCodes.ok
  const program = new Command(app.name)
    .description(app.description)
    .version(app.version)
    .option('-c, --config <file>', `configuration file, YAML or JSON (or ${app.envPrefix}_CONFIG)`)
    .option('--set <key=value>', 'set one configuration key; may be repeated', (text, all: string[]) => [...all, text], [])
    .addOption(new Option('--log-level <level>', 'what to log (default: info)').choices(logLevels))
    .option('--json', 'print results as JSON and log JSON lines, also on a terminal')
    .option('--no-progress', 'draw no progress bar')
    .option('--every <time>', `do it again and again, waiting so long in between: 15m (or ${app.envPrefix}_EVERY)`)
    .option('--listen <[host]:port>', `serve /metrics and /healthz meanwhile: :9464 (or ${app.envPrefix}_LISTEN)`)
    .option('--push-metrics <url>', `tell a Prometheus Pushgateway at the end (or ${app.envPrefix}_PUSH_METRICS)`)
    .addHelpText('after', `\n${app.help}\n\n${exitCodeHelp}`)
    .configureOutput({ writeOut: (text) => terminal.stdout.write(text), writeErr: (text) => terminal.stderr.write(text) })
    .showHelpAfterError('(add --help for what can be given)')
    .exitOverride()
    .enablePositionalOptions(false)
  const add = (command: AppCommand<z.output<S>>): void => {
    const sub = program
      .command(command.name)
      .summary(command.summary)
      .description(command.help ?? command.summary)
    for (const option of command.options ?? []) sub.option(option.flags, option.description)
    sub.exitOverride().action(async () => {
      const all = sub.optsWithGlobals<GlobalOptions & Record<string, unknown>>()
      code = await runCommand(app, command, all, terminal, signal)
    })
  }
  for (const command of app.commands) add(command)
  add(explainConfigCommand())
  addHealth(program, app, terminal, signal, (found) => (code = found))
  try {
    await program.parseAsync([...terminal.argv], { from: 'user' })
    return code
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage
    throw error
  }
}

async function runCommand<S extends z.ZodType>(
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
      print,
    })
    return result ?? exitCodes.ok
  }
  try {
    if (command.name === EXPLAIN && options['keys'] === true) {
      print(listKeys(app))
      return exitCodes.ok
    }
    const every = command.repeatable === true ? given(options.every, 'EVERY') : options.every
    if (every !== undefined && command.repeatable !== true) {
      throw new ConfigError(`--every: ${command.name} is not repeated`, { code: 'CLI_USAGE' })
    }
    const everyMs = every === undefined ? undefined : parseDuration(every, '--every')
    // Only what moves data has something to tell; a check beside it must not take its port.
    const listen = command.repeatable === true ? given(options.listen, 'LISTEN') : options.listen
    const push = command.repeatable === true ? given(options.pushMetrics, 'PUSH_METRICS') : options.pushMetrics
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
  const layers = {
    schema: app.config,
    file: options.config ?? terminal.env[`${app.envPrefix}_CONFIG`],
    env: { prefix: app.envPrefix, variables: terminal.env },
    overrides: overridesOf(app, options.set),
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
function overridesOf(app: App<z.ZodType>, settings: readonly string[]): ConfigTree {
  const keys = configKeys(app.config)
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

/** For a health probe in the container of a program that listens: asks it, and ends with 0 or 1. */
function addHealth(
  program: Command,
  app: App<z.ZodType>,
  terminal: Terminal,
  signal: AbortSignal,
  end: (code: number) => void,
): void {
  const health = program.command('health').summary('ask the program that listens here whether it is well')
    .description(`Asks /healthz of the program that was started with --listen on this machine; takes the same --listen, or
${app.envPrefix}_LISTEN. Ends with 1 when the last run failed or nobody answers; with 0 where nothing listens by choice.`)
  health.exitOverride().action(async () => {
    const address = health.optsWithGlobals<GlobalOptions>().listen ?? terminal.env[`${app.envPrefix}_LISTEN`]
    if (address === undefined || address === '') return
    const { healthy, text } = await askHealth(address, signal)
    terminal.stdout.write(`${text}\n`)
    end(healthy ? exitCodes.ok : exitCodes.failed)
  })
}

const EXPLAIN = 'explain-config'

function explainConfigCommand<T>(): AppCommand<T> {
  return {
    name: EXPLAIN,
    summary: 'show every configuration value and where it came from, secrets hidden',
    help: `Shows every configuration value in force and the layer that gave it: default, file, environment, override.
Secrets are hidden; references are shown as they were written, and are resolved to prove that they can be.
With --keys it lists every key that can be set, with its environment variable, and needs no configuration.`,
    options: [{ flags: '--keys', description: 'list every key that can be set' }],
    run: async ({ explain, print }) => {
      const lines = explain()
      const show = (value: unknown): string => (typeof value === 'string' ? value : JSON.stringify(value))
      print({
        text: formatTable([['key', 'value', 'from'], ...lines.map((line) => [line.key, show(line.value), line.origin])]),
        json: lines,
      })
    },
  }
}

function listKeys(app: App<z.ZodType>): { text: string; json: unknown } {
  const keys = configKeys(app.config).map((key) => ({
    key: key.path.join('.'),
    environment: environmentName(app.envPrefix, key.path),
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
