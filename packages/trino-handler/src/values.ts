import { DataError } from '@common-handlers/core'
import type { Conversion, Conversions } from './convert.ts'

/**
 * A value as it is read, by the type of its column; nothing is rounded:
 *
 * | Trino | here |
 * |---|---|
 * | boolean | boolean |
 * | tinyint, smallint, integer | number |
 * | bigint | bigint |
 * | real, double | number, with NaN and ±Infinity |
 * | decimal | text, all digits of the scale |
 * | varchar, char, json, uuid, ipaddress | text |
 * | date, time, timestamp, with or without zone, intervals | text as Trino writes it, to the last digit |
 * | varbinary, HyperLogLog, the digests | Buffer |
 * | array | array |
 * | map | Map, keys by their type; an array, map or row as a key is the text Trino makes of it |
 * | row | object by field name; an array when a field has no name or two have the same |
 */
export type TrinoValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | Buffer
  | readonly TrinoValue[]
  | ReadonlyMap<TrinoValue, TrinoValue>
  | { readonly [field: string]: TrinoValue }

/** A type as the server describes it to its clients. */
export interface TypeSignature {
  /** `bigint`, `array`, `row`, `timestamp with time zone`. */
  readonly rawType: string
  readonly arguments: readonly TypeArgument[]
}

export interface TypeArgument {
  readonly kind: 'TYPE' | 'NAMED_TYPE' | 'LONG' | 'VARIABLE'
  readonly value: unknown
}

interface NamedType {
  readonly fieldName?: { readonly name: string } | null
  readonly typeSignature: TypeSignature
}

/** A column of a result. */
export interface TrinoColumn {
  readonly name: string
  /** As SQL spells it: `decimal(38,2)`, `array(row(a bigint, b timestamp(6)))`. */
  readonly type: string
}

/** As the protocol describes a column. */
export interface WireColumn extends TrinoColumn {
  readonly typeSignature: TypeSignature
}

/** What the parser of the rows has to know: integers of 16 digits and more, brackets within a row. */
export function shapeOf(columns: readonly WireColumn[]): { readonly exact: boolean; readonly nested: boolean } {
  const names = columns.flatMap((column) => rawTypes(column.typeSignature))
  return { exact: names.some((name) => !PLAIN.has(name)), nested: names.some((name) => name !== 'bigint' && !PLAIN.has(name)) }
}

/** Types whose JSON is a text, a boolean or a number that a double holds. Of types that are not known, nothing is. */
const PLAIN = new Set([
  'unknown',
  'boolean',
  'tinyint',
  'smallint',
  'integer',
  'real',
  'double',
  'decimal',
  'varchar',
  'char',
  'varbinary',
  'json',
  'uuid',
  'ipaddress',
  'date',
  'time',
  'time with time zone',
  'timestamp',
  'timestamp with time zone',
  'interval day to second',
  'interval year to month',
])

function rawTypes({ rawType, arguments: parts }: TypeSignature): string[] {
  return [
    rawType,
    ...parts.flatMap(({ kind, value }) => {
      if (kind === 'TYPE') return rawTypes(value as TypeSignature)
      return kind === 'NAMED_TYPE' ? rawTypes((value as NamedType).typeSignature) : []
    }),
  ]
}

/** Turns what JSON held into the value. Never called with null. */
type Decoder = (wire: unknown) => TrinoValue

const toBigInt: Decoder = (wire) => {
  // Our own parser leaves no such number; somebody else's has rounded it, and nobody knows from what.
  if (typeof wire === 'number' && !Number.isSafeInteger(wire)) {
    throw new DataError(`a bigint near ${wire} was rounded before it came here: this transport reads only what a double holds`, {
      code: 'TRINO_VALUE_ROUNDED',
    })
  }
  return BigInt(wire as number | string)
}
const toNumber: Decoder = (wire) => (typeof wire === 'number' ? wire : Number(wire))
const toBuffer: Decoder = (wire) => Buffer.from(wire as string, 'base64')

const scalars: Readonly<Record<string, Decoder>> = {
  bigint: toBigInt,
  // "NaN", "Infinity" and "-Infinity" come as strings.
  double: toNumber,
  real: toNumber,
  varbinary: toBuffer,
  HyperLogLog: toBuffer,
  P4HyperLogLog: toBuffer,
  SetDigest: toBuffer,
  qdigest: toBuffer,
  tdigest: toBuffer,
}

