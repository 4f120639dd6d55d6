import type { AppResolvers } from '@common-handlers/cli'
import {
  ConfigError,
  type ConfigTree,
  environmentResolver,
  fileResolver,
  isReference,
  type Logger,
  type ReferenceResolver,
} from '@common-handlers/core'
import { VaultHandler, vaultConfigSchema } from '@common-handlers/vault-handler'

export interface ReferenceContext {
  readonly logger: Logger
  readonly signal: AbortSignal
  readonly env: Readonly<Record<string, string | undefined>>
}

/**
 * Reads `env:`, `file:` and `vault:` references. The vault is the one of the key `vault`, whose own values may be
 * references to the environment and to files; it is spoken to when the first `vault:` reference is met.
 */
export async function openReferences(tree: ConfigTree, { logger, signal, env }: ReferenceContext): Promise<AppResolvers> {
  const plain: Readonly<Record<string, ReferenceResolver>> = { env: environmentResolver(env), file: fileResolver }
  let vault: Promise<VaultHandler> | undefined
  const readVault: ReferenceResolver = async (reference) => {
    vault ??= openVault(tree['vault'], plain, logger)
    return (await vault).resolve(reference, { signal })
  }
  return {
    resolvers: { ...plain, vault: readVault },
    [Symbol.asyncDispose]: async () => {
      // One that could not be opened was told to whoever asked for it.
      const opened = await vault?.catch(() => undefined)
      await opened?.close()
    },
  }
}

async function openVault(config: unknown, resolvers: Readonly<Record<string, ReferenceResolver>>, logger: Logger): Promise<VaultHandler> {
  if (config === undefined) {
    throw new ConfigError('a vault: reference needs vault.address and a way to log in, such as vault.tokenFile', { code: 'CONFIG_INVALID' })
  }
  const parsed = vaultConfigSchema.safeParse(await withReferences(config, resolvers))
  if (!parsed.success) {
    const problems = parsed.error.issues.map((issue) => `${['vault', ...issue.path.map(String)].join('.')}: ${issue.message}`)
    throw new ConfigError(problems.join('; '), { code: 'CONFIG_INVALID', context: { problems } })
  }
  return new VaultHandler({ ...parsed.data, logger })
}

async function withReferences(value: unknown, resolvers: Readonly<Record<string, ReferenceResolver>>): Promise<unknown> {
  if (isReference(value)) {
    const at = value.indexOf(':')
    const resolver = resolvers[value.slice(0, at)]
    if (resolver === undefined) {
      throw new ConfigError('how to reach the vault cannot stand in the vault itself: use env: or file: there', { code: 'CONFIG_INVALID' })
    }
    return resolver(value.slice(at + 1))
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  const entries: [string, unknown][] = []
  for (const [key, inner] of Object.entries(value)) entries.push([key, await withReferences(inner, resolvers)])
  return Object.fromEntries(entries)
}
