import { inspect } from 'node:util'
import { describe, expect, it } from 'vitest'
import { registerSecretValue, scrub, scrubDeep, Secret } from '../src/index.ts'

describe('Secret', () => {
  const secret = new Secret('s3cr3t/with?special"chars')

  it.each([
    ['inspect', () => inspect(secret)],
    ['inspect inside an object', () => inspect({ a: { b: [secret] } }, { depth: 9, showHidden: true })],
    ['JSON', () => JSON.stringify({ secret })],
    ['a template', () => `a ${secret as unknown as string}`],
    ['concatenation', () => 'x' + (secret as unknown as string)],
    ['String()', () => String(secret)],
    ['Object.values', () => inspect(Object.values(secret))],
    ['a copy of its properties', () => inspect(Object.assign({}, secret))],
  ])('cannot be printed by %s', (_way, print) => {
    expect(print()).not.toContain('s3cr3t')
  })

  it('is given out by expose() alone, and is known across copies', () => {
    expect(secret.expose()).toBe('s3cr3t/with?special"chars')
    expect(Secret.is(secret)).toBe(true)
    expect(Secret.is('s3cr3t')).toBe(false)
  })

  it('is struck out of any text, also URL-encoded and inside JSON', () => {
    for (const spelling of [secret.expose(), encodeURIComponent(secret.expose()), JSON.stringify(secret.expose())]) {
      expect(scrub(`before ${spelling} after`)).toMatch(/^before "?\[secret\]"? after$/)
    }
  })
})

describe('scrub', () => {
  it.each([
    ['postgres://app:pa@ss:wo/rd@db:5432/x', 'postgres://app:[secret]@db:5432/x'],
    ['http://user:pw@host/a http://other/b', 'http://user:[secret]@host/a http://other/b'],
    ['https://s3/key?X-Amz-Signature=abc123&x=1', 'https://s3/key?X-Amz-Signature=[secret]&x=1'],
    ["host=db password='a b' dbname=x", 'host=db password=[secret] dbname=x'],
    ['host=db password=abc dbname=x', 'host=db password=[secret] dbname=x'],
    ['an ordinary line, mail me@example.org at 12:30', 'an ordinary line, mail me@example.org at 12:30'],
  ])('%s', (text, expected) => expect(scrub(text)).toBe(expected))

  it('strikes short secrets out only where they stand alone, and never those under four characters', () => {
    registerSecretValue('zulu')
    registerSecretValue('abc')
    expect(scrub('zulu, zulus and "zulu"; abc')).toBe('[secret], zulus and "[secret]"; abc')
  })

  it('strikes out the longer of two secrets that begin alike', () => {
    registerSecretValue('longsecret')
    registerSecretValue('longsecret-and-more')
    expect(scrub('longsecret-and-more longsecret')).toBe('[secret] [secret]')
  })

  it('strikes out values of any length, such as a bundle of certificates', () => {
    const bundle = `-----BEGIN-----\n${'a+b\\'.repeat(30_000)}`
    registerSecretValue(bundle)
    expect(scrub(`it is ${bundle}, and in JSON ${JSON.stringify(bundle)}`)).toBe('it is [secret], and in JSON "[secret]"')
  })

  it('reaches into objects and lists', () => {
    registerSecretValue('deep-secret')
    expect(scrubDeep({ a: ['deep-secret', { b: 'x deep-secret' }], n: 1 })).toEqual({
      a: ['[secret]', { b: 'x [secret]' }],
      n: 1,
    })
  })
})
