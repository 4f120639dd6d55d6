import { describe, expect, it } from 'vitest'
import { OneByOne } from '../src/one-by-one.ts'

describe('lists, one by one', () => {
  const ended: string[] = []
  async function* lists(failing = false): AsyncGenerator<Iterator<number, undefined>, void, undefined> {
    try {
      yield [1, 2].values()
      yield [].values()
      yield [3].values()
      if (failing) throw new Error('the third')
    } finally {
      await new Promise((resolve) => setTimeout(resolve, 5))
      ended.push('lists')
    }
  }

  it('give each item once, in order, to whoever asks, before or after the last has come', async () => {
    const items = new OneByOne(lists())
    const asked = await Promise.all([items.next(), items.next(), items.next(), items.next(), items.next()])
    expect(asked.map(({ value }) => value)).toEqual([1, 2, 3, undefined, undefined])
    expect(asked.map(({ done }) => done)).toEqual([false, false, false, true, true])
    expect(await items.next()).toEqual({ value: undefined, done: true })
  })

  it('come in the order in which they were asked for, also where some wait and one does not', async () => {
    const items = new OneByOne(
      (async function* () {
        yield [1, 2, 3, 4].values()
      })(),
    )
    const first = items.next()
    const asked = [first, items.next(), items.next(), first.then(() => items.next())]
    expect((await Promise.all(asked)).map(({ value }) => value)).toEqual([1, 2, 3, 4])
  })

  it('end when the loop is left, and give nothing after', async () => {
    ended.length = 0
    const items = new OneByOne(lists())
    for await (const item of items) if (item === 1) break
    expect(ended).toEqual(['lists'])
    expect(await items.next()).toEqual({ value: undefined, done: true })
  })

  it('are left by one caller after another has got what it asked for before', async () => {
    ended.length = 0
    const items = new OneByOne(lists())
    const first = items.next()
    const left = items.return()
    const after = items.next()
    expect(await Promise.all([first, left, after])).toEqual([
      { value: 1, done: false },
      { value: undefined, done: true },
      { value: undefined, done: true },
    ])
    expect(ended).toEqual(['lists'])
  })

  it('end with what a generator that hands them on is told, or with its scope', async () => {
    ended.length = 0
    const handed = (async function* () {
      yield* new OneByOne(lists())
    })()
    await handed.next()
    await expect(handed.throw(new Error('told'))).rejects.toThrow('told')
    {
      await using items = new OneByOne(lists())
      await items.next()
    }
    expect(ended).toEqual(['lists', 'lists'])
  })

  it('are ended by an item that cannot be made', async () => {
    ended.length = 0
    const unreadable: Iterator<number, undefined> = {
      next: () => {
        throw new Error('not to be read')
      },
    }
    for (const before of [[], [1]]) {
      const failing = async function* (): AsyncGenerator<Iterator<number, undefined>, void, undefined> {
        try {
          yield before.values()
          yield unreadable
          yield unreadable
        } finally {
          ended.push('failing')
        }
      }
      const items = new OneByOne(failing())
      const found: unknown[] = []
      const reading = (async () => {
        for await (const item of items) found.push(item)
      })()
      await expect(reading).rejects.toThrow('not to be read')
      expect(found).toEqual(before)
      expect(await items.next()).toEqual({ value: undefined, done: true })
    }
    expect(ended).toEqual(['failing', 'failing'])
  })

  it('fail once, and then are at their end', async () => {
    const items = new OneByOne(lists(true))
    const found: unknown[] = []
    const reading = (async () => {
      for await (const item of items) found.push(item)
    })()
    await expect(reading).rejects.toThrow('the third')
    expect(found).toEqual([1, 2, 3])
    expect(await items.next()).toEqual({ value: undefined, done: true })
  })
})
