import type { ConfigTree, Explained, Logger, ReferenceResolver } from '@common-handlers/core'
import { Command, CommanderError, Option } from 'commander'
import type { z } from 'zod'
import { exitCodeHelp, exitCodes } from './exit-code.ts'
import type { Progress } from './progress.ts'

// What a program says of itself, `--help` and all. What a command needs is loaded when one runs (`run-command.ts`).

export const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const
export type LogLevel = (typeof logLevels)[number]

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
  /** The command's own options, by their long names in camel case, and its arguments by theirs. */
  readonly options: Readonly<Record<string, unknown>>
  /** True when stdout is read by a person; false for a pipe or `--json`. */
  readonly human: boolean
  progress(label: string): Progress
  /** What `/metrics` tells besides, as Prometheus text; asked for each time. */
  metrics(source: () => Promise<string>): void
  /** Prints the result: the text for a person, the JSON in one line for a machine. */
  print(result: { readonly text: string; readonly json: unknown }): void
}

export interface AppOption {
  /** commander's spelling: `--run <id>`. */
  readonly flags: string
  readonly description: string
}

export interface AppArgument {
  readonly name: string
  readonly description: string
}

export interface AppCommand<T> {
  readonly name: string
  readonly summary: string
  /** Shown by `<command> --help`: what it does, what it changes, an example. */
  readonly help?: string
  readonly options?: readonly AppOption[]
  /** What must be given after the name, in this order. */
  readonly arguments?: readonly AppArgument[]
  /** True for a command that `--every` may repeat: one that does nothing when there is nothing to do. */
  readonly repeatable?: boolean
  /** True for a command that lasts until it is stopped: it is not repeated, and tells of itself like one that is. */
  readonly lasting?: boolean
  /** Returns the exit code; nothing means 0. */
  readonly run: (context: CommandContext<T>) => Promise<number | undefined | void>
}

export interface App<S extends z.ZodType> {
  readonly name: string
  readonly version: string
  readonly description: string
  /** `EXTRACTOR` makes `EXTRACTOR_STORE` stand for the key `store`. */
  readonly envPrefix: string
  /** Loads the schema of the configuration, and with it whatever the schema is made from: only when a command runs. */
  readonly config: () => Promise<S>
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

/** What every command takes. */
export interface GlobalOptions {
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
    for (const argument of command.arguments ?? []) sub.argument(`<${argument.name}>`, argument.description)
    sub.exitOverride().action(async () => {
      const given = (command.arguments ?? []).map(({ name }, index) => [name, sub.args[index]])
      const all = {
        ...sub.optsWithGlobals<GlobalOptions & Record<string, unknown>>(),
        ...(Object.fromEntries(given) as Record<string, unknown>),
      }
      const { runCommand } = await import('./run-command.ts')
      code = await runCommand(app, command, all, terminal, signal)
    })
  }
  for (const command of app.commands) add(command)
  add(explainConfig)
  addHealth(program, app, terminal, signal, (found) => (code = found))
  try {
    await program.parseAsync([...terminal.argv], { from: 'user' })
    return code
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage
    throw error
  }
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
    const { askHealth } = await import('./telemetry.ts')
    const { healthy, text } = await askHealth(address, signal)
    terminal.stdout.write(`${text}\n`)
    end(healthy ? exitCodes.ok : exitCodes.failed)
  })
}

const explainConfig: AppCommand<unknown> = {
  name: 'explain-config',
  summary: 'show every configuration value and where it came from, secrets hidden',
  help: `Shows every configuration value in force and the layer that gave it: default, file, environment, override.
Secrets are hidden; references are shown as they were written, and are resolved to prove that they can be.
With --keys it lists every key that can be set, with its environment variable, and needs no configuration.`,
  options: [{ flags: '--keys', description: 'list every key that can be set' }],
  run: async (context) => {
    const { explainConfig: explained } = await import('./run-command.ts')
    explained(context)
  },
}
