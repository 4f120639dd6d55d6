import type { LogicalType, ManifestColumn } from './manifest.ts'

const integers: Partial<Record<LogicalType, bigint>> = { int16: 2n ** 15n, int32: 2n ** 31n, int64: 2n ** 63n }
const DATE = String.raw`(\d{4})-(\d\d)-(\d\d)`
const TIME = String.raw`(\d\d):(\d\d):(\d\d)(?:\.\d{1,6})?`
const patterns: Partial<Record<LogicalType, RegExp>> = {
  boolean: /^(?:t|f|true|false)$/,
  float32: /^(?:NaN|-?Infinity|-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)$/,
  float64: /^(?:NaN|-?Infinity|-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)$/,
  binary: /^\\x(?:[0-9a-fA-F]{2})*$/,
  uuid: /^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$/,
}
const dated = new RegExp(`^${DATE}$`)
const timed = new RegExp(`^${TIME}$`)
const stamped = new RegExp(`^${DATE} ${TIME}$`)
const zoned = new RegExp(`^${DATE} ${TIME}\\+00$`)

/** What is wrong with a value of a column, in words; undefined when nothing is. A long value is cut. */
export function valueProblem(value: string | null, column: ManifestColumn): string | undefined {
  if (value === null) return column.nullable ? undefined : 'NULL in a column that has none'
  // A column that is text somewhere because of its values may hold any spelling of them.
  const spelledOut = column.targets.iceberg.textBecause !== undefined && column.logicalType !== 'json'
  if (spelledOut || fits(value, column)) return undefined
  const shown = value.length > 60 ? `${value.slice(0, 60)}…` : value
  return `${JSON.stringify(shown)} is no ${column.sourceType}`
}

function fits(value: string, { logicalType, precision = 38, scale = 0 }: ManifestColumn): boolean {
  const pattern = patterns[logicalType]
  if (pattern !== undefined) return pattern.test(value)
  const bound = integers[logicalType]
  if (bound !== undefined) return /^-?\d{1,20}$/.test(value) && BigInt(value) < bound && BigInt(value) >= -bound
  switch (logicalType) {
    case 'decimal': {
      const [, whole = '', behind = ''] = /^-?0*(\d*)(?:\.(\d+))?$/.exec(value) ?? []
      return /\d/.test(value) && /^-?\d*(?:\.\d+)?$/.test(value) && whole.length <= precision - scale && behind.length <= scale
    }
    case 'date':
      return isDate(dated.exec(value))
    case 'time':
      return isTime(timed.exec(value), 1)
    case 'timestamp':
      return isStamp(stamped.exec(value))
    case 'timestamptz':
      return isStamp(zoned.exec(value))
    case 'json':
      return isJson(value)
    default:
      return true
  }
}

const isStamp = (match: RegExpExecArray | null): boolean => isDate(match) && isTime(match, 4)

function isDate(match: RegExpExecArray | null): boolean {
  if (match === null) return false
  const [year, month, day] = [Number(match[1]), Number(match[2]), Number(match[3])]
  if (year < 1 || month < 1 || month > 12 || day < 1) return false
  const days =
    month === 2 ? (year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0) ? 29 : 28) : [4, 6, 9, 11].includes(month) ? 30 : 31
  return day <= days
}

function isTime(match: RegExpExecArray | null, from: number): boolean {
  return match !== null && Number(match[from]) < 24 && Number(match[from + 1]) < 60 && Number(match[from + 2]) < 60
}

function isJson(value: string): boolean {
  try {
    JSON.parse(value)
    return true
  } catch {
    return false
  }
}
