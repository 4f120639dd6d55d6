import { createHash } from 'node:crypto'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { inspect } from 'node:util'
import { createConnections, type HttpConfigInput, type HttpQuery } from '@common-handlers/connections'
import { afterEach, describe, expect, it } from 'vitest'

type Answer = (
  request: IncomingMessage & { readonly path: string; readonly at: URL },
  response: ServerResponse,
  count: number,
) => unknown

const servers: Server[] = []
const connections = createConnections({ variables: {} })

afterEach(async () => {
  await connections.closeAllConnections()
  for (const server of servers.splice(0)) {
    server.closeAllConnections()
    server.close()
  }
})

/** A server that answers as told; `seen` holds what it was asked. */
async function serve(answer: Answer): Promise<{ baseUrl: string; seen: IncomingMessage[] }> {
  const seen: IncomingMessage[] = []
  const server = createServer((request, response) => {
    seen.push(request)
    const at = new URL(request.url ?? '/', 'http://localhost')
    answer(Object.assign(request, { path: at.pathname, at }), response, seen.length)
  })
  servers.push(server)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return { baseUrl: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, seen }
}

const json = (response: ServerResponse, value: unknown, headers: Record<string, string> = {}): unknown =>
  response.writeHead(200, { 'content-type': 'application/json; charset=utf-8', ...headers }).end(JSON.stringify(value))

const client = (baseUrl: string, config: Partial<HttpConfigInput> = {}) =>
  connections.getConnection('http', { baseUrl, ...config })

async function records(baseUrl: string, query: HttpQuery, config: Partial<HttpConfigInput> = {}): Promise<unknown[]> {
  await using connector = await connections.createConnector({ protocol: 'http', baseUrl, ...config })
  return (await connector.fetchData(query)).items.map(({ data }) => data)
}

