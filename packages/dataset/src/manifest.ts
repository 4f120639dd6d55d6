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

export const columnSchema = z.strictObject({
  name: z.string().min(1),
  /** As PostgreSQL's format_type() spells it: `numeric(10,2)`, `timestamp with time zone`. */
  sourceType: z.string(),
  logicalType: z.enum(logicalTypes),
  /** Digits of a decimal. */
  precision: z.int().positive().optional(),
  scale: z.int().nonnegative().optional(),
  nullable: z.boolean(),
  /** Position in the primary key, from 1. */
  keyPosition: z.int().positive().optional(),
  /** True when this run holds values outside the years 0001–9999, ±infinity, NaN in a decimal or 24:00:00: not every engine can hold them. */
  exceptional: z.boolean().optional(),
  /** The type that holds every value of this run exactly, by engine; `text` types where nothing else does, then with the reason. */
  targets: z.strictObject({
    iceberg: z.strictObject({ type: z.string(), textBecause: z.string().optional() }),
    duckdb: z.strictObject({ type: z.string(), textBecause: z.string().optional() }),
  }),
})

export const fileSchema = z.strictObject({
  /** Name within the run's folder: `part-00000.csv.gz`. */
  name: z.string().min(1),
  rows: z.int().nonnegative(),
  /** Bytes as stored, compressed. */
  bytes: z.int().nonnegative(),
  /** Of the bytes as stored, in hexadecimal. */
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
  /** What the store answered when the file was written: the checksum it keeps itself. */
  etag: z.string(),
})

const watermarkSchema = z.strictObject({
  column: z.string(),
  /** The highest value read by the run before, in PostgreSQL's text; absent in the first run. Exclusive. */
  from: z.string().optional(),
  /** The highest value in this run or, when it is empty, that of the run before. Inclusive; absent while no row was ever read. */
  to: z.string().optional(),
  /** Rows at or below `from` whose transaction committed after the snapshot of the run before. */
  lateRows: z.boolean(),
})

export const manifestSchema = z.strictObject({
  version: z.literal(MANIFEST_VERSION),
  dataset: z.string().min(1),
  runId: z.string().min(1),
  /** The newest run of this dataset when this one began. */
  previousRunId: z.string().optional(),
  createdAt: z.iso.datetime(),
  /** Which program wrote it: `audit-log-extractor 0.1.0`. */
  createdBy: z.string(),
  source: z.strictObject({
    system: z.literal('postgresql'),
    serverVersion: z.string(),
    database: z.string(),
    /** `"app"."audit_log"`; absent when the source is a query. */
    table: z.string().optional(),
    query: z.string().optional(),
  }),
  mode: z.enum(['full', 'incremental']),
  watermark: watermarkSchema.optional(),
  /** Of the one REPEATABLE READ transaction that read every file of the run. */
  snapshot: z.strictObject({
    /** pg_current_snapshot(): `xmin:xmax:xip_list`. */
    id: z.string(),
    xmin: z.string(),
    xmax: z.string(),
    xip: z.array(z.string()),
    /** Write-ahead log position, absent on a standby. */
    lsn: z.string().optional(),
  }),
  columns: z.array(columnSchema).min(1),
  format: z.strictObject({
    dialect: z.enum(['one-row-a-line', 'rfc4180']),
    compression: z.enum(['gzip', 'zstd', 'none']),
    /** How NULL is written; quoted, it is the text itself. */
    null: z.string(),
    header: z.literal(true),
  }),
  files: z.array(fileSchema),
  totals: z.strictObject({ files: z.int().nonnegative(), rows: z.int().nonnegative(), bytes: z.int().nonnegative() }),
})

export type LogicalType = (typeof logicalTypes)[number]
export type ManifestColumn = z.output<typeof columnSchema>
export type ManifestFile = z.output<typeof fileSchema>
export type Manifest = z.output<typeof manifestSchema>
