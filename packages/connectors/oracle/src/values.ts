import { valueInexact } from './errors.ts'

/**
 * A value as Oracle has it: NUMBER without a scale is bigint, any other NUMBER text with all its digits; BINARY_FLOAT and
 * BINARY_DOUBLE are number (NaN and the infinities text), RAW and BLOB bytes, BOOLEAN boolean, everything else text. An
 * empty text is NULL, as ever with Oracle.
 */
export type OracleValue = null | boolean | number | bigint | string | Uint8Array

/** By column name. */
export type OracleRow = Record<string, OracleValue>

/** What is bound. A bigint is a NUMBER exactly; a text is a VARCHAR2. */
export type OracleParameter = OracleValue

/** How a column is asked for: the type that the driver fetches, and what is made of its value. */
export interface Fetch {
  readonly as: 'VARCHAR' | 'RAW' | undefined
  readonly read?: (value: unknown) => OracleValue
}

/** What the driver says of a column. */
export interface OracleColumn {
  readonly name: string
  readonly dbTypeName: string
  readonly precision?: number | undefined
  readonly scale?: number | undefined
}

const asIs = /^(VARCHAR2|NVARCHAR2|CHAR|NCHAR|LONG|RAW|LONG RAW|ROWID|UROWID|BOOLEAN|XMLTYPE)$/
const FORMAT = 'YYYY-MM-DD HH24:MI:SS'

/** @throws DataError `ORACLE_VALUE_INEXACT` where the driver's value is not the server's */
export function fetchOf({ name, dbTypeName, precision = 0, scale }: OracleColumn): Fetch {
  switch (dbTypeName) {
    case 'NUMBER':
      return precision > 0 && scale === 0 ? { as: 'VARCHAR', read: integer } : { as: 'VARCHAR' }
    case 'BINARY_FLOAT':
    case 'BINARY_DOUBLE':
      return {
        as: undefined,
        read: (value) => (typeof value === 'number' && !Number.isFinite(value) ? String(value) : (value as number | null)),
      }
    case 'CLOB':
    case 'NCLOB':
      return { as: 'VARCHAR' }
    case 'BLOB':
      return { as: 'RAW' }
    case 'DATE':
      throw valueInexact(name, 'a DATE', `TO_CHAR("${name}", '${FORMAT}')`)
    case 'JSON':
      throw valueInexact(name, 'JSON', `JSON_SERIALIZE("${name}" RETURNING CLOB)`)
    default:
      if (asIs.test(dbTypeName)) return { as: undefined }
      // A Date has milliseconds, and no time that the zone of this process leaves out in spring.
      throw valueInexact(
        name,
        `a ${dbTypeName}`,
        dbTypeName.startsWith('TIMESTAMP') ? `TO_CHAR("${name}", '${FORMAT}.FF9')` : `TO_CHAR("${name}")`,
      )
  }
}

const integer = (value: unknown): OracleValue => (value === null ? null : BigInt(value as string))

/** @throws RangeError with the reason where there is no way to bind it */
export function toBound(given: unknown): null | boolean | number | bigint | string | Buffer {
  if (given === null) return null
  if (given instanceof Uint8Array) return Buffer.from(given.buffer, given.byteOffset, given.byteLength)
  switch (typeof given) {
    case 'boolean':
    case 'bigint':
      return given
    case 'number':
      if (!Number.isFinite(given)) throw new RangeError('a NUMBER is neither NaN nor infinite')
      return given
    case 'string':
      if (!given.isWellFormed()) throw new RangeError('half of a surrogate pair is no character')
      return given
    default:
      throw new RangeError(
        given instanceof Date
          ? 'give a date as text, and read it with TO_TIMESTAMP'
          : `${typeof given} is no value; use null for NULL`,
      )
  }
}
