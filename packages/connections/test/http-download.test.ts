import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { brotliCompressSync, gzipSync, zstdCompressSync } from 'node:zlib'
import { createConnections, type HttpConfigInput, type HttpDownloadQuery, type IngestedItem } from '@common-handlers/connections'
import { MemoryStore } from '@common-handlers/storage'
import { afterEach, describe, expect, it } from 'vitest'
import { createProxy } from './proxy.ts'

const servers: Server[] = []
const connections = createConnections({ variables: {} })

afterEach(async () => {
  await connections.closeAllConnections()
  for (const server of servers.splice(0)) {
    server.closeAllConnections()
    server.close()
  }
})

async function listen(server: Server): Promise<string> {
  servers.push(server)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

interface Options {
  readonly etag?: string | undefined
  readonly headers?: Record<string, string>
  readonly ranges?: boolean
  /** Bytes after which the first answer is cut. */
  readonly cut?: number
  readonly head?: number
}

/** One file, as a server of files gives it. */
async function serve(content: () => Buffer, options: Options = {}): Promise<{ baseUrl: string; seen: string[] }> {
  const { headers = {}, ranges = true, cut = Infinity, head = 200 } = options
  const etag = 'etag' in options ? options.etag : '"1"'
  const seen: string[] = []
  let answered = 0
  const baseUrl = await listen(
    createServer((asked: IncomingMessage, response: ServerResponse) => {
      const { range, 'if-range': condition } = asked.headers
      seen.push([asked.method, asked.url, range].filter((part) => part !== undefined).join(' '))
      const whole = content()
      if (etag !== undefined) response.setHeader('etag', etag)
      for (const [name, value] of Object.entries(headers)) response.setHeader(name, value)
      if (asked.method === 'HEAD') return response.writeHead(head, head === 200 ? { 'content-length': whole.length } : {}).end()
      const start = ranges && (condition === undefined || condition === etag) ? Number(/\d+/.exec(range ?? '')?.[0] ?? 0) : 0
      const part = whole.subarray(start)
      response.writeHead(start > 0 ? 206 : 200, {
        'content-length': part.length,
        ...(start > 0 ? { 'content-range': `bytes ${start}-${whole.length - 1}/${whole.length}` } : {}),
      })
      if (answered++ > 0 || part.length <= cut) return response.end(part)
      return response.write(part.subarray(0, cut), () => setTimeout(() => response.destroy(), 20))
    }),
  )
  return { baseUrl, seen }
}

async function download(
  baseUrl: string,
  query: HttpDownloadQuery,
  config: Partial<HttpConfigInput> = {},
): Promise<readonly IngestedItem[]> {
  await using connector = await connections.createConnector({ protocol: 'http', baseUrl, ...config })
  return (await connector.fetchData(query)).items
}

describe('a download', () => {
  it('is one item, in memory or in a target, and had once', async () => {
    let content = Buffer.from('a,b\n1,2\n')
    const { baseUrl, seen } = await serve(() => content, {
      headers: { 'content-type': 'text/csv; charset=utf-8' },
      etag: undefined,
    })
    const [item] = await download(baseUrl, { download: '/out/report.csv?key=1' })
    expect(item).toMatchObject({ data: content, bytes: 8, mediaType: 'text/csv', source: `${baseUrl}/out/report.csv` })
    expect(JSON.stringify(item)).not.toContain('key=1')

    const dated = await serve(() => content, { etag: '"v1"' })
    const target = new MemoryStore()
    const query = { download: ['/out/report.csv', { path: '/out/report.csv?of=2', name: 'second.csv' }], target, prefix: 'raw' }
    expect((await download(dated.baseUrl, query)).map(({ location }) => location)).toEqual([
      'memory:/raw/out/report.csv',
      'memory:/raw/second.csv',
    ])
    expect(await download(dated.baseUrl, query)).toEqual([])
    expect(dated.seen.filter((line) => line.startsWith('GET'))).toHaveLength(2)
    expect(seen).toHaveLength(3)
    content = Buffer.from('changed')
    expect(await download(dated.baseUrl, query)).toHaveLength(2)
    expect((await target.getBytes('raw/out/report.csv')).bytes).toEqual(content)
  })

  it.each([
    ['goes on with a Range', {}, 'GET /f bytes=4-'],
    ['skips what it has where the server knows no Range', { ranges: false }, 'GET /f bytes=4-'],
    [
      'goes on by the time of change',
      { etag: undefined, headers: { 'last-modified': 'Sat, 21 Nov 2026 10:00:00 GMT' } },
      'GET /f bytes=4-',
    ],
  ])('that was cut %s', async (_title, options: Options, asked) => {
    const { baseUrl, seen } = await serve(() => Buffer.from('0123456789'), { cut: 4, ...options })
    expect((await download(baseUrl, { download: '/f' })).map(({ data }) => String(data))).toEqual(['0123456789'])
    expect(seen).toEqual(['HEAD /f', 'GET /f', 'HEAD /f', asked, 'HEAD /f'])
  })

  it('that was cut is not put together from two versions', async () => {
    const blind = await serve(() => Buffer.from('0123456789'), { cut: 4, etag: undefined })
    await expect(download(blind.baseUrl, { download: '/f' })).rejects.toMatchObject({
      code: 'HTTP_CANNOT_RESUME',
      retry: 'never',
    })
    let asked = 0
    const changing = await serve(() => Buffer.from(asked++ < 2 ? '0123456789' : 'abcdefghijk'), { cut: 4 })
    const left: string[] = []
    expect(await download(changing.baseUrl, { download: '/f', onLeft: ({ reason }) => left.push(reason) })).toEqual([])
    expect(left).toEqual(['changed'])
  })

  it('asks by GET where HEAD is refused', async () => {
    for (const head of [403, 405, 501]) {
      const { baseUrl } = await serve(() => Buffer.from('x'), { head })
      expect(await download(baseUrl, { download: '/f' })).toMatchObject([{ bytes: 1 }])
    }
    const { baseUrl } = await serve(() => Buffer.from('x'), { head: 404 })
    await expect(download(baseUrl, { download: '/f' })).rejects.toMatchObject({ code: 'HTTP_NOT_FOUND' })
  })

  it('is decoded where it comes encoded all the same, unless the file is', async () => {
    const encoded = gzipSync('content')
    const { baseUrl } = await serve(() => encoded, { headers: { 'content-encoding': 'gzip' }, cut: 9 })
    expect((await download(baseUrl, { download: '/f.csv' })).map(({ data }) => String(data))).toEqual(['content'])
    expect((await download(baseUrl, { download: '/f.csv.gz' })).map(({ data }) => data)).toEqual([encoded])
  })

  it('of several takes no two for one, and no name that leads elsewhere', async () => {
    const { baseUrl, seen } = await serve(() => Buffer.from('x'))
    for (const query of [
      { download: ['/f?a=1', '/f?a=2'] },
      { download: '/' },
      { download: '/a%2F..%2F..%2Fetc' },
      { download: { path: '/f', name: '../f' } },
      { download: '/f', pattern: '*' },
    ]) {
      await expect(download(baseUrl, query as HttpDownloadQuery)).rejects.toMatchObject({ code: 'FILES_QUERY_INVALID' })
    }
    expect(seen).toEqual([])
  })
})

describe('an answer that is encoded', () => {
  it.each([
    ['gzip', gzipSync],
    ['br', brotliCompressSync],
    ['zstd', zstdCompressSync],
  ] as const)('as %s is asked for and decoded', async (encoding, encode) => {
    let asked: string | string[] | undefined
    let body = encode('{"id":1}')
    const baseUrl = await listen(
      createServer((incoming, response) => {
        asked = incoming.headers['accept-encoding']
        response.writeHead(200, { 'content-type': 'application/json', 'content-encoding': encoding }).end(body)
      }),
    )
    const client = await connections.getConnection('http', { baseUrl, maxBodyBytes: 4_096 })
    expect(await client.requestRest()).toMatchObject({ body: { id: 1 }, bytes: Buffer.from('{"id":1}') })
    expect(asked).toBe('gzip, br, zstd')
    expect((await client.requestRest({ method: 'HEAD' })).bytes).toEqual(Buffer.alloc(0))
    body = encode(Buffer.alloc(100_000))
    await expect(client.requestRest()).rejects.toMatchObject({ code: 'HTTP_BODY_TOO_LARGE' })
    body = Buffer.from('{"id":1}')
    await expect(client.requestRest()).rejects.toMatchObject({ code: 'HTTP_ANSWER_INVALID' })
  })

  it('in a way that was not asked for is an error', async () => {
    const baseUrl = await listen(
      createServer((_asked, response) => response.writeHead(200, { 'content-encoding': 'lzw' }).end('x')),
    )
    const client = await connections.getConnection('http', baseUrl)
    await expect(client.requestRest()).rejects.toMatchObject({ code: 'HTTP_ANSWER_INVALID' })
  })
})

describe('a proxy', () => {
  const proxy = async (): Promise<{ proxyUrl: string; seen: string[] }> => {
    const { server, seen } = createProxy('me', 'a proxy secret')
    return { proxyUrl: await listen(server), seen }
  }
  const login = { proxyUsername: 'me', proxyPassword: 'a proxy secret' }

  it('takes all requests, with its own login', async () => {
    const { baseUrl } = await serve(() => Buffer.from('behind'))
    const { proxyUrl, seen } = await proxy()
    const client = await connections.getConnection('http', { baseUrl, proxyUrl, ...login })
    expect((await client.requestRest({ path: '/f' })).bytes.toString()).toBe('behind')
    expect(await download(baseUrl, { download: '/f' }, { proxyUrl, ...login })).toMatchObject([{ bytes: 6 }])
    expect(seen[0]).toBe(`GET ${baseUrl}/f`)
    const { ok, steps } = await connections.testConnection('http', { baseUrl, proxyUrl, ...login })
    expect(ok).toBe(true)
    expect(steps[2]?.name).toBe(`reach port ${new URL(proxyUrl).port}`)
  })

  it('that refuses, or is not there, is told from the server', async () => {
    const { baseUrl, seen: served } = await serve(() => Buffer.from('x'))
    const { proxyUrl } = await proxy()
    const wrong = { ...login, proxyPassword: 'wrong' }
    const refused = { code: 'HTTP_PROXY_REFUSED', outcome: 'auth', retry: 'never' }
    await expect((await connections.getConnection('http', { baseUrl, proxyUrl, ...wrong })).requestRest()).rejects.toMatchObject(
      refused,
    )
    const secure = await connections.getConnection('http', { baseUrl: baseUrl.replace('http:', 'https:'), proxyUrl, ...wrong })
    await expect(secure.requestRest()).rejects.toMatchObject(refused)
    const nowhere = await connections.getConnection('http', { baseUrl, proxyUrl: 'http://127.0.0.1:1', attempts: 1 })
    await expect(nowhere.requestRest()).rejects.toMatchObject({ code: 'HTTP_UNREACHABLE' })
    expect(served).toEqual([])
  })

  it('of the environment is taken where it is asked for alone', async () => {
    const { baseUrl } = await serve(() => Buffer.from('x'))
    const { proxyUrl, seen } = await proxy()
    const before = { ...process.env }
    try {
      delete process.env['http_proxy']
      delete process.env['no_proxy']
      process.env['HTTP_PROXY'] = proxyUrl
      process.env['NO_PROXY'] = ''
      await (await connections.getConnection('http', { baseUrl })).requestRest()
      expect(seen).toEqual([])
      const client = await connections.getConnection('http', { baseUrl, proxyUrl: 'environment' })
      await expect(client.requestRest()).rejects.toMatchObject({ code: 'HTTP_PROXY_REFUSED' })
      expect(seen).toEqual([`GET ${baseUrl}/`])
    } finally {
      process.env = before
    }
  })

  it.each([{ proxyUsername: 'me' }, login, { proxyUrl: 'environment', ...login }, { proxyUrl: 'socks5://host' }])(
    'is not configured by %j',
    async (keys) => {
      await expect(connections.getConnection('http', { baseUrl: 'http://host', ...keys })).rejects.toMatchObject({
        code: 'CONFIG_INVALID',
      })
    },
  )
})