describe('a request', () => {
  it('goes below baseUrl, with query, headers and body', async () => {
    const { baseUrl, seen } = await serve(async (request, response) => {
      const body = Buffer.concat(await request.toArray()).toString()
      json(response, {
        method: request.method,
        url: request.url,
        type: request.headers['content-type'],
        body,
        x: request.headers['x-a'],
      })
    })
    const http = await client(`${baseUrl}/v2/`, { headers: { 'X-A': '1' } })
    const { body, mediaType, status } = await http.requestRest({
      method: 'POST',
      path: '/orders',
      query: { since: 9_007_199_254_740_993n, q: 'a b&c', none: undefined },
      body: { id: 1 },
    })
    expect([status, mediaType]).toEqual([200, 'application/json'])
    expect(body).toEqual({
      method: 'POST',
      url: '/v2/orders?since=9007199254740993&q=a+b%26c',
      type: 'application/json',
      body: '{"id":1}',
      x: '1',
    })
    expect(seen).toHaveLength(1)
  })

  it('reads integers with all their digits, and leaves other numbers and texts alone', async () => {
    const text = '{"a":9007199254740993,"b":1.2345678901234567,"c":"9007199254740993","d":[-9223372036854775808],"e":1e300}'
    const { baseUrl } = await serve((_request, response) =>
      response.setHeader('content-type', 'application/problem+json').end(text),
    )
    expect((await (await client(baseUrl)).requestRest()).body).toEqual({
      a: 9_007_199_254_740_993n,
      b: 1.2345678901234567,
      c: '9007199254740993',
      d: [-9_223_372_036_854_775_808n],
      e: 1e300,
    })
  })

  it.each([
    [401, 'HTTP_UNAUTHORIZED', 'auth', 'never'],
    [403, 'HTTP_FORBIDDEN', 'permission', 'never'],
    [404, 'HTTP_NOT_FOUND', 'not-found', 'never'],
    [410, 'HTTP_NOT_FOUND', 'not-found', 'never'],
    [409, 'HTTP_CONFLICT', 'conflict', 'never'],
    [412, 'HTTP_CONFLICT', 'conflict', 'never'],
    [408, 'HTTP_SERVER_TIMEOUT', 'timeout', 'if-idempotent'],
    [429, 'HTTP_RATE_LIMITED', 'capacity', 'safe'],
    [500, 'HTTP_SERVER_FAILED', 'remote', 'if-idempotent'],
    [503, 'HTTP_SERVER_FAILED', 'remote', 'if-idempotent'],
    [418, 'HTTP_STATUS', 'remote', 'never'],
  ])('that is answered with %i is %s', async (status, code, outcome, retry) => {
    const { baseUrl, seen } = await serve((_request, response) =>
      response.writeHead(status, { 'content-type': 'text/plain' }).end('what the server says'),
    )
    const http = await client(baseUrl, { attempts: 2 })
    await expect(http.requestRest({ path: '/x?key=1' })).rejects.toMatchObject({
      code,
      outcome,
      retry,
      message: `GET ${baseUrl}/x answered ${status}: what the server says`,
    })
    expect(seen).toHaveLength(retry === 'never' ? 1 : 2)
  })

  it('is tried again no sooner than Retry-After says', async () => {
    const times: number[] = []
    const { baseUrl } = await serve((_request, response, count) => {
      times.push(performance.now())
      return count === 1 ? response.writeHead(503, { 'retry-after': '1' }).end() : json(response, 'fine')
    })
    expect((await (await client(baseUrl)).requestRest()).body).toBe('fine')
    expect((times[1] ?? 0) - (times[0] ?? 0)).toBeGreaterThan(990)
  })

  it('gives up where Retry-After is past the budget', async () => {
    const { baseUrl, seen } = await serve((_request, response) => response.writeHead(429, { 'retry-after': '86400' }).end())
    await expect((await client(baseUrl)).requestRest()).rejects.toMatchObject({
      code: 'HTTP_RATE_LIMITED',
      retryAfterMs: 86_400_000,
    })
    expect(seen).toHaveLength(1)
  })

  it('that may have been done is not repeated, unless it may be', async () => {
    const { baseUrl, seen } = await serve((_request, response, count) => (count === 3 ? json(response, 1) : response.destroy()))
    const http = await client(baseUrl)
    await expect(http.requestRest({ method: 'POST' })).rejects.toMatchObject({
      code: 'HTTP_CONNECTION_LOST',
      retry: 'if-idempotent',
    })
    expect(seen).toHaveLength(1)
    expect((await http.requestRest({ method: 'POST', idempotent: true })).body).toBe(1)
    expect(seen).toHaveLength(3)
  })

  it('ends with a cut answer, the limit of a try, the caller’s limit and signal', async () => {
    const { baseUrl, seen } = await serve((request, response) => {
      if (request.path !== '/cut') return
      response.writeHead(200, { 'content-length': '100' }).write('half')
      setTimeout(() => response.destroy(), 5)
    })
    const patient = await client(baseUrl, { attempts: 2 })
    await expect(patient.requestRest({ path: '/cut' })).rejects.toMatchObject({ code: 'HTTP_CONNECTION_LOST' })
    expect(seen).toHaveLength(2)
    const http = await client(baseUrl, { timeoutMs: 40, attempts: 2 })
    await expect(http.requestRest()).rejects.toMatchObject({ code: 'HTTP_TIMEOUT', outcome: 'timeout' })
    await expect(http.requestRest({ timeoutMs: 10 })).rejects.toMatchObject({ code: 'HTTP_TIMEOUT' })
    const abort = new AbortController()
    const asked = http.requestRest({ signal: abort.signal })
    abort.abort(new Error('enough'))
    await expect(asked).rejects.toThrow('enough')
  })

  it('reads no body past maxBodyBytes, and no JSON that is none', async () => {
    const { baseUrl } = await serve((request, response) =>
      request.path === '/large'
        ? response.end(Buffer.alloc(2000))
        : response.setHeader('content-type', 'application/json').end('{'),
    )
    const http = await client(baseUrl, { maxBodyBytes: 1000 })
    await expect(http.requestRest({ path: '/large' })).rejects.toMatchObject({ code: 'HTTP_BODY_TOO_LARGE' })
    await expect(http.requestRest()).rejects.toMatchObject({ code: 'HTTP_ANSWER_INVALID' })
  })

  it('to nobody is safe to repeat', async () => {
    const { baseUrl } = await serve(() => undefined)
    servers[0]?.close()
    const http = await client(baseUrl, { attempts: 1 })
    await expect(http.requestRest()).rejects.toMatchObject({ code: 'HTTP_UNREACHABLE', retry: 'safe' })
  })

  it('waits for its turn', async () => {
    const times: number[] = []
    const { baseUrl } = await serve((_request, response) => {
      times.push(performance.now())
      response.end()
    })
    const http = await client(baseUrl, { requestsPerSecond: 50 })
    const began = performance.now()
    await Promise.all(Array.from({ length: 6 }, () => http.requestRest()))
    // Five intervals of 20 ms, less what the clock of timers rounds off; the first request may arrive late.
    expect((times.at(-1) ?? 0) - began).toBeGreaterThan(95)
  })

  it('with an ETag is answered with 304 where nothing has changed', async () => {
    const { baseUrl } = await serve((request, response) =>
      request.headers['if-none-match'] === '"v1"' ? response.writeHead(304).end() : json(response, [1], { etag: '"v1"' }),
    )
    const http = await client(baseUrl)
    const first = await http.requestRest()
    expect(first.etag).toBe('"v1"')
    expect(await http.requestRest({ etag: first.etag })).toMatchObject({ status: 304, body: undefined })
  })

  it('after close() is refused', async () => {
    const { baseUrl } = await serve((_request, response) => response.end())
    const http = await client(baseUrl)
    await connections.closeAllConnections()
    await expect(http.requestRest()).rejects.toMatchObject({ code: 'HTTP_CLOSED' })
  })
})

