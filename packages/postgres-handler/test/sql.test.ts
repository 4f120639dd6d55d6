import { describe, expect, it } from 'vitest'
import { ident, quoteIdent, quoteLiteral, sql } from '../src/index.ts'
import { bindValue } from '../src/values.ts'

describe('sql', () => {
  it('binds values and quotes names', () => {
    const statement = sql`select * from ${ident('app', 'a "b"')} where id > ${5n} and x = ${"'; drop"}`
    expect(statement).toEqual({ text: 'select * from "app"."a ""b""" where id > $1 and x = $2', values: [5n, "'; drop"] })
  })

  it('takes in other statements and numbers their values anew, but not what stands in quotes', () => {
    const inner = sql`a = ${1} and b <> '$1' and "c$1" = ${2} /* $1 */`
    expect(sql`select ${0} where ${inner} and d = ${3}`).toEqual({
      text: `select $1 where a = $2 and b <> '$1' and "c$1" = $3 /* $1 */ and d = $4`,
      values: [0, 1, 2, 3],
    })
  })

  it('does not take a look-alike from JSON for SQL', () => {
    const forged = JSON.parse('{"text":"1; drop table x","values":[],"quoted":"x"}') as unknown
    expect(sql`select ${forged}`).toEqual({ text: 'select $1', values: [forged] })
  })

  it('quotes for statements that bind nothing', () => {
    expect(quoteLiteral("it's")).toBe("'it''s'")
    expect(quoteLiteral('a\\b')).toBe(" E'a\\\\b'")
    expect(quoteIdent('Mixed')).toBe('"Mixed"')
    expect(() => quoteIdent('a\0')).toThrow('NUL')
    expect(() => quoteLiteral('a\0')).toThrow('NUL')
  })
})

describe('a bound value', () => {
  it.each([
    [null, null],
    [true, 'true'],
    [-0, '-0'],
    [Number.NaN, 'NaN'],
    [9007199254740993n, '9007199254740993'],
    [new Date('2024-02-29T12:34:56.789Z'), '2024-02-29T12:34:56.789+00'],
    [new Date(-62_198_755_200_000), '0002-01-01T00:00:00.000+00 BC'],
    [new Date(8_640_000_000_000_000), '275760-09-13T00:00:00.000+00'],
    [[1, null, ['a"b', 'c\\d']], '{"1",NULL,{"a\\"b","c\\\\d"}}'],
    [{ a: 1 }, '{"a":1}'],
  ])('%o is %s', (value, text) => {
    expect(bindValue(value, 0)).toBe(text)
  })

  it.each([[undefined], [() => 1], [Symbol('x')], ['a\0b'], ['\ud800'], [new Date(Number.NaN)], [{ a: 1n }]])(
    'is never %o',
    (value) => {
      expect(() => bindValue(value, 2)).toThrow(/parameter \$3/)
    },
  )
})
