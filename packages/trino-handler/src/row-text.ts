import { parseExact } from './exact-json.ts'

const COMMA = 44
const QUOTE = 34
const BACKSLASH = 92
const OPEN = 91
const CLOSE = 93
const OPEN_BRACE = 123
const CLOSE_BRACE = 125
const BETWEEN = '],['
const NOTHING: Buffer = Buffer.alloc(0)

/** Bytes that are parsed at once: few enough for the values to die young, enough for the parser to run. */
export const PIECE: number = 256 * 1024

/**
 * Parses rows (`[1,"a"],[2,"b"],…`, what stands between the brackets of `data`) from bytes that come in pieces, so that
 * memory does not grow with a page or a segment.
 *
 * Where a row ends is guessed and then proved: the last `],[` of the piece. Were it within a text or a nested value, what
 * stands before it would end in the middle of that and could not be parsed; then, and for the rest of the result, the
 * bytes are walked one by one.
 */
export class RowParser {
  readonly #parse: (text: string) => unknown
  #rest = NOTHING
  #walks: boolean

  /** `exact`: integers may have 16 digits or more. `nested`: values hold brackets of their own. */
  constructor({ exact, nested }: { readonly exact: boolean; readonly nested: boolean }) {
    this.#parse = exact ? parseExact : JSON.parse
    this.#walks = nested
  }

  /** The rows that are whole. @throws SyntaxError */
  push(bytes: Buffer): unknown[][] {
    const held = this.#rest.length === 0 ? bytes : Buffer.concat([this.#rest, bytes])
    if (!this.#walks) {
      const guess = held.lastIndexOf(BETWEEN)
      if (guess === -1) return this.#keep(held, 0)
      try {
        const rows = this.#rows(held, guess + 1)
        this.#keep(held, guess + 2)
        return rows
      } catch {
        this.#walks = true
      }
    }
    const end = lastRowEnd(held)
    if (end === 0) return this.#keep(held, 0)
    const rows = this.#rows(held, end)
    this.#keep(held, end + 1)
    return rows
  }

  /** The rows that are left, but for so many bytes at the end. @throws SyntaxError */
  end(closing: number = 0): unknown[][] {
    const rest = this.#rest
    this.#rest = NOTHING
    return rest.length <= closing ? [] : this.#rows(rest, rest.length - closing)
  }

  /** All rows of bytes that are there already, some at a time. @throws SyntaxError */
  *all(bytes: Buffer): Generator<unknown[][], void, undefined> {
    for (let at = 0; at < bytes.length; at += PIECE) yield this.push(bytes.subarray(at, at + PIECE))
    yield this.end()
  }

  #rows(bytes: Buffer, end: number): unknown[][] {
    return this.#parse(`[${bytes.toString('utf8', 0, end)}]`) as unknown[][]
  }

  #keep(bytes: Buffer, from: number): unknown[][] {
    this.#rest = bytes.subarray(from)
    return []
  }
}

/** Where the last whole row ends that a comma follows; 0 when there is none. */
function lastRowEnd(bytes: Buffer): number {
  let depth = 0
  let end = 0
  for (let at = 0; at < bytes.length; at++) {
    switch (bytes[at]) {
      case QUOTE:
        at = closingQuote(bytes, at)
        break
      case OPEN:
      case OPEN_BRACE:
        depth++
        break
      case CLOSE:
      case CLOSE_BRACE:
        depth--
        break
      case COMMA:
        if (depth === 0) end = at
        break
      default:
    }
  }
  return end
}

function closingQuote(bytes: Buffer, open: number): number {
  for (let at = bytes.indexOf(QUOTE, open + 1); at !== -1; at = bytes.indexOf(QUOTE, at + 1)) {
    let backslashes = 0
    while (bytes[at - 1 - backslashes] === BACKSLASH) backslashes++
    if (backslashes % 2 === 0) return at
  }
  return bytes.length
}