describe('the login', () => {
  it.each([
    [{}, undefined, undefined],
    [{ token: 'the token' }, 'Bearer the token', undefined],
    [{ username: 'ann', password: 'p:ü' }, `Basic ${Buffer.from('ann:p:ü').toString('base64')}`, undefined],
    [{ apiKey: 'the key' }, undefined, 'the key'],
    [{ apiKey: 'the key', apiKeyHeader: 'Authorization' }, 'the key', undefined],
  ])('%j', async (config, authorization, key) => {
    const { baseUrl, seen } = await serve((_request, response) => response.end())
    await (await client(baseUrl, config)).requestRest()
    expect([seen[0]?.headers.authorization, seen[0]?.headers['x-api-key']]).toEqual([authorization, key])
  })

  it('may stand in the URL', async () => {
    const { baseUrl, seen } = await serve((_request, response) => response.end())
    await (await connections.getConnection('http', `${baseUrl.replace('//', '//ann:p%40ss@')}/v1`)).requestRest({ path: 'x' })
    expect([seen[0]?.url, seen[0]?.headers.authorization]).toEqual([
      '/v1/x',
      `Basic ${Buffer.from('ann:p@ss').toString('base64')}`,
    ])
  })

  it.each([
    [{ token: 'one', apiKey: 'two' }, 'give one of token, apiKey'],
    [{ username: 'ann' }, 'password: needed together with username, password'],
    [{ tokenUrl: 'http://x/', clientId: 'c' }, 'clientSecret: needed together with tokenUrl, clientId, clientSecret'],
  ])('%j is refused', async (config, message) => {
    await expect(client('http://127.0.0.1:9', config)).rejects.toThrow(message)
  })

  /** Issues tokens that count up and takes the newest one alone. */
  const tokenServer = async (lifeSeconds: number) => {
    const tokens: string[] = []
    const asked: string[] = []
    const server = await serve(async (request, response) => {
      if (request.path === '/token') {
        asked.push(`${request.headers.authorization} ${Buffer.concat(await request.toArray()).toString()}`)
        tokens.push(`token number ${tokens.length + 1}`)
        return json(response, { access_token: tokens.at(-1), token_type: 'Bearer', expires_in: lifeSeconds })
      }
      return request.headers.authorization === `Bearer ${tokens.at(-1)}` ? json(response, 'in') : response.writeHead(401).end()
    })
    const login = { tokenUrl: `${server.baseUrl}/token`, clientId: 'a b', clientSecret: 's:ecret', scope: 'read write' }
    return { ...server, login, tokens, asked }
  }

  it('by OAuth 2 takes one token for all, with the client named as RFC 6749 says', async () => {
    const { baseUrl, login, tokens, asked } = await tokenServer(3600)
    const http = await client(baseUrl, login)
    const answers = await Promise.all(Array.from({ length: 8 }, () => http.requestRest()))
    expect(answers.map(({ body }) => body)).toEqual(Array.from({ length: 8 }, () => 'in'))
    expect(tokens).toHaveLength(1)
    expect(asked).toEqual([
      `Basic ${Buffer.from('a+b:s%3Aecret').toString('base64')} grant_type=client_credentials&scope=read+write`,
    ])
  })

  it('by OAuth 2 takes a new token when the old one is refused, once, and when it has ended', async () => {
    const { baseUrl, login, tokens } = await tokenServer(0)
    const http = await client(baseUrl, login)
    expect((await http.requestRest()).body).toBe('in')
    expect(tokens).toHaveLength(2)

    const longer = await tokenServer(3600)
    const other = await client(longer.baseUrl, longer.login)
    longer.tokens.push('revoked the others')
    expect((await other.requestRest()).body).toBe('in')
    expect(longer.tokens).toHaveLength(3)
  })

  it('by OAuth 2 is tried again, and not ended for all by one who gives up', async () => {
    const { baseUrl } = await serve((request, response, count) => {
      if (request.path !== '/token') return json(response, request.headers.authorization)
      if (count === 1) return response.writeHead(503).end()
      return setTimeout(() => json(response, { access_token: `token ${count}`, expires_in: 0 }), 20)
    })
    const http = await client(baseUrl, { tokenUrl: `${baseUrl}/token`, clientId: 'c', clientSecret: 'a secret' })
    const abort = new AbortController()
    const first = http.requestRest({ signal: abort.signal })
    const second = http.requestRest()
    abort.abort(new Error('enough'))
    await expect(first).rejects.toThrow('enough')
    expect((await second).body).toBe('Bearer token 3')
  })

  it('by OAuth 2 that is refused says so and shows no secret', async () => {
    const { baseUrl } = await serve((_request, response) =>
      response
        .writeHead(400, { 'content-type': 'application/json' })
        .end('{"error":"invalid_client","client_secret":"echoed it is"}'),
    )
    const login = { tokenUrl: `${baseUrl}/token`, clientId: 'c', clientSecret: 'never to be seen' }
    const error: unknown = await client(baseUrl, login).catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({ code: 'HTTP_UNAUTHORIZED', message: `POST ${baseUrl}/token answered 401: invalid_client` })
    expect(inspect(error, { depth: 9 })).not.toMatch(/never to be seen|echoed it is/)
  })
})

