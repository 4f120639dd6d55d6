import { DataError } from '@common-handlers/core'

/** Types whose values can be asked for in another form, by name and OID (PostgreSQL, pg_type.dat), and the OID of their arrays. */
const KNOWN_TYPES = {
  bool: [16, 1000],
  int2: [21, 1005],
  int4: [23, 1007],
  int8: [20, 1016],
  float4: [700, 1021],
  float8: [701, 1022],
  numeric: [1700, 1231],
  date: [1082, 1182],
  timestamp: [1114, 1115],
  timestamptz: [1184, 1185],
  json: [114, 199],
  jsonb: [3802, 3807],
  bytea: [17, 1001],
  text: [25, 1009],
  varchar: [1043, 1015],
  uuid: [2950, 2951],
} as const

type KnownType = keyof typeof KNOWN_TYPES

/**
 * How a value is given where it is asked for. `text` is PostgreSQL's own; `number` and `date` may round (the digits of a
 * numeric, microseconds), which is why they are never the default; an int8 beyond 2^53, or an infinite date, is an error.
 * `json` is parsed, `bytes` is a Buffer, `array` is nested arrays whose elements are given as their own type is.
 */
export type ValueForm = 'text' | 'number' | 'date' | 'json' | 'bytes' | 'array'

/** Forms by type; for arrays of a type by its name with brackets: `{ timestamptz: 'date', numeric: 'number', 'int8[]': 'array' }`. */
export type TypeForms = {
  readonly bool?: 'text'
  readonly int2?: 'text'
  readonly int4?: 'text'
  readonly int8?: 'text' | 'number'
  readonly float4?: 'number'
  readonly float8?: 'number'
  readonly numeric?: 'number'
  readonly date?: 'date'
  readonly timestamp?: 'date'
  readonly timestamptz?: 'date'
  readonly json?: 'json'
  readonly jsonb?: 'json'
  readonly bytea?: 'bytes'
} & { readonly [T in KnownType as `${T}[]`]?: 'array' }

/** In which form values are wanted. What is not named comes as it does by default, exactly. */
export interface ValueOptions {
  /** By type, for every column of it. */
  readonly types?: TypeForms | undefined
  /** By column; goes before the type. */
  readonly columns?: Readonly<Record<string, ValueForm>> | undefined
}

/** Makes a value of its text. */
export type ValueReader = (text: string) => unknown

const nameOf = new Map<number, KnownType>()
const elementOf = new Map<number, KnownType>()
for (const [name, [oid, arrayOid]] of Object.entries(KNOWN_TYPES) as [KnownType, readonly [number, number]][]) {
  nameOf.set(oid, name)
  elementOf.set(arrayOid, name)
}

/**
 * How the values of a column are read; undefined for PostgreSQL's own text. A type is only read as something else by
 * default where JavaScript holds every value of it exactly.
 */
export function readerOf(typeOid: number, columnName: string, wanted: ValueOptions | undefined): ValueReader | undefined {
  const type = nameOf.get(typeOid)
  const form = formOf(typeOid, columnName, wanted)
  if (form === undefined) return type === undefined ? undefined : exactReaders[type]
  const read = readerFor(form, typeOid, wanted)
  return read === undefined ? undefined : (text) => orExplain(read, text, form, columnName)
}

function formOf(typeOid: number, columnName: string, wanted: ValueOptions | undefined): ValueForm | undefined {
  if (wanted?.columns !== undefined && Object.hasOwn(wanted.columns, columnName)) return wanted.columns[columnName]
  const [type, element] = [nameOf.get(typeOid), elementOf.get(typeOid)]
  if (wanted?.types === undefined || (type === undefined && element === undefined)) return undefined
  return (wanted.types as Readonly<Record<string, ValueForm>>)[type ?? `${element}[]`]
}

const exactReaders: Partial<Record<KnownType, ValueReader>> = {
  bool: (text) => text === 't',
  int2: Number,
  int4: Number,
  // By way of a number where it holds the value, which is twice as fast.
  int8: (text) => BigInt(text.length < 16 ? Number(text) : text),
}

function readerFor(form: ValueForm, typeOid: number, wanted: ValueOptions | undefined): ValueReader | undefined {
  switch (form) {
    case 'text':
      return undefined
    case 'number':
      return nameOf.get(typeOid) === 'int8' ? safeInteger : numberOf
    case 'date':
      return dateOf
    case 'json':
      return (text) => JSON.parse(text) as unknown
    case 'bytes':
      return bytesOf
    case 'array': {
      const element = elementOf.get(typeOid)
      if (element === undefined) return (text) => readArray(text, undefined)
      const asked = (wanted?.types as Readonly<Record<string, ValueForm>> | undefined)?.[element]
      const read = asked === undefined ? exactReaders[element] : readerFor(asked, KNOWN_TYPES[element][0], wanted)
      return (text) => readArray(text, read)
    }
    default:
      throw new DataError(`"${String(form)}" is no form of a value`, { code: 'POSTGRES_VALUE_INVALID' })
  }
}

