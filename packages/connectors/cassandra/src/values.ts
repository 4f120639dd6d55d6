import { type Column, type CqlType, types } from './driver.ts'
import { duplicateColumn, valueInvalid } from './errors.ts'

/** What Cassandra holds, exactly: see {@link rowReader}. */
export type CassandraValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | readonly CassandraValue[]
  | { readonly [key: string]: CassandraValue }

/** By column name. */
export type CassandraRow = Record<string, CassandraValue>

/** A value for a `?`: a Map for a map, a plain object for a user-defined type, a list for a list, a set or a tuple. */
export type CassandraParameter =
  | null
  | boolean
  | number
  | bigint
  | string
  | Date
  | Uint8Array
  | readonly CassandraParameter[]
  | ReadonlyMap<CassandraParameter, CassandraParameter>
  | { readonly [field: string]: CassandraParameter }

const { dataTypes } = types

/**
 * Reads rows of these columns: bigint, counter and varint as bigint; int, smallint, tinyint, float and double as number;
 * decimal as text of all its digits; timestamp as ISO 8601 with milliseconds; date, time, duration, uuid, timeuuid and inet
 * as text; blob as Uint8Array; list, set, tuple and vector as lists; a user-defined type as an object; a map as an object,
 * or as a list of pairs where its keys are no text here.
 * @throws DataError where a name stands twice: one of the values would be lost
 */
export function rowReader(columns: readonly Column[]): (row: types.Row) => CassandraRow {
  const names = columns.map(({ name }) => name)
  const twice = names.find((name, index) => names.indexOf(name) !== index)
  if (twice !== undefined) throw duplicateColumn(twice)
  return (row) => Object.fromEntries(columns.map(({ name, type }) => [name, toValue(row.get(name), type, name)]))
}

/** Keys of these types are no text here. */
const keysAsPairs: ReadonlySet<number> = new Set([
  dataTypes.custom,
  dataTypes.bigint,
  dataTypes.blob,
  dataTypes.boolean,
  dataTypes.counter,
  dataTypes.double,
  dataTypes.float,
  dataTypes.int,
  dataTypes.varint,
  dataTypes.smallint,
  dataTypes.tinyint,
  dataTypes.list,
  dataTypes.map,
  dataTypes.set,
  dataTypes.udt,
  dataTypes.tuple,
])

interface UserType {
  readonly fields: readonly { readonly name: string; readonly type: CqlType }[]
}

function toValue(value: unknown, { code, info }: CqlType, path: string): CassandraValue {
  if (value === null || value === undefined) return null
  switch (code) {
    case dataTypes.list:
    case dataTypes.set:
      return (value as readonly unknown[]).map((item) => toValue(item, info as CqlType, path))
    case dataTypes.map: {
      const [keyType, valueType] = info as readonly [CqlType, CqlType]
      const pairs = [...(value as ReadonlyMap<unknown, unknown>)].map(
        ([key, held]) => [toValue(key, keyType, path), toValue(held, valueType, path)] as const,
      )
      return keysAsPairs.has(keyType.code) ? pairs : (Object.fromEntries(pairs) as CassandraRow)
    }
    case dataTypes.tuple:
      return (value as types.Tuple).values().map((item: unknown, index) => toValue(item, typeAt(info, index), `${path}.${index}`))
    case dataTypes.udt:
      return Object.fromEntries(
        (info as UserType).fields.map(({ name, type }) => [
          name,
          toValue((value as Readonly<Record<string, unknown>>)[name], type, `${path}.${name}`),
        ]),
      )
    default:
      return toScalar(value, path)
  }
}

const typeAt = (info: unknown, index: number): CqlType =>
  (info as readonly CqlType[])[index] ?? { code: dataTypes.custom, info: undefined }

function toScalar(value: unknown, path: string): CassandraValue {
  if (value instanceof Date) {
    // Cassandra counts milliseconds in 64 bits, further than a Date goes.
    if (Number.isNaN(value.getTime())) throw valueInvalid(path, 'a timestamp further from 1970 than 100,000,000 days')
    return value.toISOString()
  }
  if (value instanceof types.BigDecimal) return decimalText(types.BigDecimal.toBuffer(value))
  if (value instanceof Uint8Array) return new Uint8Array(value)
  if (value instanceof types.Vector) return Array.from(value as Iterable<unknown>, (item) => toScalar(item, path))
  // LocalDate, LocalTime, Duration, Uuid, TimeUuid, InetAddress: each has a text of all it holds.
  return typeof value === 'object' ? `${value as types.Uuid}` : (value as CassandraValue)
}

/**
 * A decimal as the protocol has it: its scale in 32 bits, then the digits as an integer. The text of the driver's own class
 * loses the zeros of a negative scale: 1E10 is "1." to it.
 */
function decimalText(bytes: Buffer): string {
  const scale = bytes.readInt32BE(0)
  const digits = bytes.subarray(4)
  const unscaled = BigInt.asIntN(digits.length * 8, BigInt(`0x${digits.toString('hex')}`))
  if (scale < 0 || scale > 1_000) return `${unscaled}E${-scale}`
  if (scale === 0) return unscaled.toString()
  const text = (unscaled < 0n ? -unscaled : unscaled).toString().padStart(scale + 1, '0')
  return `${unscaled < 0n ? '-' : ''}${text.slice(0, -scale)}.${text.slice(-scale)}`
}

/** A parameter as the driver takes it: bytes must be a Buffer. */
export function toParameter(value: CassandraParameter): unknown {
  if (value instanceof Uint8Array) return Buffer.from(value.buffer, value.byteOffset, value.byteLength)
  if (Array.isArray(value)) return value.map((item: CassandraParameter) => toParameter(item))
  if (value instanceof Map) {
    const pairs = [...(value as ReadonlyMap<CassandraParameter, CassandraParameter>)]
    return new Map(pairs.map(([key, held]) => [toParameter(key), toParameter(held)]))
  }
  if (typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype) {
    return Object.fromEntries(Object.entries(value).map(([name, held]) => [name, toParameter(held as CassandraParameter)]))
  }
  return value
}
