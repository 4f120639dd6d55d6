import { BSON, type BsonDocument } from './driver.ts'
import { queryInvalid, valueInvalid } from './errors.ts'

/** What BSON holds, exactly: see {@link toValue}. */
export type MongodbValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | readonly MongodbValue[]
  | { readonly [key: string]: MongodbValue }

export type MongodbDocument = Record<string, MongodbValue>

interface BsonObject {
  readonly _bsontype: string
}

/**
 * A value of BSON as data: Long as bigint, Int32 and Double as number, Decimal128 as text of all its digits, Date as ISO 8601
 * with milliseconds, ObjectId as 24 hexadecimal digits, UUID as text, other binary as bytes. What JSON has no form for
 * (Timestamp, regular expression, MinKey, MaxKey, Code, DBRef) is canonical Extended JSON: `{ $timestamp: { t, i } }`.
 */
export function toValue(value: unknown, path = ''): MongodbValue {
  if (value === null || value === undefined) return null
  if (value instanceof Date) return isoDate(value, path)
  if (Array.isArray(value)) return value.map((item, index) => toValue(item, `${path}.${index}`))
  if (typeof value !== 'object') return value as MongodbValue
  if ('_bsontype' in value) return fromBson(value as BsonObject)
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, toValue(inner, `${path}.${key}`)]))
}

export const toDocument = (document: BsonDocument): MongodbDocument => toValue(document) as MongodbDocument

function isoDate(date: Date, path: string): string {
  // BSON counts milliseconds in 64 bits, further than a Date goes.
  if (Number.isNaN(date.getTime())) throw valueInvalid(path.slice(1), 'a date further from 1970 than 100,000,000 days')
  return date.toISOString()
}

function fromBson(value: BsonObject): MongodbValue {
  if (value instanceof BSON.Binary) {
    return value.sub_type === BSON.Binary.SUBTYPE_UUID ? value.toUUID().toString() : new Uint8Array(value.value())
  }
  if (value instanceof BSON.ObjectId) return value.toHexString()
  if (value instanceof BSON.Decimal128) return value.toString()
  if (value instanceof BSON.BSONSymbol) return value.toString()
  return toValue(BSON.EJSON.serialize(value, { relaxed: false }))
}

const extended =
  /^\$(oid|date|numberInt|numberLong|numberDouble|numberDecimal|binary|uuid|timestamp|regularExpression|minKey|maxKey|code|symbol)$/

/**
 * A filter, a pipeline, a command as BSON: bigint is Long, Date is Date, bytes are Binary, and what JSON has no form for is
 * Extended JSON: `{ $oid: '…' }`, `{ $date: '…' }`, `{ $numberDecimal: '…' }`.
 */
export function toBson(value: unknown): unknown {
  if (typeof value === 'bigint') return BSON.Long.fromBigInt(value)
  if (Array.isArray(value)) return value.map(toBson)
  if (value instanceof Uint8Array) return new BSON.Binary(value)
  // The driver would write 1970 in its place.
  if (value instanceof Date && Number.isNaN(value.getTime())) throw queryInvalid('a Date is invalid')
  // A RegExp, a Map, the driver's own types: as they are.
  if (typeof value !== 'object' || value === null || Object.getPrototypeOf(value) !== Object.prototype) return value
  const keys = Object.keys(value)
  const [first = ''] = keys
  if (keys.length === 1 && extended.test(first)) return toBson(BSON.EJSON.deserialize(value, { relaxed: false }))
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, toBson(inner)]))
}

export const toBsonDocument = (value: Readonly<Record<string, unknown>>): BsonDocument => toBson(value) as BsonDocument

/** The JSON of BSON values, types kept; {@link parseExtended} reads it. */
export const extendedJson = (value: unknown): string => BSON.EJSON.stringify(value, { relaxed: false })

export const parseExtended = (text: string): unknown => BSON.EJSON.parse(text, { relaxed: false })
