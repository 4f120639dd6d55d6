import { DataError } from '@common-handlers/core'

/** A value whose Trino type is said, for what JavaScript has no type of its own for. Made by {@link typed}. */
export class TypedValue {
  readonly type: string
  readonly text: string | null
  constructor(type: string, text: string | null) {
    this.type = checkedType(type)
    this.text = text
  }
}

/** What can be bound to a `?`. Arrays become ARRAY, a Map becomes MAP; their elements follow the same rules. */
export type TrinoParameter =
  | null
  | boolean
  | number
  | bigint
  | string
  | Date
  | Uint8Array
  | TypedValue
  | readonly TrinoParameter[]
  | ReadonlyMap<TrinoParameter, TrinoParameter>

/**
 * A value of any Trino type from its text, exact: `typed('decimal(38,2)', '0.10')`,
 * `typed('timestamp(12) with time zone', '2020-01-01 00:00:00.123456789012 Europe/Berlin')`, `typed('json', '{"a":1}')`,
 * `typed('interval day to second', '2 03:04:05.678')`, `typed('bigint', null)`.
 */
export function typed(type: string, text: string | null): TypedValue {
  return new TypedValue(type, text)
}

const MIN_INTEGER = -(2 ** 31)
const MAX_INTEGER = 2 ** 31 - 1
const MAX_BIGINT = 2n ** 63n - 1n
const MAX_DECIMAL = 10n ** 38n

/**
 * A value as a Trino literal of the exact type:
 * text as varchar; an integral number as integer or bigint, any other number as double (NaN, ±Infinity and -0 too);
 * bigint as bigint, past 64 bits as decimal(p,0) up to 38 digits; Date as timestamp(3) with time zone, in UTC; bytes as varbinary.
 * @throws DataError `TRINO_VALUE_NOT_EXPRESSIBLE`: undefined, half a surrogate pair, an invalid Date, a bigint of more than 38 digits
 */
export function literal(value: TrinoParameter): string {
  switch (typeof value) {
    case 'string':
      return textLiteral(value)
    case 'boolean':
      return value ? 'TRUE' : 'FALSE'
    case 'number':
      return numberLiteral(value)
    case 'bigint':
      return bigintLiteral(value)
    default:
  }
  if (value === null) return 'NULL'
  if (value instanceof TypedValue) return typedLiteral(value)
  if (value instanceof Date) return dateLiteral(value)
  if (value instanceof Uint8Array) return `X'${Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('hex')}'`
  if (isArray(value)) return `ARRAY[${value.map(literal).join(', ')}]`
  if (value instanceof Map) return `MAP(${literal([...value.keys()])}, ${literal([...value.values()])})`
  throw notExpressible(
    `a parameter is ${value === undefined ? 'undefined; use null' : `of a kind that has no Trino type: ${typeof value}`}`,
  )
}

/** Array.isArray, for a readonly array type too. */
const isArray = (value: unknown): value is readonly TrinoParameter[] => Array.isArray(value)

/** In Trino only the quote itself is special inside quotes: backslashes, line breaks and control characters stand for themselves. */
function textLiteral(text: string): string {
  if (!text.isWellFormed()) throw notExpressible('a text holds half of a surrogate pair, which UTF-8 cannot carry')
  return `'${text.replaceAll("'", "''")}'`
}

function numberLiteral(value: number): string {
  if (Number.isSafeInteger(value) && !Object.is(value, -0)) {
    return value >= MIN_INTEGER && value <= MAX_INTEGER ? String(value) : `BIGINT '${value}'`
  }
  return `DOUBLE '${Object.is(value, -0) ? '-0.0' : value}'`
}

function bigintLiteral(value: bigint): string {
  if (value >= -MAX_BIGINT - 1n && value <= MAX_BIGINT) return `BIGINT '${value}'`
  if (value > -MAX_DECIMAL && value < MAX_DECIMAL) return `DECIMAL '${value}'`
  throw notExpressible('an integer has more than the 38 digits of a decimal')
}

function dateLiteral(value: Date): string {
  if (Number.isNaN(value.getTime())) throw notExpressible('a Date is invalid')
  return `TIMESTAMP '${value.toISOString().replace('T', ' ').replace('Z', ' UTC')}'`
}

function typedLiteral({ type, text }: TypedValue): string {
  if (text === null) return `CAST(NULL AS ${type})`
  const name = type.toLowerCase()
  // A cast of varchar to json makes a JSON string of it; the literal parses it.
  if (name === 'json') return `JSON ${textLiteral(text)}`
  // Text cannot be cast to an interval.
  const interval = /^interval (year to month|day to second)$/.exec(name)
  if (interval !== null) {
    const negative = text.startsWith('-')
    return `INTERVAL ${negative ? '-' : ''}${textLiteral(negative ? text.slice(1) : text)} ${interval[1]}`
  }
  return `CAST(${textLiteral(text)} AS ${type})`
}

/** Types go into the statement as they are, so only what a type can hold may pass. */
export function checkedType(type: string): string {
  if (/^[A-Za-z](?:[\w ,()]|"(?:[^"]|"")*")*$/.test(type) && isOne(type)) return type
  throw notExpressible(`${JSON.stringify(type)} is not a type`)
}

/** Whether no bracket closes more than the type has opened, and no comma begins something after it. */
function isOne(type: string): boolean {
  let depth = 0
  for (const [mark] of type.replaceAll(/"(?:[^"]|"")*"/g, '').matchAll(/[(),]/g)) {
    if (mark === '(') depth++
    else if (depth === 0) return false
    else if (mark === ')') depth--
  }
  return depth === 0
}

export function notExpressible(why: string): DataError {
  return new DataError(`cannot be written for Trino: ${why}`, { code: 'TRINO_VALUE_NOT_EXPRESSIBLE' })
}
