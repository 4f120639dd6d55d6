import { inspect } from 'node:util'
import { configKeys } from '@common-handlers/core'
import { describe, expect, it } from 'vitest'
import { S3Handler, type S3HandlerOptions, s3ConfigFromEnvironment, s3ConfigSchema } from '../src/index.ts'

const problem = (options: unknown): unknown => {
  try {
    return new S3Handler(options as S3HandlerOptions)
  } catch (error) {
    return error
  }
}

describe('options', () => {
  it('need a bucket and nothing else', () => {
    expect(s3ConfigSchema.parse({ bucket: 'lake' })).toEqual({
      bucket: 'lake',
      prefix: '',
      region: 'us-east-1',
      partSize: 8 * 1024 * 1024,
      concurrency: 4,
      connectTimeoutMs: 5_000,
      timeoutMs: 60_000,
      stallTimeoutMs: 30_000,
      retry: { attempts: 100, budgetMs: 60_000, baseDelayMs: 100, maxDelayMs: 5_000 },
      checksums: 'when-required',
      checksumAlgorithm: 'crc32',
      signPayload: 'http',
    })
    expect(problem({})).toMatchObject({
      name: 'ConfigError',
      code: 'S3_CONFIG_INVALID',
      message: expect.stringContaining('bucket') as string,
    })
  })

  it.each([
    ['an unknown key', { buckets: 'x' }, 'buckets'],
    ['a part that S3 refuses', { partSize: 1024 }, 'partSize'],
    ['half of the credentials', { accessKeyId: 'AKIA' }, 'secretAccessKey'],
    [
      'keys beside a provider',
      { accessKeyId: 'A', secretAccessKey: 'never-shown', credentials: async () => ({}) },
      'credentials',
    ],
    ['an endpoint that is no address', { endpoint: 'localhost:9000' }, 'endpoint'],
    ['credentials inside the endpoint', { endpoint: 'http://user:never-shown@localhost' }, 'endpoint'],
    ['an unknown key of the retry policy', { retry: { tries: 3 } }, 'tries'],
  ])('refuse %s', (_, options, named) => {
    const error = problem({ bucket: 'lake', ...options })
    expect(error).toMatchObject({ code: 'S3_CONFIG_INVALID', message: expect.stringContaining(named) as string })
    expect(inspect(error)).not.toContain('never-shown')
  })

  it.each([
    ['', 's3://lake'],
    ['a/b', 's3://lake/a/b'],
    ['/a/b/', 's3://lake/a/b'],
  ])('with the prefix %j make the address %s', (prefix, url) => {
    expect(new S3Handler({ bucket: 'lake', prefix }).url).toBe(url)
  })

  it('are described, each one, and the secrets are marked', () => {
    const keys = configKeys(s3ConfigSchema)
    expect(keys.filter((key) => key.description === undefined)).toEqual([])
    expect(keys.filter((key) => key.secret).map((key) => key.path.join('.'))).toEqual(['secretAccessKey', 'sessionToken'])
  })

  it('are not changed, and their secrets not shown', () => {
    const options = Object.freeze({ bucket: 'lake', accessKeyId: 'AKIA-NAME', secretAccessKey: 'never-to-be-printed' })
    const handler = new S3Handler(options)
    expect(inspect(handler, { depth: 10, showHidden: true })).not.toContain('never-to-be-printed')
    expect(JSON.stringify(handler)).not.toContain('never-to-be-printed')
  })
})

describe('the environment', () => {
  const keys = { AWS_ACCESS_KEY_ID: 'key', AWS_SECRET_ACCESS_KEY: 'never-shown' }

  it.each([
    ['nothing', { AWS_REGION: '' }, {}],
    ['an endpoint of all services', { AWS_ENDPOINT_URL: 'http://all' }, { endpoint: 'http://all' }],
    ['that of S3 first', { AWS_ENDPOINT_URL: 'http://all', AWS_ENDPOINT_URL_S3: 'http://s3' }, { endpoint: 'http://s3' }],
    ['none where it is to be ignored', { AWS_ENDPOINT_URL: 'http://all', AWS_IGNORE_CONFIGURED_ENDPOINT_URLS: 'true' }, {}],
    ['a region', { AWS_DEFAULT_REGION: 'eu-west-1', AWS_REGION: 'eu-central-1' }, { region: 'eu-central-1' }],
    ['the other region', { AWS_DEFAULT_REGION: 'eu-west-1' }, { region: 'eu-west-1' }],
    ['keys', { ...keys, AWS_SESSION_TOKEN: 't' }, { accessKeyId: 'key', secretAccessKey: 'never-shown', sessionToken: 't' }],
    ['no half of them', { AWS_ACCESS_KEY_ID: 'key' }, {}],
    ['no keys beside a profile', { ...keys, AWS_PROFILE: 'lake' }, {}],
  ])('gives %s', (_, variables, expected) => {
    expect(s3ConfigFromEnvironment(variables)).toEqual(expected)
  })

  it('comes after the options, and its keys not beside other credentials', () => {
    const variables = { ...keys, AWS_ENDPOINT_URL: 'not an address' }
    const make = (options: Partial<S3HandlerOptions>): unknown => {
      try {
        return S3Handler.fromEnvironment({ bucket: 'lake', ...options }, variables)
      } catch (error) {
        return error
      }
    }
    expect(make({})).toMatchObject({ code: 'S3_CONFIG_INVALID', message: expect.stringContaining('endpoint') as string })
    const endpoint = 'http://127.0.0.1'
    expect(make({ endpoint })).toBeInstanceOf(S3Handler)
    expect(make({ endpoint, credentials: async () => ({ accessKeyId: 'a', secretAccessKey: 'b' }) })).toBeInstanceOf(S3Handler)
  })
})

describe('a handler that was never used', () => {
  it('closes, twice', async () => {
    const handler = new S3Handler({ bucket: 'lake' })
    await handler.close()
    await handler.close()
    await expect(handler.head('x')).rejects.toMatchObject({ code: 'S3_CLOSED' })
  })
})
