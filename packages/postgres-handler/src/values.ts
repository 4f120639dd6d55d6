import { DataError } from '@common-handlers/core'

const BOOL = 16
const INT8 = 20
const INT2 = 21
const INT4 = 23

const asText = (text: string): string => text

/**
 * How a value is read, by type. A type is only read as something else than PostgreSQL's own text where JavaScript holds
 * every value of it exactly.
 */
export function readerOf(typeOid: number): (text: string) => unknown {
  switch (typeOid) {
    case BOOL:
      return (text) => text === 't'
    case INT2:
    case INT4:
      return Number
    case INT8:
      return BigInt
    default:
      return asText
  }
}

/**
 * A value as it is bound: text, or bytes for bytea. Dates are instants in UTC; arrays become PostgreSQL arrays; plain
 * objects become JSON.
 * @throws DataError `POSTGRES_VALUE_INVALID` for undefined, functions, symbols, invalid dates and text with NUL
 */
export function bindValue(value: unknown, index: number): string | Buffer | null {
  if (value === null) return null
  if (value instanceof Uint8Array) return Buffer.from(value.buffer, value.byteOffset, value.byteLength)
  if (Array.isArray(value)) return arrayText(value, index)
  return scalarText(value, index)
}

function scalarText(value: unknown, index: number): string {
  switch (typeof value) {
    case 'string':
      if (value.includes('\0')) throw unbindable(index, 'PostgreSQL cannot hold NUL in a text')
      if (!value.isWellFormed()) throw unbindable(index, 'half of a surrogate pair is no character')
      return value
    case 'number':
    case 'bigint':
    case 'boolean':
      return Object.is(value, -0) ? '-0' : String(value)
    case 'object':
      if (value instanceof Date) return dateText(value, index)
      return jsonText(value, index)
    default:
      throw unbindable(index, `${typeof value} is not a value; use null for NULL`)
  }
}

/** ISO 8601 with milliseconds, as PostgreSQL reads it: years before 1 as BC, after 9999 without a plus sign. */
function dateText(date: Date, index: number): string {
  if (Number.isNaN(date.getTime())) throw unbindable(index, 'an invalid Date')
  const year = date.getUTCFullYear()
  const rest = date.toISOString().replace(/^[+-]?\d+/, '')
  const text = `${String(year > 0 ? year : 1 - year).padStart(4, '0')}${rest.replace('Z', '+00')}`
  return year > 0 ? text : `${text} BC`
}

function jsonText(value: unknown, index: number): string {
  let text: string | undefined
  try {
    text = JSON.stringify(value)
  } catch (cause) {
    throw unbindable(index, `cannot be written as JSON: ${(cause as Error).message}`)
  }
  if (text === undefined) throw unbindable(index, 'cannot be written as JSON')
  return text
}

function arrayText(values: readonly unknown[], index: number): string {
  return `{${values.map((value) => elementText(value, index)).join(',')}}`
}

function elementText(value: unknown, index: number): string {
  if (value === null) return 'NULL'
  if (Array.isArray(value)) return arrayText(value, index)
  const text = value instanceof Uint8Array ? `\\x${Buffer.from(value).toString('hex')}` : scalarText(value, index)
  return `"${text.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"`
}

function unbindable(index: number, why: string): DataError {
  return new DataError(`parameter $${index + 1}: ${why}`, { code: 'POSTGRES_VALUE_INVALID', context: { parameter: index + 1 } })
}
