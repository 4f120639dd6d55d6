import { readFile } from 'node:fs/promises'
import { ConfigError, HandlerError } from './errors.ts'
import { registerSecretValue } from './redaction.ts'

/** Reads what stands behind a reference; gets the part after the scheme: `secret/data/app#password`. */
export type ReferenceResolver = (reference: string) => Promise<string> | string

/** `vault:path#field`, `env:NAME`, `file:/path`. A URL (`file:///folder`) is none. */
const REFERENCE = /^(vault|env|file):(?!\/\/)(.+)$/s

/** A string that names a value instead of being one. */
export type Reference = `${'vault' | 'env' | 'file'}:${string}`

export function isReference(value: unknown): value is Reference {
  return typeof value === 'string' && REFERENCE.test(value)
}

/** Replaces a reference by what it names, and registers the value with the scrubber. */
export async function resolveReference(
  reference: string,
  key: string,
  origin: string,
  resolvers: Readonly<Record<string, ReferenceResolver>>,
): Promise<string> {
  const [, scheme = '', rest = ''] = REFERENCE.exec(reference) ?? []
  const resolver = resolvers[scheme]
  const place = `${key} (${origin}): ${reference}`
  if (resolver === undefined) {
    const known = Object.keys(resolvers)
    throw new ConfigError(
      `${place}: no resolver for "${scheme}:" here${known.length > 0 ? `; known: ${known.join(', ')}` : ''}`,
      {
        code: 'CONFIG_REFERENCE_UNRESOLVED',
        context: { key, reference },
      },
    )
  }
  try {
    const value = await resolver(rest)
    // What is not written down in the open is not shown either, also where the schema takes a plain string.
    registerSecretValue(value)
    return value
  } catch (cause) {
    if (HandlerError.is(cause) && cause.retry !== 'never') throw cause
    throw new ConfigError(`${place}: ${(cause as Error).message}`, {
      code: 'CONFIG_REFERENCE_UNRESOLVED',
      context: { key, reference },
      cause,
    })
  }
}

/** `env:NAME` from the given variables. */
export function environmentResolver(variables: Readonly<Record<string, string | undefined>>): ReferenceResolver {
  return (name) => {
    const value = variables[name]
    if (value === undefined || value === '') throw new Error(`the environment variable ${name} is not set`)
    return value
  }
}

/** `file:/run/secrets/name`; one line end at the end of the file is not part of the value. `file:/x.json#key` reads one key of a JSON object. */
export const fileResolver: ReferenceResolver = async (reference) => {
  const [path = '', field] = reference.split('#', 2)
  const text = (await readFile(path, 'utf8')).replace(/\r?\n$/, '')
  if (field === undefined) return text
  const found: unknown = (JSON.parse(text) as Record<string, unknown>)[field]
  if (typeof found !== 'string' && typeof found !== 'number') throw new Error(`${path} has no key "${field}"`)
  return String(found)
}
