import { execFile } from 'node:child_process'
import { createSign } from 'node:crypto'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { inspect, promisify } from 'node:util'
import { startTrino, describeWith, type TrinoSecurity, type TrinoServer } from '@common-handlers/testkit'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { TrinoHandler, type TrinoLogin, type TrinoOptions } from '../src/index.ts'

const run = promisify(execFile)
/** How long the server lets a query live that nobody asks for. */
const ABANDONED_MS = 5_000

const base64url = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url')

function jwt(key: string, sub: string, seconds: number): string {
  const text = `${base64url({ alg: 'RS256', typ: 'JWT' })}.${base64url({ sub, exp: Math.floor(Date.now() / 1000) + seconds })}`
  return `${text}.${createSign('RSA-SHA256').update(text).sign(key, 'base64url')}`
}

describeWith(['trino'], 'a Trino that asks who it is, and forgets readers soon', ({ trino: { s3 } }) => {
  let server: TrinoServer
  let security: TrinoSecurity
  beforeAll(async () => {
    // Segments are asked for at the coordinator, which sends on to the store.
    const spooling = { 'protocol.spooling.retrieval-mode': 'COORDINATOR_STORAGE_REDIRECT' }
    const accessRules = { impersonation: [{ original_user: 'alice', new_user: 'carol' }] }
    const settings = { 'query.client.timeout': `${ABANDONED_MS}ms`, ...spooling }
    server = await startTrino({ s3, secure: true, settings, accessRules })
    if (server.security === undefined) throw new Error('the server has no HTTPS')
    security = server.security
    await security.setPasswords({ alice: 'a-first-password' })
  }, 300_000)
  afterAll(() => server.stop(), 60_000)

  const who = async (options: Partial<TrinoOptions>): Promise<unknown> => {
    const { tls, ...rest } = options as { tls?: object }
    const all = { url: security.url, user: 'alice', tls: { caCert: security.caCert, ...tls }, retry: { attempts: 1 }, ...rest }
    await using trino = new TrinoHandler(all)
    return (await trino.query('SELECT current_user AS u')).rows
  }
  const eventually = async <T>(work: () => Promise<T>): Promise<T> => {
    for (let tries = 0; ; tries++) {
      try {
        return await work()
      } catch (error) {
        if (tries === 50) throw error
        await sleep(100)
      }
    }
  }

  describe('logs in', () => {
    it('with a password over TLS', async () => {
      expect(await eventually(() => who({ password: 'a-first-password' }))).toEqual([{ u: 'alice' }])
      const error: unknown = await who({ password: 'a-wrong-password' }).catch((thrown: unknown) => thrown)
      expect(error).toMatchObject({ code: 'TRINO_UNAUTHENTICATED', retry: 'never' })
      expect(inspect(error, { depth: 9 })).not.toContain('a-wrong-password')
      await expect(who({})).rejects.toMatchObject({ code: 'TRINO_UNAUTHENTICATED' })
    })

    it('with a JWT', async () => {
      expect(await who({ user: 'jane', token: jwt(security.jwtKey, 'jane', 60) })).toEqual([{ u: 'jane' }])
      await expect(who({ user: 'jane', token: jwt(security.jwtKey, 'jane', -3_600) })).rejects.toMatchObject({
        code: 'TRINO_UNAUTHENTICATED',
      })
      // Who logs in as one and asks to be another needs the right to.
      await expect(who({ user: 'jane', sessionUser: 'root', token: jwt(security.jwtKey, 'jane', 60) })).rejects.toMatchObject({
        outcome: 'permission',
      })
    })

    it('with a client certificate', async () => {
      const { clientCert, clientKey, certificateUser } = security
      expect(await who({ user: certificateUser, tls: { clientCert, clientKey } })).toEqual([{ u: certificateUser }])
    })

    it('nowhere that cannot prove its name', async () => {
      await eventually(() => who({ password: 'a-first-password' }))
      for (const tls of [{ caCert: undefined }, { serverName: 'elsewhere.example.com' }, { caCert: security.clientCert }]) {
        await expect(who({ password: 'a-first-password', tls })).rejects.toMatchObject({ code: 'TRINO_TLS', retry: 'never' })
      }
      expect(await who({ password: 'a-first-password', tls: { serverName: 'localhost' } })).toEqual([{ u: 'alice' }])
      expect(await who({ password: 'a-first-password', tls: { caCert: undefined, verify: false } })).toEqual([{ u: 'alice' }])
    })
  })

  it('takes new passwords, tokens and certificates while it lives, in the middle of a result too', async () => {
    let asked = 0
    let login: TrinoLogin = { password: 'a-first-password' }
    const credentials = async (): Promise<TrinoLogin> => {
      asked++
      return login
    }
    const tls = { caCert: security.caCert }
    await using trino = new TrinoHandler({ url: security.url, user: 'alice', tls, credentials, spooling: { encodings: [] } })
    await eventually(() => trino.query('SELECT 1'))
    const before = asked
    await Promise.all([1, 2, 3].map(() => trino.query('SELECT 1')))
    expect(asked).toBe(before)
    const rows = trino.pages('SELECT * FROM tpch.sf1.orders')
    await rows.next()
    login = { password: 'a-second-password' }
    await security.setPasswords({ alice: 'a-second-password' })
    await eventually(async () => {
      await expect(who({ password: 'a-first-password' })).rejects.toMatchObject({ outcome: 'auth' })
    })
    let count = 0
    for await (const page of rows) count += page.rows.length
    expect(count).toBeGreaterThan(1_400_000)
    expect((await trino.query('SELECT current_user AS u')).rows).toEqual([{ u: 'alice' }])
    expect(asked).toBe(before + 1)
    // A token that ends soon is asked for anew before it does.
    login = { user: 'jane', token: jwt(security.jwtKey, 'jane', 10), expiresAt: Date.now() + 10_000 }
    await security.setPasswords({ alice: 'a-third-password' })
    await eventually(async () => {
      expect((await trino.query('SELECT current_user AS u')).rows).toEqual([{ u: 'jane' }])
    })
    const { clientCert, clientKey, certificateUser } = security
    login = { user: certificateUser, clientCert, clientKey }
    expect((await trino.query('SELECT current_user AS u')).rows).toEqual([{ u: certificateUser }])
  })

  it('takes a lease: held for the time of an exchange, and told what was refused', async () => {
    await security.setPasswords({ alice: 'a-lease-password' })
    await eventually(() => who({ password: 'a-lease-password' }))
    let held = 0
    const refused: unknown[] = []
    const stale = { user: 'alice', password: 'a-stale-password', expiresAt: Infinity, release: () => void held-- }
    const good = { ...stale, password: 'a-lease-password' }
    let current = stale
    const credentials = {
      acquire: async ({ rejected }: { rejected?: unknown } = {}) => {
        if (rejected !== undefined) {
          refused.push(rejected)
          current = good
        }
        held++
        return current
      },
    }
    const trino = new TrinoHandler({ url: security.url, user: 'nobody', tls: { caCert: security.caCert }, credentials })
    expect((await trino.query('SELECT current_user AS u')).rows).toEqual([{ u: 'alice' }])
    // In the place of who has logged in, which is not the user of the options.
    const session = trino.session()
    await session.execute("SET SESSION AUTHORIZATION 'carol'")
    expect((await session.query('SELECT current_user AS u')).rows).toEqual([{ u: 'carol' }])
    await session.execute('RESET SESSION AUTHORIZATION')
    expect((await session.query('SELECT current_user AS u')).rows).toEqual([{ u: 'alice' }])
    await trino.close()
    expect(refused).toEqual([stale])
    expect(held).toBe(0)
  })

  describe.each([
    ['direct', []],
    ['spooled', ['json+zstd' as const]],
  ])('a reader of %s results', (_, encodings) => {
    const options = (): TrinoOptions => ({ url: server.url, user: 'test', spooling: { encodings, parallel: 1 } })

    it('who rests longer than the server waits keeps the query', { timeout: 60_000 }, async () => {
      await using trino = new TrinoHandler({ ...options(), heartbeatMs: 1_000 })
      let rows = 0
      let rested = false
      for await (const page of trino.pages('SELECT * FROM tpch.sf10.orders LIMIT 1000000')) {
        rows += page.rows.length
        if (!rested && rows > 1_000) {
          rested = true
          await sleep(2.5 * ABANDONED_MS)
        }
      }
      expect(rows).toBe(1_000_000)
    })

    it('who says nothing for so long is told that the query was abandoned', { timeout: 60_000 }, async () => {
      await using trino = new TrinoHandler({ ...options(), heartbeatMs: 600_000 })
      const reading = (async () => {
        let rows = 0
        for await (const page of trino.pages('SELECT * FROM tpch.sf10.orders')) {
          if (rows === 0) await sleep(2.5 * ABANDONED_MS)
          rows += page.rows.length
        }
      })()
      await expect(reading).rejects.toMatchObject({ code: 'TRINO_ABANDONED_QUERY', retry: 'if-idempotent' })
    })
  })

  describe('a process that ends in the middle of a statement leaves none running:', () => {
    const script = join(import.meta.dirname, 'leave-running.ts')
    const leaving = async (how: string): Promise<string> => {
      const args = ['--conditions=@common-handlers/source', script, how, security.url, 'alice']
      const env = { PASSWORD: 'a-leaving-password', CA: security.caCert }
      const child = await run(process.execPath, args, { env }).catch((error: unknown) => error as { stdout: string })
      return child.stdout.trim()
    }
    beforeAll(async () => {
      await security.setPasswords({ alice: 'a-leaving-password' })
      await eventually(() => who({ password: 'a-leaving-password' }))
    })

    it.each(['exit', 'throw', 'end'])('by %s, at once', { timeout: 60_000 }, async (how) => {
      const queryId = await leaving(how)
      expect(queryId).toMatch(/^\d{8}_/)
      await using trino = new TrinoHandler({ url: server.url, user: 'alice' })
      // Left alone, it would have ended as abandoned.
      await expect(trino.attach(queryId).follow()).rejects.toMatchObject({ code: 'TRINO_USER_CANCELED' })
    })

    it('by kill -9, when the server finds out', { timeout: 60_000 }, async () => {
      const queryId = await leaving('kill')
      await using trino = new TrinoHandler({ url: server.url, user: 'alice' })
      await expect(trino.attach(queryId).follow()).rejects.toMatchObject({ code: 'TRINO_ABANDONED_QUERY' })
    })
  })
})
