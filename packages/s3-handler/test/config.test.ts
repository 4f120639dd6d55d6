import { inspect } from 'node:util'
import { configKeys } from '@common-handlers/core'
import { describe, expect, it } from 'vitest'
import { S3Handler, type S3HandlerOptions, s3ConfigSchema } from '../src/index.ts'

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

describe('a handler that was never used', () => {
  it('closes, twice', async () => {
    const handler = new S3Handler({ bucket: 'lake' })
    await handler.close()
    await handler.close()
    await expect(handler.head('x')).rejects.toMatchObject({ code: 'S3_CLOSED' })
  })
})
