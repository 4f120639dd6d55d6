/**
 * A bounded queue between one writer and one reader: `push` waits while it is full, so that memory stays bounded
 * whoever is slower. The reader is an async iterable and may be read once.
 */
export class Channel<T> implements AsyncIterable<T> {
  readonly #capacity: number
  readonly #items: T[] = []
  #ended = false
  #failed: { readonly error: unknown } | undefined
  #wakeReader: (() => void) | undefined
  #wakeWriter: (() => void) | undefined

  constructor(capacity: number) {
    this.#capacity = capacity
  }

  /** Waits for room. Rejects with the error of `fail()`, whichever side called it. */
  async push(item: T): Promise<void> {
    while (this.#items.length >= this.#capacity && this.#failed === undefined) {
      await new Promise<void>((resolve) => (this.#wakeWriter = resolve))
    }
    if (this.#failed !== undefined) throw this.#failed.error
    this.#items.push(item)
    this.#wakeReader?.()
  }

  end(): void {
    this.#ended = true
    this.#wakeReader?.()
  }

  /** Ends both sides: the reader and a waiting writer get the error. The first error stays. */
  fail(error: unknown): void {
    this.#failed ??= { error }
    this.#items.length = 0
    this.#wakeReader?.()
    this.#wakeWriter?.()
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, undefined> {
    for (;;) {
      if (this.#failed !== undefined) throw this.#failed.error
      const item = this.#items.shift()
      if (item !== undefined) {
        this.#wakeWriter?.()
        yield item
      } else if (this.#ended) {
        return
      } else {
        await new Promise<void>((resolve) => (this.#wakeReader = resolve))
      }
    }
  }
}
