import { Secret } from '@common-handlers/core'
import { describe, expect, it } from 'vitest'
import { parseExact, writeExact } from '../src/exact-json.ts'
import { parseGoDuration } from '../src/go-duration.ts'
import { assertExact, mergePatch } from '../src/secret-data.ts'

describe('JSON', () => {
  it.each(['9007199254740993', '-9223372036854775808', '123456789012345678901234567890'])('keeps the integer %s', (text) => {
    expect(parseExact(`{"a":[${text}]}`)).toEqual({ a: [BigInt(text)] })
    expect(writeExact({ a: [BigInt(text)] })).toBe(`{"a":[${text}]}`)
  })

  it('keeps numbers, and digits inside text', () => {
    expect(parseExact('{"a":9007199254740991,"b":0.1234567890123456789,"c":"9007199254740993","d":1e300}')).toEqual({
      a: 9007199254740991,
      b: 0.12345678901234568,
      c: '9007199254740993',
      d: 1e300,
    })
  })

  it('holds what a Secret holds', () => {
    expect(writeExact({ a: new Secret('horse "1"'), b: [new Secret('x')] })).toBe('{"a":"horse \\"1\\"","b":["x"]}')
  })
})

// RFC 7396, appendix A.
describe('a merge patch', () => {
  it.each([
    [{ a: 'b' }, { a: 'c' }, { a: 'c' }],
    [{ a: 'b' }, { b: 'c' }, { a: 'b', b: 'c' }],
    [{ a: 'b' }, { a: null }, {}],
    [{ a: 'b', b: 'c' }, { a: null }, { b: 'c' }],
    [{ a: ['b'] }, { a: 'c' }, { a: 'c' }],
    [{ a: 'c' }, { a: ['b'] }, { a: ['b'] }],
    [{ a: { b: 'c' } }, { a: { b: 'd', c: null } }, { a: { b: 'd' } }],
    [{ a: [{ b: 'c' }] }, { a: [1] }, { a: [1] }],
    [
      ['a', 'b'],
      ['c', 'd'],
      ['c', 'd'],
    ],
    [{ a: 'b' }, ['c'], ['c']],
    [{ a: 'foo' }, null, null],
    [{ a: 'foo' }, 'bar', 'bar'],
    [{ e: null }, { a: 1 }, { e: null, a: 1 }],
    [[1, 2], { a: 'b', c: null }, { a: 'b' }],
    [{}, { a: { bb: { ccc: null } } }, { a: { bb: {} } }],
  ])('%j with %j is %j', (target, patch, expected) => {
    expect(mergePatch(target, patch)).toEqual(expected)
  })

  it('cannot reach the prototype', () => {
    const merged = mergePatch({}, JSON.parse('{"__proto__":{"admin":true}}'))
    expect((merged as { admin?: boolean }).admin).toBeUndefined()
    expect(Object.keys(merged as object)).toEqual(['__proto__'])
  })
})

describe('an integer beyond 2^53 on a version 2 mount', () => {
  const place = { path: 'secret/app', mount: 'secret', version: 2, inside: 'app' } as const
  it.each([2n ** 53n, -(2n ** 53n), 9007199254740994n, 1152921504606847000n, 10n ** 20n])('%s comes back as it is', (id) => {
    expect(() => assertExact(place, { id })).not.toThrow()
  })
  it.each([2n ** 53n + 1n, 2n ** 60n, 2n ** 63n - 1n, 10n ** 21n])('%s would not', (id) => {
    expect(() => assertExact(place, { deep: { id } })).toThrow(/secret\/app: the field deep\.id is an integer/)
    expect(() => assertExact({ ...place, version: 1 }, { deep: { id } })).not.toThrow()
  })
})

it.each([
  ['0s', 0],
  ['1h30m0s', 5_400_000],
  ['768h0m0s', 2_764_800_000],
  ['1.5s', 1_500],
  ['90', undefined],
  ['', undefined],
])('%j in the notation of Go is %j milliseconds', (text, expected) => {
  expect(parseGoDuration(text)).toBe(expected)
})
