import { type Compression, type Dialect } from '@common-handlers/dataset'
import { type PostgresConfig, type PostgresConfigInput, postgresConfigSchema } from '@common-handlers/postgres-handler'
import { type S3Config, type S3ConfigInput, s3ConfigSchema } from '@common-handlers/s3-handler'
import { type VaultConfig, type VaultConfigInput, vaultConfigSchema } from '@common-handlers/vault-handler'
import { parseStoreUrl } from '@common-handlers/storage'
import { z } from 'zod'

/** What is read: a table or a query. */
export interface SourceConfig {
  /** `schema.table`, quoted as in SQL where it must be. A view will do; see `lookback` for what is lost. */
  readonly table?: string | undefined
  /** One SELECT, instead of a table. */
  readonly query?: string | undefined
  /** Columns in the order of the files. Default: all, in the table's order. */
  readonly columns?: readonly string[] | undefined
  /** SQL: only rows for which this holds. */
  readonly where?: string | undefined
  /** `full`: every row. `incremental`: the rows that the runs before have not read. */
  readonly mode: 'full' | 'incremental'
  /** The column that grows with new rows: a sequence, a time of insertion. Needed by `incremental`. */
  readonly watermark?: string | undefined
  /**
   * How far below the highest watermark late rows are looked for: `10000`, `2 days`, or `none`. Default: everywhere,
   * which reads the whole table on the server.
   */
  readonly lookback?: string | undefined
  /** Columns that identify a row. Default: the primary key. */
  readonly key?: readonly string[] | undefined
  /** Columns that become text in every target. */
  readonly text: readonly string[]
}

export interface OutputConfig {
  readonly dialect: Dialect
  readonly compression: Compression
  readonly level: number
  readonly fileBytes: number
}

/** The configuration of the extractor, with defaults filled in. */
export interface ExtractorConfig {
  readonly dataset: string
  readonly store: string
  readonly source: SourceConfig
  readonly postgres: PostgresConfig
  readonly s3: Omit<S3Config, 'bucket' | 'prefix'>
  readonly vault?: VaultConfig | undefined
  readonly output: OutputConfig
}

/** The same as a user writes it. */
export interface ExtractorConfigInput {
  readonly dataset: string
  readonly store: string
  readonly source: { readonly [K in keyof SourceConfig]?: SourceConfig[K] | (K extends 'lookback' ? number : never) | undefined }
  readonly postgres: PostgresConfigInput
  readonly s3?: Omit<S3ConfigInput, 'bucket' | 'prefix'> | undefined
  readonly vault?: VaultConfigInput | undefined
  readonly output?: { readonly [K in keyof OutputConfig]?: OutputConfig[K] | string | undefined } | undefined
}

const MIB = 1024 * 1024
const units: Readonly<Record<string, number>> = {
  '': 1,
  b: 1,
  kb: 1000,
  mb: 1000 ** 2,
  gb: 1000 ** 3,
  kib: 1024,
  mib: MIB,
  gib: 1024 * MIB,
}

/** `134217728`, `128 MiB`, `100MB` */
const byteSize: z.ZodType<number, number | string> = z.union([z.number(), z.string()]).transform((value, context) => {
  const [, digits = '', unit = ''] = /^\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*$/i.exec(String(value)) ?? []
  const factor = units[unit.toLowerCase()]
  const bytes = digits === '' || factor === undefined ? Number.NaN : Math.round(Number(digits) * factor)
  if (bytes >= 1024) return bytes
  context.addIssue({ code: 'custom', message: 'expected a size of at least 1 KiB, such as 134217728 or "128 MiB"' })
  return z.NEVER
})

const name = z.string().min(1)

const sourceSchema = z
  .strictObject({
    table: name.optional().describe('table or view to read: schema.table'),
    query: name.optional().describe('one SELECT to read, instead of a table'),
    columns: z.array(name).min(1).optional().describe('columns in the order of the files; default: all'),
    where: name.optional().describe('SQL condition: only rows for which it holds'),
    mode: z.enum(['full', 'incremental']).default('full').describe('every row, or those that the runs before have not read'),
    watermark: name.optional().describe('column that grows with new rows; needed by incremental'),
    lookback: z
      .union([z.string().min(1), z.number().nonnegative()])
      .transform(String)
      .optional()
      .describe('how far below the highest watermark late rows are looked for: 10000, "2 days", none; default: everywhere'),
    key: z.array(name).optional().describe('columns that identify a row; default: the primary key'),
    text: z.array(name).default([]).describe('columns that become text in every target'),
  })
  .refine(({ table, query }) => (table === undefined) !== (query === undefined), 'give source.table or source.query, one of them')
  .refine(({ mode, watermark }) => mode === 'full' || watermark !== undefined, {
    message: 'incremental needs the watermark column: source.watermark',
    path: ['watermark'],
  })

const outputSchema = z.strictObject({
  dialect: z
    .enum(['one-row-a-line', 'rfc4180'])
    .default('one-row-a-line')
    .describe('one-row-a-line: Trino reads the files in place; rfc4180: the CSV of PostgreSQL untouched'),
  compression: z.enum(['gzip', 'zstd', 'none']).default('gzip').describe('how files are compressed'),
  level: z.int().min(1).max(19).default(1).describe('effort of the compression: gzip 1–9, zstd 1–19'),
  fileBytes: byteSize.default(32 * MIB).describe('a file that has reached this size, compressed, is closed at the end of a row'),
})

/** The handler's own schema but for what `store` says. The handler itself checks what belongs together. */
const { bucket: _bucket, prefix: _prefix, ...s3Shape } = (s3ConfigSchema as unknown as z.ZodObject).shape

/** One strict schema for file, environment (`EXTRACTOR_*`) and `--set`. */
export const extractorConfigSchema: z.ZodType<ExtractorConfig, ExtractorConfigInput> = z.strictObject({
  dataset: z
    .string()
    .regex(/^[A-Za-z0-9][\w.-]*(\/[A-Za-z0-9][\w.-]*)*$/, 'expected letters, digits, ".", "-" and "_", with "/" between folders')
    .describe('folder of the runs in the store'),
  store: z
    .string()
    .refine((store) => parseStoreUrl(store) !== undefined, 'expected s3://bucket/prefix or file:///folder')
    .describe('where the runs lie: s3://bucket/prefix or file:///folder'),
  source: sourceSchema,
  postgres: postgresConfigSchema,
  // Compressed files come slower than a network takes them: two parts under way are enough, and hold half the memory.
  s3: z
    .strictObject({
      ...s3Shape,
      concurrency: z.int().min(1).max(64).default(2).describe('Parts of one upload sent at the same time'),
    })
    .prefault({}),
  vault: vaultConfigSchema.optional().describe('where vault:path#field is read'),
  output: outputSchema.prefault({}),
}) as unknown as z.ZodType<ExtractorConfig, ExtractorConfigInput>