/** Keys of a map are field names in JSON, text whatever their type; one of a nested type has no reading and stays text. */
const keyScalars: Readonly<Record<string, Decoder>> = {
  boolean: (wire) => wire === 'true',
  tinyint: toNumber,
  smallint: toNumber,
  integer: toNumber,
  bigint: toBigInt,
  double: toNumber,
  real: toNumber,
  varbinary: toBuffer,
}

type Types = Conversions['types']

/** The decoder of a type; undefined when the value is what JSON held. */
export function decoderOf(type: TypeSignature, types?: Types): Decoder | undefined {
  const decoder = exactDecoderOf(type, types)
  const convert = types !== undefined && Object.hasOwn(types, type.rawType) ? types[type.rawType] : undefined
  return convert === undefined ? decoder : converting(decoder, convert, type.rawType)
}

function converting(decoder: Decoder | undefined, convert: Conversion, type: string): Decoder {
  // What a conversion makes is for the caller to know.
  return (wire) => convert((decoder === undefined ? wire : decoder(wire)) as NonNullable<TrinoValue>, type) as TrinoValue
}

function exactDecoderOf(type: TypeSignature, types: Types): Decoder | undefined {
  switch (type.rawType) {
    case 'array':
      return arrayDecoder(type, types)
    case 'map':
      return mapDecoder(type, types)
    case 'row':
      return rowDecoder(type, types)
    default:
      return scalars[type.rawType]
  }
}

function arrayDecoder(type: TypeSignature, types: Types): Decoder | undefined {
  const element = decoderOf(type.arguments[0]?.value as TypeSignature, types)
  if (element === undefined) return undefined
  return (wire) => (wire as unknown[]).map((item) => (item === null ? null : element(item)))
}

function mapDecoder(type: TypeSignature, types: Types): Decoder {
  const [keyType, valueType] = type.arguments.map((argument) => argument.value as TypeSignature)
  const key = keyScalars[keyType?.rawType ?? '']
  const value = valueType === undefined ? undefined : decoderOf(valueType, types)
  return (wire) => {
    const map = new Map<TrinoValue, TrinoValue>()
    for (const [name, item] of Object.entries(wire as Record<string, unknown>)) {
      map.set(key === undefined ? name : key(name), item === null || value === undefined ? (item as TrinoValue) : value(item))
    }
    return map
  }
}

function rowDecoder(type: TypeSignature, types: Types): Decoder {
  const fields = type.arguments.map((argument) => argument.value as NamedType)
  const decoders = fields.map((field) => decoderOf(field.typeSignature, types))
  const decode = (wire: unknown): TrinoValue[] => decodeItems(wire as unknown[], decoders)
  const names = fields.map((field) => field.fieldName?.name ?? '')
  if (names.includes('') || new Set(names).size < names.length) return decode
  const toObject = objectMaker(names)
  return (wire) => toObject(decode(wire))
}

function decodeItems(wire: readonly unknown[], decoders: readonly (Decoder | undefined)[]): TrinoValue[] {
  const items = wire as TrinoValue[]
  for (let index = 0; index < decoders.length; index++) {
    const decoder = decoders[index]
    const item = items[index]
    if (decoder !== undefined && item !== null && item !== undefined) items[index] = decoder(item)
  }
  return items
}

/** Decodes rows in place: the arrays that JSON.parse made become the rows. */
export function rowsDecoder(
  columns: readonly WireColumn[],
  { types, columns: byColumn = {} }: Conversions = {},
): (rows: unknown[][]) => TrinoValue[][] {
  const decoders = columns.map(({ name, type, typeSignature }) => {
    const decoder = decoderOf(typeSignature, types)
    const convert = Object.hasOwn(byColumn, name) ? byColumn[name] : undefined
    return convert === undefined ? decoder : converting(decoder, convert, type)
  })
  if (decoders.every((decoder) => decoder === undefined)) return (rows) => rows as TrinoValue[][]
  return (rows) => {
    for (const row of rows) decodeItems(row, decoders)
    return rows as TrinoValue[][]
  }
}

/** Makes objects from arrays. A field called `__proto__` stays a field. */
export function objectMaker(names: readonly string[]): (row: readonly TrinoValue[]) => Record<string, TrinoValue> {
  const plain = !names.includes('__proto__')
  return (row) => {
    const object = (plain ? {} : Object.create(null)) as Record<string, TrinoValue>
    for (let index = 0; index < names.length; index++) object[names[index] as string] = row[index] ?? null
    return object
  }
}
