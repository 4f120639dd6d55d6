import { AwsClient } from 'aws4fetch'
import type { S3Address } from './addresses.ts'

export interface S3RequestOptions {
  readonly body?: string | Uint8Array<ArrayBuffer>
  readonly headers?: Readonly<Record<string, string>>
  readonly signal?: AbortSignal
}

/** One signed request to an S3 server: `s3Request(s3, 'PUT', 'bucket/key', { body: 'text' })`. Any status is an answer. */
export async function s3Request(
  server: S3Address,
  method: string,
  path: string,
  options: S3RequestOptions = {},
): Promise<Response> {
  const { accessKeyId, secretAccessKey, region, endpoint } = server
  // Retries are off: who calls this wants to see what the server says.
  const client = new AwsClient({ accessKeyId, secretAccessKey, region, service: 's3', retries: 0 })
  return await client.fetch(`${endpoint}/${path}`, { method, ...options })
}

/** Throws while the server's own bucket cannot be looked at with its keys. */
export async function bucketReady(server: S3Address, signal: AbortSignal): Promise<void> {
  const response = await s3Request(server, 'GET', `${server.bucket}?list-type=2&max-keys=1`, { signal })
  await response.arrayBuffer()
  if (!response.ok) throw new Error(`listing bucket "${server.bucket}" answered ${response.status}`)
}

/** Makes a further bucket, so that one test file does not see the other's objects. */
export async function createBucket(server: S3Address, name: string): Promise<void> {
  const response = await s3Request(server, 'PUT', name)
  const text = await response.text()
  if (!response.ok) throw new Error(`making bucket "${name}" answered ${response.status}: ${text}`)
}