describe('a redirect', () => {
  it('is followed on the same host with the login, and to another without it', async () => {
    const other = await serve((_request, response) => json(response, 'there'))
    const { baseUrl, seen } = await serve((request, response) => {
      if (request.path === '/here') return json(response, 'here')
      return response.writeHead(307, { location: request.path === '/out' ? `${other.baseUrl}/file` : '/here' }).end()
    })
    const http = await client(baseUrl, { token: 'for this host', headers: { 'x-tenant': 'a' } })
    expect(await http.requestRest({ path: '/in' })).toMatchObject({ body: 'here', url: `${baseUrl}/here` })
    expect(seen.map(({ headers }) => headers.authorization)).toEqual(['Bearer for this host', 'Bearer for this host'])
    expect(await http.requestRest({ path: '/out', headers: { 'x-mine': '1' } })).toMatchObject({ body: 'there' })
    const { headers } = other.seen[0] ?? {}
    expect([headers?.authorization, headers?.['x-tenant'], headers?.['x-mine']]).toEqual([undefined, undefined, undefined])
  })

  it('is refused in a circle, for a POST, and to what is no web address', async () => {
    const { baseUrl, seen } = await serve((request, response) =>
      response.writeHead(302, { location: request.path === '/file' ? 'file:///etc/passwd' : '/again' }).end(),
    )
    const http = await client(baseUrl)
    await expect(http.requestRest()).rejects.toMatchObject({ code: 'HTTP_REDIRECT_REFUSED' })
    expect(seen).toHaveLength(6)
    await expect(http.requestRest({ method: 'POST' })).rejects.toThrow('redirects POST, which is not sent again elsewhere')
    await expect(http.requestRest({ path: '/file' })).rejects.toThrow('redirects to file://')
  })
})

