import { afterEach, describe, expect, it, vi } from 'vitest'
import { givenAddress, ServerUnavailable } from '@common-handlers/testkit'

afterEach(() => vi.unstubAllEnvs())

describe('givenAddress', () => {
  it('is nothing without the first variable', () => {
    vi.stubEnv('TEST_POSTGRES_URL', '')
    vi.stubEnv('TEST_VAULT_TOKEN', 'left over')
    vi.stubEnv('TEST_VAULT_ADDR', '')
    expect(givenAddress('postgres')).toBeUndefined()
    expect(givenAddress('openbao')).toBeUndefined()
  })

  it('reads a PostgreSQL address with an escaped password', () => {
    vi.stubEnv('TEST_POSTGRES_URL', 'postgres://me:a%2Fb@db.internal/app')
    expect(givenAddress('postgres')).toEqual({
      kind: 'postgres',
      host: 'db.internal',
      port: 5432,
      user: 'me',
      password: 'a/b',
      database: 'app',
      url: 'postgres://me:a%2Fb@db.internal:5432/app',
    })
  })

  it('reads an S3 address with its defaults', () => {
    vi.stubEnv('TEST_VERSITYGW_ENDPOINT', 'http://store:7070/')
    vi.stubEnv('TEST_VERSITYGW_ACCESS_KEY_ID', 'id')
    vi.stubEnv('TEST_VERSITYGW_SECRET_ACCESS_KEY', 'secret')
    expect(givenAddress('versitygw')).toEqual({
      kind: 'versitygw',
      endpoint: 'http://store:7070',
      region: 'us-east-1',
      accessKeyId: 'id',
      secretAccessKey: 'secret',
      bucket: 'lake',
    })
  })

  it('names the variable that is missing', () => {
    vi.stubEnv('TEST_VAULT_ADDR', 'http://vault:8200')
    vi.stubEnv('TEST_VAULT_TOKEN', '')
    expect(() => givenAddress('openbao')).toThrow(ServerUnavailable)
    expect(() => givenAddress('openbao')).toThrow('TEST_VAULT_TOKEN')
  })
})
