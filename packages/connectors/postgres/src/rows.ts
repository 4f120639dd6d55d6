import { exactJson } from '@common-handlers/connections'
import { onAbort } from '@common-handlers/core'
import { columnUnknown, keyNull, rowUnexpected, valueInvalid } from './errors.ts'
import { type PostgresInput, textOf } from './values.ts'

/** Rows by column name. All have the same columns; NULL is null, and not left out. */
export type PostgresRows =
  | Iterable<Readonly<Record<string, PostgresInput>>>
  | AsyncIterable<Readonly<Record<string, PostgresInput>>>

type Row = Readonly<Record<string, unknown>>

/** A column of the table that is loaded. */
export interface TargetColumn {
  readonly name: string
  readonly isJson: boolean
}

/** A COPY is written in portions of about so many bytes. */
const CHUNK_BYTES = 64 * 1024

/** Rows on their way into a COPY. */
export class RowEncoder {
  readonly #iterator: Iterator<Row> | AsyncIterator<Row>
  readonly #signal: AbortSignal
  #first: IteratorResult<Row> | undefined
  #failure: { readonly error: unknown } | undefined
  #open = true
  #rows = 0

  constructor(rows: PostgresRows, signal: AbortSignal) {
    this.#iterator = Symbol.asyncIterator in rows ? rows[Symbol.asyncIterator]() : rows[Symbol.iterator]()
    this.#signal = signal
  }

  /** Those of the first row; undefined where there is no row. */
  async columns(): Promise<readonly string[] | undefined> {
    this.#first = await this.#next()
    return this.#first.done === true ? undefined : Object.keys(this.#first.value)
  }

  /** Rows given out so far. */
  get rows(): number {
    return this.#rows
  }

  /** What the rows themselves have thrown, as it is; otherwise the given error. */
  blame(error: unknown): unknown {
    return this.#failure === undefined ? error : this.#failure.error
  }

  /**
   * COPY's text format (PostgreSQL, "COPY", File Formats): a row is a line.
   * `only`: columns that the caller chose, so that a row may have others.
   */
  async *copyText(
    columns: readonly TargetColumn[],
    key: readonly string[],
    only: boolean,
  ): AsyncGenerator<Buffer, void, undefined> {
    let text = ''
    for (let step = this.#first ?? (await this.#next()); step.done !== true; step = await this.#next()) {
      this.#rows += 1
      text += this.#line(step.value, columns, key, only)
      if (text.length < CHUNK_BYTES) continue
      yield Buffer.from(text)
      text = ''
    }
    if (text !== '') yield Buffer.from(text)
  }

  /** Tells the source that no more rows are wanted. */
  end(): void {
    if (!this.#open) return
    this.#open = false
    Promise.resolve(this.#iterator.return?.()).catch(() => undefined)
  }

  #line(row: Row, columns: readonly TargetColumn[], key: readonly string[], only: boolean): string {
    if (!only && Object.keys(row).length > columns.length) {
      const extra = Object.keys(row).find((name) => columns.every((column) => column.name !== name))
      if (extra !== undefined) throw rowUnexpected(this.#rows, extra)
    }
    const fields = columns.map(({ name, isJson }) => {
      const value = row[name]
      if (value === null && key.includes(name)) throw keyNull(this.#rows, name)
      if (value === null) return String.raw`\N`
      try {
        return escaped(isJson && typeof value === 'object' ? textOf(exactJson(value)) : textOf(value))
      } catch (error) {
        throw valueInvalid(this.#rows, name, (error as Error).message)
      }
    })
    return `${fields.join('\t')}\n`
  }

  /** The next row. A source that does not answer is not waited for after an abort. */
  async #next(): Promise<IteratorResult<Row>> {
    this.#signal.throwIfAborted()
    try {
      const next = this.#iterator.next()
      const step = 'then' in next ? await unlessAborted(next, this.#signal) : next
      if (step.done === true) this.#open = false
      return step
    } catch (error) {
      this.#failure = { error }
      throw error
    }
  }
}

/** The columns of a table that are written, in the order of the names. @throws NotFoundError for one that it does not have */
export function chosen(names: readonly string[], target: readonly TargetColumn[], table: string): TargetColumn[] {
  return names.map((name) => {
    const column = target.find((one) => one.name === name)
    if (column === undefined) {
      throw columnUnknown(
        table,
        name,
        target.map((one) => one.name),
      )
    }
    return column
  })
}

const ESCAPES: Readonly<Record<string, string>> = { '\\': '\\\\', '\n': '\\n', '\r': '\\r', '\t': '\\t' }
const escaped = (text: string): string => text.replace(/[\\\n\r\t]/g, (character) => ESCAPES[character] ?? character)

function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    work.finally(onAbort(signal, () => reject(signal.reason as Error))).then(resolve, reject)
  })
}
