import { DataError, issuePath, type StandardSchema } from '@common-handlers/core'
import type { WireField } from './driver.ts'
import { readerOf, type ValueOptions, type ValueReader } from './values.ts'

/** How rows are wanted: as objects or as arrays, and their values. */
export interface RowFormat extends ValueOptions {
  readonly as: 'records' | 'arrays'
}

export interface RawResult<R = readonly unknown[]> {
  readonly fields: readonly WireField[]
  readonly rows: readonly R[]
  /** Rows returned or changed; 0 for commands that do neither. */
  readonly rowCount: number
  /** `SELECT`, `INSERT`, … */
  readonly command: string
}

/** Makes a row of the body of a DataRow, which lies between `at` and `end`. It keeps none of the bytes. */
export type RowReader = (bytes: Buffer, at: number, end: number) => unknown

/**
 * The values of a row up to this size are cut out of one string, which costs half of what a string of its own does for each.
 * Each of them keeps all of it in memory, also where the rest of the row is let go.
 */
const JOINED_BYTES = 512

/**
 * How the rows of a result are read.
 * @throws DataError `POSTGRES_DUPLICATE_COLUMN` where two columns have one name: an object could keep only one of them;
 *   `POSTGRES_COLUMN_NOT_FOUND` where a form is asked for a column that is not there
 */
export function rowReader(fields: readonly WireField[], format: RowFormat): RowReader {
  const names = fields.map((field) => field.name)
  const missing = Object.keys(format.columns ?? {}).find((name) => !names.includes(name))
  if (missing !== undefined) {
    throw new DataError(`there is no column "${missing}" to be given in another form; there are ${names.join(', ')}`, {
      code: 'POSTGRES_COLUMN_NOT_FOUND',
      where: { column: missing },
    })
  }
  const readers = fields.map((field) => readerOf(field.dataTypeID, field.name, format))
  return format.as === 'arrays' ? arrayReader(readers) : recordReader(names, readers)
}

function arrayReader(readers: readonly (ValueReader | undefined)[]): RowReader {
  const converted = [...readers.keys()].filter((index) => readers[index] !== undefined)
  return (bytes, at, end) => {
    const row: unknown[] = readTexts(bytes, at, end, [])
    for (const index of converted) {
      const text = row[index]
      if (text !== null) row[index] = readers[index]?.(text as string)
    }
    return row
  }
}

function recordReader(names: readonly string[], readers: readonly (ValueReader | undefined)[]): RowReader {
  const twice = names.find((name, index) => names.indexOf(name) !== index)
  if (twice !== undefined) {
    throw new DataError(`two columns are named "${twice}": give one of them another name with AS, or ask for rows as arrays`, {
      code: 'POSTGRES_DUPLICATE_COLUMN',
      where: { column: twice },
    })
  }
  if (names.includes('__proto__')) {
    const read = arrayReader(readers)
    return (bytes, at, end) => {
      const row = read(bytes, at, end) as unknown[]
      return Object.fromEntries(names.map((name, index) => [name, row[index]]))
    }
  }
  // A copy of an object that has all keys already is cheaper than one that gets them one after the other.
  const template: Record<string, unknown> = Object.fromEntries(names.map((name) => [name, null]))
  const texts: (string | null)[] = []
  return (bytes, at, end) => {
    readTexts(bytes, at, end, texts)
    const row = { ...template }
    for (let index = 0; index < names.length; index++) {
      const text = texts[index] as string | null
      if (text === null) continue
      const read = readers[index]
      row[names[index] as string] = read === undefined ? text : read(text)
    }
    return row
  }
}

/** The values of a DataRow, null for NULL: two bytes with their number, and for each four with its length, and its text. */
function readTexts(bytes: Buffer, at: number, end: number, texts: (string | null)[]): (string | null)[] {
  const count = bytes.readUInt16BE(at)
  const joined = end - at > JOINED_BYTES ? undefined : asciiText(bytes, at, end, count)
  let from = at + 2
  for (let index = 0; index < count; index++) {
    const length = bytes.readInt32BE(from)
    from += 4
    if (length < 0) texts[index] = null
    else {
      const to = from + length
      texts[index] = joined === undefined ? bytes.toString('utf8', from, to) : joined.substring(from - at, to - at)
      from = to
    }
  }
  return texts
}

/** The whole row as text in which each byte is a character; undefined where a value is not ASCII. */
function asciiText(bytes: Buffer, at: number, end: number, count: number): string | undefined {
  const text = bytes.toString('latin1', at, end)
  // UTF-8 takes two bytes for each character above ASCII: there must be no more of them than the lengths have.
  let high = (bytes[at + 1] as number) >> 7
  let from = at + 2
  for (let index = 0; index < count; index++) {
    const length = bytes.readInt32BE(from)
    high += highBytes(length)
    from += 4 + Math.max(0, length)
  }
  return Buffer.byteLength(text) - text.length === high ? text : undefined
}

/** How many of the four bytes of a length are above ASCII. */
function highBytes(length: number): number {
  return ((length >>> 7) & 1) + ((length >>> 15) & 1) + ((length >>> 23) & 1) + (length >>> 31)
}

/** Rows checked and converted by a schema. `before` rows have come earlier. @throws DataError `POSTGRES_ROW_INVALID` naming row and column */
export async function validated<T>(rows: readonly unknown[], schema: StandardSchema<T>, before: number = 0): Promise<T[]> {
  const values: T[] = []
  for (const [index, row] of rows.entries()) {
    const checked = schema['~standard'].validate(row)
    const result = checked instanceof Promise ? await checked : checked
    if (result.issues !== undefined) {
      const issue = result.issues[0]
      const column = issue === undefined ? '' : issuePath(issue)
      throw new DataError(
        `row ${before + index + 1}${column === '' ? '' : `, column "${column}"`}: ${issue?.message ?? 'does not fit the schema'}`,
        {
          code: 'POSTGRES_ROW_INVALID',
          where: { line: before + index + 1, ...(column === '' ? {} : { column }) },
        },
      )
    }
    values.push(result.value)
  }
  return values
}
