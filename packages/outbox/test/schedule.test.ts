import { describe, expect, it } from 'vitest'
import { nextRuns, Schedules } from '../src/schedule.ts'

const berlin = (cron: string, after: string, count: number): string[] =>
  nextRuns({ cron, timezone: 'Europe/Berlin' }, new Date(after), count).map((run) => run.toISOString().slice(5, 16))

describe('the times of a schedule', () => {
  it('fires after the hour that the spring skips, once, at the time that comes first', () => {
    expect(berlin('30 2 * * *', '2026-03-28T00:00:00Z', 3)).toEqual(['03-28T01:30', '03-29T01:00', '03-30T00:30'])
    expect(berlin('0 * * * *', '2026-03-28T23:30:00Z', 4)).toEqual(['03-29T00:00', '03-29T01:00', '03-29T02:00', '03-29T03:00'])
  })

  it('fires once at a fixed time of the hour that the autumn repeats, and each hour with a pattern', () => {
    expect(berlin('30 2 * * *', '2026-10-24T00:00:00Z', 3)).toEqual(['10-24T00:30', '10-25T00:30', '10-26T01:30'])
    expect(berlin('0 * * * *', '2026-10-24T22:30:00Z', 4)).toEqual(['10-24T23:00', '10-25T00:00', '10-25T01:00', '10-25T02:00'])
  })

  it('takes seconds and the last of a month, in UTC', () => {
    const [second] = nextRuns({ cron: '*/10 * * * * *' }, new Date('2026-01-01T00:00:01Z'), 1)
    expect(second?.toISOString()).toBe('2026-01-01T00:00:10.000Z')
    const [last] = nextRuns({ cron: '0 6 L * *' }, new Date('2028-02-01T00:00:00Z'), 1)
    expect(last?.toISOString()).toBe('2028-02-29T06:00:00.000Z')
  })

  it.each([
    [{ name: 'a', cron: '61 * * * *' }],
    [{ name: 'a', cron: '* * *' }],
    [{ name: 'a', cron: '0 0 30 2 *' }],
    [{ name: 'a', cron: '* * * * *', timezone: 'Europe/Nowhere' }],
    [{ name: '', cron: '* * * * *' }],
  ])('refuses %j', (schedule) => {
    expect(() => new Schedules([{ type: 't', ...schedule }])).toThrow(
      expect.objectContaining({ code: 'OUTBOX_SCHEDULE_INVALID' }),
    )
  })

  it('refuses two of one name', () => {
    const schedule = { name: 'a', cron: '* * * * *', type: 't' }
    expect(() => new Schedules([schedule, schedule])).toThrow(expect.objectContaining({ code: 'OUTBOX_SCHEDULE_INVALID' }))
  })
})
