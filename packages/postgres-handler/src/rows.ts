import { DataError, issuePath, type StandardSchema } from '@common-handlers/core'

/** A column of a result, as the server describes it. */
export interface ResultField {
  readonly name: string
  readonly typeOid: number
  readonly typeModifier: number
  /** 0 where the column is computed. */
  readonly tableOid: number
  readonly attributeNumber: number
}

export interface RawResult {
  readonly fields: readonly ResultField[]
  readonly rows: readonly (readonly unknown[])[]
  /** Rows returned or changed; 0 for commands that do neither. */
  readonly rowCount: number
  /** `SELECT`, `INSERT`, … */
  readonly command: string
}

/**
 * Rows as objects by column name.
 * @throws DataError `POSTGRES_DUPLICATE_COLUMN` where two columns have one name: an object could keep only one of them
 */
export function asObjects({ fields, rows }: RawResult): Record<string, unknown>[] {
  const names = fields.map((field) => field.name)
  const twice = names.find((name, index) => names.indexOf(name) !== index)
  if (twice !== undefined) {
    throw new DataError(`two columns are named "${twice}": give one of them another name with AS, or ask for rows as arrays`, {
      code: 'POSTGRES_DUPLICATE_COLUMN',
      where: { column: twice },
    })
  }
  if (names.includes('__proto__')) return rows.map((row) => Object.fromEntries(names.map((name, index) => [name, row[index]])))
  return rows.map((row) => {
    const object: Record<string, unknown> = {}
    for (let index = 0; index < names.length; index++) object[names[index] as string] = row[index]
    return object
  })
}

/** @throws DataError `POSTGRES_ROW_INVALID` naming row and column */
export async function validated<T>(rows: readonly unknown[], schema: StandardSchema<T>): Promise<T[]> {
  const values: T[] = []
  for (const [index, row] of rows.entries()) {
    const checked = schema['~standard'].validate(row)
    const result = checked instanceof Promise ? await checked : checked
    if (result.issues !== undefined) {
      const issue = result.issues[0]
      const column = issue === undefined ? '' : issuePath(issue)
      throw new DataError(
        `row ${index + 1}${column === '' ? '' : `, column "${column}"`}: ${issue?.message ?? 'does not fit the schema'}`,
        {
          code: 'POSTGRES_ROW_INVALID',
          where: { line: index + 1, ...(column === '' ? {} : { column }) },
        },
      )
    }
    values.push(result.value)
  }
  return values
}
