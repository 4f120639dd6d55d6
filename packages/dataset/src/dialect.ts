/**
 * The one-row-a-line dialect: PostgreSQL's CSV (`COPY … (FORMAT csv, HEADER, NULL '\N')`) in which a row is a line. Inside
 * a text, and nowhere else, five things are spelled with U+0002: LF as `␂n`, CR as `␂r`, U+0001 as `␂1`, U+0002 as `␂2`, and
 * a text that is exactly `\N` as `␂N`. A table of one column writes the empty text as `""`, since an empty line is no row
 * to many readers.
 */

/** Rows as COPY gives them: whole, each ended by LF. */
export interface RowBlock {
  readonly bytes: Buffer
  /** Where each row ends in `bytes`, exclusive: the byte before is its LF. May be longer than `rows`. */
  readonly rowEnds: ArrayLike<number>
  readonly rows: number
}

const LF = 10
const CR = 13
const ONE = 1
const TWO = 2
const QUOTE = 34
const COMMA = 44
/** The end of a quoted `\N`: a backslash is rarer in CSV than the quote before it, and the search runs from one first byte to the next. */
const NULL_TEXT_END = Buffer.from('\\N"')
const NULL_TEXT = Buffer.from('"\\N"')

/**
 * Spells a block of COPY's rows (NULL as `\N`) in the one-row-a-line dialect. Returns `bytes` itself when no row needs it,
 * which is the rule: the whole block is searched natively, and only rows that hold something are looked into.
 */
export function encodeOneRowALine(block: RowBlock): Buffer {
  const awkward = awkwardRows(block)
  if (awkward === undefined) return block.bytes
  const { bytes, rowEnds } = block
  const parts: Buffer[] = []
  let done = 0
  for (const row of awkward) {
    const start = row === 0 ? 0 : at(rowEnds, row - 1)
    const end = at(rowEnds, row)
    if (start > done) parts.push(bytes.subarray(done, start))
    parts.push(rewriteRow(bytes.subarray(start, end)))
    done = end
  }
  const end = at(rowEnds, block.rows - 1)
  if (end > done) parts.push(bytes.subarray(done, end))
  return Buffer.concat(parts)
}

const at = (numbers: ArrayLike<number>, index: number): number => numbers[index] ?? 0

/** The rows that may need another spelling, in order; undefined when there are none. */
function awkwardRows({ bytes, rowEnds, rows }: RowBlock): number[] | undefined {
  let found: Set<number> | undefined
  for (let row = 0, start = 0; row < rows; row++) {
    const end = at(rowEnds, row)
    if (end - start === 1 || bytes.indexOf(LF, start) !== end - 1) (found ??= new Set()).add(row)
    start = end
  }
  for (const search of [CR, ONE, TWO, NULL_TEXT_END]) {
    for (let position = bytes.indexOf(search), row = 0; position !== -1;) {
      row = rowOf(rowEnds, row, rows, position)
      if (row === rows) break
      ;(found ??= new Set()).add(row)
      position = bytes.indexOf(search, at(rowEnds, row))
    }
  }
  return found === undefined ? undefined : [...found].toSorted((a, b) => a - b)
}

/** The first row from `low` on that ends after the position. */
function rowOf(rowEnds: ArrayLike<number>, low: number, rows: number, position: number): number {
  let high = rows
  while (low < high) {
    const middle = (low + high) >>> 1
    if (at(rowEnds, middle) > position) high = middle
    else low = middle + 1
  }
  return low
}

/** One row, its LF included. Bytes are enough: none of those looked for is part of a longer UTF-8 character. */
function rewriteRow(row: Buffer): Buffer {
  // CR before the last LF, outside of quotes, is the line end of a CSV that was not written by COPY.
  const lineEnd = row.at(-1) === LF ? 1 : 0
  let end = row.length - lineEnd
  if (end > 0 && row[end - 1] === CR && !endsInQuotes(row, end)) end--
  if (end === 0) return Buffer.from('""\n')
  const out = Buffer.allocUnsafe(row.length * 2 + 1)
  let to = 0
  for (let from = 0; from <= end;) {
    const fieldEnd = endOfField(row, from, end)
    if (fieldEnd - from === NULL_TEXT.length && row.compare(NULL_TEXT, 0, NULL_TEXT.length, from, fieldEnd) === 0) {
      out[to++] = TWO
      out[to++] = 78
    } else {
      for (; from < fieldEnd; from++) {
        const byte = row[from] ?? 0
        const letter = letterOf(byte)
        if (letter === 0) out[to++] = byte
        else {
          out[to++] = TWO
          out[to++] = letter
        }
      }
    }
    from = fieldEnd + 1
    out[to++] = fieldEnd < end ? COMMA : LF
  }
  return out.subarray(0, to)
}

function letterOf(byte: number): number {
  switch (byte) {
    case LF:
      return 110
    case CR:
      return 114
    case ONE:
      return 49
    case TWO:
      return 50
    default:
      return 0
  }
}

function endsInQuotes(row: Buffer, end: number): boolean {
  let quoted = false
  for (let position = row.indexOf(QUOTE); position !== -1 && position < end; position = row.indexOf(QUOTE, position + 1))
    quoted = !quoted
  return quoted
}

/** Where the field that begins at `from` ends: its comma, or the end of the row. */
function endOfField(row: Buffer, from: number, end: number): number {
  let quoted = false
  for (let position = from; position < end; position++) {
    const byte = row[position]
    if (byte === QUOTE) quoted = !quoted
    else if (byte === COMMA && !quoted) return position
  }
  return end
}

// oxlint-disable no-control-regex -- control characters are what this is about
const ESCAPABLE = /[\n\r\u0001\u0002]/g
const LETTERS: Readonly<Record<string, string>> = { '\n': '\u0002n', '\r': '\u0002r', '\u0001': '\u00021', '\u0002': '\u00022' }
const ESCAPED = /\u0002(.?)/gsu
// oxlint-enable no-control-regex
const MEANINGS: Readonly<Record<string, string>> = { n: '\n', r: '\r', 1: '\u0001', 2: '\u0002', N: '\\N' }

/** One value as a field of the dialect, quoted where CSV asks for it; null is `\N`. */
export function encodeField(value: string | null): string {
  if (value === null) return '\\N'
  if (value === '\\N') return '\u0002N'
  const text = value.replace(ESCAPABLE, (found) => LETTERS[found] ?? found)
  return text.includes('"') || text.includes(',') ? `"${text.replaceAll('"', '""')}"` : text
}

/** One row as a line of the dialect, its LF included. */
export function encodeRow(values: readonly (string | null)[]): string {
  if (values.length === 1 && values[0] === '') return '""\n'
  return `${values.map(encodeField).join(',')}\n`
}

/** The value of a field, its CSV quotes already taken off; undefined when U+0002 stands before something it cannot. */
export function decodeField(field: string): string | null | undefined {
  if (field === '\\N') return null
  if (!field.includes('\u0002')) return field
  let broken = false
  const text = field.replace(ESCAPED, (_, letter: string) => {
    const meaning = MEANINGS[letter]
    if (meaning === undefined || (letter === 'N' && field.length !== 2)) broken = true
    return meaning ?? ''
  })
  return broken ? undefined : text
}