function orExplain(read: ValueReader, text: string, form: ValueForm, columnName: string): unknown {
  try {
    return read(text)
  } catch {
    const shown = text.length > 60 ? `${text.slice(0, 60)}…` : text
    throw new DataError(`column "${columnName}": ${shown} cannot be given as ${form}; ask for its text`, {
      code: 'POSTGRES_VALUE_UNREADABLE',
      where: { column: columnName },
    })
  }
}

function numberOf(text: string): number {
  const number = Number(text)
  if (text === '' || (Number.isNaN(number) && text !== 'NaN')) throw new RangeError('not a number')
  return number
}

function safeInteger(text: string): number {
  const number = Number(text)
  if (!Number.isSafeInteger(number)) throw new RangeError('beyond 2^53')
  return number
}

function bytesOf(text: string): Buffer {
  const bytes = Buffer.from(text.slice(2), 'hex')
  if (!text.startsWith('\\x') || bytes.length * 2 + 2 !== text.length) throw new RangeError('not bytea')
  return bytes
}

/** PostgreSQL's ISO style: `44-03-15 12:00:00.123456+05:30:15 BC`, and what a date and a timestamp without zone leave out. */
const DATE = /^(\d{4,})-(\d\d)-(\d\d)(?: (\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?(?:([+-])(\d\d)(?::(\d\d))?(?::(\d\d))?)?)?( BC)?$/

/** A timestamp without zone, and a date, count as UTC. Microseconds are cut off. */
function dateOf(text: string): Date {
  const found = DATE.exec(text)
  if (found === null) throw new RangeError('not a finite date')
  const [, year, month, day, hour, minute, second, fraction = '', sign, zoneHour, zoneMinute, zoneSecond, bc] = found
  const number = (digits: string | undefined): number => Number(digits ?? 0)
  const date = new Date(0)
  date.setUTCFullYear(bc === undefined ? number(year) : 1 - number(year), number(month) - 1, number(day))
  date.setUTCHours(number(hour), number(minute), number(second), Math.trunc(number(fraction.padEnd(6, '0')) / 1000))
  const offset = ((number(zoneHour) * 60 + number(zoneMinute)) * 60 + number(zoneSecond)) * (sign === '-' ? -1000 : 1000)
  const instant = new Date(date.getTime() - offset)
  if (Number.isNaN(instant.getTime())) throw new RangeError('beyond what Date holds')
  return instant
}

/**
 * An array as PostgreSQL writes it (PostgreSQL, "Array Input and Output Syntax") as nested arrays. Lower bounds that are
 * not 1 (`[0:1]={a,b}`) have no place in JavaScript and are left out.
 */
function readArray(text: string, read: ValueReader | undefined): unknown[] {
  const delimiter = ','
  let at = text.startsWith('[') ? text.indexOf('=') + 1 : 0
  const element = (value: string): unknown => (read === undefined ? value : read(value))
  const quoted = (): unknown => {
    let value = ''
    for (at++; text[at] !== '"'; at++) {
      if (at >= text.length) throw new RangeError('not an array')
      if (text[at] === '\\') at++
      value += text[at]
    }
    at++
    return element(value)
  }
  const plain = (): unknown => {
    const start = at
    while (at < text.length && text[at] !== delimiter && text[at] !== '}') at++
    const value = text.slice(start, at)
    return value === 'NULL' ? null : element(value)
  }
  const list = (): unknown[] => {
    if (text[at] !== '{') throw new RangeError('not an array')
    const values: unknown[] = []
    at++
    while (text[at] !== '}') {
      if (at >= text.length) throw new RangeError('not an array')
      if (text[at] === '{') values.push(list())
      else values.push(text[at] === '"' ? quoted() : plain())
      if (text[at] === delimiter) at++
    }
    at++
    return values
  }
  const values = list()
  if (at !== text.length) throw new RangeError('not an array')
  return values
}

/** Bind counts its parameters in 16 bits (PostgreSQL, "Message Formats"). */
const MAX_PARAMETERS = 65_535

/** Values as they are bound. @throws DataError `POSTGRES_VALUE_INVALID` */
export function bindValues(values: readonly unknown[]): (string | Buffer | null)[] {
  if (values.length > MAX_PARAMETERS) {
    throw new DataError(`${values.length} values: a statement takes ${MAX_PARAMETERS} at most`, {
      code: 'POSTGRES_VALUE_INVALID',
    })
  }
  return values.map(bindValue)
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
  return Array.isArray(value) ? arrayText(value, index) : textElement(value, index)
}

/** One value as an element of a text array; an array becomes the text of an array. */
export function textElement(value: unknown, index: number): string {
  if (value === null) return 'NULL'
  const text = Array.isArray(value)
    ? arrayText(value, index)
    : value instanceof Uint8Array
      ? `\\x${Buffer.from(value).toString('hex')}`
      : scalarText(value, index)
  return `"${text.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"`
}

function unbindable(index: number, why: string): DataError {
  return new DataError(`parameter $${index + 1}: ${why}`, { code: 'POSTGRES_VALUE_INVALID', context: { parameter: index + 1 } })
}
