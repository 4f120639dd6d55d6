import {
  configKeys,
  type ConfigTree,
  environmentResolver,
  fileResolver,
  fromText,
  loadConfig,
  type LoadedConfig,
  type ReferenceResolver,
} from '@common-handlers/core'
import { z } from 'zod'
import type { ConnectorDefinition } from './contract.ts'
import { urlUnusable } from './errors.ts'

/** The layers of a connection's configuration beside the one that is its argument. */
export interface ConfigSources {
  /** The lowest layer. */
  readonly defaults?: ConfigTree | undefined
  /** JSON or YAML. It may also name its `protocol`. */
  readonly file?: string | undefined
  /** The last word. */
  readonly overrides?: ConfigTree | undefined
}

export interface LoadContext {
  readonly variables: Readonly<Record<string, string | undefined>>
  readonly resolvers: Readonly<Record<string, ReferenceResolver>>
}

/** Defaults, file, `<PREFIX>_*`, config, overrides; then references; then the connector's schema. */
export function loadConnectorConfig(
  definition: ConnectorDefinition,
  config: string | ConfigTree,
  sources: ConfigSources,
  { variables, resolvers }: LoadContext,
): Promise<LoadedConfig<unknown>> {
  return loadConfig({
    // A file that names its protocol is a whole connection; the schema of the protocol does not know that key.
    schema: z.preprocess(withoutProtocol, definition.configSchema),
    defaults: sources.defaults,
    file: sources.file,
    env: { prefix: definition.prefix, variables },
    config: typeof config === 'string' ? fromUrl(definition, config) : config,
    overrides: sources.overrides,
    resolvers: { env: environmentResolver(variables), file: fileResolver, ...resolvers },
  })
}

function withoutProtocol(tree: unknown): unknown {
  const { protocol: _protocol, ...rest } = tree as Readonly<Record<string, unknown>>
  return rest
}

function fromUrl(definition: ConnectorDefinition, text: string): ConfigTree {
  if (definition.fromUrl === undefined) throw urlUnusable(definition.protocol, 'this protocol has no short form, give its keys')
  if (!URL.canParse(text)) throw urlUnusable(definition.protocol, 'it is not a URL')
  const url = new URL(text)
  const parameters = [...url.searchParams]
  url.search = ''
  const keys = configKeys(definition.configSchema)
  const more = parameters.map(([name, value]) => {
    const key = keys.find(({ path }) => path.join('.') === name)
    return [name, key === undefined ? value : fromText(value, key, 'URL')] as const
  })
  return { ...Object.fromEntries(more), ...definition.fromUrl(url) }
}
