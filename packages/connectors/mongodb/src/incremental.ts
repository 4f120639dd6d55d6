import { BSON, type BsonDocument } from './driver.ts'
import { queryInvalid, watermarkInvalid, watermarkUnusable } from './errors.ts'
import { extendedJson, parseExtended, toBsonDocument } from './values.ts'

/** What to read. */
export type MongodbQuery = MongodbCollectionQuery | MongodbPipelineQuery | MongodbChangesQuery

/** The documents of a collection in the order of `_id`; with a watermark field those that are new, in the order of that field and then of `_id`. */
export interface MongodbCollectionQuery {
  readonly collection: string
  /** As `find` takes it; values that JSON does not have as Extended JSON. */
  readonly filter?: Readonly<Record<string, unknown>> | undefined
  /** Names of fields, with dots for those inside. Default: all. */
  readonly fields?: readonly string[] | undefined
  /** A field that grows: new documents have a higher value than those read before. Documents that have none are not read. */
  readonly watermarkField?: string | undefined
  /** That of the last item of an earlier run: only what comes after it is read. */
  readonly watermark?: string | undefined
}

/** The result of an aggregation, in its own order. */
export interface MongodbPipelineQuery {
  readonly collection: string
  readonly pipeline: readonly Readonly<Record<string, unknown>>[]
}

/** What happens to a collection: inserts, updates, deletes, in their order. */
export interface MongodbChangesQuery {
  /** The collection. */
  readonly changes: string
  /** That of an earlier item: what came after it. */
  readonly watermark?: string | undefined
  /** Without a watermark: changes from that moment on, ISO 8601. Default: from now on. */
  readonly since?: string | undefined
  /** The reading ends when nothing new comes for so long, in milliseconds; `Infinity` reads until it is aborted. Default 1 000. */
  readonly waitMs?: number | undefined
}

/** A `find`, and what makes the watermark of its documents. */
export interface Extraction {
  readonly filter: BsonDocument
  readonly sort: Readonly<Record<string, 1>>
  readonly projection?: Readonly<Record<string, 0 | 1>>
  readonly watermarkField: string | undefined
  /** Fields read for the order alone, and not part of the document. */
  readonly hidden: readonly string[]
}

export function extraction(query: MongodbCollectionQuery): Extraction {
  const { filter = {}, fields, watermarkField, watermark } = query
  if (watermark !== undefined && watermarkField === undefined) throw queryInvalid('a watermark needs its watermarkField')
  const order = watermarkField === undefined || watermarkField === '_id' ? ['_id'] : [watermarkField, '_id']
  const conditions = [
    ...(Object.keys(filter).length === 0 ? [] : [toBsonDocument(filter)]),
    ...(order.length === 1 ? [] : [{ [order[0] ?? '']: { $ne: null } }]),
    ...(watermark === undefined ? [] : [{ $or: after(order, placeOf(watermark, order.length)) }]),
  ]
  const hidden = fields === undefined ? [] : order.filter((name) => !fields.some((field) => covers(field, name)))
  const nested = hidden.find((name) => name.includes('.'))
  if (nested !== undefined) throw queryInvalid(`fields must hold the watermarkField "${nested}", or what it is part of`)
  return {
    filter: conditions.length === 0 ? {} : conditions.length === 1 ? (conditions[0] ?? {}) : { $and: conditions },
    sort: Object.fromEntries(order.map((name) => [name, 1])),
    ...(fields === undefined ? {} : { projection: Object.fromEntries([...fields, ...hidden].map((name) => [name, 1])) }),
    watermarkField,
    hidden,
  }
}

const covers = (field: string, name: string): boolean => name === field || name.startsWith(`${field}.`)

/** What comes after a place in the order: behind it in the first field, or level with it there and behind in the next. */
function after(order: readonly string[], place: readonly unknown[]): BsonDocument[] {
  const [name = '', ...more] = order
  const [value, ...others] = place
  const behind = [{ [name]: { $gt: value } }, ...typesBehind(name, value)]
  return more.length === 0 ? behind : [...behind, ...after(more, others).map((one) => ({ [name]: value, ...one }))]
}

// $gt looks only at values of its own kind, a sort puts all kinds in one order:
// https://www.mongodb.com/docs/manual/reference/bson-type-comparison-order/
// By the numbers of the types: double, int, long, decimal; string; object; array; binary; ObjectId; boolean; date;
// timestamp; regular expression; MaxKey.
const kinds = [[1, 16, 18, 19], [2], [3], [4], [5], [7], [8], [9], [17], [11], [127]] as const

function typesBehind(name: string, value: unknown): BsonDocument[] {
  const kind = kindOf(value)
  const types = kinds.slice(kinds.findIndex((one) => one[0] === kind) + 1).flat()
  return [{ [name]: { $type: types } }]
}

/** The first number of its kind; nothing for what can be no place to go on from. */
function kindOf(value: unknown): number | undefined {
  switch (typeof value) {
    case 'bigint':
    case 'number':
      return Number.isNaN(value) ? undefined : 1
    case 'string':
      return 2
    case 'boolean':
      return 8
    case 'object': {
      if (value === null || Array.isArray(value)) return undefined
      if (value instanceof Date) return Number.isNaN(value.getTime()) ? undefined : 9
      const type = '_bsontype' in value ? String(value._bsontype) : 'Object'
      const isNotANumber = (value instanceof BSON.Double || value instanceof BSON.Decimal128) && value.toString() === 'NaN'
      return isNotANumber ? undefined : objectKinds[type]
    }
    default:
      return undefined
  }
}

const objectKinds: Readonly<Record<string, number>> = {
  Int32: 1,
  Long: 1,
  Double: 1,
  Decimal128: 1,
  Object: 3,
  Binary: 5,
  ObjectId: 7,
  Timestamp: 17,
}

/** The place of a document in the order, to be given back: Extended JSON, so that a type is what it was. */
export function watermarkOf(document: BsonDocument, { watermarkField }: Extraction): string | undefined {
  if (watermarkField === undefined) return undefined
  const place = watermarkField === '_id' ? [document['_id']] : [valueAt(document, watermarkField), document['_id']]
  for (const [index, value] of place.entries()) {
    if (kindOf(value) === undefined) throw watermarkUnusable(index === 0 ? watermarkField : '_id')
  }
  return extendedJson(place)
}

function valueAt(document: BsonDocument, path: string): unknown {
  let value: unknown = document
  for (const step of path.split('.')) {
    // Of a list inside, MongoDB takes the lowest for the order and all for a comparison.
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined
    value = (value as Readonly<Record<string, unknown>>)[step]
  }
  return value
}

function placeOf(watermark: string, count: number): readonly unknown[] {
  let place: unknown
  try {
    place = parseExtended(watermark)
  } catch {
    throw watermarkInvalid('it is not one that an item had')
  }
  if (!Array.isArray(place) || place.length !== count || place.some((value) => kindOf(value) === undefined)) {
    throw watermarkInvalid(`it does not belong to an order by ${count === 1 ? '_id' : 'a field and _id'}`)
  }
  return place
}

/** The resume token of a change as a watermark, and back. */
export const tokenText = (token: unknown): string => extendedJson(token)

export function tokenOf(watermark: string): BsonDocument {
  try {
    const token = parseExtended(watermark)
    if (typeof token === 'object' && token !== null && '_data' in token) return token
  } catch {
    // Said below.
  }
  throw watermarkInvalid('it is not one that a change had')
}
