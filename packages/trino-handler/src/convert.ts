import { DataError } from '@common-handlers/core'
import type { TrinoValue } from './values.ts'

/** Makes another value of an exact one; never called with null. `type` is Trino's, as SQL spells it. */
export type Conversion = (value: NonNullable<TrinoValue>, type: string) => unknown

/** Which values are to be something else than the exact ones of {@link TrinoValue}. */
export interface Conversions {
  /** By Trino's name without lengths, at any depth but for the keys of maps: `{ bigint: asNumber, timestamp: asDate }`. */
  readonly types?: Readonly<Record<string, Conversion>> | undefined
  /** By the name of the column, which gets the value as it is after `types`: `{ total: asNumber }`. */
  readonly columns?: Readonly<Record<string, Conversion>> | undefined
}

/**
 * A number from a bigint or decimal; a decimal is rounded to the nearest double.
 * @throws DataError `TRINO_VALUE_NOT_REPRESENTABLE` for a bigint that a number cannot hold
 */
export const asNumber: Conversion = (value, type) => {
  if (typeof value === 'number') return value
  const number = Number(value)
  if (typeof value === 'bigint' ? Number.isSafeInteger(number) : typeof value === 'string' && !Number.isNaN(number)) return number
  throw notRepresentable(value, type, 'a number')
}

/** What a json value holds, by JSON.parse: numbers are rounded to doubles. */
export const asJson: Conversion = (value, type) => {
  if (typeof value === 'string') return JSON.parse(value) as unknown
  throw notRepresentable(value, type, 'JSON')
}

const MOMENT =
  /^(?<year>[+-]?\d{4,})-(?<month>\d\d)-(?<day>\d\d)(?: (?<hour>\d\d):(?<minute>\d\d):(?<second>\d\d)(?:\.(?<fraction>\d+))?)?(?: (?<zone>\S+))?$/

/**
 * A Date from a date, timestamp or timestamp with time zone; what is finer than milliseconds is cut off. One without a
 * zone is taken for UTC.
 * @throws DataError `TRINO_VALUE_NOT_REPRESENTABLE` also for the hour that a zone goes through twice when summer time ends:
 * the server does not say which of the two it is
 */
export const asDate: Conversion = (value, type) => {
  const parts = typeof value === 'string' ? MOMENT.exec(value)?.groups : undefined
  if (parts === undefined) throw notRepresentable(value, type, 'a Date')
  const { year, month, day, hour = 0, minute = 0, second = 0, fraction = '', zone = 'UTC' } = parts
  const local = new Date(0)
  local.setUTCFullYear(Number(year), Number(month) - 1, Number(day))
  local.setUTCHours(Number(hour), Number(minute), Number(second), Number(fraction.slice(0, 3).padEnd(3, '0')))
  const moments = new Set(offsetsOf(zone, local).map((offset) => local.getTime() - offset))
  const found = [...moments].filter((moment) => offsetAt(zone, moment) === local.getTime() - moment)
  const [moment] = found
  if (moment === undefined || found.length > 1 || Number.isNaN(moment)) throw notRepresentable(value, type, 'one Date')
  return new Date(moment)
}

const DAY_MS = 86_400_000

/** The offsets that may hold at a local time: those of the day before and of the day after. */
const offsetsOf = (zone: string, local: Date): number[] => [
  offsetAt(zone, local.getTime() - DAY_MS),
  offsetAt(zone, local.getTime() + DAY_MS),
]

const formats = new Map<string, Intl.DateTimeFormat>()

/** What a zone is ahead of UTC at a moment, in milliseconds; NaN for a zone that is not known. */
function offsetAt(zone: string, moment: number): number {
  if (zone === 'UTC') return 0
  const fixed = /^([+-])(\d\d):(\d\d)$/.exec(zone)
  if (fixed !== null) return (Number(fixed[2]) * 60 + Number(fixed[3])) * 60_000 * (fixed[1] === '-' ? -1 : 1)
  try {
    const format =
      formats.get(zone) ??
      new Intl.DateTimeFormat('en-US', {
        timeZone: zone,
        hourCycle: 'h23',
        era: 'short',
        ...({
          year: 'numeric',
          month: 'numeric',
          day: 'numeric',
          hour: 'numeric',
          minute: 'numeric',
          second: 'numeric',
        } as const),
      })
    formats.set(zone, format)
    const part = new Map(format.formatToParts(moment).map(({ type, value }) => [type, value]))
    const at = (name: Intl.DateTimeFormatPartTypes): number => Number(part.get(name))
    const year = part.get('era') === 'BC' ? 1 - at('year') : at('year')
    const local = new Date(0)
    local.setUTCFullYear(year, at('month') - 1, at('day'))
    local.setUTCHours(at('hour'), at('minute'), at('second'))
    return local.getTime() - Math.floor(moment / 1000) * 1000
  } catch {
    return Number.NaN
  }
}

function notRepresentable(value: TrinoValue, type: string, as: string): DataError {
  return new DataError(
    `${typeof value === 'object' ? 'a value' : JSON.stringify(String(value))} of type ${type} cannot be ${as}`,
    {
      code: 'TRINO_VALUE_NOT_REPRESENTABLE',
    },
  )
}
