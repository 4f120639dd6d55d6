import { createHash } from 'node:crypto'
import { z } from 'zod'
import { fileInvalid } from './errors.ts'
import { readFooter } from './parquet.ts'
import type { SourcePositions } from './positions.ts'

/** The version of the manifests that this package writes. */
export const BATCH_VERSION = 1

/** What the footer of a file says of the batch that it is. */
export interface Batch {
  readonly version: typeof BATCH_VERSION
  /** From 1, without a gap. */
  readonly number: number
  /** Tells writers of the same number apart. */
  readonly id: string
  /** ISO 8601, in UTC, by the writer's clock. */
  readonly committedAt: string
  /** Names and types of the columns of the payload's own. */
  readonly columns: readonly (readonly [string, string])[]
  readonly positions: readonly SourcePositions[]
}

/** A committed batch. */
export interface BatchManifest extends Batch {
  /** Key of the file in the store. */
  readonly file: string
  readonly rows: number
  readonly bytes: number
  /** SHA-256 of the file, in hexadecimal. */
  readonly sha256: string
}

const batchShape = {
  version: z.literal(BATCH_VERSION),
  number: z.int().positive(),
  id: z.string(),
  committedAt: z.iso.datetime(),
  columns: z.array(z.tuple([z.string(), z.string()])),
  positions: z.array(
    z.strictObject({
      source: z.string(),
      partition: z.string().optional(),
      runs: z.array(z.tuple([z.string().regex(/^\d+$/), z.string().regex(/^\d+$/)])),
      keys: z.array(z.string()),
    }),
  ),
}
const batchSchema: z.ZodType<Batch> = z.strictObject(batchShape)
const manifestSchema: z.ZodType<BatchManifest> = z.strictObject({
  ...batchShape,
  file: z.string(),
  rows: z.int().nonnegative(),
  bytes: z.int().nonnegative(),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
})

/** The manifest of a file that is there: all that it says stands in the file. @throws DataError `LAKE_FILE_INVALID` */
export function manifestOfFile(key: string, file: Uint8Array): BatchManifest {
  const { batch, rows } = readFooter(key, file)
  const parsed = batchSchema.safeParse(batch)
  if (!parsed.success) throw fileInvalid(key, z.prettifyError(parsed.error))
  return manifestOf(parsed.data, key, rows, file)
}

/** The manifest of a batch and its file. */
export function manifestOf(batch: Batch, key: string, rows: number, file: Uint8Array): BatchManifest {
  return { ...batch, file: key, rows, bytes: file.byteLength, sha256: createHash('sha256').update(file).digest('hex') }
}

/** @throws DataError `LAKE_FILE_INVALID` */
export function parseManifest(key: string, bytes: Buffer): BatchManifest {
  let value: unknown
  try {
    value = JSON.parse(bytes.toString('utf8'))
  } catch (cause) {
    throw fileInvalid(key, 'it is no JSON', cause)
  }
  const parsed = manifestSchema.safeParse(value)
  if (!parsed.success) throw fileInvalid(key, z.prettifyError(parsed.error))
  return parsed.data
}
