import { describe, expect, it } from 'vitest'
import { parseDuration } from '../src/index.ts'

describe('parseDuration', () => {
  it('reads seconds, minutes, hours and days', () => {
    expect(['30s', '90m', '24h', '7d', '1.5h'].map((text) => parseDuration(text, '--older-than'))).toEqual([
      30_000, 5_400_000, 86_400_000, 604_800_000, 5_400_000,
    ])
    expect(() => parseDuration('tomorrow', '--older-than')).toThrow('--older-than tomorrow: expected a time such as 24h')
  })
})
