import { ConnectionError, silentLogger } from '@common-handlers/core'
import {
  consumeBatches,
  type ConsumeBatchesOptions,
  contentKey,
  decodePayload,
  type Delivery,
  type Sink,
  type Subscription,
} from '@common-handlers/connections/streams'
import { describe, expect, it } from 'vitest'
import { ingestedItem } from '../src/index.ts'

const lost = (): ConnectionError => new ConnectionError('gone', { code: 'TEST_LOST', retry: 'if-idempotent' })

function delivery(key: number, bytes = 10): Delivery<number> {
  const received = new Uint8Array(bytes)
  const lineage = { protocol: 'test', query: 'q', position: key }
  return {
    item: { ...ingestedItem({ source: 's', key: String(key), data: received, lineage }), key: String(key), received },
    handle: key,
  }
}

/** A broker that gives out what was not acknowledged, from the first, and waits when there is no more. */
class Broker {
  readonly acknowledged: number[] = []
  readonly log: string[] = []
  readonly #messages: readonly Delivery<number>[]
  /** Called before each message. */
  beforeEach: (key: number) => void = () => undefined
  constructor(messages: readonly Delivery<number>[]) {
    this.#messages = messages
  }

  subscribe(maxRows?: number): Promise<Subscription<number>> {
    this.log.push('subscribe')
    const { acknowledged, log } = this
    const waiting = this.#messages.filter(({ handle }) => !acknowledged.includes(handle))
    const beforeEach = (key: number): void => this.beforeEach(key)
    async function* deliveries(): AsyncGenerator<Delivery<number>, void, undefined> {
      for (const message of waiting) {
        beforeEach(message.handle)
        yield message
      }
      await new Promise(() => undefined)
    }
    return Promise.resolve({
      deliveries: deliveries(),
      maxRows,
      acknowledge: (handles) => {
        acknowledged.push(...handles)
        log.push(`acknowledge ${handles.join(',')}`)
        return Promise.resolve()
      },
      close: () => {
        log.push('close')
        return Promise.resolve()
      },
    })
  }
}

const policy = { attempts: 3, budgetMs: 10_000, baseDelayMs: 1, maxDelayMs: 1 }
const optionsOf = (stop: AbortController, more: Partial<ConsumeBatchesOptions>): ConsumeBatchesOptions => ({
  signal: stop.signal,
  policy,
  logger: silentLogger,
  ...more,
})

describe('consumeBatches', () => {
  it.each<[string, Partial<ConsumeBatchesOptions>, number | undefined, number[]]>([
    ['rows', { rows: 4 }, undefined, [4, 4, 2]],
    ['what the broker gives out', {}, 3, [3, 3, 3, 1]],
    ['bytes', { bytes: 25 }, undefined, [3, 3, 3, 1]],
    ['time', {}, undefined, [10]],
  ])('closes a batch by %s', async (_name, limits, maxRows, sizes) => {
    const broker = new Broker(Array.from({ length: 10 }, (_, key) => delivery(key)))
    const stop = new AbortController()
    const found: number[] = []
    const sink: Sink = {
      write: async (items) => {
        found.push(items.length)
        if (found.reduce((sum, size) => sum + size) === 10) stop.abort()
      },
    }
    const done = await consumeBatches(() => broker.subscribe(maxRows), sink, optionsOf(stop, { ms: 20, ...limits }))
    expect(found).toEqual(sizes)
    expect(done).toEqual({ batches: sizes.length, messages: 10 })
    expect(broker.acknowledged).toEqual(Array.from({ length: 10 }, (_, key) => key))
    expect(broker.log.at(-1)).toBe('close')
  })

  it('acknowledges nothing that was not written, and reads again', async () => {
    const broker = new Broker([delivery(0), delivery(1)])
    const stop = new AbortController()
    let writes = 0
    const sink: Sink = {
      write: async () => {
        writes += 1
        if (writes === 1) throw lost()
        stop.abort()
      },
    }
    await consumeBatches(() => broker.subscribe(), sink, optionsOf(stop, { rows: 2 }))
    expect(broker.log).toEqual(['subscribe', 'close', 'subscribe', 'acknowledge 0,1', 'close'])
  })

  it('gives back what it gathered when it is stopped, and finishes what it writes', async () => {
    const broker = new Broker([delivery(0), delivery(1), delivery(2)])
    const stop = new AbortController()
    const sink: Sink = {
      write: async () => {
        stop.abort()
        await new Promise((resolve) => setImmediate(resolve))
      },
    }
    expect(await consumeBatches(() => broker.subscribe(), sink, optionsOf(stop, { rows: 2 }))).toEqual({
      batches: 1,
      messages: 2,
    })
    expect(broker.acknowledged).toEqual([0, 1])
    const again = new AbortController()
    broker.beforeEach = () => again.abort()
    expect(await consumeBatches(() => broker.subscribe(), sink, optionsOf(again, {}))).toEqual({ batches: 0, messages: 0 })
    expect(broker.acknowledged).toEqual([0, 1])
  })

  it('gives a broker up that is lost again and again without a batch, and not one that gave some', async () => {
    const broker = new Broker([delivery(0), delivery(1), delivery(2), delivery(3)])
    const stop = new AbortController()
    const sink: Sink = { write: async () => undefined }
    let losses = 0
    // Each reading brings one batch and is lost then; from the third message on it brings none.
    broker.beforeEach = (key) => {
      if (key >= 2 || broker.acknowledged.length > losses) {
        losses += 1
        throw lost()
      }
    }
    await expect(consumeBatches(() => broker.subscribe(), sink, optionsOf(stop, { rows: 1 }))).rejects.toMatchObject({
      code: 'TEST_LOST',
    })
    expect(broker.acknowledged).toEqual([0, 1])
    expect(losses).toBeGreaterThanOrEqual(policy.attempts)
  })

  it('ends at once with what is no lost connection', async () => {
    const broker = new Broker([delivery(0)])
    const sink: Sink = { write: () => Promise.reject(new TypeError('a mistake')) }
    await expect(consumeBatches(() => broker.subscribe(), sink, optionsOf(new AbortController(), { rows: 1 }))).rejects.toThrow(
      'a mistake',
    )
    expect(broker.log).toEqual(['subscribe', 'close'])
  })
})

it('reads payloads by their format, and says when they are not of it', () => {
  expect(decodePayload(Buffer.from('{"n":9007199254740993}'), 'json')).toEqual({
    data: { n: 9_007_199_254_740_993n },
    mediaType: 'application/json',
  })
  expect(decodePayload(Buffer.from('ä'), 'text')).toEqual({ data: 'ä', mediaType: 'text/plain' })
  expect(decodePayload(Buffer.from([255]), 'text')).toBeUndefined()
  expect(decodePayload(Buffer.from('{'), 'json')).toBeUndefined()
  expect(decodePayload(Buffer.from('{'), 'bytes')?.mediaType).toBe('application/octet-stream')
})

it('knows a message by all of its content', () => {
  expect(contentKey('a', Buffer.from('b'))).toBe(contentKey('a', 'b'))
  expect(contentKey('a', 'bc')).not.toBe(contentKey('ab', 'c'))
})
