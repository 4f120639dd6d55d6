import { readFile } from 'node:fs/promises'
import { extname } from 'node:path'
import type { z } from 'zod'
import { type ConfigKey, configKeys, environmentName, knownNames } from './config-schema.ts'
import { ConfigError } from './errors.ts'
import { REDACTED } from './redaction.ts'
import { isReference, type ReferenceResolver, resolveReference } from './reference.ts'
import { Secret } from './secret.ts'

/** A tree as it comes from JSON, YAML or code. */
export type ConfigTree = { readonly [key: string]: unknown }

export interface ConfigLayers<S extends z.ZodType> {
  /** A strict object schema; an unknown key is an error. */
  readonly schema: S
  readonly defaults?: ConfigTree | undefined
  /** A JSON or YAML file. */
  readonly file?: string | undefined
  /** `<PREFIX>_*` and `<PREFIX>_*_FILE` (the value stands in the file of that name, as Docker and Kubernetes mount secrets). */
  readonly env?: { readonly prefix: string; readonly variables: Readonly<Record<string, string | undefined>> } | undefined
  readonly config?: ConfigTree | undefined
  /** The last word: what was given on the command line. */
  readonly overrides?: ConfigTree | undefined
  /** By scheme: who reads `vault:…`, `env:…`, `file:…`. A reference without a resolver is an error. */
  readonly resolvers?: Readonly<Record<string, ReferenceResolver>> | undefined
}

/** Where a value came from. */
export interface Explained {
  /** `source.postgres.host` */
  readonly key: string
  /** As it was given; a secret shows as `[secret]`, a reference as the reference. */
  readonly value: unknown
  /** `default`, `file extractor.yaml`, `environment EXTRACTOR_STORE`, `config`, `override`. */
  readonly origin: string
}

export interface LoadedConfig<T> {
  readonly value: T
  /** One line a key: its value with secrets hidden, and the layer that gave it. */
  explain(): Explained[]
}

interface Leaf {
  readonly path: readonly string[]
  readonly value: unknown
  readonly origin: string
}

/**
 * Merges the layers (defaults, file, environment, config, overrides: the later one wins, key by key; lists are
 * replaced), resolves references and parses the result with the schema. Nothing that was passed in is changed.
 * @throws ConfigError `CONFIG_INVALID`, `CONFIG_FILE_UNREADABLE`, `CONFIG_REFERENCE_UNRESOLVED`
 */
export async function loadConfig<S extends z.ZodType>(layers: ConfigLayers<S>): Promise<LoadedConfig<z.output<S>>> {
  const { leaves, keys } = await mergeLayers(layers)
  const tree: Record<string, unknown> = {}
  for (const leaf of leaves.values()) {
    const resolved = isReference(leaf.value)
      ? await resolveReference(leaf.value, leaf.path.join('.'), leaf.origin, layers.resolvers ?? {})
      : leaf.value
    setConfigValue(tree, leaf.path, resolved)
  }
  const parsed = await layers.schema.safeParseAsync(tree)
  if (!parsed.success) throw invalid(parsed.error.issues, layers.schema, leaves)
  return { value: parsed.data, explain: () => explain(leaves, keys) }
}

/**
 * The merged tree before references are resolved and the schema is applied: for an app that must first find out which
 * vault to ask.
 */
export async function mergeConfig<S extends z.ZodType>(layers: ConfigLayers<S>): Promise<Record<string, unknown>> {
  const { leaves } = await mergeLayers(layers)
  const tree: Record<string, unknown> = {}
  for (const leaf of leaves.values()) setConfigValue(tree, leaf.path, leaf.value)
  return tree
}

async function mergeLayers(layers: ConfigLayers<z.ZodType>): Promise<{ leaves: Map<string, Leaf>; keys: ConfigKey[] }> {
  const keys = configKeys(layers.schema)
  const leaves = new Map<string, Leaf>()
  const add = (tree: ConfigTree | undefined, origin: string): void => {
    for (const leaf of flatten(tree ?? {}, [], origin)) set(leaves, leaf)
  }
  add(layers.defaults, 'default')
  if (layers.file !== undefined) add(await readConfigFile(layers.file), `file ${layers.file}`)
  if (layers.env !== undefined) for (const leaf of await fromEnvironment(keys, layers.env)) set(leaves, leaf)
  add(layers.config, 'config')
  add(layers.overrides, 'override')
  return { leaves, keys }
}

