import { isUtf8 } from 'node:buffer'
import { decodeField, encodeOneRowALine, encodeRow, type RowBlock } from './dialect.ts'
import { csvBroken } from './errors.ts'
import type { ManifestColumn, ManifestFormat } from './manifest.ts'
import { valueProblem } from './value-check.ts'

/** How a CSV is written, as the manifest says it. `null` defaults to `\N`. */
export type CsvFormat = Pick<ManifestFormat, 'dialect'> & { readonly null?: string | undefined }

export interface ReadOptions {
  /** Named in errors. */
  readonly file?: string | undefined
  /** A row longer than this is an error (a quote that is never closed would read all of the file as one). Default 256 MiB. */
  readonly maxRowBytes?: number | undefined
}

/** One row of a file, decoded. */
export interface CsvRow {
  /** The line on which the row begins; the header is line 1. */
  readonly line: number
  readonly values: readonly (string | null)[]
}

/** The first thing in a file that is not as it should be. */
export interface BrokenRow {
  readonly line: number
  /** Absent when it is the row as a whole. */
  readonly column?: string | undefined
  readonly problem: string
}

const LF = 10
const CR = 13
const QUOTE = 34
const COMMA = 44
const DEFAULT_MAX_ROW_BYTES = 256 * 1024 * 1024

/** A row that cannot be read; caught by {@link findBrokenRow}, turned into a DataError by the others. */
class Broken extends Error {
  readonly line: number
  readonly column: string | undefined
  constructor(line: number, problem: string, column?: string) {
    super(problem)
    this.line = line
    this.column = column
  }
}

/**
 * Cuts a stream of bytes, chunks ending anywhere, into blocks of whole rows. With `quotes`, LF inside of quotes belongs to
 * the row. A last row without LF gets one.
 */
async function* rowBlocks(
  stream: AsyncIterable<Uint8Array>,
  quotes: boolean,
  maxRowBytes: number,
): AsyncGenerator<RowBlock & { readonly line: number }> {
  let pending: Buffer[] = []
  let pendingBytes = 0
  let inQuotes = false
  let line = 1
  for await (const piece of undamaged(stream, () => line)) {
    const chunk = Buffer.from(piece.buffer, piece.byteOffset, piece.byteLength)
    const rowEnds: number[] = []
    for (let position = 0, quote = -2, lf = -2; ;) {
      if (quotes && quote !== -1 && quote < position) quote = chunk.indexOf(QUOTE, position)
      if (inQuotes) {
        if (quote === -1) break
        inQuotes = false
        position = quote + 1
        continue
      }
      if (lf !== -1 && lf < position) lf = chunk.indexOf(LF, position)
      if (quotes && quote !== -1 && (lf === -1 || quote < lf)) {
        inQuotes = true
        position = quote + 1
      } else if (lf === -1) break
      else rowEnds.push((position = lf + 1))
    }
    const lastEnd = rowEnds.at(-1)
    if (lastEnd !== undefined) {
      const head = chunk.subarray(0, lastEnd)
      const bytes = pending.length === 0 ? head : Buffer.concat([...pending, head])
      const before = pendingBytes
      yield { bytes, rowEnds: before === 0 ? rowEnds : rowEnds.map((end) => end + before), rows: rowEnds.length, line }
      line += quotes ? count(bytes, LF) : rowEnds.length
      pending = []
      pendingBytes = 0
    }
    const tail = chunk.subarray(lastEnd ?? 0)
    if (tail.length > 0) {
      pending.push(tail)
      pendingBytes += tail.length
      if (pendingBytes > maxRowBytes)
        throw new Broken(line, `the row is longer than ${maxRowBytes} bytes: is a quote not closed?`)
    }
  }
  if (inQuotes) throw new Broken(line, 'a quote is opened in this row and never closed')
  if (pendingBytes > 0)
    yield { bytes: Buffer.concat([...pending, Buffer.from('\n')]), rowEnds: [pendingBytes + 1], rows: 1, line }
}

/** What a decoder says of bytes that are cut off or damaged, with the line up to which they could be read. */
async function* undamaged(stream: AsyncIterable<Uint8Array>, line: () => number): AsyncGenerator<Uint8Array> {
  try {
    yield* stream
  } catch (error) {
    const { code = '', message } = error as NodeJS.ErrnoException
    throw /^Z(STD)?_/.test(code) ? new Broken(line(), `the compressed bytes are damaged or cut off from here: ${message}`) : error
  }
}

function count(bytes: Buffer, byte: number): number {
  let found = 0
  for (let position = bytes.indexOf(byte); position !== -1; position = bytes.indexOf(byte, position + 1)) found++
  return found
}

interface RawField {
  readonly text: string
  readonly quoted: boolean
}

/** The fields of one row as CSV has them, the dialect's own spelling not yet undone. */
function parseRow(row: Buffer, line: number, { dialect }: CsvFormat): RawField[] {
  if (!isUtf8(row)) throw new Broken(line, 'the row is not UTF-8')
  let end = row.length
  if (end > 0 && row[end - 1] === LF) end--
  if (dialect === 'rfc4180' && end > 0 && row[end - 1] === CR) end--
  const fields: RawField[] = []
  for (let from = 0; from <= end;) {
    if (row[from] !== QUOTE || from === end) {
      const comma = row.indexOf(COMMA, from)
      const to = comma === -1 || comma > end ? end : comma
      fields.push({ text: row.toString('utf8', from, to), quoted: false })
      from = to + 1
      continue
    }
    const to = closingQuote(row, from + 1, end)
    if (to === -1) throw new Broken(line, `field ${fields.length + 1}: a quote is opened and not closed`)
    if (to + 1 < end && row[to + 1] !== COMMA)
      throw new Broken(line, `field ${fields.length + 1}: something follows the closing quote`)
    fields.push({ text: row.toString('utf8', from + 1, to).replaceAll('""', '"'), quoted: true })
    from = to + 2
  }
  return fields
}

