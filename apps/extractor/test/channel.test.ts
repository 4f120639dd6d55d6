import { describe, expect, it } from 'vitest'
import { Channel } from '../src/channel.ts'

describe('Channel', () => {
  it('gives the items in order and ends', async () => {
    const channel = new Channel<number>(2)
    const read = Array.fromAsync(channel)
    for (let item = 0; item < 10; item++) await channel.push(item)
    channel.end()
    expect(await read).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
  })

  it('holds the writer back while it is full', async () => {
    const channel = new Channel<number>(2)
    await channel.push(1)
    await channel.push(2)
    let pushed = false
    const third = channel.push(3).then(() => (pushed = true))
    await new Promise((resolve) => setImmediate(resolve))
    expect(pushed).toBe(false)
    const reader = channel[Symbol.asyncIterator]()
    expect(await reader.next()).toEqual({ value: 1, done: false })
    await third
    expect(pushed).toBe(true)
  })

  it('gives the first error to a waiting writer and to the reader', async () => {
    const channel = new Channel<number>(1)
    await channel.push(1)
    const waiting = channel.push(2)
    channel.fail(new Error('the store is gone'))
    channel.fail(new Error('a later one'))
    await expect(waiting).rejects.toThrow('the store is gone')
    await expect(channel.push(3)).rejects.toThrow('the store is gone')
    await expect(Array.fromAsync(channel)).rejects.toThrow('the store is gone')
  })

  it('wakes a reader that waits when it fails', async () => {
    const channel = new Channel<number>(1)
    const reading = Array.fromAsync(channel)
    await new Promise((resolve) => setImmediate(resolve))
    channel.fail(new Error('stopped'))
    await expect(reading).rejects.toThrow('stopped')
  })
})
