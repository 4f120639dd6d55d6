import type { Wire, WireField } from './driver.ts'
import { Exchange, together } from './exchange.ts'

/** Parses and describes a statement without running it (PostgreSQL, "Extended Query": Parse, Describe, Sync). */
export class DescribeStatement extends Exchange<readonly WireField[]> {
  readonly statement: string
  #found: readonly WireField[] = []

  constructor(text: string) {
    super()
    this.statement = text
  }

  submit(wire: Wire): null {
    return together(wire, () => {
      wire.parse({ name: '', text: this.statement, types: [] })
      wire.describe({ type: 'S', name: '' })
      wire.sync()
    })
  }

  override handleRowDescription(message: { readonly fields: readonly WireField[] }): void {
    this.#found = message.fields
  }

  handleReadyForQuery(): void {
    this.succeed(this.#found)
  }
}
