import type { Wire, WireField } from './driver.ts'
import { Exchange, readCommandTag, together, unexpectedCopy } from './exchange.ts'
import { type RawResult, type RowFormat, type RowReader, rowReader } from './rows.ts'

/** A statement with its values as they are sent. */
export interface BoundStatement {
  readonly text: string
  readonly values: readonly (string | Buffer | null)[]
}

/**
 * One statement, or several, in one round trip (PostgreSQL, "Extended Query", "Pipelining"): there is one Sync at their
 * end, so that outside a transaction they are one, and after the first that fails none is run.
 */
export class StatementBatch extends Exchange<RawResult<unknown>[]> {
  readonly #statements: readonly BoundStatement[]
  readonly #format: RowFormat
  /** Statements at the beginning that are not the caller's. */
  readonly #leading: number
  readonly #results: RawResult<unknown>[] = []
  #fields: readonly WireField[] = []
  #rows: unknown[] = []
  #read: RowReader | undefined
  #unreadable: unknown
  #committed = false

  constructor(statements: readonly BoundStatement[], format: RowFormat, leading = 0) {
    super()
    this.#statements = statements
    this.#format = format
    this.#leading = leading
  }

  get statement(): string {
    return this.#statements[this.#results.length]?.text ?? ''
  }

  override get place(): string | undefined {
    const count = this.#statements.length - this.#leading
    return count === 1 ? undefined : `statement ${this.#results.length - this.#leading + 1} of ${count}`
  }

  override get committed(): boolean {
    return this.#committed
  }

  submit(wire: Wire): null {
    return together(wire, () => {
      for (const { text, values } of this.#statements) {
        wire.parse({ name: '', text, types: [] })
        wire.bind({ portal: '', statement: '', values })
        wire.describe({ type: 'P', name: '' })
        wire.execute({ portal: '', rows: 0 })
      }
      wire.sync()
    })
  }

  override handleRowDescription({ fields }: { readonly fields: readonly WireField[] }): void {
    this.#fields = fields
    // What is thrown here must not pass through pg's parser.
    try {
      this.#read = rowReader(fields, this.#format)
    } catch (error) {
      this.#unreadable = error
    }
  }

  override takeRow(bytes: Buffer, at: number, end: number): void {
    if (this.#unreadable !== undefined) return
    try {
      this.#rows.push(this.#read?.(bytes, at, end))
    } catch (error) {
      this.#unreadable = error
    }
  }

  override handleCommandComplete({ text }: { readonly text: string }): void {
    const { command, rowCount } = readCommandTag(text)
    if (command === 'COMMIT') this.#committed = true
    this.#results.push({ fields: this.#fields, rows: this.#rows, rowCount, command })
    this.#fields = []
    this.#rows = []
    this.#read = undefined
  }

  override handleEmptyQuery(): void {
    this.handleCommandComplete({ text: '' })
  }

  /** Before the last statement it is the next one's Parse that ends the COPY on the server, and the Sync stands. */
  override handleCopyInResponse(wire: Wire): void {
    if (this.#results.length === this.#statements.length - 1) super.handleCopyInResponse(wire)
    else this.fail(unexpectedCopy(this.place))
  }

  handleReadyForQuery(): void {
    if (this.#unreadable === undefined) this.succeed(this.#leading === 0 ? this.#results : this.#results.slice(this.#leading))
    else this.fail(this.#unreadable)
  }
}
