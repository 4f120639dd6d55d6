import { createHash } from 'node:crypto'
import { z } from 'zod'

/** The version of the data contract that this package writes. */
export const INGESTION_VERSION = 1

/** Where an item came from, step by step. */
export interface Lineage {
  readonly protocol: string
  /** What was asked, without secrets: a statement, a path, a topic. */
  readonly query: string
  /** The place in the answer, from 0. */
  readonly position: number
}

/** One thing that was fetched: a row, a record, a file, a message. */
export interface IngestedItem {
  /** A URL or a name of the source, without secrets. */
  readonly source: string
  /** What tells it from the others of its source: a primary key, a path, an offset. */
  readonly key?: string | undefined
  /** The content; absent when it was written to `location`. */
  readonly data?: unknown
  /** What the source says of the item beside its content: the headers of a message, its routing key. No secrets. */
  readonly attributes?: Readonly<Record<string, unknown>> | undefined
  /** Where the content was written: `file:///…`, `s3://…`. */
  readonly location?: string | undefined
  readonly mediaType: string
  /** Of the content as it was received, or of its JSON where it has no bytes of its own. */
  readonly bytes: number
  /** Of the same bytes: `sha256:` and 64 hexadecimal digits. */
  readonly checksum: string
  /** Given back to the next query, what follows is what came after this item. Its form is the connector's. */
  readonly watermark?: string | undefined
  /** ISO 8601, UTC. */
  readonly fetchedAt: string
  readonly lineage: Lineage
}

/** The answer of `fetchData`. */
export interface IngestionResult {
  readonly version: typeof INGESTION_VERSION
  readonly protocol: string
  readonly items: readonly IngestedItem[]
  /** Of all items together. */
  readonly bytes: number
  /** That of the last item that has one. */
  readonly watermark?: string | undefined
  readonly startedAt: string
  readonly finishedAt: string
}

const count = (): z.ZodType<number, number> => z.int().nonnegative()
const time = (): z.ZodType<string, string> => z.iso.datetime({ precision: 3 })

/** One item, as it stands in memory or in JSON. */
export const ingestedItemSchema: z.ZodType<IngestedItem, IngestedItem> = z.strictObject({
  source: z.string().min(1).describe('A URL or a name of the source, without secrets'),
  key: z.string().optional().describe('What tells the item from the others of its source'),
  data: z.unknown().optional().describe('The content; absent when it was written to location'),
  attributes: z
    .record(z.string(), z.unknown())
    .optional()
    .describe('What the source says of the item beside its content: headers, a routing key'),
  location: z.string().optional().describe('Where the content was written'),
  mediaType: z.string().min(1),
  bytes: count().describe('Of the content as it was received, or of its JSON where it has no bytes of its own'),
  checksum: z.string().regex(/^sha256:[0-9a-f]{64}$/),
  watermark: z.string().optional().describe('Given back to the next query, what follows is what came after this item'),
  fetchedAt: time(),
  lineage: z.strictObject({
    protocol: z.string().min(1),
    query: z.string().describe('What was asked, without secrets'),
    position: count().describe('The place in the answer, from 0'),
  }),
})

export const ingestionResultSchema: z.ZodType<IngestionResult, IngestionResult> = z.strictObject({
  version: z.literal(INGESTION_VERSION),
  protocol: z.string().min(1),
  items: z.array(ingestedItemSchema),
  bytes: count().describe('Of all items together'),
  watermark: z.string().optional().describe('That of the last item that has one'),
  startedAt: time(),
  finishedAt: time(),
})

/** The contract as JSON Schema (draft 2020-12), made from the schema that checks it; published as `schema/ingestion-result-v1.json`. */
export function ingestionJsonSchema(): Record<string, unknown> {
  const { $schema, ...schema } = z.toJSONSchema(ingestionResultSchema)
  return { $schema, title: `Result of an ingestion, version ${INGESTION_VERSION}`, ...schema }
}

/** What a connector knows of an item; the rest is worked out. */
export interface ItemFacts extends Omit<IngestedItem, 'bytes' | 'checksum' | 'fetchedAt' | 'mediaType'> {
  readonly mediaType?: string | undefined
}

/**
 * An item of content in memory, with its bytes and checksum: those of `received`, what came over the wire; otherwise of
 * the bytes themselves, of a text in UTF-8, of the JSON of anything else.
 */
export function ingestedItem(facts: ItemFacts, received?: Uint8Array): IngestedItem {
  const { data } = facts
  const content = received ?? (data instanceof Uint8Array ? data : Buffer.from(typeof data === 'string' ? data : exactJson(data)))
  const mediaType = data instanceof Uint8Array ? 'application/octet-stream' : typeof data === 'string' ? 'text/plain' : undefined
  return {
    ...facts,
    mediaType: facts.mediaType ?? mediaType ?? 'application/json',
    bytes: content.byteLength,
    checksum: `sha256:${createHash('sha256').update(content).digest('hex')}`,
    fetchedAt: new Date().toISOString(),
  }
}

const { rawJSON } = JSON as unknown as { readonly rawJSON: (text: string) => unknown }

/** JSON in which a bigint is a number of all its digits and bytes are base64. */
export function exactJson(value: unknown): string {
  return (
    JSON.stringify(value, function (this: unknown, key: string, found: unknown): unknown {
      if (typeof found === 'bigint') return rawJSON(found.toString())
      // A Buffer has turned itself into numbers by now: look at what stands there.
      const held = (this as Readonly<Record<string, unknown>>)[key]
      if (held instanceof Uint8Array) return Buffer.from(held).toString('base64')
      return found
    }) ?? 'null'
  )
}

/** Reads JSON so that an integer past 2^53 is a bigint and keeps its digits. */
export function parseExactJson(text: string): unknown {
  if (!/\d{16}/.test(text)) return JSON.parse(text)
  return JSON.parse(text, function (_key: string, value: unknown, context?: { readonly source?: string }): unknown {
    const source = context?.source
    if (typeof value !== 'number' || Number.isSafeInteger(value) || source === undefined) return value
    return /^-?\d+$/.test(source) ? BigInt(source) : value
  } as (this: unknown, key: string, value: unknown) => unknown)
}
