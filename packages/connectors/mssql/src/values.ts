import { valueInexact } from './errors.ts'

/**
 * A value as SQL Server has it: bit is boolean; tinyint, smallint, int, float and real are number; bigint is bigint;
 * binary is bytes. Everything else is text: decimal and money with all their digits, dates and times with all their
 * fractions.
 */
export type MssqlValue = null | boolean | number | bigint | string | Uint8Array

/** By column name. */
export type MssqlRow = Record<string, MssqlValue>

/** What is bound: a number is an int where it is one, else a float; a Date is a datetime2 in UTC; a text is an nvarchar. */
export type MssqlParameter = MssqlValue | Date

/** What the driver says of a column. */
export interface MssqlColumn {
  readonly colName: string
  readonly type: { readonly name: string }
  readonly dataLength?: number | undefined
  readonly precision?: number | undefined
  readonly scale?: number | undefined
}

/** A double has 15 digits for sure. */
const EXACT_DIGITS = 15

/** How a column is read. @throws DataError `MSSQL_VALUE_INEXACT` where the driver's value is not the server's */
export function readerOf(column: MssqlColumn): (value: unknown) => MssqlValue {
  const { colName, type, dataLength, precision = 0, scale = 0 } = column
  const unlessNull = (read: (value: never) => MssqlValue) => (value: unknown) => (value === null ? null : read(value as never))
  switch (type.name) {
    case 'BigInt':
    case 'IntN':
      return type.name === 'BigInt' || dataLength === 8 ? unlessNull(BigInt) : asIs
    case 'Decimal':
    case 'DecimalN':
    case 'Numeric':
    case 'NumericN':
      if (precision > EXACT_DIGITS) {
        throw valueInexact(colName, `decimal(${precision}, ${scale})`, `CONVERT(varchar(41), "${colName}")`)
      }
      return unlessNull((value: number) => value.toFixed(scale))
    case 'SmallMoney':
      return unlessNull((value: number) => value.toFixed(4))
    case 'Money':
    case 'MoneyN':
      if (type.name === 'Money' || dataLength === 8) throw valueInexact(colName, 'money', `CONVERT(varchar(30), "${colName}", 2)`)
      return unlessNull((value: number) => value.toFixed(4))
    case 'Variant':
      throw valueInexact(colName, 'sql_variant', `CONVERT(nvarchar(4000), "${colName}")`)
    case 'Date':
      return unlessNull(dateOf)
    case 'Time':
      return unlessNull((value: Ticks) => timeOf(value, scale))
    case 'DateTime2':
      return unlessNull((value: Ticks) => `${dateOf(value)} ${timeOf(value, scale)}`)
    case 'DateTimeOffset':
      return unlessNull((value: Ticks) => `${dateOf(value)} ${timeOf(value, scale)} +00:00`)
    case 'SmallDateTime':
      return unlessNull((value: Ticks) => `${dateOf(value)} ${timeOf(value, 0)}`)
    case 'DateTime':
    case 'DateTimeN':
      return unlessNull((value: Ticks) => `${dateOf(value)} ${timeOf(value, dataLength === 4 ? 0 : 3)}`)
    default:
      return asIs
  }
}

const asIs = (value: unknown): MssqlValue => value as MssqlValue

/** What tedious makes of a time: what a Date cannot hold, in seconds, beside it. */
type Ticks = Date & { readonly nanosecondsDelta?: number }

const dateOf = (value: Date): string => value.toISOString().slice(0, 10)

function timeOf(value: Ticks, scale: number): string {
  const ticks = Math.round((value.nanosecondsDelta ?? 0) * 10_000_000)
  const digits = `${value.toISOString().slice(20, 23)}${String(ticks).padStart(4, '0')}`
  return `${value.toISOString().slice(11, 19)}${scale === 0 ? '' : `.${digits.slice(0, scale)}`}`
}

/** About the bytes that a row takes. */
export function sizeOf(values: readonly MssqlValue[]): number {
  let bytes = 0
  for (const value of values) bytes += typeof value === 'string' || value instanceof Uint8Array ? value.length : 8
  return bytes
}

/** The type that a parameter is sent as, and its value. @throws RangeError with the reason where there is none */
export function toBound(given: unknown): {
  readonly type: 'Bit' | 'Int' | 'BigInt' | 'Float' | 'NVarChar' | 'VarBinary' | 'DateTime2'
  readonly value: unknown
} {
  if (given === null) return { type: 'NVarChar', value: null }
  if (given instanceof Uint8Array) {
    return { type: 'VarBinary', value: Buffer.from(given.buffer, given.byteOffset, given.byteLength) }
  }
  if (given instanceof Date) {
    if (Number.isNaN(given.getTime())) throw new RangeError('an invalid Date')
    return { type: 'DateTime2', value: given }
  }
  switch (typeof given) {
    case 'boolean':
      return { type: 'Bit', value: given }
    case 'bigint':
      if (BigInt.asIntN(64, given) !== given) throw new RangeError('beyond 64 bits; give a text')
      return { type: 'BigInt', value: given }
    case 'number':
      if (!Number.isFinite(given)) throw new RangeError('SQL Server has neither NaN nor infinities')
      return { type: (given | 0) === given && !Object.is(given, -0) ? 'Int' : 'Float', value: given }
    case 'string':
      if (!given.isWellFormed()) throw new RangeError('half of a surrogate pair is no character')
      return { type: 'NVarChar', value: given }
    default:
      throw new RangeError(`${typeof given} is no value; use null for NULL`)
  }
}
