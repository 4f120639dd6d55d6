import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { inspect } from 'node:util'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { TrinoHandler, type TrinoLogin, type TrinoOptions } from '../src/index.ts'
import { type Answer, cut, cutMidway, delayed, FaultServer, page, silence, status } from './fault-server.ts'

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

  it('tells the server again that it has left, when a proxy did not hand it on', async () => {
    await using server = await FaultServer.playing(page('/a'))
    server.answering({ '/a': [silence, status(503), cut, status(204)] })
    await using trino = handler(server)
    await expect(trino.query('SELECT n FROM t', [], { timeoutMs: 50 })).rejects.toMatchObject({ code: 'TRINO_TIMEOUT' })
    expect(server.log).toEqual(['POST /v1/statement', 'GET /a', ...Array(3).fill('DELETE /a')])
  })

  it('says that a statement may have been applied when its login could not be had any more', async () => {
    let left = 2
    const credentials = async (): Promise<TrinoLogin> => {
      if (left-- <= 0) throw new Error('no answer')
      return { token: 'a-short-token', expiresAt: 0 }
    }
    await using server = await FaultServer.playing(page('/a'), page('/b'))
    await using trino = handler(server, { credentials })
    await expect(trino.execute('INSERT INTO t VALUES 1')).rejects.toMatchObject({
      code: 'TRINO_CREDENTIALS_UNAVAILABLE',
      outcome: 'auth',
      retry: 'if-idempotent',
      context: { queryId: 'q1' },
    })
  })

  it('has no heart any more when an abort has ended a stream that nobody reads on', async () => {
    let asked = 0
    const credentials = async (): Promise<TrinoLogin> => ({ token: `token-number-${++asked}`, expiresAt: 0 })
    await using server = await FaultServer.playing(page('/a', [['1']]), page('/b', [['2']]))
    await using trino = handler(server, { credentials, heartbeatMs: 10 })
    const abort = new AbortController()
    const stream = trino.stream('SELECT n FROM t', [], { signal: abort.signal })
    await stream.next()
    abort.abort()
    while (!server.log.includes('DELETE /a')) await sleep(5)
    await sleep(20)
    const before = asked
    await sleep(100)
    expect(asked).toBe(before)
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

  it('ends at once while a connection is being made that nobody answers', async () => {
    const silent = createServer().listen(0, '127.0.0.1')
    await once(silent, 'listening')
    try {
      const { port } = silent.address() as AddressInfo
      await using trino = new TrinoHandler({ url: `https://127.0.0.1:${port}`, user: 'tester', connectTimeoutMs: 60_000 })
      const reason = new Error('enough')
      const connected = once(silent, 'connection')
      const abort = new AbortController()
      const running = trino.query('SELECT 1', [], { signal: abort.signal }).catch((error: unknown) => error)
      const [socket] = (await connected) as [Socket]
      abort.abort(reason)
      expect(await running).toBe(reason)
      socket.destroy()
    } finally {
      silent.close()
    }
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
      'accept-encoding': 'identity',
    })
  })

  it('tells an abandoned query and a server that was restarted from one that was forgotten', async () => {
    const errorCode = { code: 18, name: 'ABANDONED_QUERY', type: 'INTERNAL_ERROR' }
    const abandoned = status(200, JSON.stringify({ state: 'FAILED', errorCode, failureInfo: { message: 'no client' } }))
    await using server = await FaultServer.playing(page('/a'), status(410), abandoned)
    await using trino = handler(server)
    await expect(trino.query('SELECT 1')).rejects.toMatchObject({ code: 'TRINO_ABANDONED_QUERY', retry: 'if-idempotent' })
    expect(server.log).toHaveLength(3)

    const now = Date.parse('2026-11-21T12:00:00Z')
    const info = (uptime: string): Answer => status(200, JSON.stringify({ uptime }), { date: new Date(now).toUTCString() })
    for (const [uptime, why] of [
      ['5.00m', 'restarted'],
      ['2.50h', undefined],
    ] as const) {
      const first = page('/a', undefined, { id: '20261121_110000_00001_abcde' })
      await using restarted = await FaultServer.playing(first, status(404), status(404), info(uptime))
      await using other = handler(restarted)
      const error: unknown = await other.query('SELECT 1').catch((thrown: unknown) => thrown)
      expect(error).toMatchObject({ code: 'TRINO_QUERY_LOST', retry: 'if-idempotent' })
      expect((error as { context: { why?: string } }).context.why).toBe(why)
    }
  })

  it('binds values by a prepared statement when the server does not know EXECUTE IMMEDIATE', async () => {
    const errorLocation = { lineNumber: 1, columnNumber: 19 }
    const error = { message: 'line 1:19: no', errorCode: 1, errorName: 'SYNTAX_ERROR', errorType: 'USER_ERROR', errorLocation }
    const old = page(undefined, undefined, { error })
    await using server = await FaultServer.playing(old, page(undefined, [['1']]), page(undefined, [['2']]))
    await using trino = handler(server)
    expect((await trino.query('SELECT n FROM t WHERE n = ?', [1])).rows).toEqual([{ n: 1n }])
    for await (const row of trino.stream('SELECT n FROM t WHERE n = ?', [2])) expect(row).toEqual({ n: 2n })
    expect(server.requests.map(({ body, headers }) => [body.slice(0, 18), headers['x-trino-prepared-statement']])).toEqual([
      ['EXECUTE IMMEDIATE ', undefined],
      ['EXECUTE common_han', 'common_handlers_statement=SELECT%20n%20FROM%20t%20WHERE%20n%20%3D%20%3F'],
      ['EXECUTE common_han', 'common_handlers_statement=SELECT%20n%20FROM%20t%20WHERE%20n%20%3D%20%3F'],
    ])
  })

  it('tells the server that a resting reader is there, with GET where HEAD is not known', async () => {
    await using server = await FaultServer.playing(page('/a', [['1']]), page('/b', [['2']]), status(405), page('/c'), page('/c'))
    await using trino = handler(server, { heartbeatMs: 50, spooling: { encodings: [] } })
    const rows = trino.stream('SELECT n FROM t')
    await rows.next()
    while (server.log.length < 4) await sleep(5)
    expect(server.log.slice(0, 4)).toEqual(['POST /v1/statement', 'GET /a', 'HEAD /b', 'GET /b'])
    await rows.return()
  })

  describe('segments of spooled results', () => {
    const rows = (...texts: string[]): string => `[${texts.map((text) => `[${text}]`).join(',')}]`
    const spooled = (
      next: string | undefined,
      segments: readonly { path: string; text: string; offset: number; count: number; size?: number; headers?: object }[],
    ): Answer => {
      return (response, request) => {
        const at = `http://${request.headers.host}`
        const wire = segments.map(({ path, text, offset, count, size, headers }) => ({
          type: 'spooled',
          uri: `${at}${path}?X-Amz-Signature=a-signature`,
          ackUri: `${at}/ack${path}`,
          headers,
          metadata: { rowOffset: offset, rowsCount: count, segmentSize: size ?? Buffer.byteLength(text) },
        }))
        page(next, undefined, {
          columns: [{ name: 'n', type: 'bigint', typeSignature: { rawType: 'bigint', arguments: [] } }],
          data: { encoding: 'json', segments: wire },
        })(response, request)
      }
    }
    const [one, two] = [rows('1', '9007199254740993'), rows('3')]
    const first = { path: '/s1', text: one, offset: 0, count: 2 }
    const second = { path: '/s2', text: two, offset: 2, count: 1 }

    it('are fetched again after what passes, read in order and acknowledged', async () => {
      const answers: Record<string, Answer[]> = {
        '/s1': [cut, status(503), delayed(100, status(200, one))],
        '/s2': [status(429, '', { 'retry-after': '0' }), status(200, two)],
        '/ack/s1': [status(200)],
        '/ack/s2': [status(500)],
      }
      await using server = await FaultServer.playing(spooled(undefined, [first, second]))
      server.answering(answers)
      await using trino = handler(server, { spooling: { parallel: 2 } })
      expect((await trino.query('SELECT n FROM t')).rows).toEqual([{ n: 1n }, { n: 9_007_199_254_740_993n }, { n: 3n }])
      expect(server.log.filter((line) => line.startsWith('GET /ack')).toSorted()).toEqual(['GET /ack/s1', 'GET /ack/s2'])
    })

    it.each([
      ['too few rows', { ...first, count: 3 }, 'TRINO_SEGMENT_CORRUPT'],
      ['too few bytes', { ...first, size: 1_000 }, 'TRINO_SEGMENT_CORRUPT'],
      ['rows that were left out', { ...first, offset: 5 }, 'TRINO_SEGMENT_CORRUPT'],
      ['no JSON', { ...first, text: '[[1],[' }, 'TRINO_SEGMENT_CORRUPT'],
      ['nothing there', { ...first, path: '/gone' }, 'TRINO_SEGMENT_GONE'],
      ['nobody there for long', { ...first, path: '/busy' }, 'TRINO_UNAVAILABLE'],
      ['nothing at the coordinator', { ...first, path: '/v1/spooled/gone' }, 'TRINO_SEGMENT_GONE'],
    ])('are checked: %s', async (_, segment, code) => {
      await using server = await FaultServer.playing(spooled(undefined, [segment]))
      const gone = status(404, '<Error><Code>NoSuchKey</Code><StringToSign>a-signature</StringToSign></Error>')
      server.answering({
        '/s1': [status(200, segment.text)],
        '/gone': [gone],
        '/v1/spooled/gone': [status(404)],
        '/busy': Array(4).fill(status(503)),
        '/ack/s1': [status(200)],
      })
      await using trino = handler(server)
      const error: unknown = await trino.query('SELECT n FROM t').catch((thrown: unknown) => thrown)
      expect(error).toMatchObject({ code, retry: 'if-idempotent' })
      expect(inspect(error, { depth: 9 })).not.toContain('a-signature')
    })

    it('are fetched from a worker that the coordinator names, with their key and without the login', async () => {
      const key = { 'x-segment-key': ['a-segment-key'] }
      await using worker = await FaultServer.playing(status(200, two))
      const location = `${worker.url}/v1/spooled/download/s2`
      const segment = { ...second, path: '/v1/spooled/download/s2', offset: 0, headers: key }
      await using server = await FaultServer.playing(spooled(undefined, [segment]))
      server.answering({ [segment.path]: [status(303, '', { location })], [`/ack${segment.path}`]: [status(200)] })
      await using trino = handler(server, { password: 'a-long-password' })
      expect((await trino.query('SELECT n FROM t')).rows).toEqual([{ n: 3n }])
      const [atCoordinator, atAck] = server.requests.filter(({ path }) => path.includes('/v1/spooled'))
      const [atWorker, ...more] = worker.requests
      expect(more).toEqual([])
      for (const request of [atCoordinator, atAck, atWorker]) expect(request?.headers['x-segment-key']).toBe('a-segment-key')
      expect(atAck?.path).toMatch(/^\/ack/)
      expect(atAck?.headers.authorization).toMatch(/^Basic /)
      const told = Object.keys(atWorker?.headers ?? {})
      expect(told.filter((name) => name === 'authorization' || name.startsWith('x-trino'))).toEqual([])
    })

    it('are told nothing of who asks', async () => {
      await using server = await FaultServer.playing(
        spooled(
          undefined,
          [second].map((segment) => ({ ...segment, offset: 0 })),
        ),
      )
      server.answering({ '/s2': [status(200, two)], '/ack/s2': [status(200)] })
      await using trino = handler(server, { password: 'a-long-password' })
      await trino.query('SELECT n FROM t')
      const headers = server.requests.find(({ path }) => path.startsWith('/s2'))?.headers ?? {}
      expect(Object.keys(headers).filter((name) => name === 'authorization' || name.startsWith('x-trino'))).toEqual([])
      expect(server.requests.find(({ path }) => path === '/ack/s2')?.headers.authorization).toMatch(/^Basic /)
    })
  })
})
