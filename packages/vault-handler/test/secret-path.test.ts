import { describe, expect, it } from 'vitest'
import { encodePath, parseReference } from '../src/secret-path.ts'

describe('a path', () => {
  it.each([
    ['secret/data/app', 'secret/data/app'],
    ['/secret/app/', 'secret/app'],
    ['kv/my key#1?x', 'kv/my%20key%231%3Fx'],
    ['kv/a&b/%2e', 'kv/a%26b/%252e'],
    ['kv/Straße/日本', 'kv/Stra%C3%9Fe/%E6%97%A5%E6%9C%AC'],
  ])('%s goes over the wire as %s', (path, wire) => {
    expect(encodePath(path)).toBe(wire)
  })

  it.each(['', '/', 'a//b', 'a/../b', './a', '..', 'a/\ud800', 'a\nb', 'a\u0000', 'a\u00a0b', 'a\u200bb', 'a\u2028'])(
    '%j is refused',
    (path) => {
      expect(() => encodePath(path)).toThrow(expect.objectContaining({ code: 'VAULT_PATH_INVALID' }))
    },
  )
})

describe('a reference', () => {
  it('is split at its last #', () => {
    expect(parseReference('secret/app#password')).toEqual({ path: 'secret/app', field: 'password' })
    expect(parseReference('kv/my key#1#user')).toEqual({ path: 'kv/my key#1', field: 'user' })
  })

  it.each(['secret/app', 'secret/app#', '#password', ''])('%j is refused', (reference) => {
    expect(() => parseReference(reference)).toThrow(expect.objectContaining({ code: 'VAULT_REFERENCE_INVALID' }))
  })
})
