import { z } from 'zod'
import { configInvalid } from './errors.ts'

/** How an integer, a decimal, a time of a payload stands in its own column. `decimal(18,2)`: 18 digits in all, 2 behind the point. */
export type LakeColumnType =
  | 'boolean'
  | 'int32'
  | 'int64'
  | 'float64'
  | 'text'
  | 'date'
  | 'timestamp'
  | 'json'
  | `decimal(${number},${number})`

/** What a caller writes. */
export interface LakeConfigInput {
  /** Where in the store the table is: `lake/orders`. Default: the store's own root. */
  readonly prefix?: string | undefined
  /** Fields of the payload, a JSON object, that get a column of their own. Default: none; the payload is whole in `data`. */
  readonly columns?: Readonly<Record<string, LakeColumnType>> | undefined
  /** How the pages of the files are compressed. Default `zstd`. */
  readonly compression?: 'zstd' | 'snappy' | 'none' | undefined
  /** How long before the newest batch a message is known to have been written, in milliseconds. Default 86 400 000: a day. */
  readonly rememberMs?: number | undefined
}

/** The configuration after parsing. */
export interface LakeConfig {
  /** With a slash at its end, or empty. */
  readonly prefix: string
  readonly columns: Readonly<Record<string, LakeColumnType>>
  readonly compression: 'zstd' | 'snappy' | 'none'
  readonly rememberMs: number
}

const PLAIN_TYPES: readonly string[] = ['boolean', 'int32', 'int64', 'float64', 'text', 'date', 'timestamp', 'json']
const MAX_DECIMAL_DIGITS = 38

/** Digits in all and behind the point; undefined for what is no decimal. */
export function decimalOf(type: string): { readonly precision: number; readonly scale: number } | undefined {
  const [, precision, scale] = /^decimal\((\d+),(\d+)\)$/.exec(type) ?? []
  return precision === undefined ? undefined : { precision: Number(precision), scale: Number(scale) }
}

function isColumnType(type: unknown): type is LakeColumnType {
  if (typeof type !== 'string') return false
  const decimal = decimalOf(type)
  if (decimal === undefined) return PLAIN_TYPES.includes(type)
  return decimal.precision >= 1 && decimal.precision <= MAX_DECIMAL_DIGITS && decimal.scale <= decimal.precision
}

/** Columns that every file has, in order. */
export type EnvelopeColumn =
  | '_source'
  | '_key'
  | '_media_type'
  | '_fetched_at'
  | '_checksum'
  | '_attributes'
  | 'data'
  | 'data_bytes'

export const ENVELOPE: readonly EnvelopeColumn[] = [
  '_source',
  '_key',
  '_media_type',
  '_fetched_at',
  '_checksum',
  '_attributes',
  'data',
  'data_bytes',
]

/** One strict schema for all options. */
export const lakeConfigSchema: z.ZodType<LakeConfig, LakeConfigInput> = z.strictObject({
  prefix: z
    .string()
    .regex(/^([^/]+\/)*[^/]*$/, 'expected a path without a slash at its beginning')
    .default('')
    .transform((prefix) => (prefix === '' || prefix.endsWith('/') ? prefix : `${prefix}/`))
    .describe('where in the store the table is, such as `lake/orders`; the root of the store by default'),
  columns: z
    .record(
      z.string().min(1),
      z.custom<LakeColumnType>(isColumnType, `expected ${PLAIN_TYPES.join(', ')} or decimal(precision,scale)`),
    )
    .refine((columns) => !Object.keys(columns).some((name) => (ENVELOPE as readonly string[]).includes(name.toLowerCase())), {
      error: `every file has columns named ${ENVELOPE.join(', ')}`,
    })
    .default({})
    .describe('fields of a JSON object that get a column of their own, by type'),
  compression: z.enum(['zstd', 'snappy', 'none']).default('zstd').describe('how the pages of the files are compressed'),
  rememberMs: z
    .int()
    .positive()
    .default(86_400_000)
    .describe('how long before the newest batch a message is known to have been written, in milliseconds'),
})

/** @throws ConfigError `LAKE_CONFIG_INVALID` */
export function parseConfig(options: LakeConfigInput): LakeConfig {
  const parsed = lakeConfigSchema.safeParse(options)
  if (parsed.success) return parsed.data
  throw configInvalid(parsed.error.issues.map(({ path, message }) => `${path.join('.') || 'options'}: ${message}`).join('; '))
}
