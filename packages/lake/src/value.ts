import { exactJson } from '@common-handlers/connections'
import { decimalOf, type LakeColumnType } from './config.ts'

/** A value as the writer takes it. A bigint of a decimal counts its last digit. */
export type Cell = string | number | bigint | boolean | null

/** Why a value does not fit its column. */
export class Unfit extends Error {}

const { rawJSON, isRawJSON } = JSON as unknown as {
  readonly rawJSON: (text: string) => object
  readonly isRawJSON: (value: unknown) => value is { readonly rawJSON: string }
}

/** Reads JSON and keeps each number to its last digit: one that a float would change, also in its spelling, as raw JSON. */
export function parseNumbersExactly(text: string): unknown {
  return JSON.parse(text, function (_key: string, value: unknown, context?: { readonly source?: string }): unknown {
    if (typeof value !== 'number' || context?.source === undefined || String(value) === context.source) return value
    return rawJSON(context.source)
  } as (this: unknown, key: string, value: unknown) => unknown)
}

/** The value of a field for its column. @throws Unfit */
export function cellOf(type: LakeColumnType, value: unknown): Cell {
  if (value === null || value === undefined) return null
  const decimal = decimalOf(type)
  if (decimal !== undefined) return toDecimal(value, decimal)
  switch (type) {
    case 'boolean':
      if (typeof value === 'boolean') return value
      throw new Unfit(`found ${shown(value)}`)
    case 'int32':
      return Number(toInteger(value, 32))
    case 'int64':
      return toInteger(value, 64)
    case 'float64':
      return toFloat(value)
    case 'date':
      return toDays(value)
    case 'timestamp':
      return toMicroseconds(value)
    case 'json':
      return exactJson(value)
    default:
      if (typeof value !== 'string') throw new Unfit(`found ${shown(value)}`)
      if (!value.isWellFormed()) throw new Unfit('half of a surrogate pair has no UTF-8')
      return value
  }
}

function shown(value: unknown): string {
  const text = exactJson(value)
  return text.length > 60 ? `${text.slice(0, 60)}…` : text
}

/** The digits of a number, or of a text that is one. */
function numberText(value: unknown): string {
  if (typeof value === 'string') return value
  if (typeof value === 'bigint' || (typeof value === 'number' && Number.isFinite(value))) return String(value)
  if (isRawJSON(value)) return value.rawJSON
  throw new Unfit(`found ${shown(value)}`)
}

const NUMBER = /^([+-]?)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d{1,4}))?$/

/** A number in units of 10^-scale. */
function unscaled(value: unknown, scale: number): bigint {
  const text = numberText(value)
  const [, sign, whole = '', fraction = '', exponent = '0'] = NUMBER.exec(text) ?? []
  if (sign === undefined || whole + fraction === '') throw new Unfit(`found ${shown(text)}`)
  // The point stands behind `fraction`; a positive shift adds zeros, a negative one takes digits away.
  const shift = scale - fraction.length + Number(exponent)
  const digits = whole + fraction
  const kept = shift >= 0 ? digits + '0'.repeat(shift) : digits.slice(0, Math.max(0, digits.length + shift))
  const lost = shift >= 0 ? '' : digits.slice(Math.max(0, digits.length + shift))
  if (/[1-9]/.test(lost)) throw new Unfit(`${text} has more than ${scale} digits behind the point`)
  const magnitude = BigInt(kept === '' ? '0' : kept)
  return sign === '-' ? -magnitude : magnitude
}

function toDecimal(value: unknown, { precision, scale }: { readonly precision: number; readonly scale: number }): bigint {
  const found = unscaled(value, scale)
  const limit = 10n ** BigInt(precision)
  if (found <= -limit || found >= limit) throw new Unfit(`${numberText(value)} has more than ${precision} digits`)
  return found
}

function toInteger(value: unknown, bits: 32 | 64): bigint {
  const found = unscaled(value, 0)
  if (BigInt.asIntN(bits, found) !== found) throw new Unfit(`${numberText(value)} is out of range`)
  return found
}

function toFloat(value: unknown): number {
  const found = isRawJSON(value) ? Number(value.rawJSON) : value
  if (typeof found !== 'number') throw new Unfit(`found ${shown(value)}`)
  if (!Number.isFinite(found)) throw new Unfit('it is out of range')
  return found
}

const DATE = /^(\d{4})-(\d\d)-(\d\d)$/
const TIMESTAMP = /^(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d(?::?\d\d)?)$/
const DAY_MS = 86_400_000

function toDays(value: unknown): number {
  if (typeof value !== 'string' || !DATE.test(value)) throw new Unfit(`found ${shown(value)}, not a date such as 2026-11-21`)
  return utc(`${value}T00:00:00Z`, value) / DAY_MS
}

function toMicroseconds(value: unknown): bigint {
  if (value instanceof Date && !Number.isNaN(value.getTime())) return BigInt(value.getTime()) * 1000n
  const [, day, time, fraction = '', zone] = typeof value === 'string' ? (TIMESTAMP.exec(value) ?? []) : []
  if (day === undefined || time === undefined || zone === undefined) {
    throw new Unfit(`found ${shown(value)}, not a time with its zone such as 2026-11-21T10:00:00.123456Z`)
  }
  if (/[1-9]/.test(fraction.slice(6))) throw new Unfit(`${String(value)} is finer than a microsecond`)
  const seconds = BigInt(utc(`${day}T${time}Z`, String(value))) * 1000n
  return seconds + BigInt(fraction.slice(0, 6).padEnd(6, '0')) - BigInt(offsetMinutes(zone)) * 60_000_000n
}

function offsetMinutes(zone: string): number {
  if (zone === 'Z') return 0
  const minutes = Number(zone.slice(1, 3)) * 60 + Number(zone.slice(3).replace(':', ''))
  return zone.startsWith('-') ? -minutes : minutes
}

/** Milliseconds of a time of the calendar: 30 February is none, nor is 24:00. */
function utc(iso: string, text: string): number {
  const found = new Date(iso)
  if (Number.isNaN(found.getTime()) || found.toISOString() !== iso.replace('Z', '.000Z'))
    throw new Unfit(`${text} is not in the calendar`)
  return found.getTime()
}
