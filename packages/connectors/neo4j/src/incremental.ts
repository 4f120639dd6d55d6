import { CypherDate, type CypherRecord, DateTime, LocalDateTime, LocalTime, Time } from './driver.ts'
import { queryInvalid, watermarkInvalid, watermarkUnusable } from './errors.ts'
import type { Neo4jParameters, Neo4jValue } from './values.ts'

/** What to read. */
export type Neo4jQuery = Neo4jStatementQuery | Neo4jNodesQuery | Neo4jRelationshipsQuery

/** The records of a statement that only reads, in its own order. */
export interface Neo4jStatementQuery {
  readonly cypher: string
  readonly parameters?: Neo4jParameters | undefined
}

/** The nodes of a label, in the order of their key. */
export interface Neo4jNodesQuery extends Neo4jPlace {
  readonly nodes: string
}

/** The relationships of a type, in the order of their key. */
export interface Neo4jRelationshipsQuery extends Neo4jPlace {
  readonly relationships: string
}

interface Neo4jPlace {
  /** A property that grows: what is new has a higher value than what was read before. What has none is not read. */
  readonly watermarkProperty?: string | undefined
  /** What tells those of one watermark apart. Default: the element id, which Neo4j may give again after a deletion. */
  readonly keyProperty?: string | undefined
  /** That of the last item of an earlier run: only what comes after it is read. */
  readonly watermark?: string | undefined
}

/** A statement that gives `entity`, `at` and `key`. */
export interface Extraction {
  readonly cypher: string
  readonly parameters: Neo4jParameters
  readonly watermarkProperty: string | undefined
  readonly keyName: string
  /** The type of the property so far: values of two types have no common order. */
  kind: string | undefined
}

export function extraction(query: Neo4jNodesQuery | Neo4jRelationshipsQuery): Extraction {
  const { watermarkProperty, keyProperty, watermark } = query
  if (watermark !== undefined && watermarkProperty === undefined) throw queryInvalid('a watermark needs its watermarkProperty')
  const key = keyProperty === undefined ? 'elementId(entity)' : `entity.${name(keyProperty)}`
  const at = watermarkProperty === undefined ? 'null' : `entity.${name(watermarkProperty)}`
  const conditions = watermarkProperty === undefined ? [] : [`${at} IS NOT NULL`]
  const parameters: Record<string, Neo4jValue> = {}
  let kind: string | undefined
  if (watermark !== undefined) {
    const place = placeOf(watermark)
    parameters['at'] = place.at.value
    parameters['key'] = place.key.value
    kind = place.at.kind
    const [placeAt, placeKey] = [constructed('$at', place.at.kind), constructed('$key', place.key.kind)]
    conditions.push(`${at} >= ${placeAt}`, `(${at} > ${placeAt} OR (${at} = ${placeAt} AND ${key} > ${placeKey}))`)
  }
  return {
    cypher: [
      'nodes' in query ? `MATCH (entity:${name(query.nodes)})` : `MATCH ()-[entity:${name(query.relationships)}]->()`,
      ...(conditions.length === 0 ? [] : [`WHERE ${conditions.join(' AND ')}`]),
      `RETURN entity, ${at} AS at, ${key} AS key`,
      `ORDER BY ${watermarkProperty === undefined ? '' : 'at, '}key`,
    ].join(' '),
    parameters,
    watermarkProperty,
    keyName: keyProperty ?? 'elementId',
    kind,
  }
}

/** A name as it is. Cypher reads `\u0060` as a backtick before anything else. */
function name(text: string): string {
  if (/\\u/i.test(text)) throw queryInvalid(`the name "${text}" holds \\u, which Cypher reads as another character`)
  return `\`${text.replaceAll('`', '``')}\``
}

interface Part {
  readonly kind: string
  readonly value: bigint | number | string
}

/** By the Cypher functions that make them. */
const temporal = [
  [CypherDate, 'date'],
  [DateTime, 'datetime'],
  [LocalDateTime, 'localdatetime'],
  [Time, 'time'],
  [LocalTime, 'localtime'],
] as const

const constructed = (parameter: string, kind: string): string =>
  temporal.some(([, made]) => made === kind) ? `${kind}(${parameter})` : parameter

function partOf(value: unknown): Part | undefined {
  if (typeof value === 'bigint') return { kind: 'number', value }
  if (typeof value === 'number' && Number.isFinite(value)) return { kind: 'number', value }
  if (typeof value === 'string') return { kind: 'string', value }
  const found = temporal.find(([type]) => value instanceof type)
  return found === undefined ? undefined : { kind: found[1], value: String(value) }
}

/** The place of a record in the order, to be given back: `[{"number":"7"},{"string":"4:…:1"}]`, an INTEGER as text. */
export function watermarkOf(record: CypherRecord, plan: Extraction): string | undefined {
  if (plan.watermarkProperty === undefined) return undefined
  const at = partOf(record.get('at'))
  const key = partOf(record.get('key'))
  if (at === undefined) throw watermarkUnusable(plan.watermarkProperty, 'holds a value without a place in the order')
  if (key === undefined) throw watermarkUnusable(plan.keyName, 'is missing, or holds a value without a place in the order')
  if (plan.kind !== undefined && plan.kind !== at.kind) {
    throw watermarkUnusable(plan.watermarkProperty, `holds values of several types, ${plan.kind} and ${at.kind}`)
  }
  plan.kind = at.kind
  return JSON.stringify([at, key].map(({ kind, value }) => ({ [kind]: typeof value === 'bigint' ? value.toString() : value })))
}

function placeOf(watermark: string): { readonly at: Part; readonly key: Part } {
  let place: unknown
  try {
    place = JSON.parse(watermark)
  } catch {
    // Said below.
  }
  const [at, key] = Array.isArray(place) && place.length === 2 ? place.map(parsed) : []
  if (at === undefined || key === undefined) throw watermarkInvalid('it is not one that an item had')
  return { at, key }
}

function parsed(part: unknown): Part | undefined {
  if (typeof part !== 'object' || part === null) return undefined
  const [[kind, value] = ['', undefined]] = Object.entries(part) as [string, unknown][]
  if (kind === 'number') {
    if (typeof value === 'number') return { kind, value }
    return typeof value === 'string' && /^-?\d+$/.test(value) ? { kind, value: BigInt(value) } : undefined
  }
  const isKnown = kind === 'string' || temporal.some(([, made]) => made === kind)
  return isKnown && typeof value === 'string' ? { kind, value } : undefined
}
