import { inspect } from 'node:util'
import { ConfigError } from '@common-handlers/core'
import { describe, expect, it } from 'vitest'
import { TrinoHandler, type TrinoOptions } from '../src/index.ts'

const good: TrinoOptions = { url: 'https://trino.example.com:8443', user: 'ingest' }
const refused = (options: object): string => {
  try {
    void new TrinoHandler(options as TrinoOptions)
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigError)
    expect(error).toMatchObject({ code: 'TRINO_CONFIG_INVALID', retry: 'never' })
    return (error as Error).message
  }
  throw new Error('was accepted')
}

describe('options of TrinoHandler', () => {
  it('are refused with the key and the reason', () => {
    expect(refused({ ...good, usr: 'x' })).toContain('"usr"')
    expect(refused({ url: good.url })).toContain('user')
    expect(refused({ ...good, url: 'ftp://trino' })).toContain('url')
    expect(refused({ ...good, url: 'https://trino/ui' })).toContain('without a path')
    expect(refused({ ...good, url: 'https://trino/?user=x' })).toContain('without a path')
    expect(refused({ ...good, schema: 's' })).toContain('schema: needs a catalog')
    expect(refused({ ...good, password: 'one-secret', token: 'another' })).toContain('not both')
    expect(refused({ ...good, user: 'a\nX-Trino-Role: admin' })).toContain('user')
    expect(refused({ ...good, clientTags: ['a,b'] })).toContain('comma')
  })

  it('keep credentials off unencrypted networks', () => {
    expect(refused({ ...good, url: 'http://trino.example.com', password: 'one-secret' })).toContain('use https')
    expect(() => new TrinoHandler({ ...good, url: 'http://127.0.0.1:8080', password: 'one-secret' })).not.toThrow()
    expect(refused({ ...good, url: 'https://joe:hidden-word@trino.example.com' })).not.toContain('hidden-word')
    expect(refused({ ...good, url: 'https://:hidden-word@trino.example.com' })).toContain('not in the URL')
  })

  it('are left untouched, and the password cannot be printed', () => {
    const options = Object.freeze({ ...good, password: 'a-long-password', tls: Object.freeze({ verify: false }) })
    const handler = new TrinoHandler(options)
    expect(inspect(handler, { depth: 10, showHidden: true })).not.toContain('a-long-password')
    expect(options).toEqual({ ...good, password: 'a-long-password', tls: { verify: false } })
  })
})