/** A value given at `a.b` takes the place of what lower layers gave at `a.b.c`, and the other way round. */
function set(leaves: Map<string, Leaf>, leaf: Leaf): void {
  const id = leaf.path.join('.')
  for (const other of leaves.keys()) if (other.startsWith(`${id}.`) || id.startsWith(`${other}.`)) leaves.delete(other)
  leaves.set(id, leaf)
}

function* flatten(tree: ConfigTree, path: readonly string[], origin: string): Generator<Leaf> {
  for (const [key, value] of Object.entries(tree)) {
    if (value === undefined) continue
    const here = [...path, key]
    if (isTree(value) && Object.keys(value).length > 0) yield* flatten(value, here, origin)
    else yield { path: here, value, origin }
  }
}

function isTree(value: unknown): value is ConfigTree {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null
}

/** Sets a value deep in a tree, making the trees above it. Only own keys count, so that `__proto__` is a key like any other. */
export function setConfigValue(tree: Record<string, unknown>, path: readonly string[], value: unknown): void {
  let node = tree
  for (const step of path.slice(0, -1)) {
    if (!Object.hasOwn(node, step)) define(node, step, {})
    node = Object.getOwnPropertyDescriptor(node, step)?.value as Record<string, unknown>
  }
  define(node, path.at(-1) ?? '', value)
}

function define(node: object, key: string, value: unknown): void {
  Object.defineProperty(node, key, { value, enumerable: true, writable: true, configurable: true })
}

/** Reads a configuration file: JSON, or YAML by its suffix. */
export async function readConfigFile(file: string): Promise<ConfigTree> {
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (cause) {
    throw new ConfigError(`cannot read the configuration file ${file}: ${(cause as Error).message}`, {
      code: 'CONFIG_FILE_UNREADABLE',
      context: { file },
      cause,
    })
  }
  let tree: unknown
  try {
    tree = ['.yaml', '.yml'].includes(extname(file)) ? (await import('yaml')).parse(text) : JSON.parse(text)
  } catch (cause) {
    throw new ConfigError(`${file}: ${(cause as Error).message}`, { code: 'CONFIG_FILE_UNREADABLE', context: { file }, cause })
  }
  if (tree === null || tree === undefined) return {}
  if (!isTree(tree)) {
    throw new ConfigError(`${file}: expected keys and values at the top`, { code: 'CONFIG_FILE_UNREADABLE', context: { file } })
  }
  return tree
}

async function fromEnvironment(
  keys: readonly ConfigKey[],
  { prefix, variables }: { readonly prefix: string; readonly variables: Readonly<Record<string, string | undefined>> },
): Promise<Leaf[]> {
  const leaves: Leaf[] = []
  const names = new Set(keys.map((key) => environmentName(prefix, key.path)))
  for (const key of keys) {
    const name = environmentName(prefix, key.path)
    // Where `tokenFile` is a key beside `token`, the variable is that key's, and the file is its to read.
    const file = names.has(`${name}_FILE`) ? undefined : variables[`${name}_FILE`]
    const text = variables[name]
    // An empty variable is an unset one: compose files and manifests write `NAME=` for "nothing".
    if (text !== undefined && text !== '') {
      leaves.push({ path: key.path, value: fromText(text, key, `environment ${name}`), origin: `environment ${name}` })
    } else if (file !== undefined && file !== '') {
      const origin = `environment ${name}_FILE`
      let content: string
      try {
        content = await readFile(file, 'utf8')
      } catch (cause) {
        throw new ConfigError(`${name}_FILE names ${file}, which cannot be read: ${(cause as Error).message}`, {
          code: 'CONFIG_FILE_UNREADABLE',
          context: { file, key: key.path.join('.') },
          cause,
        })
      }
      leaves.push({ path: key.path, value: fromText(content.replace(/\r?\n$/, ''), key, origin), origin })
    }
  }
  return leaves
}

