import {
  ConfigError,
  type ConfigTree,
  environmentResolver,
  fileResolver,
  isReference,
  type ReferenceResolver,
} from '@common-handlers/core'
import type { AppResolvers } from './app.ts'

/** What references need of a vault; `VaultHandler` fits. */
export interface ReferenceVault {
  /** `path#field` → the field's value. */
  resolve(reference: string, options: { readonly signal: AbortSignal }): Promise<string>
  close(): Promise<void>
}

/**
 * Reads `env:`, `file:` and `vault:` references. The vault is the one of the key `vault`, whose own values may be
 * references to the environment and to files; it is made and spoken to when the first `vault:` reference is met.
 */
export function openReferences(
  tree: ConfigTree,
  { signal, env }: { readonly signal: AbortSignal; readonly env: Readonly<Record<string, string | undefined>> },
  openVault: (config: unknown) => ReferenceVault,
): AppResolvers {
  const plain: Readonly<Record<string, ReferenceResolver>> = { env: environmentResolver(env), file: fileResolver }
  let vault: Promise<ReferenceVault> | undefined
  const open = async (): Promise<ReferenceVault> => {
    if (tree['vault'] === undefined) {
      throw new ConfigError('a vault: reference needs vault.address and a way to log in, such as vault.tokenFile', {
        code: 'CONFIG_INVALID',
      })
    }
    return openVault(await withReferences(tree['vault'], plain))
  }
  return {
    resolvers: {
      ...plain,
      vault: async (reference) => {
        vault ??= open()
        return (await vault).resolve(reference, { signal })
      },
    },
    [Symbol.asyncDispose]: async () => {
      // One that could not be opened was told to whoever asked for it.
      const opened = await vault?.catch(() => undefined)
      await opened?.close()
    },
  }
}

async function withReferences(value: unknown, resolvers: Readonly<Record<string, ReferenceResolver>>): Promise<unknown> {
  if (isReference(value)) {
    const at = value.indexOf(':')
    const resolver = resolvers[value.slice(0, at)]
    if (resolver === undefined) {
      throw new ConfigError('how to reach the vault cannot stand in the vault itself: use env: or file: there', {
        code: 'CONFIG_INVALID',
      })
    }
    return resolver(value.slice(at + 1))
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  const entries: [string, unknown][] = []
  for (const [key, inner] of Object.entries(value)) entries.push([key, await withReferences(inner, resolvers)])
  return Object.fromEntries(entries)
}
