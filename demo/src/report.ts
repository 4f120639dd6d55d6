import { formatCount } from '@common-handlers/cli'
import type { DayCounts } from './flights.ts'

const WIDTH = 40

/** The counts of both sides, a bar for each day; a day on which they differ says so. */
export function drawDays(source: DayCounts, target: DayCounts): string {
  const days = [...new Set([...source.keys(), ...target.keys()])].toSorted()
  const most = Math.max(1, ...source.values(), ...target.values())
  const lines = days.map((day) => {
    const [left, right] = [source.get(day) ?? 0, target.get(day) ?? 0]
    const bar = '█'.repeat(Math.max(1, Math.round((right / most) * WIDTH)))
    return `  ${day}  ${bar.padEnd(WIDTH)}  ${formatCount(right).padStart(7)}${left === right ? '' : `  but ${formatCount(left)} in PostgreSQL`}`
  })
  return lines.join('\n')
}

export const sameDays = (a: DayCounts, b: DayCounts): boolean =>
  a.size === b.size && [...a].every(([day, count]) => b.get(day) === count)

export const total = (days: DayCounts): number => [...days.values()].reduce((sum, count) => sum + count, 0)
