import { describe, expect, it } from 'vitest'
import { parseExact } from '../src/exact-json.ts'

describe('parseExact', () => {
  it('gives integers that a double cannot hold as their digits', () => {
    expect(parseExact('[9007199254740993,-9223372036854775808,12]')).toEqual(['9007199254740993', '-9223372036854775808', 12])
    expect(parseExact('{"a":9223372036854775807,"b":[[9223372036854775806]]}')).toEqual({
      a: '9223372036854775807',
      b: [['9223372036854775806']],
    })
  })

  it('leaves doubles alone, whatever their digits', () => {
    for (const number of [
      '1234567890123456.5',
      '0.12345678901234567',
      '1.2345678901234567E300',
      '1234567890123456789E2',
      '-0.0',
    ]) {
      expect(parseExact(`[1234567890123456789,${number}]`)).toEqual(['1234567890123456789', Number(number)])
    }
  })

  it('leaves digits inside strings alone, after escaped quotes and backslashes too', () => {
    const texts = ['9007199254740993', '\\', '"9007199254740993', '\\"9007199254740993\\', ',9007199254740993,', '\\\\"', '']
    for (const one of texts) {
      for (const other of texts) {
        const json = `[${JSON.stringify(one)},9007199254740993,${JSON.stringify(other)},{${JSON.stringify(other)}:1}]`
        expect(parseExact(json)).toEqual([one, '9007199254740993', other, { [other]: 1 }])
      }
    }
  })

  it('agrees with BigInt and JSON.parse on thousands of rows', () => {
    let seed = 42n
    const random = (): bigint => (seed = (seed * 6364136223846793005n + 1442695040888963407n) & 0xffffffffffffffffn)
    const rows = Array.from({ length: 5_000 }, () => {
      const big = BigInt.asIntN(64, random()) >> (random() % 64n)
      const double = Number(random()) / 2 ** Number(random() % 128n)
      return { big, double, text: `${random()}"\\${double}` }
    })
    const json = `[${rows.map((row) => `[${row.big},${JSON.stringify(row.double)},${JSON.stringify(row.text)}]`).join(',')}]`
    const parsed = parseExact(json) as [string | number, number | string, string][]
    expect(parsed.map(([big, double, text]) => ({ big: BigInt(big), double: Number(double), text }))).toEqual(rows)
  })

  it('fails on what is not JSON', () => {
    expect(() => parseExact('[9007199254740993')).toThrow(SyntaxError)
    expect(() => parseExact('["9007199254740993,9007199254740993')).toThrow(SyntaxError)
  })
})
