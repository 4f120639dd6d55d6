import type { Submittable, Wire, WireField } from './driver.ts'

/** Parses and describes a statement without running it (PostgreSQL, "Extended Query": Parse, Describe, Sync). */
export class DescribeStatement implements Submittable {
  /** The columns the statement would return; undefined when it returns none. */
  readonly fields: Promise<readonly WireField[] | undefined>
  readonly #text: string
  readonly #resolve: (fields: readonly WireField[] | undefined) => void
  readonly #reject: (error: Error) => void
  #found: readonly WireField[] | undefined

  constructor(text: string) {
    const { promise, resolve, reject } = Promise.withResolvers<readonly WireField[] | undefined>()
    this.#text = text
    this.fields = promise
    this.#resolve = resolve
    this.#reject = reject
  }

  submit(wire: Wire): null {
    wire.parse({ name: '', text: this.#text, types: [] })
    wire.describe({ type: 'S', name: '' })
    wire.sync()
    return null
  }

  handleRowDescription(message: { readonly fields: readonly WireField[] }): void {
    this.#found = message.fields
  }

  handleReadyForQuery(): void {
    this.#resolve(this.#found)
  }

  handleError(error: Error): void {
    this.#reject(error)
  }

  handleDataRow(): void {}
  handleCommandComplete(): void {}
  handleEmptyQuery(): void {}
  handlePortalSuspended(): void {}
  handleCopyInResponse(): void {}
  handleCopyData(): void {}
}
