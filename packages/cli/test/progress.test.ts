import { type Logger, silentLogger } from '@common-handlers/core'
import { describe, expect, it } from 'vitest'
import { createProgress, formatBytes, formatCount, formatDuration, formatTable, progressLine } from '../src/index.ts'

describe('progress', () => {
  it('shows share, rows, rate and time left', () => {
    expect(progressLine('extract', { rows: 500_000, totalRows: 2_000_000, bytes: 50_000_000 }, 10)).toBe(
      'extract  [######------------------]   25 %  500,000 of 2,000,000 rows  5.00 MB/s  ETA 0:30',
    )
    expect(progressLine('load', { rows: 500, detail: 'RUNNING' }, 1)).toBe('load  500 rows  500 rows/s  RUNNING')
    expect(progressLine('x', { rows: 30, totalRows: 20 }, 1)).toContain('100 %  30 of 30 rows')
  })

  it('redraws one line on a terminal, at most ten times a second, and takes it away', () => {
    let time = 0
    let written = ''
    const progress = createProgress({
      label: 'x',
      terminal: true,
      logger: silentLogger,
      write: (text) => (written += text),
      now: () => time,
      columns: () => 30,
    })
    progress.update({ rows: 1 })
    progress.update({ rows: 2 })
    time = 101
    progress.update({ rows: 3, detail: 'a detail that is longer than the line' })
    progress.end()
    const lines = written.split('\r\u001B[2K')
    expect(lines).toHaveLength(4)
    expect(lines[2]).toHaveLength(29)
    expect(lines.at(-1)).toBe('')
  })

  it('logs every ten seconds where nobody watches', () => {
    let time = 0
    const logged: object[] = []
    const logger: Logger = { ...silentLogger, info: (facts) => void logged.push(facts) }
    const progress = createProgress({ label: 'x', terminal: false, logger, write: () => undefined, now: () => time })
    for (time = 0; time <= 25_000; time += 1000) progress.update({ rows: time })
    expect(logged).toEqual([
      { rows: 10_000, seconds: 10 },
      { rows: 20_000, seconds: 20 },
    ])
  })
})

describe('format', () => {
  it.each([
    [0, '0 B'],
    [999, '999 B'],
    [1000, '1.00 kB'],
    [999_999, '1.00 MB'],
    [12_345_678, '12.3 MB'],
  ])('%i bytes', (bytes, text) => expect(formatBytes(bytes)).toBe(text))

  it('counts, durations and tables', () => {
    expect(formatCount(1234567)).toBe('1,234,567')
    expect([7, 125, 3723].map(formatDuration)).toEqual(['0:07', '2:05', '1:02:03'])
    expect(
      formatTable([
        ['a', 'bb'],
        ['ccc', 'd'],
      ]),
    ).toBe('a    bb\nccc  d')
  })
})