/** What a text from the environment or a command line means for a key. */
export function fromText(text: string, key: Pick<ConfigKey, 'type' | 'path'>, origin: string): unknown {
  if (isReference(text)) return text
  const types = key.type.split(' | ')
  if (types.includes('boolean') && /^(true|false|1|0|yes|no|on|off)$/i.test(text)) return /^(true|1|yes|on)$/i.test(text)
  if (types.includes('number') && text.trim() !== '' && Number.isFinite(Number(text))) return Number(text)
  if (types.includes('list') && !text.trimStart().startsWith('[')) return text.split(',').map((item) => item.trim())
  if (types.includes('list') || types.includes('json')) {
    try {
      return JSON.parse(text)
    } catch (cause) {
      if (!types.includes('list')) return text
      throw new ConfigError(`${key.path.join('.')} (${origin}): not valid JSON: ${(cause as Error).message}`, {
        code: 'CONFIG_INVALID',
        cause,
      })
    }
  }
  return text
}

function explain(leaves: ReadonlyMap<string, Leaf>, keys: readonly ConfigKey[]): Explained[] {
  const secrets = new Set(keys.filter((key) => key.secret).map((key) => key.path.join('.')))
  const lines: Explained[] = []
  for (const key of keys) {
    const id = key.path.join('.')
    if (!leaves.has(id) && key.default !== undefined) lines.push({ key: id, value: key.default, origin: 'default' })
  }
  for (const [id, leaf] of leaves) {
    const hidden = Secret.is(leaf.value) || (secrets.has(id) && !isReference(leaf.value))
    lines.push({ key: id, value: hidden ? REDACTED : leaf.value, origin: leaf.origin })
  }
  return lines.toSorted((a, b) => (a.key < b.key ? -1 : 1))
}

function invalid(issues: readonly z.core.$ZodIssue[], schema: z.ZodType, leaves: ReadonlyMap<string, Leaf>): ConfigError {
  const lines = issues.flatMap((issue) => describeIssue(issue, schema, leaves))
  return new ConfigError(`the configuration cannot be used:\n${lines.map((line) => `  ${line}`).join('\n')}`, {
    code: 'CONFIG_INVALID',
    context: { problems: lines },
  })
}

function describeIssue(issue: z.core.$ZodIssue, schema: z.ZodType, leaves: ReadonlyMap<string, Leaf>): string[] {
  const path = issue.path.map(String)
  if (issue.code === 'unrecognized_keys') {
    const known = knownNames(schema, issue.path) ?? []
    return issue.keys.map((name) => {
      const near = nearest(name, known)
      const hint = near === undefined ? `known here: ${known.join(', ')}` : `did you mean "${near}"?`
      return `${[...path, name].join('.')}: unknown key${originOf([...path, name], leaves)}; ${hint}`
    })
  }
  const id = path.join('.')
  const missing = issue.code === 'invalid_type' && !hasValue(id, leaves)
  return [`${id === '' ? '(top)' : id}: ${missing ? 'missing' : issue.message}${originOf(path, leaves)}`]
}

const hasValue = (id: string, leaves: ReadonlyMap<string, Leaf>): boolean =>
  [...leaves.keys()].some((key) => key === id || key.startsWith(`${id}.`))

function originOf(path: readonly string[], leaves: ReadonlyMap<string, Leaf>): string {
  const id = path.join('.')
  const leaf = leaves.get(id) ?? [...leaves].find(([key]) => key.startsWith(`${id}.`))?.[1]
  return leaf === undefined ? '' : ` (${leaf.origin})`
}

/** The known name that differs in the fewest letters, if it is near enough to be meant. */
function nearest(name: string, known: readonly string[]): string | undefined {
  let best: string | undefined
  let least = Math.max(2, Math.floor(name.length / 3)) + 1
  for (const candidate of known) {
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase())
    if (distance < least) [best, least] = [candidate, distance]
  }
  return best
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const change = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min(change, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1))
    }
    row = next
  }
  return row[b.length] ?? 0
}
