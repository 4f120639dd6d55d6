import { describeWith } from '@common-handlers/testkit'
import { describe, expect, it } from 'vitest'
import { type Effect, type Handlers, Outbox, retryAfter } from '../src/index.ts'
import { advance, checkHistory, enqueued, type HistoryRecord, runUntilEmpty } from '../src/testing/index.ts'
import { ownOutbox } from './own-outbox.ts'

describeWith(['postgres'], 'what users test with', ({ postgres }) => {
  const own = ownOutbox(postgres)
  const outbox = new Outbox()

  it('tells what was enqueued', async () => {
    await outbox.enqueueMany(own.pool, [
      { type: 'a', payload: { n: 1 }, key: 'k', headers: { h: '1' }, priority: 3 },
      { type: 'b', payload: null, availableAt: new Date('2100-01-01'), expiresAt: new Date('2100-01-02') },
    ])
    const [a] = await enqueued(own.pool, { type: 'a', key: 'k' })
    expect(a).toMatchObject({ type: 'a', key: 'k', payload: { n: 1 }, headers: { h: '1' }, priority: 3, attempts: 0 })
    const [b] = await enqueued(own.pool, { type: 'b' })
    expect(b).toMatchObject({ payload: null, availableAt: new Date('2100-01-01'), expiresAt: new Date('2100-01-02') })
    expect(await enqueued(own.pool)).toHaveLength(2)
    expect(await enqueued(own.pool, { key: 'other' })).toEqual([])
  })

  it.each<Effect>(['tx', 'lease'])('runs until nothing is left to do, and lets time pass: %s', async (effect) => {
    const seen: number[] = []
    const again = (n: number): ReturnType<typeof retryAfter> | undefined => (
      seen.push(n),
      n === 2 ? retryAfter(3_600_000) : undefined
    )
    const handlers: Handlers = { a: { effect, maxAttempts: 2, handler: again } }
    await outbox.enqueueMany(own.pool, [
      { type: 'a', payload: 1, key: 'k' },
      { type: 'a', payload: 2, key: 'k' },
      { type: 'a', payload: 3, key: 'k' },
      { type: 'other', payload: 4 },
    ])
    expect(await runUntilEmpty({ pool: own.pool, handlers })).toEqual({ done: 1, retry: 1, dead: 0, discarded: 0, waiting: 3 })
    expect(seen).toEqual([1, 2])
    await advance(own.pool, 3_600_000)
    expect(await runUntilEmpty({ pool: own.pool, handlers })).toEqual({ done: 1, retry: 0, dead: 1, discarded: 0, waiting: 1 })
    expect(seen).toEqual([1, 2, 2, 3])
  })

  it('lets expiries and dedup windows come', async () => {
    const dedup = { key: 'once', windowMs: 1000 }
    expect(
      await outbox.enqueue(own.pool, { type: 'a', payload: 1, dedup, expiresAt: new Date(Date.now() + 60_000) }),
    ).toBeDefined()
    expect(await outbox.enqueue(own.pool, { type: 'a', payload: 2, dedup })).toBeUndefined()
    await advance(own.pool, 60_000)
    expect(await outbox.enqueue(own.pool, { type: 'a', payload: 3, dedup })).toBeDefined()
    const result = await runUntilEmpty({ pool: own.pool, handlers: { a: () => undefined } })
    expect(result).toMatchObject({ done: 1, dead: 1, waiting: 0 })
  })

  it('says what was not done in time', async () => {
    await outbox.enqueue(own.pool, { type: 'a', payload: 1 })
    const handlers: Handlers = { a: () => new Promise((resolve) => void setTimeout(resolve, 500)) }
    await expect(runUntilEmpty({ pool: own.pool, handlers, timeoutMs: 50 })).rejects.toThrow('1 events are still to be done')
  })
})

describe('checkHistory', () => {
  const enqueuedAs = (...ids: string[]): HistoryRecord[] => ids.map((event) => ({ what: 'enqueued', event, key: 'k' }))
  const run = (event: string, name = event): HistoryRecord[] => [
    { what: 'begun', event, run: name },
    { what: 'effect', event },
    { what: 'ended', run: name },
    { what: 'completed', event, run: name, as: 'done' },
  ]
  const rules = (records: HistoryRecord[], effect: 'tx' | 'lease' = 'tx'): string[] =>
    checkHistory(records, { effect }).map(({ rule, event }) => `${rule} ${event}`)

  it('finds nothing where all is well', () => {
    const failed: HistoryRecord[] = [
      { what: 'begun', event: '1', run: 'first' },
      { what: 'ended', run: 'first' },
    ]
    expect(rules([...enqueuedAs('1', '2'), ...failed, ...run('1'), ...run('2')])).toEqual([])
  })

  it('finds each violation', () => {
    expect(rules(enqueuedAs('1'))).toEqual(['lost 1'])
    expect(rules([...enqueuedAs('1'), { what: 'completed', event: '1', run: 'r', as: 'done' }])).toEqual(['lost 1'])
    expect(rules([...enqueuedAs('1'), ...run('1'), { what: 'effect', event: '1' }])).toEqual(['doubled 1'])
    expect(rules([...enqueuedAs('1'), ...run('1'), { what: 'effect', event: '1' }], 'lease')).toEqual([])
    const dead: HistoryRecord[] = [
      { what: 'effect', event: '1' },
      { what: 'completed', event: '1', run: 'r', as: 'dead' },
    ]
    expect(rules([...enqueuedAs('1'), ...dead])).toEqual(['doubled 1'])
    expect(rules([...enqueuedAs('1', '2'), ...run('2'), ...run('1')])).toEqual(['reordered 2'])
    const [begun, ...rest] = run('1')
    expect(rules([...enqueuedAs('1', '2'), ...(begun === undefined ? [] : [begun]), ...run('2'), ...rest])).toEqual([
      'overlapping 2',
    ])
    expect(rules([...enqueuedAs('1'), { what: 'lost', run: '1' }, ...run('1')])).toEqual(['stale 1'])
    expect(rules([...enqueuedAs('1'), ...run('1'), { what: 'completed', event: '1', run: 'r', as: 'done' }])).toEqual(['stale 1'])
    expect(checkHistory(enqueuedAs('1'), { effect: 'tx', waiting: ['1'] })).toEqual([])
  })
})
