import { z } from 'zod'
import { Secret } from './secret.ts'

/** A key of a configuration schema, found by walking it. */
export interface ConfigKey {
  readonly path: readonly string[]
  /** `string`, `number`, `boolean`, `a | b`, `list`, `json`. */
  readonly type: string
  readonly required: boolean
  readonly secret: boolean
  readonly default: unknown
  readonly description: string | undefined
}

/** A string that must not be shown, as a Secret. Marked in the schema, so that `explain()` and option tables know it. */
export function secret(): z.ZodType<Secret, string | Secret> {
  return z
    .custom<string | Secret>(
      (value) => Secret.is(value) || (typeof value === 'string' && value !== ''),
      'expected a non-empty string',
    )
    .transform((value) => (Secret.is(value) ? value : new Secret(value)))
    .meta({ secret: true, type: 'string' })
}

interface Unwrapped {
  readonly schema: z.core.$ZodType
  readonly required: boolean
  readonly default: unknown
  readonly secret: boolean
  readonly description: string | undefined
}

interface AnyDef {
  readonly type: string
  readonly innerType?: z.core.$ZodType
  readonly in?: z.core.$ZodType
  readonly out?: z.core.$ZodType
  readonly shape?: Record<string, z.core.$ZodType>
  readonly options?: readonly z.core.$ZodType[]
  readonly entries?: Record<string, unknown>
  readonly values?: readonly unknown[]
  readonly defaultValue?: unknown
}

const definition = (schema: z.core.$ZodType): AnyDef => schema._zod.def

/** Takes off what stands around a schema (optional, default, nullable, pipes) and keeps what that says. */
function unwrap(schema: z.core.$ZodType): Unwrapped {
  let required = true
  let fallback: unknown
  let isSecret = false
  let description: string | undefined
  for (let current = schema; ;) {
    const meta = z.globalRegistry.get(current)
    isSecret ||= meta?.['secret'] === true
    description ??= meta?.description
    const def = definition(current)
    if (def.type === 'optional' || def.type === 'default' || def.type === 'prefault' || def.type === 'nullable') {
      if (def.type !== 'nullable') required = false
      if (def.type === 'default' || def.type === 'prefault') fallback = def.defaultValue
      current = def.innerType as z.core.$ZodType
    } else if (def.type === 'readonly') {
      current = def.innerType as z.core.$ZodType
    } else if (def.type === 'pipe' && def.in !== undefined) {
      // The input side: what a user writes. A preprocess has its schema on the output side.
      current = definition(def.in).type === 'transform' && def.out !== undefined ? def.out : def.in
    } else {
      return { schema: current, required, default: fallback, secret: isSecret, description }
    }
  }
}

/** The object schemas a value may follow here: one, or several for a union. */
function shapes(schema: z.core.$ZodType): Record<string, z.core.$ZodType>[] {
  const inner = unwrap(schema).schema
  const def = definition(inner)
  if (def.type === 'object') return [def.shape ?? {}]
  if (def.type === 'union' || def.type === 'intersection') return (def.options ?? []).flatMap(shapes)
  return []
}

function typeName(schema: z.core.$ZodType): string {
  const inner = unwrap(schema).schema
  const def = definition(inner)
  switch (def.type) {
    case 'string':
    case 'number':
    case 'boolean':
      return def.type
    case 'int':
      return 'number'
    case 'enum':
      return Object.values(def.entries ?? {}).join(' | ')
    case 'literal':
      return (def.values ?? []).join(' | ')
    case 'array':
      return 'list'
    case 'union':
      return [...new Set((def.options ?? []).map(typeName))].join(' | ')
    case 'custom':
      return 'string'
    default:
      return 'json'
  }
}

/** Every leaf key of a configuration schema, in the order in which it is written. */
export function configKeys(schema: z.core.$ZodType, path: readonly string[] = [], optionalAbove = false): ConfigKey[] {
  const keys = new Map<string, ConfigKey>()
  for (const shape of shapes(schema)) {
    for (const [name, child] of Object.entries(shape)) {
      const unwrapped = unwrap(child)
      const here = [...path, name]
      const optional = optionalAbove || !unwrapped.required
      const below = configKeys(child, here, optional)
      const found = below.length > 0 ? below : []
      if (found.length === 0) {
        found.push({
          path: here,
          type: typeName(child),
          required: !optional,
          secret: unwrapped.secret,
          default: unwrapped.default,
          description: unwrapped.description,
        })
      }
      for (const key of found) if (!keys.has(key.path.join('.'))) keys.set(key.path.join('.'), key)
    }
  }
  return [...keys.values()]
}

/** The names that may stand at a path of the schema; undefined where the schema allows any. */
export function knownNames(schema: z.core.$ZodType, path: readonly PropertyKey[]): string[] | undefined {
  let current: z.core.$ZodType[] = [schema]
  for (const step of path) {
    current = current.flatMap((one) =>
      shapes(one).flatMap((shape) => {
        const child = shape[String(step)]
        return child === undefined ? [] : [child]
      }),
    )
  }
  const names = current.flatMap((one) => shapes(one).flatMap((shape) => Object.keys(shape)))
  return names.length === 0 ? undefined : [...new Set(names)]
}

/** `source.postgres.hostName` under `EXTRACTOR` is `EXTRACTOR_SOURCE_POSTGRES_HOST_NAME`. */
export function environmentName(prefix: string, path: readonly string[]): string {
  return [prefix, ...path.map((part) => part.replace(/([a-z0-9])([A-Z])/g, '$1_$2'))].join('_').toUpperCase()
}
