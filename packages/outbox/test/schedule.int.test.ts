import { describeWith } from '@common-handlers/testkit'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { type Schedule, Schedules } from '../src/schedule.ts'
import { ownOutbox, until } from './own-outbox.ts'

describeWith(['postgres'], 'schedules', ({ postgres }) => {
  const own = ownOutbox(postgres)
  const started: Schedules[] = []
  const start = async (...list: Schedule[]): Promise<Schedules> => {
    const schedules = new Schedules(list)
    started.push(schedules)
    await schedules.start({ pool: own.pool })
    return schedules
  }
  const times = (): Promise<string[] | null> =>
    own.one(`SELECT json_agg(headers ->> 'scheduled-at' ORDER BY id) FROM outbox.event`)

  beforeEach(() => own.pool.query('DELETE FROM outbox.schedule; DELETE FROM outbox.dedup'))
  afterEach(() => Promise.all(started.splice(0).map((schedules) => schedules.stop())))

  it('enqueue one event for each time, for all workers together', async () => {
    const schedule = { name: 'tick', cron: '* * * * * *', type: 'tick', payload: { n: 1 } }
    const seen: unknown[] = []
    const handlers = {
      tick: {
        handler: (payload: unknown, { event }: { event: { headers: object } }) => void seen.push([payload, event.headers]),
      },
    }
    for (let worker = 0; worker < 3; worker++)
      await own.worker({ handlers, schedules: new Schedules([schedule]), pollInterval: 50 }).start()
    await start(schedule)
    await until(() => seen.length >= 3)
    const stamps = seen.map((event) => (event as [unknown, Record<string, string>])[1]['scheduled-at'])
    expect(new Set(stamps).size).toBe(stamps.length)
    for (const [index, stamp] of stamps.entries())
      if (index > 0) expect(Date.parse(stamp ?? '') - Date.parse(stamps[index - 1] ?? '')).toBe(1000)
    expect(seen[0]).toEqual([{ n: 1 }, { schedule: 'tick', 'scheduled-at': expect.stringMatching(/T.*\.000Z$/) }])
  })

  it.each([
    ['skip', 0],
    ['once', 1],
    ['all', 5],
  ] as const)('after a time without workers, by the policy %s', async (missed, count) => {
    const schedule = { name: 's', cron: '0 * * * *', type: 't', missed }
    await (await start(schedule)).stop()
    // The last time was five and a half hours ago; the next one is further away than the test.
    const now = await own.one<Date>(`SELECT date_trunc('hour', clock_timestamp())`)
    await own.pool.query(`UPDATE outbox.schedule SET done_to = $1::timestamptz - interval '4 hours 30 minutes'`, [now])
    const minutes = await own.one<number>(`SELECT extract(minute FROM clock_timestamp())::int`)
    await Promise.all([start(schedule), start(schedule)])
    await until(
      async () => await own.one<boolean>(`SELECT done_to > clock_timestamp() - interval '1 minute' FROM outbox.schedule`),
    )
    const expected = Array.from({ length: 5 }, (_, n) => new Date(now.getTime() - n * 3_600_000).toISOString()).toReversed()
    // In the first minute of an hour its time is not missed yet, but on time.
    if (minutes > 1) expect((await times()) ?? []).toEqual(expected.slice(5 - count))
    else expect(((await times()) ?? []).at(-1)).toBe(expected.at(-1))
  })

  it('fires in the hours that a change of the clock skips and repeats', async () => {
    const schedule = { name: 's', cron: '30 2 * * *', timezone: 'Europe/Berlin', type: 't', missed: 'all' } as const
    await (await start(schedule)).stop()
    await own.pool.query(`UPDATE outbox.schedule SET done_to = '2025-03-28T12:00Z'`)
    await start(schedule)
    await until(async () => ((await times()) ?? []).length > 300)
    const all = (await times()) ?? []
    expect(all.slice(0, 3)).toEqual(['2025-03-29T01:30:00.000Z', '2025-03-30T01:00:00.000Z', '2025-03-31T00:30:00.000Z'])
    const autumn = all.indexOf('2025-10-25T00:30:00.000Z')
    expect(all.slice(autumn, autumn + 3)).toEqual([
      '2025-10-25T00:30:00.000Z',
      '2025-10-26T00:30:00.000Z',
      '2025-10-27T01:30:00.000Z',
    ])
  })

  it('catches up with more than one transaction holds', async () => {
    const schedule = { name: 's', cron: '* * * * *', type: 't', missed: 'all' } as const
    await (await start(schedule)).stop()
    await own.pool.query(`UPDATE outbox.schedule SET done_to = date_trunc('minute', clock_timestamp()) - interval '2500 minutes'`)
    await start(schedule)
    await until(async () => (await own.one<number>('SELECT count(*)::int FROM outbox.event')) >= 2500)
    expect(new Set(await times()).size).toBe(await own.one('SELECT count(*)::int FROM outbox.event'))
  })

  it('begins anew when its pattern changes, and does not when it stays', async () => {
    const schedule = { name: 's', cron: '0 0 1 1 *', type: 't', missed: 'all' } as const
    await (await start(schedule)).stop()
    await own.pool.query(`UPDATE outbox.schedule SET done_to = done_to - interval '1 day'`)
    await (await start({ ...schedule, payload: 2 })).stop()
    expect(await own.one(`SELECT done_to < clock_timestamp() - interval '1 hour' FROM outbox.schedule`)).toBe(true)
    await (await start({ ...schedule, cron: '* * * * *' })).stop()
    expect(await own.one(`SELECT done_to > clock_timestamp() - interval '1 hour' FROM outbox.schedule`)).toBe(true)
    expect((await times()) ?? []).toEqual([])
  })
})
