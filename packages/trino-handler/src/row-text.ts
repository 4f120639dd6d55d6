import { parseExact } from './exact-json.ts'

const COMMA = 44
const QUOTE = 34
const BACKSLASH = 92
const OPEN = 91
const CLOSE = 93
const OPEN_BRACE = 123
const CLOSE_BRACE = 125
const BETWEEN = '],['

/** Bytes that are parsed at once: few enough for the values to die young, enough for the parser to run. */
const PIECE = 8 * 1024

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
  /** The bracket that opens the text to be parsed, and what was pushed and is not parsed yet: one buffer, used again and again. */
  #held: Buffer = Buffer.alloc(2 * PIECE, '[')
  /** Without the bracket. */
  #length = 0
  /** No row ends within so many bytes: a long one is not looked through again with each piece of it. */
  #lookAt = 0
  #walks: boolean

  /** `exact`: integers may have 16 digits or more. `nested`: values hold brackets of their own. */
  constructor({ exact, nested }: { readonly exact: boolean; readonly nested: boolean }) {
    this.#parse = exact ? parseExact : JSON.parse
    this.#walks = nested
  }

  /** The rows that are whole. @throws SyntaxError */
  push(bytes: Buffer): unknown[][] {
    this.#append(bytes)
    if (this.#length < this.#lookAt) return []
    const held = this.#held.subarray(1, 1 + this.#length)
    if (!this.#walks) {
      const guess = held.lastIndexOf(BETWEEN)
      if (guess === -1) return this.#wait()
      try {
        return this.#take(guess + 1)
      } catch {
        this.#walks = true
      }
    }
    const end = lastRowEnd(held)
    return end === 0 ? this.#wait() : this.#take(end)
  }

  #wait(): [] {
    this.#lookAt = 2 * this.#length
    return []
  }

  /** The rows that are left, but for so many bytes at the end. @throws SyntaxError */
  end(closing: number = 0): unknown[][] {
    if (this.#length > closing) return this.#take(this.#length - closing)
    this.#length = 0
    return []
  }

  /** The rows that are whole, some at a time. @throws SyntaxError */
  *some(bytes: Buffer): Generator<unknown[][], void, undefined> {
    for (let at = 0; at < bytes.length; at += PIECE) {
      const rows = this.push(bytes.subarray(at, at + PIECE))
      if (rows.length > 0) yield rows
    }
  }

  /** All rows of bytes that are there already, some at a time. @throws SyntaxError */
  *all(bytes: Buffer): Generator<unknown[][], void, undefined> {
    yield* this.some(bytes)
    const rows = this.end()
    if (rows.length > 0) yield rows
  }

  #append(bytes: Buffer): void {
    const length = this.#length + bytes.length
    // One bracket before and one behind.
    if (length + 2 > this.#held.length) {
      const larger = Buffer.allocUnsafeSlow(2 * (length + 2))
      this.#held.copy(larger, 0, 0, 1 + this.#length)
      this.#held = larger
    }
    bytes.copy(this.#held, 1 + this.#length)
    this.#length = length
  }

  /** Parses up to where a row ends and keeps what follows the comma. */
  #take(end: number): unknown[][] {
    const after = end + 1
    const byte = this.#held[after] ?? 0
    this.#held[after] = CLOSE
    const text = this.#held.toString('utf8', 0, after + 1)
    this.#held[after] = byte
    const rows = this.#parse(text) as unknown[][]
    this.#lookAt = 0
    this.#held.copyWithin(1, after + 1, 1 + this.#length)
    this.#length = Math.max(0, this.#length - after)
    return rows
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
