import { existsSync } from 'node:fs'
import { cwd } from 'node:process'
import { type CommandContext, exitCodes, formatTable } from '@common-handlers/cli'
import {
  type ConnectionKey,
  type Connections,
  type ConnectorDefinition,
  createConnections,
  type Diagnosis,
  readConnections,
} from '@common-handlers/connections'
import { type ConfigTree, type Explained, fromText, isReference, setConfigValue } from '@common-handlers/core'
import { type ConnectionsCliConfig, environment } from './config.ts'
import { keyUnusable, noFile, otherProtocol, secretInArguments } from './errors.ts'

type Context = CommandContext<ConnectionsCliConfig>
type AnyConnections = Connections<ConnectorDefinition>

/** The commands of the program. */
export type CommandName = 'list' | 'test' | 'doctor' | 'explain'

/** Runs a command with the connectors of the project in the current folder. */
export async function run(name: CommandName, context: Context): Promise<number> {
  const { logger } = context
  await using connections = createConnections<ConnectorDefinition>({ discover: cwd(), variables: environment(), logger })
  return await works[name](context, connections)
}

const works: Readonly<Record<CommandName, (context: Context, connections: AnyConnections) => Promise<number>>> = {
  list: async ({ print }, connections) => {
    const all = connections.available()
    const rows = all.map(({ protocol, packageName, install }) => [
      protocol,
      install === undefined ? 'here' : 'absent',
      install === undefined ? packageName : install,
    ])
    print({ text: formatTable([['protocol', '', 'package, or how to install it'], ...rows]), json: all })
    return exitCodes.ok
  },

  test: async (context, connections) => {
    const { config, signal, print } = context
    const { name, protocol, given, overrides } = await chosen(context, connections)
    const { timeoutMs } = config
    const result = await connections.testConnection(protocol, given, { overrides, signal, timeoutMs })
    print({ text: diagnosed({ name, protocol, ...result }), json: { name, protocol, ...result } })
    return result.ok ? exitCodes.ok : exitCodes.failed
  },

  doctor: async ({ config, options, signal, print }, connections) => {
    const named = await readConnections(fileOf(options, config) ?? missingFile())
    const { timeoutMs, parallel } = config
    const report = await connections.doctor(named, { timeoutMs, parallel, signal })
    const good = report.connections.filter(({ ok }) => ok).length
    const all = report.connections.length
    print({
      text: `${report.connections.map((one) => `${diagnosed(one)}\n\n`).join('')}${good} of ${all} connections work`,
      json: report,
    })
    return report.ok ? exitCodes.ok : exitCodes.failed
  },

  explain: async (context, connections) => {
    const { options, print } = context
    if (options['keys'] === true) {
      const { protocol } = await chosen(context, connections)
      const keys = await connections.keys(protocol)
      const rows = keys.map((key) => [
        key.path.join('.'),
        key.secret ? 'secret' : key.type,
        key.required ? '(required)' : plain(key.default),
        key.environment,
        key.description ?? '',
      ])
      print({ text: formatTable([['key', 'type', 'default', 'environment', ''], ...rows]), json: keys })
      return exitCodes.ok
    }
    const { protocol, given, overrides, origin } = await chosen(context, connections)
    const lines = (await connections.explain(protocol, given, { overrides })).map((line): Explained => {
      return line.origin === 'config' ? { ...line, origin } : line
    })
    const rows = lines.map(({ key, value, origin: from }) => [
      key,
      typeof value === 'string' ? value : JSON.stringify(value),
      from,
    ])
    print({ text: formatTable([['key', 'value', 'from'], ...rows]), json: lines })
    return exitCodes.ok
  },
}

interface Chosen {
  readonly name: string
  readonly protocol: string
  /** What stands in the file under its name, or the URL. */
  readonly given: ConfigTree | string
  readonly overrides: ConfigTree
  /** Of what is given, for people. */
  readonly origin: string
}

/** What the argument and the options of a command say: a connection of the file, or a protocol with its keys. */
async function chosen({ options, config }: Context, connections: AnyConnections): Promise<Chosen> {
  const name = String(options['connection'])
  const file = fileOf(options, config)
  const named = file === undefined ? {} : await readConnections(file)
  const { protocol: stated, ...found } = named[name] ?? {}
  // Who names a file and something that is not in it is wrong about one of them.
  if (named[name] === undefined && file !== undefined && options['file'] !== undefined) {
    throw otherProtocol(file, name, Object.keys(named))
  }
  const protocol = typeof stated === 'string' ? stated : name
  const keys = await connections.keys(protocol)
  const url = urlOf(options['url'], keys)
  const overrides = keysOf(options['key'], keys)
  return { name, protocol, given: url ?? found, overrides, origin: url === undefined ? `file ${file ?? ''}` : '--url' }
}

const usualFiles = ['connections.yaml', 'connections.yml', 'connections.json'] as const

function fileOf(options: Context['options'], config: ConnectionsCliConfig): string | undefined {
  const { file = config.file } = options
  return typeof file === 'string' ? file : usualFiles.find((name) => existsSync(name))
}

function missingFile(): never {
  throw noFile(usualFiles)
}

function urlOf(given: unknown, keys: readonly ConnectionKey[]): string | undefined {
  if (typeof given !== 'string') return undefined
  const { password, searchParams } = URL.canParse(given) ? new URL(given) : { password: '', searchParams: new URLSearchParams() }
  if (password !== '') throw secretInArguments('the password in --url')
  for (const [name, value] of searchParams) refuseSecret(name, value, keys)
  return given
}

/** `--key host=localhost port=5432` as a tree, typed by the keys of the protocol. */
function keysOf(given: unknown, keys: readonly ConnectionKey[]): ConfigTree {
  const tree: Record<string, unknown> = {}
  if (!Array.isArray(given)) return tree
  for (const text of given as readonly string[]) {
    const at = text.indexOf('=')
    if (at <= 0) throw keyUnusable(text, 'expected key=value, such as host=localhost')
    const [name, value] = [text.slice(0, at), text.slice(at + 1)]
    const key = refuseSecret(name, value, keys)
    setConfigValue(tree, name.split('.'), key === undefined ? value : fromText(value, key, '--key'))
  }
  return tree
}

/** The key of that name, unless it is a secret in clear. */
function refuseSecret(name: string, value: string, keys: readonly ConnectionKey[]): ConnectionKey | undefined {
  const key = keys.find(({ path }) => path.join('.') === name)
  if (key?.secret === true && !isReference(value)) throw secretInArguments(name)
  return key
}

function diagnosed({ name, protocol, target, durationMs, ok, steps }: Diagnosis): string {
  const title = [protocol, target].filter((part) => part !== '' && part !== name)
  const rows = steps.map((step) => [
    step.ok ? '  ok' : '  FAILED',
    step.name,
    `${Math.round(step.durationMs)} ms`,
    step.detail ?? step.error?.code ?? '',
  ])
  const why = steps.flatMap(({ error }) => (error === undefined ? [] : [error.message.replace(/^/gm, '    ')]))
  const about = title.length === 0 ? '' : ` (${[...new Set(title)].join(', ')})`
  return [`${name}${about}: ${ok ? 'works' : 'does not work'}, ${Math.round(durationMs)} ms`, formatTable(rows), ...why].join(
    '\n',
  )
}

const plain = (value: unknown): string =>
  typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean' ? String(value) : ''
