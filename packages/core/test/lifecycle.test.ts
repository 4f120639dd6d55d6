import { describe, expect, it } from 'vitest'
import { Lifecycle, runCheck, sleep, ConnectionError } from '../src/index.ts'

describe('Lifecycle', () => {
  it('closes once, however often it is asked, after the calls under way have ended', async () => {
    const order: string[] = []
    const life = new Lifecycle('Thing', 'THING', async () => void order.push('released'))
    const call = life.run(undefined, async () => {
      await sleep(20)
      order.push('call')
    })
    await Promise.all([life.close(), life.close(), call])
    await life.close()
    expect(order).toEqual(['call', 'released'])
  })

  it('lets no call in after close', async () => {
    const life = new Lifecycle('Thing', 'THING', async () => undefined)
    await life.close()
    await expect(life.run(undefined, async () => 1)).rejects.toMatchObject({ code: 'THING_CLOSED', message: 'Thing is closed' })
    expect(() => life.hold()).toThrow('Thing is closed')
  })

  it('aborts what still runs when the grace has passed', async () => {
    const life = new Lifecycle('Thing', 'THING', async () => undefined)
    const call = life.run(undefined, (signal) => sleep(60_000, signal))
    await Promise.all([expect(call).rejects.toMatchObject({ code: 'THING_CLOSED' }), life.close({ graceMs: 20 })])
  })

  it('waits for what is held', async () => {
    const life = new Lifecycle('Thing', 'THING', async () => undefined)
    const release = life.hold()
    let closed = false
    const closing = life.close().then(() => (closed = true))
    await sleep(20)
    expect(closed).toBe(false)
    release()
    await closing
  })

  it('gives the rejection of a failed call to its caller alone', async () => {
    const life = new Lifecycle('Thing', 'THING', async () => undefined)
    const call = life.run(undefined, async () => {
      await sleep(5)
      throw new RangeError('mine')
    })
    await Promise.all([expect(call).rejects.toThrow(RangeError), life.close()])
  })
})

describe('runCheck', () => {
  it('tells what was tried, with timings, and stops at the first failure', async () => {
    const result = await runCheck('thing at home', [
      { name: 'connect', run: async () => 'version 1' },
      {
        name: 'log in',
        run: () => Promise.reject(new ConnectionError('refused', { code: 'THING_REFUSED' })),
      },
      { name: 'read', run: async () => 'never reached' },
    ])
    expect(result).toMatchObject({
      target: 'thing at home',
      ok: false,
      steps: [
        { name: 'connect', ok: true, detail: 'version 1' },
        { name: 'log in', ok: false, error: { code: 'THING_REFUSED', message: 'refused' } },
      ],
    })
    expect(result.steps).toHaveLength(2)
    expect(result.durationMs).toBeGreaterThanOrEqual(0)
  })
})
