import {
  CypherDate,
  type CypherRecord,
  DateTime,
  Duration,
  isPoint,
  LocalDateTime,
  LocalTime,
  Node,
  Path,
  Relationship,
  Time,
} from './driver.ts'
import { parameterInvalid, valueUnknown } from './errors.ts'

/** What Neo4j holds, exactly: see {@link toValue}. */
export type Neo4jValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | readonly Neo4jValue[]
  | { readonly [key: string]: Neo4jValue }

/** By the names of the RETURN. */
export type Neo4jRecord = Record<string, Neo4jValue>

/** By name: an INTEGER is a bigint, a number a FLOAT. */
export type Neo4jParameters = Readonly<Record<string, Neo4jValue>>

export interface Neo4jNode {
  readonly elementId: string
  readonly labels: readonly string[]
  readonly properties: Neo4jRecord
}

export interface Neo4jRelationship {
  readonly elementId: string
  readonly type: string
  readonly startNodeElementId: string
  readonly endNodeElementId: string
  readonly properties: Neo4jRecord
}

const temporal = [CypherDate, DateTime, Duration, LocalDateTime, LocalTime, Time] as const

/**
 * A value of the driver as data: INTEGER as bigint, FLOAT as number, temporal values as ISO 8601 with nanoseconds as Cypher
 * reads them, nodes, relationships and paths as plain objects, bytes as Uint8Array, points as `{ srid, x, y, z }`.
 */
export function toValue(value: unknown, path: string): Neo4jValue {
  switch (typeof value) {
    case 'boolean':
    case 'number':
    case 'bigint':
    case 'string':
      return value
    case 'object': {
      if (value === null) return null
      if (Array.isArray(value)) return value.map((item, index) => toValue(item, `${path}[${index}]`))
      return fromObject(value, path)
    }
    default:
      throw valueUnknown(path, typeof value)
  }
}

function fromObject(value: object, path: string): Neo4jValue {
  if (value instanceof Node) return { ...toNode(value, path) }
  if (value instanceof Relationship) return { ...toRelationship(value, path) }
  if (value instanceof Path) {
    return {
      start: toValue(value.start, path),
      end: toValue(value.end, path),
      segments: value.segments.map(({ start, relationship, end }) => ({
        start: toValue(start, path),
        relationship: toValue(relationship, path),
        end: toValue(end, path),
      })),
    }
  }
  if (temporal.some((type) => value instanceof type)) return `${value as DateTime}`
  if (isPoint(value))
    return toRecord({ srid: value.srid, x: value.x, y: value.y, ...(value.z === undefined ? {} : { z: value.z }) }, path)
  if (value instanceof Int8Array) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength).slice()
  if (Object.getPrototypeOf(value) !== Object.prototype) throw valueUnknown(path, value.constructor.name)
  return toRecord(value, path)
}

const toRecord = (value: object, path: string): Neo4jRecord =>
  Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, toValue(inner, `${path}.${key}`)]))

const toNode = ({ elementId, labels, properties }: Node, path: string): Neo4jNode => ({
  elementId,
  labels,
  properties: toRecord(properties, path),
})

const toRelationship = (value: Relationship, path: string): Neo4jRelationship => ({
  elementId: value.elementId,
  type: value.type,
  startNodeElementId: value.startNodeElementId,
  endNodeElementId: value.endNodeElementId,
  properties: toRecord(value.properties, path),
})

export const recordOf = (record: CypherRecord): Neo4jRecord =>
  Object.fromEntries(record.keys.map((key) => [String(key), toValue(record.get(key), String(key))]))

/** Parameters as the driver takes them: it would send a Date as a map, and bytes are signed to it. */
export function toParameters(parameters: Neo4jParameters): Record<string, unknown> {
  return Object.fromEntries(Object.entries(parameters).map(([name, value]) => [name, toParameter(value, name)]))
}

function toParameter(value: unknown, name: string): unknown {
  if (value instanceof Uint8Array) return new Int8Array(value.buffer, value.byteOffset, value.byteLength)
  if (Array.isArray(value)) return value.map((item) => toParameter(item, name))
  if (value === null || ['boolean', 'number', 'string'].includes(typeof value)) return value
  if (typeof value === 'bigint') {
    if (BigInt.asIntN(64, value) !== value) throw parameterInvalid(name, 'does not fit in 64 bits')
    return value
  }
  if (typeof value === 'object' && Object.getPrototypeOf(value) === Object.prototype) {
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, toParameter(inner, `${name}.${key}`)]))
  }
  throw parameterInvalid(name, 'is none of null, boolean, number, bigint, string, Uint8Array, list and plain object')
}
