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

/** Makes a row of its values as text. It may keep, and change, the array that it is given. */
export type RowReader = (texts: (string | null)[]) => unknown

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
  return (texts) => {
    const row: unknown[] = texts
    for (const index of converted) {
      const text = texts[index]
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
    return (texts) => {
      const row = read(texts) as unknown[]
      return Object.fromEntries(names.map((name, index) => [name, row[index]]))
    }
  }
  // A copy of an object that has all keys already is cheaper than one that gets them one after the other.
  const template: Record<string, unknown> = Object.fromEntries(names.map((name) => [name, null]))
  return (texts) => {
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
