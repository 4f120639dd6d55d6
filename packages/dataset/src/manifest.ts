import { z } from 'zod'

/** The version of the manifest's format that this package writes. Readers refuse a newer one. */
export const MANIFEST_VERSION = 1

/** What a column holds, whatever the engine. Anything else is `text`, in PostgreSQL's own spelling. */
export const logicalTypes = [
  'boolean',
  'int16',
  'int32',
  'int64',
  'decimal',
  'float32',
  'float64',
  'text',
  'json',
  'binary',
  'uuid',
  'date',
  'time',
  'timestamp',
  'timestamptz',
] as const

export type LogicalType = (typeof logicalTypes)[number]

/** The type an engine's column gets. */
export interface TargetType {
  /** In the engine's own words: `decimal(10,2)`, `timestamp(6) with time zone`, `varchar`. */
  readonly type: string
  /** Why the type is a text although the value is none: what would be lost otherwise. */
  readonly textBecause?: string | undefined
}

/** One column of a run, in the order of the files. */
export interface ManifestColumn {
  readonly name: string
  /** As PostgreSQL's format_type() spells it: `numeric(10,2)`, `timestamp with time zone`. */
  readonly sourceType: string
  readonly logicalType: LogicalType
  /** Digits of a decimal in all. */
  readonly precision?: number | undefined
  /** Digits of a decimal behind the point. */
  readonly scale?: number | undefined
  readonly nullable: boolean
  /** Position in the primary key, from 1. */
  readonly keyPosition?: number | undefined
  /** True when this run holds values outside the years 0001–9999, ±infinity, NaN in a decimal or 24:00:00: not every engine can hold them. */
  readonly exceptional?: boolean | undefined
  /** The type that holds every value of this run exactly, by engine; a text type where nothing else does, then with the reason. */
  readonly targets: { readonly iceberg: TargetType; readonly duckdb: TargetType }
}

/** One file of a run. */
export interface ManifestFile {
  /** Name within the run's folder: `part-00000.csv.gz`. */
  readonly name: string
  readonly rows: number
  /** Bytes as stored, compressed. */
  readonly bytes: number
  /** Of the bytes as stored, in hexadecimal. */
  readonly sha256: string
  /** What the store answered when the file was written: the checksum it keeps itself. */
  readonly etag: string
}

/** What an incremental run read, by the values of one column. */
export interface ManifestWatermark {
  readonly column: string
  /** The highest value read by the run before, in PostgreSQL's text; absent in the first run. Exclusive. */
  readonly from?: string | undefined
  /** The highest value in this run or, when it is empty, that of the run before. Inclusive; absent while no row was ever read. */
  readonly to?: string | undefined
  /** True when rows at or below `from` were looked for, too: those whose transaction committed after the snapshot of the run before. */
  readonly lateRows: boolean
  /**
   * Transactions at or above `snapshot.xmin` (as xid8) whose rows were read, by this run or one before it. The next run
   * takes every other one from there on for new: `snapshot.xip` cannot tell, since it lists no subtransactions. Absent
   * where late rows cannot be looked for, or when the list would be too long.
   */
  readonly knownTransactions?: readonly string[] | undefined
}

export interface ManifestSource {
  readonly system: 'postgresql'
  readonly serverVersion: string
  readonly database: string
  /** `"app"."audit_log"`; absent when the source is a query. */
  readonly table?: string | undefined
  readonly query?: string | undefined
}

/** The snapshot of the one REPEATABLE READ transaction that read every file of the run. */
export interface ManifestSnapshot {
  /** pg_current_snapshot(): `xmin:xmax:xip_list`. */
  readonly id: string
  readonly xmin: string
  readonly xmax: string
  readonly xip: readonly string[]
  /** Write-ahead log position, absent on a standby. */
  readonly lsn?: string | undefined
}

/** `one-row-a-line`: see dialect.ts. `rfc4180`: PostgreSQL's CSV as it is, line breaks inside of quoted fields included. */
export type Dialect = 'one-row-a-line' | 'rfc4180'
export type Compression = 'gzip' | 'zstd' | 'none'

/** How the files of a run are written. */
export interface ManifestFormat {
  readonly dialect: Dialect
  readonly compression: Compression
  /** How NULL is written; quoted, it is the text itself. */
  readonly null: string
  /** Each file begins with a line of column names. */
  readonly header: true
}

