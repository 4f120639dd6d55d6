import { type S3Config, type S3ConfigInput, s3ConfigSchema } from '@common-handlers/s3-handler'
import { type TrinoConfig, type TrinoConfigInput, trinoConfigSchema } from '@common-handlers/trino-handler'
import { type VaultConfig, type VaultConfigInput, vaultConfigSchema } from '@common-handlers/vault-handler'
import { parseStoreUrl } from '@common-handlers/storage'
import { z } from 'zod'
import { methods } from './ledger.ts'
import type { WriteMode } from './queue.ts'

/** The table that is loaded. */
export interface TargetConfig {
  /** Trino's name of the Iceberg catalog; not needed for DuckDB. */
  readonly catalog?: string | undefined
  readonly schema: string
  readonly table: string
  /** Partition transforms of a table that is made here: `day(occurred_at)`, `bucket(entity_id, 16)`. */
  readonly partitioning: readonly string[]
  /** Sort order of a table that is made here: `occurred_at`, `id DESC NULLS FIRST`. */
  readonly sortedBy: readonly string[]
  /** Names the target in the ledger. Default: its full name. Give one where two clusters share names and a store. */
  readonly ledger?: string | undefined
}

/** Trino as the handler takes it, and where external tables over the files are made. */
export interface TrinoTargetConfig extends TrinoConfig {
  /** A catalog of the Hive connector that may make tables over existing files. */
  readonly stagingCatalog: string
  readonly stagingSchema: string
}

export interface DuckDbTargetConfig {
  /** The database's file. */
  readonly path: string
  /** `512MB`: what does not fit is written beside the file. */
  readonly memoryLimit: string
  readonly threads?: number | undefined
}

export interface IngestorConfig {
  readonly dataset: string
  readonly store: string
  readonly engine: 'trino' | 'duckdb'
  readonly target: TargetConfig
  readonly write: WriteMode
  readonly trino?: TrinoTargetConfig | undefined
  readonly duckdb?: DuckDbTargetConfig | undefined
  readonly s3: Omit<S3Config, 'bucket' | 'prefix'>
  readonly vault?: VaultConfig | undefined
  readonly lease: { readonly seconds: number }
  readonly recovery: {
    /** How long attempts that fail for a passing reason are followed by another. */
    readonly budgetSeconds: number
    /** How long a dead worker's statement that still runs is waited for before it is cancelled. */
    readonly waitSeconds: number
  }
}

/** The same as a user writes it. */
export interface IngestorConfigInput {
  readonly dataset: string
  readonly store: string
  readonly engine: 'trino' | 'duckdb'
  readonly target: { readonly [K in keyof TargetConfig]?: TargetConfig[K] | undefined }
  readonly write?: WriteMode | undefined
  readonly trino?:
    | (TrinoConfigInput & { readonly stagingCatalog?: string | undefined; readonly stagingSchema?: string | undefined })
    | undefined
  readonly duckdb?:
    | { readonly path: string; readonly memoryLimit?: string | undefined; readonly threads?: number | undefined }
    | undefined
  readonly s3?: Omit<S3ConfigInput, 'bucket' | 'prefix'> | undefined
  readonly vault?: VaultConfigInput | undefined
  readonly lease?: { readonly seconds?: number | undefined } | undefined
  readonly recovery?: { readonly budgetSeconds?: number | undefined; readonly waitSeconds?: number | undefined } | undefined
}

const name = z.string().min(1)
const seconds = z.int().positive()

// The handlers' own schemas, but for what other keys say; the handlers themselves check what belongs together.
const { bucket: _bucket, prefix: _prefix, ...s3Shape } = (s3ConfigSchema as unknown as z.ZodObject).shape
const { catalog: _catalog, schema: _schema, ...trinoShape } = (trinoConfigSchema as unknown as z.ZodObject).shape

const targetSchema = z.strictObject({
  catalog: name.optional().describe('Iceberg catalog in Trino; not for duckdb'),
  schema: name.describe('schema; made when absent'),
  table: name.describe('table; made when absent'),
  partitioning: z.array(name).default([]).describe('partition transforms of a new table: day(occurred_at)'),
  sortedBy: z.array(name).default([]).describe('sort order of a new table: id DESC'),
  ledger: name.optional().describe('name of the target in the ledger; default: its full name'),
})

/** One strict schema for file, environment (`INGESTOR_*`) and `--set`. */
export const ingestorConfigSchema: z.ZodType<IngestorConfig, IngestorConfigInput> = z
  .strictObject({
    dataset: name.describe('folder of the runs in the store'),
    store: z
      .string()
      .refine((store) => parseStoreUrl(store) !== undefined, 'expected s3://bucket/prefix or file:///folder')
      .describe('where the extractor wrote: s3://bucket/prefix or file:///folder'),
    engine: z.enum(['trino', 'duckdb']).describe('what loads the rows'),
    target: targetSchema,
    write: z
      .enum(['auto', ...methods])
      .default('auto')
      .describe('auto: a full run replaces the table, an incremental one is merged by its key, or appended without one'),
    trino: z
      .strictObject({
        ...trinoShape,
        stagingCatalog: name.default('stage').describe('Hive catalog in which tables are laid over the files'),
        stagingSchema: name.default('ingest').describe('schema there; made when absent'),
      })
      .optional(),
    duckdb: z
      .strictObject({
        path: name.describe('file of the database; made when absent'),
        memoryLimit: name.default('512MB').describe('most memory DuckDB may use; what does not fit is written beside the file'),
        threads: z.int().positive().optional().describe('threads DuckDB may use'),
      })
      .optional(),
    s3: z.strictObject(s3Shape).prefault({}),
    vault: vaultConfigSchema.optional().describe('where vault:path#field is read'),
    lease: z
      .strictObject({
        seconds: seconds.default(60).describe('how long a claim lasts that is not renewed; a dead worker is waited for so long'),
      })
      .prefault({}),
    recovery: z
      .strictObject({
        budgetSeconds: seconds
          .default(600)
          .describe('how long an attempt that fails for a passing reason is followed by another'),
        waitSeconds: seconds.default(300).describe('how long a statement of a dead worker is waited for before it is cancelled'),
      })
      .prefault({}),
  })
  .superRefine((config, context) => {
    const missing = (path: string[], message: string): void => context.addIssue({ code: 'custom', path, message })
    if (config.engine === 'trino') {
      if (config.trino === undefined) missing(['trino'], 'engine trino needs trino.url and trino.user')
      if (config.target.catalog === undefined) missing(['target', 'catalog'], 'engine trino needs the Iceberg catalog')
      if (config.store.startsWith('file:')) {
        missing(['store'], 'Trino cannot read a folder of this machine: give s3://bucket/prefix, or use engine duckdb')
      }
    } else if (config.duckdb === undefined) missing(['duckdb'], 'engine duckdb needs duckdb.path')
  }) as unknown as z.ZodType<IngestorConfig, IngestorConfigInput>
