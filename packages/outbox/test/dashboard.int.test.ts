import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describeWith } from '@common-handlers/testkit'
import { afterEach, expect, it } from 'vitest'
import { dashboard, type DashboardOptions } from '../src/dashboard.ts'
import { OutboxAdmin } from '../src/index.ts'
import { ownOutbox, until } from './own-outbox.ts'

const TOKEN = 'a token of 24 characters'

describeWith(['postgres'], 'the dashboard', ({ postgres }) => {
  const own = ownOutbox(postgres)
  const servers: Server[] = []
  const serve = async (options: Partial<DashboardOptions> = {}): Promise<string> => {
    const server = createServer(dashboard({ pool: own.pool, ...options }))
    servers.push(server)
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  }
  afterEach(() => {
    for (const server of servers.splice(0)) {
      server.closeAllConnections()
      server.close()
    }
  })
  const post = (url: string, body: unknown, headers: Record<string, string> = {}): Promise<Response> =>
    fetch(url, { method: 'POST', headers: { 'content-type': 'application/json', ...headers }, body: JSON.stringify(body) })
  const withToken = { authorization: `Bearer ${TOKEN}` }
  const kill = (type: string, count: number) =>
    own.pool.query(
      `INSERT INTO outbox.dead_letter (id, created_at, attempts, crashes, priority, reason, type, payload, error)
        SELECT nextval(pg_get_serial_sequence('outbox.event', 'id')), now(), 3, 0, 0, 'attempts', $1, '{"secret":"of a customer"}', 'no'
          FROM generate_series(1, $2)`,
      [type, count],
    )

  it('is one page that loads nothing and allows nothing but itself', async () => {
    const response = await fetch(`${await serve()}/`)
    const page = await response.text()
    expect(response.status).toBe(200)
    const policy = response.headers.get('content-security-policy') ?? ''
    expect(policy).toMatch(/^default-src 'none'; script-src 'sha256-[\w+/=]+'; style-src 'sha256-[\w+/=]+'; connect-src 'self'/)
    expect(policy).not.toContain('unsafe')
    expect(response.headers.get('cache-control')).toBe('no-store')
    expect(page).not.toMatch(/https?:|innerHTML|\son\w+=|style="/)
    expect(page.match(/<(script|style|link|img|iframe)\b[^>]*>/g)).toEqual([
      '<link rel="icon" href="data:,">',
      '<style>',
      '<script>',
    ])
  })

  it('tells depth, age, workers, dead letters and blocked keys, and no payload', async () => {
    const url = await serve()
    await own.put('mail', [1, 2, 3])
    await kill('mail', 2)
    const { stats, mayChange } = (await (await fetch(`${url}/api/stats`)).json()) as {
      stats: { types: { type: string; ready: number; deadLetters: number; oldestMs: number }[] }
      mayChange: boolean
    }
    expect(mayChange).toBe(false)
    expect(stats.types).toEqual([expect.objectContaining({ type: 'mail', ready: 3, deadLetters: 2 })])
    const listed = await (await fetch(`${url}/api/events?state=dead`)).text()
    expect(JSON.parse(listed)).toHaveLength(2)
    expect(listed).not.toContain('secret')
    expect(await (await fetch(`${url}/api/blocked-keys`)).json()).toEqual([])
    for (const place of ['nothing', 'api/nothing', 'api/__proto__', 'constructor', '../etc/passwd'])
      expect((await fetch(`${url}/${place}`)).status).toBe(404)
    expect((await fetch(`${url}/api/events?after=x`)).status).toBe(400)
    expect((await fetch(`${url}/api/events?limit=x&state=lost`)).status).toBe(200)
  })

  it('changes nothing without the token, nor with a wrong one, nor where it has none', async () => {
    await kill('mail', 2)
    const url = await serve({ token: TOKEN })
    const open = await serve()
    const attempts: [string, Record<string, string>, number][] = [
      [url, {}, 401],
      [url, { authorization: `Bearer ${TOKEN}x` }, 401],
      [url, { authorization: `Bearer ${TOKEN.slice(1)}` }, 401],
      [url, { authorization: `Basic ${TOKEN}` }, 401],
      [open, withToken, 403],
      [open, { authorization: 'Bearer undefined' }, 403],
    ]
    for (const [to, headers, status] of attempts)
      for (const action of ['redrive', 'pause', 'resume'])
        expect((await post(`${to}/api/${action}`, { type: 'mail', dryRun: false }, headers)).status, action).toBe(status)
    expect((await post(`${url}/api/redrive?token=${encodeURIComponent(TOKEN)}`, { type: 'mail', dryRun: false })).status).toBe(
      401,
    )
    expect((await fetch(`${url}/api/redrive`, { method: 'GET', headers: withToken })).status).toBe(404)
    expect((await fetch(`${url}/api/pause`, { method: 'PUT', headers: withToken })).status).toBe(405)
    expect(await own.one('SELECT count(*)::int FROM outbox.dead_letter')).toBe(2)
    expect(await own.one('SELECT count(*)::int FROM outbox.paused')).toBe(0)
    expect(() => dashboard({ pool: own.pool, token: 'short' })).toThrow(
      expect.objectContaining({ code: 'OUTBOX_CONFIG_INVALID' }),
    )
  })

  it('redrives, dry unless told otherwise, pauses and resumes with the token', async () => {
    await kill('mail', 3)
    await kill('other', 1)
    const url = await serve({ token: TOKEN })
    expect(await (await post(`${url}/api/redrive`, { type: 'mail' }, withToken)).json()).toMatchObject({ count: 3 })
    expect(await own.one('SELECT count(*)::int FROM outbox.dead_letter')).toBe(4)
    const [first] = await new OutboxAdmin({ pool: own.pool }).list({ state: 'dead' })
    const one = await post(`${url}/api/redrive`, { ids: [String(first?.id)], dryRun: false }, withToken)
    expect(await one.json()).toMatchObject({ count: 1, first: [{ from: String(first?.id), to: expect.stringMatching(/^\d+$/) }] })
    await post(`${url}/api/redrive`, { type: 'mail', dryRun: false }, withToken)
    expect(await own.one('SELECT array_agg(type) FROM outbox.dead_letter')).toEqual(['other'])
    expect(await own.one('SELECT count(*)::int FROM outbox.event')).toBe(3)
    expect(await (await post(`${url}/api/pause`, { type: 'mail' }, withToken)).json()).toEqual({ changed: true })
    expect(await own.one('SELECT array_agg(type) FROM outbox.paused')).toEqual(['mail'])
    expect(await (await post(`${url}/api/resume`, { type: 'mail' }, withToken)).json()).toEqual({ changed: true })
    await until(async () => (await own.one<number>('SELECT count(*)::int FROM outbox.paused')) === 0)
    const bad: [unknown, Record<string, string>][] = [
      [{}, {}],
      [[], {}],
      [{ type: 7 }, {}],
      [{ ids: ['x'] }, {}],
      [{ type: 'mail' }, { 'content-type': 'text/plain' }],
      [{ type: 'x'.repeat(70_000) }, {}],
    ]
    for (const [body, headers] of bad)
      expect(
        (await post(`${url}/api/redrive`, body, { ...withToken, ...headers })).status,
        JSON.stringify(body).slice(0, 50),
      ).toBe(400)
  })

  it('lives under a path, and says no more than that it failed when the database is gone', async () => {
    const url = await serve({ path: '/outbox/' })
    expect((await fetch(`${url}/outbox`)).url).toBe(`${url}/outbox/`)
    expect((await fetch(`${url}/outbox/api/stats`)).status).toBe(200)
    expect((await fetch(`${url}/api/stats`)).status).toBe(404)
    const gone = await serve({ pool: { connect: () => Promise.reject(new Error('host db.internal is down')) } })
    const answer = await fetch(`${gone}/api/stats`)
    expect(answer.status).toBe(503)
    expect(await answer.json()).toEqual({ code: 'OUTBOX_CONNECTION_FAILED', message: expect.not.stringContaining('db.internal') })
    expect((await fetch(`${gone}/`)).status).toBe(200)
  })
})
