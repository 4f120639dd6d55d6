import { afterEach, expect, it, vi } from 'vitest'
import { S3Handler } from '../src/index.ts'

afterEach(() => void vi.useRealTimers())

// Amazon S3 API Reference, "Authenticating requests: using query parameters", the example with its result.
it('signs an address as the documentation of S3 does', async () => {
  vi.useFakeTimers({ toFake: ['Date'], now: Date.parse('2013-05-24T00:00:00Z') })
  await using s3 = new S3Handler({
    bucket: 'examplebucket',
    endpoint: 'https://s3.amazonaws.com',
    forcePathStyle: false,
    accessKeyId: 'AKIAIOSFODNN7EXAMPLE',
    secretAccessKey: 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY',
  })
  const { url, expiresAt } = await s3.presignGet('test.txt', { expiresInMs: 86_400_000 })
  expect(url).toBe(
    'https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256' +
      '&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request' +
      '&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host' +
      '&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404',
  )
  expect(expiresAt.toISOString()).toBe('2013-05-25T00:00:00.000Z')
})

it('ends with the credentials, and carries their token', async () => {
  const expiration = new Date(Date.now() + 60_000)
  await using s3 = new S3Handler({
    bucket: 'lake',
    credentials: async () => ({
      accessKeyId: 'lease',
      secretAccessKey: 'secret-of-the-lease',
      sessionToken: 'token/+=',
      expiration,
    }),
  })
  const get = await s3.presignGet('a')
  expect(get.expiresAt).toEqual(expiration)
  expect(new URL(get.url).searchParams.get('X-Amz-Security-Token')).toBe('token/+=')
  expect((await s3.presignPost('a')).fields['x-amz-security-token']).toBe('token/+=')
})