/** What `_manifest.json` says of a run. The run exists once this is written. */
export interface Manifest {
  readonly version: typeof MANIFEST_VERSION
  readonly dataset: string
  readonly runId: string
  /** The newest run of this dataset when this one began. */
  readonly previousRunId?: string | undefined
  /** ISO 8601, in UTC. */
  readonly createdAt: string
  /** Which program wrote it: `audit-log-extractor 0.1.0`. */
  readonly createdBy: string
  readonly source: ManifestSource
  readonly mode: 'full' | 'incremental'
  readonly watermark?: ManifestWatermark | undefined
  readonly snapshot: ManifestSnapshot
  readonly columns: readonly ManifestColumn[]
  readonly format: ManifestFormat
  readonly files: readonly ManifestFile[]
  readonly totals: { readonly files: number; readonly rows: number; readonly bytes: number }
}

const targetSchema = z.strictObject({
  type: z.string().min(1).describe('the type in the words of the engine'),
  textBecause: z.string().optional().describe('why the type is a text although the value is none'),
})

const columnSchema = z.strictObject({
  name: z.string().min(1),
  sourceType: z.string().describe("as PostgreSQL's format_type() spells it"),
  logicalType: z.enum(logicalTypes),
  precision: z.int().positive().optional().describe('digits of a decimal in all'),
  scale: z.int().nonnegative().optional().describe('digits of a decimal behind the point'),
  nullable: z.boolean(),
  keyPosition: z.int().positive().optional().describe('position in the primary key, from 1'),
  exceptional: z
    .boolean()
    .optional()
    .describe('this run holds values outside the years 0001–9999, ±infinity, NaN in a decimal or 24:00:00'),
  targets: z
    .strictObject({ iceberg: targetSchema, duckdb: targetSchema })
    .describe('the type that holds every value of this run exactly, by engine'),
})

const fileSchema = z.strictObject({
  name: z
    .string()
    .min(1)
    .regex(/^[^/]+$/, 'expected a name without a folder')
    .describe("name within the run's folder"),
  rows: z.int().nonnegative(),
  bytes: z.int().nonnegative().describe('as stored, compressed'),
  sha256: z
    .string()
    .regex(/^[0-9a-f]{64}$/, 'expected 64 hexadecimal digits')
    .describe('of the bytes as stored'),
  etag: z.string().describe('what the store answered when the file was written'),
})

const watermarkSchema = z.strictObject({
  column: z.string().min(1),
  from: z.string().optional().describe('exclusive; absent in the first run'),
  to: z.string().optional().describe('inclusive; absent while no row was ever read'),
  lateRows: z.boolean().describe('rows at or below `from` that committed after the snapshot of the run before were looked for'),
  knownTransactions: z.array(z.string().regex(/^\d+$/)).optional().describe('at or above snapshot.xmin, their rows were read'),
})

/** Checks a manifest read from a store; an unknown key is an error, so that a newer writer cannot be misread. */
export const manifestSchema: z.ZodType<Manifest> = z.strictObject({
  version: z.literal(MANIFEST_VERSION),
  dataset: z.string().min(1),
  runId: z.string().min(1),
  previousRunId: z.string().optional().describe('the newest run of this dataset when this one began'),
  createdAt: z.iso.datetime(),
  createdBy: z.string(),
  source: z.strictObject({
    system: z.literal('postgresql'),
    serverVersion: z.string(),
    database: z.string(),
    table: z.string().optional().describe('quoted; absent when the source is a query'),
    query: z.string().optional(),
  }),
  mode: z.enum(['full', 'incremental']),
  watermark: watermarkSchema.optional(),
  snapshot: z
    .strictObject({
      id: z.string().describe('pg_current_snapshot()'),
      xmin: z.string(),
      xmax: z.string(),
      xip: z.array(z.string()),
      lsn: z.string().optional().describe('write-ahead log position, absent on a standby'),
    })
    .describe('of the one REPEATABLE READ transaction that read every file of the run'),
  columns: z.array(columnSchema).min(1),
  format: z.strictObject({
    dialect: z.enum(['one-row-a-line', 'rfc4180']),
    compression: z.enum(['gzip', 'zstd', 'none']),
    null: z.string().describe('how NULL is written; quoted, it is the text itself'),
    header: z.literal(true),
  }),
  files: z.array(fileSchema),
  totals: z.strictObject({ files: z.int().nonnegative(), rows: z.int().nonnegative(), bytes: z.int().nonnegative() }),
})
