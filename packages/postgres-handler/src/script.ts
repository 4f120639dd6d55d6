import type { Wire } from './driver.ts'
import { Exchange, unexpectedCopy } from './exchange.ts'

/** Any number of statements in the simple protocol (PostgreSQL, "Simple Query"). Their rows are dropped. */
export class Script extends Exchange<void> {
  readonly statement: string

  constructor(text: string) {
    super()
    this.statement = text
  }

  submit(wire: Wire): null {
    wire.query(this.statement)
    return null
  }

  handleReadyForQuery(): void {
    this.succeed()
  }

  override handleCopyInResponse(wire: Wire): void {
    this.fail(unexpectedCopy())
    wire.sendCopyFail('the rows of a COPY FROM STDIN were not expected here')
  }
}
