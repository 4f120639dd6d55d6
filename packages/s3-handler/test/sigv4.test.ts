import { S3Client, UploadPartCommand } from '@aws-sdk/client-s3'
import { describe, expect, it } from 'vitest'
import { amzDate, encodePath, encodeQuery, RequestSigner } from '../src/sigv4.ts'

const EMPTY = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
const signatureOf = (authorization: string): string | undefined => /Signature=([0-9a-f]{64})$/.exec(authorization)?.[1]

// Amazon S3 API Reference, "Signature Calculations for the Authorization Header: Examples".
describe('the examples of the S3 API reference', () => {
  const credentials = { accessKeyId: 'AKIAIOSFODNN7EXAMPLE', secretAccessKey: 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY' }
  const signer = new RequestSigner('us-east-1', 's3')
  const host = 'examplebucket.s3.amazonaws.com'
  const date = { 'x-amz-date': '20130524T000000Z' }

  it.each([
    {
      name: 'GET Object',
      request: { method: 'GET', path: '/test.txt', query: '', payloadHash: EMPTY },
      headers: { host, range: 'bytes=0-9', 'x-amz-content-sha256': EMPTY, ...date },
      signature: 'f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41',
    },
    {
      name: 'PUT Object',
      request: {
        method: 'PUT',
        path: encodePath('/test$file.text'),
        query: '',
        payloadHash: '44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072',
      },
      headers: {
        date: 'Fri, 24 May 2013 00:00:00 GMT',
        host,
        'x-amz-content-sha256': '44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072',
        ...date,
        'x-amz-storage-class': 'REDUCED_REDUNDANCY',
      },
      signature: '98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd',
    },
    {
      name: 'GET Bucket Lifecycle',
      request: { method: 'GET', path: '/', query: encodeQuery({ lifecycle: '' }), payloadHash: EMPTY },
      headers: { host, 'x-amz-content-sha256': EMPTY, ...date },
      signature: 'fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543',
    },
    {
      name: 'GET Bucket (List Objects)',
      request: { method: 'GET', path: '/', query: encodeQuery({ prefix: 'J', 'max-keys': 2 }), payloadHash: EMPTY },
      headers: { host, 'x-amz-content-sha256': EMPTY, ...date },
      signature: '34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7',
    },
  ])('$name', ({ request, headers, signature }) => {
    expect(signatureOf(signer.authorization({ ...request, headers }, credentials))).toBe(signature)
  })
})

// The Signature Version 4 test suite that AWS publishes with its SDKs.
describe('the test suite of AWS', () => {
  const credentials = { accessKeyId: 'AKIDEXAMPLE', secretAccessKey: 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY' }
  const signer = new RequestSigner('us-east-1', 'service')
  const headers = { host: 'example.amazonaws.com', 'x-amz-date': '20150830T123600Z' }

  it.each([
    ['get-vanilla', 'GET', '', '5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31'],
    ['post-vanilla', 'POST', '', '5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b'],
    [
      'get-vanilla-query-order-key-case',
      'GET',
      encodeQuery({ Param2: 'value2', Param1: 'value1' }),
      'b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500',
    ],
  ])('%s', (_, method, query, signature) => {
    const request = { method, path: '/', query, headers, payloadHash: EMPTY }
    expect(signatureOf(signer.authorization(request, credentials))).toBe(signature)
  })
})

it('writes dates and encodes paths as the signature wants them', () => {
  expect(amzDate(new Date('2026-11-21T14:26:02.789Z'))).toBe('20261121T142602Z')
  expect(encodePath("/a b/ü'(!*)~/%")).toBe('/a%20b/%C3%BC%27%28%21%2A%29~/%25')
})

it('signs with the new key when the credentials or the day change', () => {
  const signer = new RequestSigner('us-east-1', 's3')
  const sign = (secretAccessKey: string, date: string): string | undefined =>
    signatureOf(
      signer.authorization(
        { method: 'GET', path: '/', query: '', headers: { host: 'h', 'x-amz-date': date }, payloadHash: EMPTY },
        { accessKeyId: 'a', secretAccessKey },
      ),
    )
  const first = sign('one', '20261121T000000Z')
  expect(new Set([first, sign('two', '20261121T000000Z'), sign('one', '20261122T000000Z')]).size).toBe(3)
  expect(sign('one', '20261121T000000Z')).toBe(first)
})

it('signs as the SDK does', async () => {
  const credentials = { accessKeyId: 'AKIDEXAMPLE', secretAccessKey: 'secret', sessionToken: 'token' }
  interface Sent {
    readonly method: string
    readonly path: string
    readonly query: Record<string, string>
    readonly headers: Record<string, string>
  }
  let sent: Sent | undefined
  const handle = async (request: Sent): Promise<never> => {
    sent = request
    throw new Error('not sent')
  }
  const client = new S3Client({ region: 'eu-west-1', credentials, maxAttempts: 1, requestHandler: { handle } as never })
  const input = {
    Bucket: 'bucket',
    Key: "a b/ü+'(1)*",
    UploadId: 'id+/=',
    PartNumber: 7,
    Body: 'body',
    SSECustomerAlgorithm: 'AES256',
  }
  await expect(client.send(new UploadPartCommand(input))).rejects.toThrow('not sent')
  if (sent === undefined) throw new Error('the SDK made no request')
  const { method, path, query, headers } = sent
  const authorization = headers['authorization'] ?? ''
  const names = /SignedHeaders=([^,]+)/.exec(authorization)?.[1]?.split(';') ?? []
  const ours = new RequestSigner('eu-west-1', 's3').authorization(
    {
      method,
      path: encodePath(decodeURIComponent(path)),
      query: encodeQuery(query),
      headers: Object.fromEntries(names.map((name) => [name, headers[name] ?? ''])),
      payloadHash: headers['x-amz-content-sha256'] ?? '',
    },
    credentials,
  )
  expect(names).toContain('x-amz-security-token')
  expect(ours).toBe(authorization)
})