describe('pages', () => {
  const all = [1, 2, 3, 4, 5].map((id) => ({ id }))

  it('by the Link header, also to another host, which gets no login', async () => {
    const other = await serve((_request, response) => json(response, [all[4]]))
    const { baseUrl } = await serve((request, response) => {
      const last = request.at.searchParams.get('p') === '2'
      const next = last ? `${other.baseUrl}/rest` : '/list?p=2'
      json(response, last ? all.slice(2, 4) : all.slice(0, 2), {
        link: `<http://x/?a=,;>; rel="prev", <${next}>; title="a, b"; rel="last next"`,
      })
    })
    const query: HttpQuery = { path: '/list', pages: { by: 'link' }, query: { p: 1 } }
    expect(await records(baseUrl, query, { token: 'for this host' })).toEqual(all.map(({ id }) => ({ id })))
    expect(other.seen[0]?.headers.authorization).toBeUndefined()
  })

  it('by a link in the answer', async () => {
    const { baseUrl } = await serve((request, response) => {
      const from = Number(request.at.searchParams.get('from') ?? 0)
      json(response, { items: all.slice(from, from + 2), links: { next: from < 4 ? `?from=${from + 2}` : null } })
    })
    expect(await records(baseUrl, { path: '/list', items: 'items', pages: { by: 'link', at: 'links.next' } })).toEqual(all)
  })

  it('by a cursor, over an empty page', async () => {
    const { baseUrl } = await serve((request, response) => {
      const cursor = Number(request.at.searchParams.get('after') ?? 0)
      json(response, { data: cursor === 1 ? [] : [all[cursor]], meta: { next: cursor < 4 ? cursor + 1 : undefined } })
    })
    const query: HttpQuery = { items: 'data', pages: { by: 'cursor', at: 'meta.next', parameter: 'after' }, query: { size: 1 } }
    expect(await records(baseUrl, query)).toEqual(all.filter(({ id }) => id !== 2))
  })

  it('by number and by offset, to the first empty one', async () => {
    const { baseUrl, seen } = await serve((request, response) => {
      const page = request.at.searchParams.get('page')
      const from = page === null ? Number(request.at.searchParams.get('offset')) : (Number(page) - 1) * 2
      json(response, all.slice(from, from + 2))
    })
    expect(await records(baseUrl, { pages: { by: 'page' } })).toEqual(all)
    expect(seen).toHaveLength(4)
    expect(await records(baseUrl, { pages: { by: 'offset' } })).toEqual(all)
    expect(seen.slice(4).map(({ url }) => url)).toEqual(['/?offset=0', '/?offset=2', '/?offset=4', '/?offset=5'])
  })

  it('that come twice end in an error', async () => {
    const { baseUrl } = await serve((_request, response, count) => json(response, { items: [count % 2], next: 'same' }))
    const circle: HttpQuery = { items: 'items', pages: { by: 'cursor', at: 'next' } }
    await expect(records(baseUrl, circle)).rejects.toThrow('the next page is one that was read before')
    const deaf = await serve((_request, response) => json(response, [1]))
    await expect(records(deaf.baseUrl, { pages: { by: 'page' } })).rejects.toThrow('page 2 is page 1 again')
    await expect(records(deaf.baseUrl, { items: 'data' })).rejects.toThrow('there is no list at "data"')
  })
})