function closingQuote(row: Buffer, from: number, end: number): number {
  for (let position = row.indexOf(QUOTE, from); position !== -1 && position < end; position = row.indexOf(QUOTE, position + 2)) {
    if (position + 1 >= end || row[position + 1] !== QUOTE) return position
  }
  return -1
}

function valueOf({ text, quoted }: RawField, format: CsvFormat, line: number, index: number): string | null {
  if (format.dialect === 'rfc4180') return !quoted && text === (format.null ?? '\\N') ? null : text
  const value = decodeField(text)
  if (value === undefined) throw new Broken(line, `field ${index + 1}: U+0002 is followed by something that it cannot spell`)
  return value
}

/** Every row, the header included. */
async function* allRows(stream: AsyncIterable<Uint8Array>, format: CsvFormat, options: ReadOptions): AsyncGenerator<CsvRow> {
  const quotes = format.dialect === 'rfc4180'
  for await (const block of rowBlocks(stream, quotes, options.maxRowBytes ?? DEFAULT_MAX_ROW_BYTES)) {
    let { line } = block
    for (let row = 0, start = 0; row < block.rows; row++) {
      const end = block.rowEnds[row] ?? start
      const bytes = block.bytes.subarray(start, end)
      yield { line, values: parseRow(bytes, line, format).map((field, index) => valueOf(field, format, line, index)) }
      line += quotes ? count(bytes, LF) : 1
      start = end
    }
  }
}

/**
 * Reads the rows of a CSV with its values decoded and NULL as null; the header is left out. The stream gives the bytes
 * uncompressed.
 * @throws DataError `DATASET_CSV_BROKEN` with file and line
 */
export async function* readRows(
  stream: AsyncIterable<Uint8Array>,
  format: CsvFormat,
  options: ReadOptions = {},
): AsyncGenerator<CsvRow> {
  try {
    let header = true
    for await (const row of allRows(stream, format, options)) {
      if (!header) yield row
      header = false
    }
  } catch (error) {
    throw error instanceof Broken ? broken(error, options.file) : error
  }
}

const broken = ({ message, line, column }: Broken, file: string | undefined): Error =>
  csvBroken(message, { line, ...(file === undefined ? {} : { file }), ...(column === undefined ? {} : { column }) })

/**
 * Spells a CSV of the rfc4180 dialect (LF or CRLF between rows, line breaks inside of quotes, NULL as `from.null`) in the
 * one-row-a-line dialect. What is in that dialect already is passed on as it is.
 * @throws DataError `DATASET_CSV_BROKEN` when a quote is never closed
 */
export async function* transcode(
  stream: AsyncIterable<Uint8Array>,
  from: CsvFormat,
  options: ReadOptions = {},
): AsyncGenerator<Uint8Array> {
  if (from.dialect === 'one-row-a-line') {
    yield* stream
    return
  }
  try {
    if ((from.null ?? '\\N') === '\\N') {
      for await (const block of rowBlocks(stream, true, options.maxRowBytes ?? DEFAULT_MAX_ROW_BYTES))
        yield encodeOneRowALine(block)
      return
    }
    // Another word for NULL: each field must be looked at.
    let lines: string[] = []
    let size = 0
    for await (const { values, line } of allRows(stream, from, options)) {
      // A name in the header is never NULL.
      const encoded = encodeRow(line === 1 ? values.map((value) => value ?? from.null ?? '') : values)
      lines.push(encoded)
      size += encoded.length
      if (size < 65_536) continue
      yield Buffer.from(lines.join(''))
      lines = []
      size = 0
    }
    if (lines.length > 0) yield Buffer.from(lines.join(''))
  } catch (error) {
    throw error instanceof Broken ? broken(error, options.file) : error
  }
}

/**
 * Finds the first row that is not as the manifest says: another header, a wrong number of fields, a quote that is not
 * closed, bytes that are no UTF-8, a NULL or a value that its column cannot hold. Undefined when there is none.
 */
export async function findBrokenRow(
  stream: AsyncIterable<Uint8Array>,
  columns: readonly ManifestColumn[],
  format: CsvFormat,
  options: ReadOptions = {},
): Promise<BrokenRow | undefined> {
  try {
    let header = true
    for await (const { line, values } of allRows(stream, format, options)) {
      if (values.length !== columns.length)
        return { line, problem: `${values.length} fields, but there are ${columns.length} columns` }
      for (const [index, column] of columns.entries()) {
        const value = values[index] ?? null
        const problem = header ? headerProblem(value, column) : valueProblem(value, column)
        if (problem !== undefined) return { line, column: column.name, problem }
      }
      header = false
    }
    return header ? { line: 1, problem: 'the header is missing: the file is empty' } : undefined
  } catch (error) {
    if (error instanceof Broken) return { line: error.line, problem: error.message }
    throw error
  }
}

function headerProblem(value: string | null, { name }: ManifestColumn): string | undefined {
  return value === name ? undefined : `the header says ${JSON.stringify(value)} where the manifest has ${JSON.stringify(name)}`
}
