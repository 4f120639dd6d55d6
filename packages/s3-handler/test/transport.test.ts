import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { promisify } from 'node:util'
import { afterEach, describe, expect, it } from 'vitest'
import { Stop } from '../src/abort.ts'
import { parseConfig } from '../src/config.ts'
import { S3Handler, type S3HandlerOptions } from '../src/index.ts'
import { Transport } from '../src/transport.ts'

let server: Server | undefined
let asked = 0

/** The options of a server that gives every request the same answer. */
async function serving(
  status: number,
  headers: Readonly<Record<string, string>>,
  body: string,
  options: Partial<S3HandlerOptions> = {},
): Promise<S3HandlerOptions> {
  asked = 0
  server = createServer((_, response) => {
    asked++
    response.writeHead(status, headers)
    // Written before its end, it has no length but what the headers say.
    response.write(body)
    response.end()
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return { endpoint, bucket: 'lake', accessKeyId: 'key', secretAccessKey: 'never-shown', ...options }
}

async function answering(...args: Parameters<typeof serving>): Promise<S3Handler> {
  return new S3Handler(await serving(...args))
}

afterEach(() => {
  server?.closeAllConnections()
  server?.close()
})

describe('an answer without a length', () => {
  it('is an error, and no empty object', async () => {
    await using s3 = await answering(200, { etag: '"a"' }, 'some text')
    const missing = { code: 'S3_LENGTH_MISSING', retry: 'never', context: { key: 'a' } }
    await expect(s3.head('a')).rejects.toMatchObject(missing)
    await expect(s3.getBytes('a')).rejects.toMatchObject(missing)
    await expect(s3.get('a')).rejects.toMatchObject(missing)
    await expect(s3.download('a', '/dev/null')).rejects.toMatchObject(missing)
    expect(asked).toBe(4)
    expect(s3.stats().connections).toBeLessThanOrEqual(1)
  })

  it('is read where its range says how long it is', async () => {
    await using s3 = await answering(206, { etag: '"a"', 'content-range': 'bytes 0-3/9' }, 'some')
    expect((await s3.getBytes('a', { start: 0, end: 3 })).bytes.toString()).toBe('some')
    await using body = await s3.get('a', { start: 0, end: 3 })
    expect(Buffer.concat(await body.toArray()).toString()).toBe('some')
  })
})

describe('a proxy that answers with a page of its own', () => {
  const page = '<!doctype html><html><title>Please log in</title></html>'
  const unreadable = { code: 'S3_ANSWER_UNREADABLE' }

  it.each([
    ['a page', page],
    ['half a list', '<ListBucketResult><Contents><Key>a</Key></Contents>'],
  ])('gives no list: %s', async (_, body) => {
    await using s3 = await answering(200, { 'content-type': 'text/html' }, body, { retry: { attempts: 1 } })
    await expect(Array.fromAsync(s3.list(''))).rejects.toMatchObject(unreadable)
  })

  it('stores nothing', async () => {
    await using s3 = await answering(200, {}, page, { retry: { attempts: 1 } })
    await expect(s3.put('a', 'x')).rejects.toMatchObject(unreadable)
    await expect(s3.put('a', Buffer.alloc(9_000_000))).rejects.toMatchObject(unreadable)
  })

  it.each([
    [502, 'S3_SERVER_ERROR'],
    [504, 'S3_SERVER_ERROR'],
    [407, 'S3_REQUEST_FAILED'],
    [302, 'S3_REQUEST_FAILED'],
  ])('is told by its status: %i is %s', async (status, code) => {
    await using s3 = await answering(status, { 'content-type': 'text/html' }, page, { retry: { attempts: 1 } })
    await expect(s3.getText('a')).rejects.toMatchObject({ code, context: { status } })
  })
})

it('loads nothing of the SDK for transfers with keys that are given', async () => {
  const options = await serving(200, { etag: '"a"', 'content-length': '1' }, 'x', { retry: { attempts: 1 } })
  const script = `
    import { registerHooks } from 'node:module'
    const loaded = []
    registerHooks({
      resolve: (name, context, next) => {
        if (/^@(aws|smithy)/.test(name)) loaded.push(name)
        return next(name, context)
      },
    })
    const { S3Handler } = await import('@common-handlers/s3-handler')
    const s3 = new S3Handler(${JSON.stringify(options)})
    const { size } = await s3.put('a', 'x')
    const text = await s3.getText('a')
    const before = [...loaded]
    await s3.getTags('a').catch(() => undefined)
    process.stdout.write(JSON.stringify({ size, text, before, after: loaded.includes('@aws-sdk/client-s3') }))
    await s3.close()`
  const flags = ['--conditions=@common-handlers/source', '--input-type=module', '-e', script]
  const { stdout } = await promisify(execFile)(process.execPath, flags, { cwd: import.meta.dirname, timeout: 30_000 })
  expect(JSON.parse(stdout)).toEqual({ size: 1, text: 'x', before: [], after: true })
})

describe('what a header cannot carry', () => {
  it.each([
    ['sessionToken', { sessionToken: 'token\r\nx-evil: 1' }],
    ['accessKeyId', { accessKeyId: 'key\n' }],
  ])('is refused, unseen: %s', async (_, options) => {
    await using s3 = await answering(200, { etag: '"a"' }, '', options)
    const error: unknown = await s3.put('a', 'x').catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({ code: 'S3_OPTIONS_INVALID' })
    expect(String(error)).not.toMatch(/evil|token\r/)
    expect(asked).toBe(0)
  })

  it('is refused in an etag', async () => {
    await using s3 = await answering(200, { etag: '"a"' }, '')
    const written = s3.putIfMatch('a', 'x', '"a"\r\nx-evil: 1')
    await expect(written).rejects.toMatchObject({ code: 'S3_OPTIONS_INVALID', context: { name: 'if-match' } })
    expect(asked).toBe(0)
  })
})

describe('the address of a bucket', () => {
  const aws = new Transport(parseConfig({ bucket: 'lake', region: 'eu-central-1' }))
  it.each([
    ['lake', 'lake.s3.eu-central-1.amazonaws.com', '/key'],
    ['lake.2026', 's3.eu-central-1.amazonaws.com', '/lake.2026/key'],
    ['Old_Name', 's3.eu-central-1.amazonaws.com', '/Old_Name/key'],
    ['evil.org/', 's3.eu-central-1.amazonaws.com', '/evil.org//key'],
  ])('%s is %s%s', (bucket, host, path) => {
    expect(aws.address(bucket, 'key')).toEqual({ protocol: 'https:', host, path })
  })
})

describe('a signal that many requests hang on', () => {
  it('ends each of them, with its reason', () => {
    const control = new AbortController()
    const stops = [new Stop(control.signal), new Stop(control.signal)]
    stops[0]?.over()
    control.abort(new Error('enough'))
    expect(stops.map(({ signal }) => signal.aborted)).toEqual([false, true])
    expect(stops[1]?.signal.reason).toBe(control.signal.reason)
    expect(() => new Stop(control.signal)).toThrow('enough')
  })
})
