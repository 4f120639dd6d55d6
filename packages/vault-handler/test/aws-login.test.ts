import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { authorization } from '../src/aws-login.ts'
import { VaultHandler, type VaultHandlerOptions } from '../src/index.ts'
import { failure } from './failure.ts'

const credentials = { accessKeyId: 'AKIDEXAMPLE', secretAccessKey: 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY' }

// From the "AWS Signature Version 4 test suite": post-vanilla and post-x-www-form-urlencoded.
describe('Signature Version 4', () => {
  const url = new URL('https://example.amazonaws.com/')
  const time = new Date('2015-08-30T12:36:00Z')
  const scope = 'Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request'
  it.each([
    [{}, '', 'SignedHeaders=host;x-amz-date, Signature=5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b'],
    [
      { 'Content-Type': 'application/x-www-form-urlencoded' },
      'Param1=value1',
      'SignedHeaders=content-type;host;x-amz-date, Signature=ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a',
    ],
  ])('signs %j %j as AWS does', (headers, body, signed) => {
    const request = { url, headers, body, region: 'us-east-1', service: 'service' }
    expect(authorization(request, credentials, time)).toBe(`AWS4-HMAC-SHA256 ${scope}, ${signed}`)
  })
})

// No AWS to ask: the request is held against what the server's documentation wants of it.
describe('a login by AWS IAM', () => {
  const cleanups: (() => void)[] = []
  afterEach(() => {
    for (const cleanup of cleanups.splice(0)) cleanup()
    vi.unstubAllEnvs()
  })

  async function logIn(aws: NonNullable<VaultHandlerOptions['aws']>): Promise<{ path: string; body: Record<string, string> }> {
    let seen: { path: string; body: Record<string, string> } | undefined
    const server = createServer((request, response) => {
      const chunks: Buffer[] = []
      request
        .on('data', (chunk: Buffer) => chunks.push(chunk))
        .on('end', () => {
          const login = request.url?.endsWith('/login') === true
          if (login)
            seen = { path: request.url ?? '', body: JSON.parse(Buffer.concat(chunks).toString()) as Record<string, string> }
          response.writeHead(200, { 'content-type': 'application/json' })
          response.end(JSON.stringify({ auth: { client_token: 'hvs.from-aws', lease_duration: 3600, renewable: true } }))
        })
    }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    cleanups.push(() => {
      server.closeAllConnections()
      server.close()
    })
    await using vault = new VaultHandler({ address: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, aws })
    await vault.connect()
    if (seen === undefined) throw new Error('no login was made')
    return seen
  }
  const text = (base64: string | undefined): string => Buffer.from(base64 ?? '', 'base64').toString()

  it('sends a signed GetCallerIdentity', async () => {
    const { path, body } = await logIn({ role: 'jobs', credentials: () => Promise.resolve(credentials) })
    expect(path).toBe('/v1/auth/aws/login')
    expect(Object.keys(body).toSorted()).toEqual([
      'iam_http_request_method',
      'iam_request_body',
      'iam_request_headers',
      'iam_request_url',
      'role',
    ])
    expect(body).toMatchObject({ role: 'jobs', iam_http_request_method: 'POST' })
    expect(text(body['iam_request_url'])).toBe('https://sts.amazonaws.com/')
    expect(text(body['iam_request_body'])).toBe('Action=GetCallerIdentity&Version=2011-06-15')
    const headers = JSON.parse(text(body['iam_request_headers'])) as Record<string, string>
    expect(headers).toEqual({
      'Content-Type': 'application/x-www-form-urlencoded; charset=utf-8',
      'X-Amz-Date': expect.stringMatching(/^\d{8}T\d{6}Z$/),
      Authorization: expect.stringMatching(
        /^AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE\/\d{8}\/us-east-1\/sts\/aws4_request, SignedHeaders=content-type;host;x-amz-date, Signature=[0-9a-f]{64}$/,
      ),
    })
    expect(JSON.stringify(body) + text(body['iam_request_headers'])).not.toContain(credentials.secretAccessKey)
  })

  it('signs the session token and the name of the server, for the STS of a region, at a mount', async () => {
    const { path, body } = await logIn({
      credentials: () => Promise.resolve({ ...credentials, sessionToken: 'a-session-token' }),
      region: 'eu-central-1',
      serverId: 'vault.example',
      mount: 'aws-prod',
    })
    expect(path).toBe('/v1/auth/aws-prod/login')
    expect(body['role']).toBeUndefined()
    expect(text(body['iam_request_url'])).toBe('https://sts.eu-central-1.amazonaws.com/')
    const headers = JSON.parse(text(body['iam_request_headers'])) as Record<string, string>
    expect(headers).toMatchObject({ 'X-Amz-Security-Token': 'a-session-token', 'X-Vault-AWS-IAM-Server-ID': 'vault.example' })
    expect(headers['Authorization']).toContain('/eu-central-1/sts/aws4_request')
    expect(headers['Authorization']).toContain(
      'SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-vault-aws-iam-server-id',
    )
  })

  it('takes its keys from the environment where no function gives them', async () => {
    vi.stubEnv('AWS_ACCESS_KEY_ID', 'AKIDFROMENV')
    vi.stubEnv('AWS_SECRET_ACCESS_KEY', 'a-key-from-the-environment')
    vi.stubEnv('AWS_SESSION_TOKEN', '')
    const { body } = await logIn({ stsEndpoint: 'https://sts.cn-north-1.amazonaws.com.cn' })
    expect(text(body['iam_request_url'])).toBe('https://sts.cn-north-1.amazonaws.com.cn/')
    expect(text(body['iam_request_headers'])).toContain('Credential=AKIDFROMENV/')
    vi.stubEnv('AWS_ACCESS_KEY_ID', '')
    expect(await failure(logIn({}))).toMatchObject({ name: 'ConfigError', code: 'VAULT_AWS_CREDENTIALS' })
  })
})
