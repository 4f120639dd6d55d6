import { exactJson } from '@common-handlers/connections'

/**
 * A value as PostgreSQL has it. boolean, smallint and integer, real and double precision (NaN and the infinities as text), bytea and bigint
 * have a type of their own here; everything else is PostgreSQL's own text, none of it rounded: numeric, dates and times
 * (UTC), json, arrays.
 */
export type PostgresValue = null | boolean | number | bigint | string | Uint8Array

/** By column name. */
export type PostgresRow = Record<string, PostgresValue>

/**
 * What is bound or loaded: a value, a Date (an instant in UTC), a list of them (an array), or an object (JSON). A text is
 * read by PostgreSQL as the type of its column.
 */
export type PostgresInput = PostgresValue | Date | readonly PostgresInput[] | { readonly [key: string]: unknown }

/** Types by OID (PostgreSQL, pg_type.dat). */
const readers: Readonly<Record<number, (text: string) => PostgresValue>> = {
  16: (text) => text === 't',
  17: (text) => Buffer.from(text.slice(2), 'hex'),
  20: BigInt,
  21: Number,
  23: Number,
  700: finite,
  701: finite,
}

/** JSON has neither NaN nor infinities. */
function finite(text: string): number | string {
  const number = Number(text)
  return Number.isFinite(number) ? number : text
}

const asIs = (text: string): string => text

/** How pg reads the values of a column. */
export const readerOf = (typeOid: number): ((text: string) => PostgresValue) => readers[typeOid] ?? asIs

/** About the bytes that a row takes. */
export function sizeOf(values: readonly PostgresValue[]): number {
  let bytes = 0
  for (const value of values) bytes += typeof value === 'string' || value instanceof Uint8Array ? value.length : 8
  return bytes
}

/** A value as it is bound. @throws RangeError with the reason where there is no way to write it */
export function toBound(value: unknown): string | Buffer | null {
  if (value === null) return null
  if (value instanceof Uint8Array) return Buffer.from(value.buffer, value.byteOffset, value.byteLength)
  return textOf(value)
}

/** A value as text that PostgreSQL reads. @throws RangeError with the reason where there is no way to write it */
export function textOf(value: unknown): string {
  switch (typeof value) {
    case 'string':
      if (value.includes('\0')) throw new RangeError('PostgreSQL cannot hold NUL in a text')
      if (!value.isWellFormed()) throw new RangeError('half of a surrogate pair is no character')
      return value
    case 'number':
      return Object.is(value, -0) ? '-0' : String(value)
    case 'bigint':
    case 'boolean':
      return String(value)
    case 'object':
      if (value instanceof Uint8Array) return `\\x${Buffer.from(value).toString('hex')}`
      if (value instanceof Date) return dateText(value)
      if (Array.isArray(value)) return arrayText(value)
      return textOf(exactJson(value))
    default:
      throw new RangeError(`${typeof value} is no value; use null for NULL`)
  }
}

/** ISO 8601 with milliseconds, as PostgreSQL reads it: years before 1 as BC, after 9999 without a plus sign. */
function dateText(date: Date): string {
  if (Number.isNaN(date.getTime())) throw new RangeError('an invalid Date')
  const year = date.getUTCFullYear()
  const rest = date.toISOString().replace(/^[+-]?\d+/, '')
  const text = `${String(year > 0 ? year : 1 - year).padStart(4, '0')}${rest.replace('Z', '+00')}`
  return year > 0 ? text : `${text} BC`
}

/** PostgreSQL, "Array Input and Output Syntax". */
const arrayText = (values: readonly unknown[]): string =>
  `{${values.map((value) => (value === null ? 'NULL' : Array.isArray(value) ? arrayText(value) : quoted(textOf(value)))).join(',')}}`

const quoted = (text: string): string => `"${text.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"`
