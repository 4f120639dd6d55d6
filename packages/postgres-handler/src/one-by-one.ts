/**
 * The items of lists that come one after the other, one by one. What an async generator that yields them would do, in one turn
 * of the microtask queue for each instead of three. Leaving it, or an error, ends the lists.
 */
export class OneByOne<T> implements AsyncIterableIterator<T, undefined, undefined> {
  readonly #lists: AsyncGenerator<Iterator<T, undefined>, void, undefined>
  #list: Iterator<T, undefined> | undefined
  #done = false
  /** The last of what was asked for while the next list is under way: one comes after the other. */
  #turn: Promise<unknown> | undefined

  constructor(lists: AsyncGenerator<Iterator<T, undefined>, void, undefined>) {
    this.#lists = lists
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  next(): Promise<IteratorResult<T, undefined>> {
    if (this.#list !== undefined && this.#turn === undefined) {
      try {
        const item = this.#list.next()
        if (item.done !== true) return Promise.resolve(item)
      } catch (error) {
        return this.#inTurn(() => this.#fail(error))
      }
    }
    return this.#inTurn(() => this.#fromNextList())
  }

  return(): Promise<IteratorResult<T, undefined>> {
    return this.#inTurn(() => this.#end())
  }

  throw(error: unknown): Promise<IteratorResult<T, undefined>> {
    return this.#inTurn(() => this.#fail(error))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return()
  }

  async #fromNextList(): Promise<IteratorResult<T, undefined>> {
    while (!this.#done) {
      try {
        const item = this.#list?.next()
        if (item !== undefined && item.done !== true) return item
      } catch (error) {
        return await this.#fail(error)
      }
      // It is at its end, and its memory may be filled again now.
      this.#list = undefined
      const next = await this.#lists.next()
      if (next.done === true) this.#done = true
      else this.#list = next.value
    }
    return { value: undefined, done: true }
  }

  async #fail(error: unknown): Promise<never> {
    await this.#end()
    throw error
  }

  async #end(): Promise<IteratorResult<T, undefined>> {
    this.#done = true
    this.#list = undefined
    await this.#lists.return()
    return { value: undefined, done: true }
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