describe('fetched items', () => {
  it('are records with key, source and lineage, or the answer as it came', async () => {
    const { baseUrl } = await serve((request, response) =>
      request.path === '/raw' ? response.end(Buffer.from([0, 255])) : json(response, { rows: [{ id: 7 }] }, { etag: '"e"' }),
    )
    await using connector = await connections.createConnector({ protocol: 'http', baseUrl })
    const { items } = await connector.fetchData({ path: '/list?api_key=hide', items: 'rows', key: 'id' })
    expect(items).toMatchObject([
      {
        source: `${baseUrl}/list`,
        key: '7',
        data: { id: 7 },
        mediaType: 'application/json',
        bytes: 8,
        watermark: '"e"',
        lineage: { protocol: 'http', query: 'GET /list', position: 0 },
      },
    ])
    const checksum = `sha256:${createHash('sha256')
      .update(Buffer.from([0, 255]))
      .digest('hex')}`
    expect((await connector.fetchData('/raw')).items).toMatchObject([{ data: Buffer.from([0, 255]), bytes: 2, checksum }])
  })

  it('are none where the ETag given back is still the one', async () => {
    const { baseUrl } = await serve((request, response) =>
      request.headers['if-none-match'] === '"e"' ? response.writeHead(304).end() : json(response, [{ id: 1 }], { etag: '"e"' }),
    )
    await using connector = await connections.createConnector({ protocol: 'http', baseUrl })
    for (const query of [{ path: '/' }, { path: '/', items: '' }]) {
      const { items, watermark } = await connector.fetchData(query)
      expect([items.length, watermark]).toEqual([1, '"e"'])
      expect((await connector.fetchData({ ...query, watermark })).items).toEqual([])
    }
  })
})

describe('the test of a connection', () => {
  const steps = async (config: HttpConfigInput): Promise<unknown[]> =>
    (await connections.testConnection('http', config)).steps.map(({ name, ok, detail, error }) => [
      name,
      ok,
      detail ?? error?.code,
    ])

  it('says what was tried', async () => {
    const { baseUrl } = await serve((request, response) => response.writeHead(request.path === '/' ? 404 : 403).end())
    const port = new URL(baseUrl).port
    const begin = [
      ['read the configuration', true, undefined],
      ['find 127.0.0.1', true, '127.0.0.1'],
      [`reach port ${port}`, true, undefined],
    ]
    expect(await steps({ baseUrl })).toEqual([...begin, ['ask for /', true, 'answered 404']])
    expect(await steps({ baseUrl, healthPath: '/health' })).toEqual([...begin, ['ask for /health', false, 'HTTP_FORBIDDEN']])
    const login = { tokenUrl: `${baseUrl}/token`, clientId: 'c', clientSecret: 'a secret' }
    expect(await steps({ baseUrl, ...login })).toEqual([...begin, ['log in', false, 'HTTP_FORBIDDEN']])
    servers[0]?.closeAllConnections()
    servers[0]?.close()
    expect((await steps({ baseUrl })).at(-1)).toEqual([`reach port ${port}`, false, 'CONNECTIONS_PORT_REFUSED'])
    expect((await steps({ baseUrl: 'http://nobody.invalid' })).at(-1)).toEqual([
      'find nobody.invalid',
      false,
      'CONNECTIONS_NAME_UNKNOWN',
    ])
  })
})
