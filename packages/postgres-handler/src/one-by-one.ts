/**
 * The items of lists that come one after the other, one by one. What an async generator that yields them would do, in one turn
 * of the microtask queue for each instead of three. Leaving it, or an error, ends the lists.
 */
export class OneByOne<T> implements AsyncIterableIterator<T, void, undefined> {
  readonly #lists: AsyncGenerator<readonly T[], void, undefined>
  #list: readonly T[] = []
  #at = 0
  #done = false
  /** The last of what was asked for while the next list is under way: one comes after the other. */
  #turn: Promise<unknown> | undefined

  constructor(lists: AsyncGenerator<readonly T[], void, undefined>) {
    this.#lists = lists
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  next(): Promise<IteratorResult<T, void>> {
    if (this.#turn !== undefined || this.#at >= this.#list.length) return this.#inTurn(() => this.#fromNextList())
    return Promise.resolve({ value: this.#list[this.#at++] as T, done: false })
  }

  return(): Promise<IteratorResult<T, void>> {
    return this.#inTurn(async () => {
      this.#end()
      await this.#lists.return()
      return { value: undefined, done: true }
    })
  }

  async #fromNextList(): Promise<IteratorResult<T, void>> {
    while (!this.#done && this.#at >= this.#list.length) {
      const { value, done } = await this.#lists.next()
      if (done === true) this.#end()
      else [this.#list, this.#at] = [value, 0]
    }
    if (this.#done) return { value: undefined, done: true }
    return { value: this.#list[this.#at++] as T, done: false }
  }

  #end(): void {
    this.#done = true
    this.#list = []
  }

  #inTurn<R>(work: () => Promise<R>): Promise<R> {
    const turn = this.#turn === undefined ? work() : this.#turn.then(work, work)
    this.#turn = turn
    const over = (): void => {
      if (this.#turn === turn) this.#turn = undefined
    }
    turn.then(over, over)
    return turn
  }
}
