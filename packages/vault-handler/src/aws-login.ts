import { createHash, createHmac } from 'node:crypto'
import { registerSecretValue } from '@common-handlers/core'
import type { AwsConfig, AwsCredentials } from './config.ts'

const BODY = 'Action=GetCallerIdentity&Version=2011-06-15'
const CONTENT_TYPE = 'application/x-www-form-urlencoded; charset=utf-8'

/** A request to be signed. Its headers are all signed, the host with them. */
export interface SignableRequest {
  readonly url: URL
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
  readonly region: string
  readonly service: string
}

const hash = (text: string): string => createHash('sha256').update(text).digest('hex')
const hmac = (key: string | Buffer, text: string): Buffer => createHmac('sha256', key).update(text).digest()

/** `20150830T123600Z` */
const timestamp = (time: Date): string => time.toISOString().replace(/[-:]|\.\d+/g, '')

/**
 * The `Authorization` of a POST request without a query by Signature Version 4 ("Create a signed AWS API request" in the IAM
 * User Guide). STS needs no more of it than this, and so nobody needs an SDK for it.
 */
export function authorization(request: SignableRequest, credentials: AwsCredentials, time: Date): string {
  const all = { ...request.headers, host: request.url.host, 'x-amz-date': timestamp(time) }
  const headers = Object.entries(all)
    .map(([name, value]): [string, string] => [name.toLowerCase(), value.trim()])
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
  const names = headers.map(([name]) => name).join(';')
  const lines = headers.map(([name, value]) => `${name}:${value}\n`).join('')
  const canonical = ['POST', request.url.pathname, '', lines, names, hash(request.body)].join('\n')
  const scope = [timestamp(time).slice(0, 8), request.region, request.service, 'aws4_request']
  const toSign = ['AWS4-HMAC-SHA256', timestamp(time), scope.join('/'), hash(canonical)].join('\n')
  const key = scope.reduce<string | Buffer>(hmac, `AWS4${credentials.secretAccessKey}`)
  const signature = hmac(key, toSign).toString('hex')
  return `AWS4-HMAC-SHA256 Credential=${credentials.accessKeyId}/${scope.join('/')}, SignedHeaders=${names}, Signature=${signature}`
}

/** The body of a login by AWS IAM: a signed GetCallerIdentity that the server sends to STS ("AWS auth method (API)", Login). */
export function awsLogin(
  config: AwsConfig,
  credentials: AwsCredentials,
  time: Date = new Date(),
): Readonly<Record<string, string>> {
  // None of these may turn up in an error or a log line later.
  for (const value of [credentials.secretAccessKey, credentials.sessionToken]) if (value !== undefined) registerSecretValue(value)
  const region = config.region ?? 'us-east-1'
  const global = config.region === undefined ? 'https://sts.amazonaws.com/' : `https://sts.${region}.amazonaws.com/`
  const url = new URL(config.stsEndpoint ?? global)
  const headers = {
    'Content-Type': CONTENT_TYPE,
    ...(credentials.sessionToken === undefined ? {} : { 'X-Amz-Security-Token': credentials.sessionToken }),
    ...(config.serverId === undefined ? {} : { 'X-Vault-AWS-IAM-Server-ID': config.serverId }),
  }
  const signed = authorization({ url, headers, body: BODY, region, service: 'sts' }, credentials, time)
  const base64 = (text: string): string => Buffer.from(text).toString('base64')
  return {
    ...(config.role === undefined ? {} : { role: config.role }),
    iam_http_request_method: 'POST',
    iam_request_url: base64(url.href),
    iam_request_body: base64(BODY),
    iam_request_headers: base64(JSON.stringify({ ...headers, 'X-Amz-Date': timestamp(time), Authorization: signed })),
  }
}
