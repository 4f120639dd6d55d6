import type { Sheet } from './client.ts'
import { rangeUnusable } from './errors.ts'

/** Cells of one sheet; rows and columns count from 1, both ends included. */
export interface CellRange {
  readonly sheet: string
  readonly firstRow: number
  readonly lastRow: number
  readonly firstColumn: number
  readonly lastColumn: number
}

const cells = /^([A-Z]{1,3})([1-9]\d*)?(?::([A-Z]{1,3})([1-9]\d*)?)?$/

/**
 * A1 notation (https://developers.google.com/workspace/sheets/api/guides/concepts#cell): a sheet, `Orders!A1:D`, `'My
 * orders'!A:D`, or cells alone for those of the first sheet. What it leaves open ends with the sheet.
 */
export function parseRange(range: string, sheets: readonly Sheet[]): CellRange {
  const whole = sheets.find(({ title }) => title === unquoted(range))
  if (whole !== undefined) {
    return { sheet: whole.title, firstRow: 1, lastRow: whole.rows, firstColumn: 1, lastColumn: whole.columns }
  }
  const at = range.lastIndexOf('!')
  const [found, from = '', first, to, last] = cells.exec(range.slice(at + 1)) ?? []
  const sheet = at < 0 ? sheets[0] : sheets.find(({ title }) => title === unquoted(range.slice(0, at)))
  if (sheet === undefined || (at < 0 && found === undefined)) {
    throw rangeUnusable(range, `names no sheet; there are: ${sheets.map(({ title }) => title).join(', ')}`)
  }
  if (found === undefined) throw rangeUnusable(range, 'is none: expected such as Orders!A1:D')
  // One cell is that cell; `A2:D` goes to the last row.
  const end = to === undefined ? first : last
  const firstColumn = columnNumber(from)
  const lastColumn = Math.min(sheet.columns, columnNumber(to ?? from))
  if (lastColumn < firstColumn) throw rangeUnusable(range, `has no columns in "${sheet.title}"`)
  return {
    sheet: sheet.title,
    firstRow: Number(first ?? 1),
    lastRow: Math.min(sheet.rows, Number(end ?? sheet.rows)),
    firstColumn,
    lastColumn,
  }
}

/** Some of its rows, as the API takes it. */
export function formatRange({ sheet, firstColumn, lastColumn }: CellRange, firstRow: number, lastRow: number): string {
  return `'${sheet.replaceAll("'", "''")}'!${columnName(firstColumn)}${firstRow}:${columnName(lastColumn)}${lastRow}`
}

const unquoted = (text: string): string => (/^'.*'$/s.test(text) ? text.slice(1, -1).replaceAll("''", "'") : text)

/** `A` is 1, `AA` 27. */
const columnNumber = (name: string): number => name.split('').reduce((sum, letter) => sum * 26 + letter.charCodeAt(0) - 64, 0)

/** 1 is `A`, 27 `AA`. */
export function columnName(number: number): string {
  const rest = (number - 1) % 26
  const last = String.fromCharCode(65 + rest)
  return number > 26 ? columnName((number - 1 - rest) / 26) + last : last
}
