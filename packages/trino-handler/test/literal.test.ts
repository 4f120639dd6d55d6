import { describe, expect, it } from 'vitest'
import { ident, literal, sql, typed } from '../src/index.ts'
import { render } from '../src/sql.ts'

// That Trino reads each of these as what it stands for is held by values.int.test.ts.

describe('literal', () => {
  it.each([
    [null, 'NULL'],
    [true, 'TRUE'],
    [1, '1'],
    [-(2 ** 31), '-2147483648'],
    [2 ** 31, "BIGINT '2147483648'"],
    [2 ** 53, "DOUBLE '9007199254740992'"],
    [-0, "DOUBLE '-0.0'"],
    [1e21, "DOUBLE '1e+21'"],
    [Number.NaN, "DOUBLE 'NaN'"],
    [-Infinity, "DOUBLE '-Infinity'"],
    [9223372036854775807n, "BIGINT '9223372036854775807'"],
    [9223372036854775808n, "DECIMAL '9223372036854775808'"],
    ["it's \\ \n 𝄞", "'it''s \\ \n 𝄞'"],
    [new Uint8Array([0, 255]), "X'00ff'"],
    [new Date(0), "TIMESTAMP '1970-01-01 00:00:00.000 UTC'"],
    [[1n, null], "ARRAY[BIGINT '1', NULL]"],
    [new Map([['a', true]]), "MAP(ARRAY['a'], ARRAY[TRUE])"],
    [typed('decimal(38,2)', '0.10'), "CAST('0.10' AS decimal(38,2))"],
    [typed('json', '{"a":1}'), `JSON '{"a":1}'`],
    [typed('interval day to second', '-2 03:04:05.678'), "INTERVAL -'2 03:04:05.678' day to second"],
    [typed('row(a bigint, "b""c" varchar)', null), 'CAST(NULL AS row(a bigint, "b""c" varchar))'],
  ] as const)('writes %o as %s', (value, text) => expect(literal(value)).toBe(text))

  it.each([
    ['half a surrogate pair', '\ud834'],
    ['an invalid Date', new Date(Number.NaN)],
    ['39 digits', 10n ** 38n],
    ['undefined', undefined as never],
    ['a plain object', {} as never],
    ['half a surrogate pair inside', ['\ud834']],
  ])('refuses %s', (_, value) => {
    expect(() => literal(value)).toThrow(expect.objectContaining({ code: 'TRINO_VALUE_NOT_EXPRESSIBLE', outcome: 'data' }))
  })

  it('takes no SQL for a type', () => {
    const after = ['bigint), (SELECT 1', 'bigint, more bigint', 'decimal(1', 'bigint) AS SELECT (1', 'row("(" bigint']
    for (const type of [...after, 'bigint); DROP TABLE x', "varchar'", 'varchar -- ', '', 'row("a)', 'a/**/']) {
      expect(() => typed(type, '1')).toThrow(expect.objectContaining({ code: 'TRINO_VALUE_NOT_EXPRESSIBLE' }))
    }
  })
})

describe('sql', () => {
  it('binds values and takes fragments over', () => {
    const where = sql`id > ${5n} AND name = ${"o'x"}`
    const statement = sql`SELECT * FROM ${ident('Lake', 'a"b')} WHERE ${where} LIMIT ${1}`
    expect(statement.text).toBe('SELECT * FROM "Lake"."a""b" WHERE id > ? AND name = ? LIMIT ?')
    expect(statement.values).toEqual([5n, "o'x", 1])
  })

  it('is sent as it is without values, and through EXECUTE IMMEDIATE with them', () => {
    expect(render('SELECT 1')).toEqual({ text: 'SELECT 1', shift: 0 })
    expect(render(sql`SELECT 'a', ${1}`).text).toBe("EXECUTE IMMEDIATE 'SELECT ''a'', ?' USING 1")
  })

  it('refuses text that UTF-8 cannot carry', () => {
    for (const values of [[], [1]]) {
      expect(() => render("SELECT '\ud834'", values)).toThrow(expect.objectContaining({ code: 'TRINO_VALUE_NOT_EXPRESSIBLE' }))
    }
  })

  it('refuses names that are none', () => {
    expect(() => ident()).toThrow(expect.objectContaining({ code: 'TRINO_IDENTIFIER_INVALID' }))
    expect(() => ident('a', '')).toThrow(expect.objectContaining({ code: 'TRINO_IDENTIFIER_INVALID' }))
  })
})
