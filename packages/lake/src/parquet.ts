import { zstdCompressSync } from 'node:zlib'
import { exactJson, type IngestedItem } from '@common-handlers/connections'
import { parquetMetadata, type SchemaElement } from 'hyparquet'
import { parquetWriteBuffer } from 'hyparquet-writer'
import { decimalOf, ENVELOPE, type EnvelopeColumn, type LakeColumnType, type LakeConfig } from './config.ts'
import { fileInvalid, valueUnfit } from './errors.ts'
import { type Cell, cellOf, parseNumbersExactly, Unfit } from './value.ts'

/** What a lake takes: any item, and of a message its payload byte by byte. */
export interface LakeItem extends IngestedItem {
  readonly key?: string | undefined
  /** The payload; null where there was none. Without it `data` is written. */
  readonly received?: Uint8Array | null | undefined
  /** True when nobody can have written it before: it is not looked for. */
  readonly first?: boolean | undefined
}

type Element = Omit<SchemaElement, 'name' | 'repetition_type'>

const TEXT: Element = { type: 'BYTE_ARRAY', converted_type: 'UTF8', logical_type: { type: 'STRING' } }
const TIMESTAMP: Element = {
  type: 'INT64',
  converted_type: 'TIMESTAMP_MICROS',
  logical_type: { type: 'TIMESTAMP', isAdjustedToUTC: true, unit: 'MICROS' },
}
/** Bytes of 38 digits and a sign. */
const DECIMAL_BYTES = 16
/** Digits that fit in 64 bits whatever they are. */
const INT64_DIGITS = 18

const envelope: Readonly<Record<EnvelopeColumn, Element & { readonly required?: true }>> = {
  _source: { ...TEXT, required: true },
  _key: { ...TEXT, required: true },
  _media_type: { ...TEXT, required: true },
  _fetched_at: { ...TIMESTAMP, required: true },
  _checksum: { ...TEXT, required: true },
  _attributes: TEXT,
  data: TEXT,
  data_bytes: { type: 'BYTE_ARRAY' },
}

function elementOf(type: LakeColumnType): Element {
  const decimal = decimalOf(type)
  if (decimal !== undefined) {
    const logical = { converted_type: 'DECIMAL', logical_type: { type: 'DECIMAL', ...decimal }, ...decimal } as const
    if (decimal.precision <= INT64_DIGITS) return { type: 'INT64', ...logical }
    return { type: 'FIXED_LEN_BYTE_ARRAY', type_length: DECIMAL_BYTES, ...logical }
  }
  switch (type) {
    case 'boolean':
      return { type: 'BOOLEAN' }
    case 'int32':
      return { type: 'INT32' }
    case 'int64':
      return { type: 'INT64' }
    case 'float64':
      return { type: 'DOUBLE' }
    case 'date':
      return { type: 'INT32', converted_type: 'DATE', logical_type: { type: 'DATE' } }
    case 'timestamp':
      return TIMESTAMP
    default:
      return TEXT
  }
}

/** Where the footer says which batch the file is. */
const BATCH_KEY = 'common-handlers.batch'
const ROWS_A_GROUP = 100_000

/** The items as one Parquet file, with `batch` in its footer. @throws DataError `LAKE_VALUE_UNFIT` */
export function encodeBatch(
  items: readonly (LakeItem & { readonly key: string })[],
  { columns, compression }: LakeConfig,
  batch: object,
): Uint8Array {
  const typed = Object.entries(columns)
  const fields = items.map((item) => (typed.length === 0 ? undefined : fieldsOf(item)))
  const cells: Record<EnvelopeColumn, readonly (Cell | Uint8Array)[]> = {
    _source: items.map(({ source }) => source),
    _key: items.map(({ key }) => key),
    _media_type: items.map(({ mediaType }) => mediaType),
    _fetched_at: items.map(({ fetchedAt }) => BigInt(Date.parse(fetchedAt)) * 1000n),
    _checksum: items.map(({ checksum }) => checksum),
    _attributes: items.map(({ attributes }) => (attributes === undefined ? null : exactJson(attributes))),
    data: items.map(textOf),
    data_bytes: items.map(({ data }) => (data instanceof Uint8Array ? data : null)),
  }
  const schema: SchemaElement[] = [
    { name: 'schema', num_children: ENVELOPE.length + typed.length },
    ...ENVELOPE.map((name) => {
      const { required, ...element } = envelope[name]
      return { name, repetition_type: required === true ? ('REQUIRED' as const) : ('OPTIONAL' as const), ...element }
    }),
    ...typed.map(([name, type]) => ({ name, repetition_type: 'OPTIONAL' as const, ...elementOf(type) })),
  ]
  const columnData = [
    ...ENVELOPE.map((name) => ({ name, data: [...cells[name]] })),
    ...typed.map(([name, type]) => ({
      name,
      data: items.map(({ source, key }, index) => {
        try {
          return cellOf(type, fields[index]?.[name])
        } catch (error) {
          if (error instanceof Unfit) throw valueUnfit(source, key, name, type, error.message)
          throw error
        }
      }),
    })),
  ]
  const file = parquetWriteBuffer({
    schema,
    columnData,
    codec: compression === 'none' ? 'UNCOMPRESSED' : compression === 'snappy' ? 'SNAPPY' : 'ZSTD',
    compressors: { ZSTD: (page) => zstdCompressSync(page) },
    rowGroupSize: ROWS_A_GROUP,
    kvMetadata: [{ key: BATCH_KEY, value: JSON.stringify(batch) }],
    createdBy: 'common-handlers lake',
  })
  return new Uint8Array(file)
}

/** What stands in the column `data`: JSON and text as they were received. */
function textOf({ source, key, mediaType, data, received }: LakeItem): string | null {
  if (data instanceof Uint8Array || received === null) return null
  if (received !== undefined) return utf8.decode(received)
  const text = typeof data === 'string' && mediaType !== JSON_TYPE ? data : exactJson(data)
  if (!text.isWellFormed()) throw valueUnfit(source, key ?? '', 'data', 'text', 'half of a surrogate pair has no UTF-8')
  return text
}

const JSON_TYPE = 'application/json'
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** The fields of a payload that is a JSON object, with all digits of its numbers. */
function fieldsOf({ mediaType, data, received }: LakeItem): Readonly<Record<string, unknown>> | undefined {
  if (data instanceof Uint8Array || mediaType !== JSON_TYPE) return undefined
  const value = received instanceof Uint8Array ? parseNumbersExactly(utf8.decode(received)) : data
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : undefined
}

/** What the footer of a file says of its batch, and how many rows there are. @throws DataError `LAKE_FILE_INVALID` */
export function readFooter(key: string, file: Uint8Array): { readonly batch: unknown; readonly rows: number } {
  try {
    const { key_value_metadata: pairs = [], num_rows: rows } = parquetMetadata(new Uint8Array(file).buffer)
    const text = pairs.find((pair) => pair.key === BATCH_KEY)?.value
    if (text === undefined) throw new Error('its footer names no batch')
    return { batch: JSON.parse(text), rows: Number(rows) }
  } catch (error) {
    throw fileInvalid(key, (error as Error).message, error)
  }
}
