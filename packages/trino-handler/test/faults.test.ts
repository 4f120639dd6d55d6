import { inspect } from 'node:util'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { TrinoHandler, type TrinoOptions } from '../src/index.ts'
import { cut, cutMidway, FaultServer, page, silence, status } from './fault-server.ts'

const handler = (server: { readonly url: string }, more: Partial<TrinoOptions> = {}): TrinoHandler =>
  new TrinoHandler({ url: server.url, user: 'tester', retry: { attempts: 4, baseDelayMs: 1, maxDelayMs: 5 }, ...more })

const nobody = { url: 'http://127.0.0.1:9' }

describe('TrinoHandler against a scripted HTTP server', () => {
  it('repeats a POST that a proxy or a starting server answered', async () => {
    await using server = await FaultServer.playing(status(503), status(502), status(504), page('/a'), page(undefined, [['1']]))
    await using trino = handler(server)
    expect((await trino.query('SELECT 1')).rows).toEqual([{ n: 1n }])
    expect(server.log).toEqual([...Array(4).fill('POST /v1/statement'), 'GET /a'])
  })

  it('does not repeat a POST whose connection was lost, and says that nothing has run', async () => {
    await using server = await FaultServer.playing(cut, page(undefined))
    await using trino = handler(server)
    await expect(trino.submit('INSERT INTO t VALUES 1')).rejects.toMatchObject({ code: 'TRINO_CONNECTION_LOST', retry: 'safe' })
    expect(server.log).toEqual(['POST /v1/statement'])
  })

  it('says that nothing was sent when nobody listens', async () => {
    await using trino = handler(nobody)
    await expect(trino.query('SELECT 1')).rejects.toMatchObject({
      code: 'TRINO_UNREACHABLE',
      retry: 'safe',
      outcome: 'connection',
    })
  })

  it('asks again for a page after 502, 503, 429, a cut and half an answer, and loses no row', async () => {
    const script = [
      status(502),
      status(503),
      status(429, '', { 'retry-after': '0' }),
      page('/b', [['1']]),
      cut,
      cutMidway,
      cutMidway,
      page(undefined, [['2']]),
    ]
    await using server = await FaultServer.playing(page('/a'), ...script)
    await using trino = handler(server)
    expect((await trino.query('SELECT n FROM t')).rows).toEqual([{ n: 1n }, { n: 2n }])
    expect(server.log).toEqual(['POST /v1/statement', ...Array(4).fill('GET /a'), ...Array(4).fill('GET /b')])
  })

  it('gives up when the budget is used: the statement may have been applied, and is cancelled', async () => {
    await using server = await FaultServer.playing(page('/a'), status(503), status(503), status(503), status(503), status(503))
    await using trino = handler(server)
    const error = { code: 'TRINO_UNAVAILABLE', retry: 'if-idempotent', context: { queryId: 'q1' } }
    await expect(trino.execute('INSERT INTO t VALUES 1')).rejects.toMatchObject(error)
    expect(server.log).toEqual(['POST /v1/statement', ...Array(4).fill('GET /a'), 'DELETE /a'])
  })

  it('waits as long as Retry-After says, and not at all when that ends after the budget', async () => {
    await using server = await FaultServer.playing(status(429, '', { 'retry-after': '86400' }), page(undefined))
    await using trino = handler(server)
    await expect(trino.query('SELECT 1')).rejects.toMatchObject({ code: 'TRINO_BUSY', retry: 'safe', retryAfterMs: 86_400_000 })
    expect(server.log).toHaveLength(1)
  })

  it('runs a statement again while the server says that it is starting', async () => {
    const starting = {
      error: { message: 'starting', errorCode: 65_551, errorName: 'SERVER_STARTING_UP', errorType: 'INTERNAL_ERROR' },
    }
    await using server = await FaultServer.playing(
      page(undefined, undefined, starting),
      page('/a'),
      page(undefined, undefined, starting),
      page(undefined, [['7']]),
    )
    await using trino = handler(server)
    expect((await trino.query('SELECT 7')).rows).toEqual([{ n: 7n }])
  })

  it('throws an error of the very first reply', async () => {
    const error = { message: 'no', errorCode: 1, errorName: 'SYNTAX_ERROR', errorType: 'USER_ERROR' }
    await using server = await FaultServer.playing(page(undefined, undefined, { error }))
    await using trino = handler(server)
    await expect(trino.submit('SELEC')).rejects.toMatchObject({ code: 'TRINO_SYNTAX_ERROR' })
  })

  it('says when the server has forgotten the query', async () => {
    for (const code of [404, 410]) {
      await using server = await FaultServer.playing(page('/a'), status(code))
      await using trino = handler(server)
      await expect(trino.execute('INSERT INTO t VALUES 1')).rejects.toMatchObject({
        code: 'TRINO_QUERY_LOST',
        retry: 'if-idempotent',
      })
      // It asks what became of the query, once, and does not insist.
      expect(server.log).toEqual(['POST /v1/statement', 'GET /a', 'GET /v1/query/q1?pruned=true'])
    }
  })

  it('submit sends the POST alone, until follow', async () => {
    await using server = await FaultServer.playing(page('/a'), page(undefined, [['5']], { updateType: 'INSERT', updateCount: 5 }))
    await using trino = handler(server)
    const submitted = await trino.submit('INSERT INTO t SELECT 5')
    await sleep(50)
    expect(server.log).toEqual(['POST /v1/statement'])
    expect(submitted.handle).toEqual({ queryId: 'q1', nextUri: `${server.url}/a` })
    expect(await submitted.follow()).toMatchObject({ queryId: 'q1', updateType: 'INSERT', updateCount: 5 })
    await expect(submitted.follow()).rejects.toMatchObject({ code: 'TRINO_ALREADY_FOLLOWED' })
  })

  it('asks where it was told to, whatever host nextUri names', async () => {
    await using server = await FaultServer.playing(page('http://elsewhere.invalid:1234/a?x=1'), page(undefined, [['1']]))
    await using trino = handler(server, { password: 'a-long-password' })
    await trino.query('SELECT 1')
    expect(server.log).toEqual(['POST /v1/statement', 'GET /a?x=1'])
  })

  it('ends a statement whose server is silent, and cancels it', async () => {
    await using server = await FaultServer.playing(page('/a'), silence)
    await using trino = handler(server)
    await expect(trino.query('SELECT 1', [], { timeoutMs: 50 })).rejects.toMatchObject({
      code: 'TRINO_TIMEOUT',
      outcome: 'timeout',
    })
    expect(server.log).toEqual(['POST /v1/statement', 'GET /a', 'DELETE /a'])
  })

  it('takes a long silence for a lost connection and asks again', async () => {
    await using server = await FaultServer.playing(page('/a'), silence, page(undefined, [['1']]))
    await using trino = handler(server, { requestTimeoutMs: 100 })
    expect((await trino.query('SELECT 1')).rows).toEqual([{ n: 1n }])
  })

  it('rejects with the reason of the signal, also while it waits to try again', async () => {
    await using server = await FaultServer.playing(page('/a'), status(503, '', { 'retry-after': '5' }))
    await using trino = handler(server)
    const reason = new Error('enough')
    const abort = new AbortController()
    const running = trino.query('SELECT 1', [], { signal: abort.signal })
    while (server.requests.length < 2) await sleep(5)
    abort.abort(reason)
    await expect(running).rejects.toBe(reason)
    expect(server.log.at(-1)).toBe('DELETE /a')
  })

  it('close() ends a stream that nobody reads any more', async () => {
    await using server = await FaultServer.playing(page('/a', [['1']]), page('/b', [['2']]), silence)
    const trino = handler(server)
    const stream = trino.stream('SELECT n FROM t')
    expect(await stream.next()).toEqual({ done: false, value: { n: 1n } })
    await trino.close({ graceMs: 20 })
    expect(server.log.at(-1)).toMatch(/^DELETE /)
    await expect(trino.query('SELECT 1')).rejects.toMatchObject({ code: 'TRINO_CLOSED' })
    await trino.close()
  })

  it('asks for one page ahead and no more', async () => {
    await using server = await FaultServer.playing(
      page('/a', [['1']]),
      page('/b', [['2']]),
      page('/c', [['3']]),
      page(undefined, [['4']]),
    )
    await using trino = handler(server)
    const stream = trino.stream('SELECT n FROM t')
    await stream.next()
    await sleep(50)
    expect(server.log).toEqual(['POST /v1/statement', 'GET /a'])
    await stream.return()
    expect(server.log.at(-1)).toBe('DELETE /b')
  })

  it('tells a server that is not Trino', async () => {
    await using server = await FaultServer.playing(status(200, '<html>hello'), status(200, '{"a":1}'))
    await using trino = handler(server)
    await expect(trino.query('SELECT 1')).rejects.toMatchObject({ code: 'TRINO_PROTOCOL', retry: 'never' })
    await expect(trino.connect()).rejects.toMatchObject({ code: 'TRINO_PROTOCOL' })
  })

  it('shows the password to the server and to nobody else', async () => {
    await using server = await FaultServer.playing(status(401, 'no'), cut)
    await using trino = handler(server, { password: 'a-long-password' })
    const first: unknown = await trino.query('SELECT 1').catch((error: unknown) => error)
    const second: unknown = await trino.query('SELECT 1').catch((error: unknown) => error)
    expect(first).toMatchObject({ code: 'TRINO_UNAUTHENTICATED', outcome: 'auth', retry: 'never' })
    const basic = Buffer.from('tester:a-long-password').toString('base64')
    expect(server.requests[0]?.headers.authorization).toBe(`Basic ${basic}`)
    for (const error of [first, second]) {
      const printed = inspect(error, { depth: 20, showHidden: true }) + JSON.stringify(error)
      expect(printed).not.toContain('a-long-password')
      expect(printed).not.toContain(basic)
    }
  })

  it('sends who, where and how', async () => {
    await using server = await FaultServer.playing(page(undefined, [['1']]))
    const sessionProperties = { query_max_run_time: '10m', 'lake.a': 'x, y=ü' }
    await using trino = handler(server, {
      token: 'a.jwt.token',
      catalog: 'lake',
      schema: 'app',
      sessionProperties,
      clientTags: ['a', 'b'],
      timeZone: 'Europe/Berlin',
    })
    await trino.query('SELECT 1')
    expect(server.requests[0]?.headers).toMatchObject({
      authorization: 'Bearer a.jwt.token',
      'x-trino-user': 'tester',
      'x-trino-catalog': 'lake',
      'x-trino-schema': 'app',
      'x-trino-session': 'query_max_run_time=10m,lake.a=x%2C%20y%3D%C3%BC',
      'x-trino-client-tags': 'a,b',
      'x-trino-time-zone': 'Europe/Berlin',
      'x-trino-client-capabilities': 'PATH,PARAMETRIC_DATETIME,SESSION_AUTHORIZATION',
      'x-trino-source': 'common-handlers',
    })
  })
})
