import { EventEmitter } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { AuthError } from '@common-handlers/core'
import { describeWith } from '@common-handlers/testkit'
import { expect, it } from 'vitest'
import { type CredentialProvider, type HeldCredentials, PostgresHandler } from '../src/index.ts'
import { allAtOnce, failure, ownDatabase } from './own-database.ts'

describeWith(['postgres'], 'credentials', ({ postgres }) => {
  const db = ownDatabase(postgres)

  let roles = 0
  const makeRole = async (): Promise<{ user: string; password: string }> => {
    const user = `rotating_${++roles}`
    const password = `pw-of-${user}-at-rest`
    await db.pg.executeScript(`CREATE ROLE ${user} LOGIN PASSWORD '${password}'; GRANT SELECT, INSERT ON written TO ${user}`)
    return { user, password }
  }
  const dropRole = (user: string): Promise<void> =>
    db.pg.executeScript(`REVOKE ALL ON ALL TABLES IN SCHEMA public FROM ${user}; DROP ROLE ${user}`)
  const openAs = async (user: string): Promise<unknown> =>
    (await db.pg.getRows('SELECT count(*)::int FROM pg_stat_activity WHERE usename = $1', [user]))[0]?.[0]

  /** What a lease of a vault does, with roles of this server: a role lives until nobody holds it. */
  class Roles extends EventEmitter implements CredentialProvider {
    current: { user: string; password: string } = { user: '', password: '' }
    readonly holders = new Map<string, number>()
    readonly rejected: string[] = []
    /** Users that were let go, with the connections they still had then. */
    readonly released: { user: string; open: Promise<unknown> }[] = []
    readonly work: Promise<unknown>[] = []

    async rotate(): Promise<void> {
      this.current = await makeRole()
      this.emit('rotated')
    }

    acquire(options: { readonly rejected?: HeldCredentials | undefined } = {}): Promise<HeldCredentials> {
      if (options.rejected !== undefined) this.rejected.push(options.rejected.user)
      const { user, password } = this.current
      this.holders.set(user, (this.holders.get(user) ?? 0) + 1)
      let held = true
      const release = (): void => {
        if (!held) return
        held = false
        const left = (this.holders.get(user) ?? 0) - 1
        this.holders.set(user, left)
        if (left > 0 || user === this.current.user) return
        const open = openAs(user)
        this.released.push({ user, open })
        this.work.push(open.then(() => dropRole(user)))
      }
      return Promise.resolve({ user, password, expiresAt: Infinity, release })
    }
  }

  const handler = (credentials: PostgresHandlerCredentials, pool: object = {}): PostgresHandler => {
    const { host, port, database } = db.address
    return new PostgresHandler({ host, port, database, credentials, pool })
  }
  type PostgresHandlerCredentials = NonNullable<ConstructorParameters<typeof PostgresHandler>[0]['credentials']>

  const whoAmI = async (pg: PostgresHandler): Promise<unknown> => (await pg.getRows('SELECT current_user'))[0]?.[0]

  it('move to another user under load, and no call fails', { timeout: 60_000 }, async () => {
    await db.pg.execute('CREATE TABLE written (id int)')
    const provider = new Roles()
    provider.current = await makeRole()
    const firstUser = provider.current.user
    const pg = handler(provider, { max: 6 })
    const stop = new AbortController()
    let calls = 0
    const users = new Set<unknown>()
    // This transaction begins as the first user and outlives ten of its followers.
    const started = Promise.withResolvers<void>()
    const finish = Promise.withResolvers<void>()
    const long = pg.transaction(async (transaction) => {
      await transaction.execute('INSERT INTO written VALUES (-1)')
      started.resolve()
      await finish.promise
      await transaction.execute('INSERT INTO written VALUES (-2)')
      return (await transaction.getRows('SELECT current_user'))[0]?.[0]
    })
    await started.promise
    const load = Array.from({ length: 8 }, async () => {
      while (!stop.signal.aborted) {
        const id = ++calls
        const [row] = await pg.getRows('SELECT current_user, pg_sleep(0.005)')
        users.add(row?.[0])
        await pg.execute('INSERT INTO written VALUES ($1)', [id])
      }
    })
    for (let turn = 0; turn < 12; turn++) {
      await sleep(50)
      await provider.rotate()
      await expect.poll(() => users.has(provider.current.user), { timeout: 20_000 }).toBe(true)
    }
    // All users but the first, who is still busy, and the last have gone, none of them with an open connection.
    await expect.poll(() => provider.released.length, { timeout: 20_000 }).toBe(11)
    expect(await openAs(firstUser)).toBe(1)
    expect(pg.poolStatus()).toMatchObject({ generations: 2 })
    finish.resolve()
    expect(await long).toBe(firstUser)
    await expect.poll(() => provider.released.map(({ user }) => user), { timeout: 20_000 }).toContain(firstUser)
    stop.abort()
    await Promise.all(load)
    await pg.close()
    expect(await Promise.all(provider.released.map(({ open }) => open))).toEqual(Array.from({ length: 12 }, () => 0))
    expect(provider.holders.get(provider.current.user)).toBe(0)
    expect(provider.listenerCount('rotated')).toBe(0)
    expect(await db.pg.getRows('SELECT count(*)::int FROM written WHERE id > 0')).toEqual([[calls]])
    await Promise.all(provider.work)
    await dropRole(provider.current.user)
  })

  it('keep the connections of a user whose password changes, and use the new one for logins', async () => {
    const provider = new Roles()
    provider.current = await makeRole()
    const { user } = provider.current
    await using pg = handler(provider)
    const [[before] = []] = await pg.getRows('SELECT pg_backend_pid()')
    await db.pg.execute(`ALTER ROLE ${user} PASSWORD 'another-pw-for-it'`)
    provider.current = { user, password: 'another-pw-for-it' }
    provider.emit('rotated')
    expect(await pg.getRows('SELECT pg_backend_pid()')).toEqual([[before]])
    await allAtOnce(pg, 3)
    expect(await openAs(user)).toBe(3)
    expect(pg.poolStatus()).toMatchObject({ generations: 1, opened: 3 })
    expect(provider.rejected).toEqual([])
    await pg.close()
    await dropRole(user)
  })

  it('are asked for once more when the server refuses them', async () => {
    const provider = new Roles()
    provider.current = await makeRole()
    const { user } = provider.current
    await using pg = handler(provider)
    // The password has changed, and the provider hears of it when it is told of the refusal.
    const stale = { user, password: 'the-one-before' }
    const good = provider.current
    provider.current = stale
    const { acquire } = provider
    provider.acquire = (options) => {
      if (options?.rejected !== undefined) provider.current = good
      return acquire.call(provider, options)
    }
    expect(await Promise.all([whoAmI(pg), whoAmI(pg), whoAmI(pg)])).toEqual([user, user, user])
    expect(provider.rejected).toEqual([user])
    await pg.close()
    // Where the provider has none but those, the refusal is the caller's.
    provider.acquire = acquire
    provider.current = stale
    await using refused = handler(provider)
    expect(await failure(whoAmI(refused))).toMatchObject({ name: 'AuthError', code: 'POSTGRES_LOGIN_REFUSED', retry: 'never' })
    expect(provider.rejected).toEqual([user, user])
    await refused.close()
    expect(provider.holders.get(user)).toBe(0)
    await dropRole(user)
  })

  it('cut a call that is still busy as a former user when the limit for draining has passed', async () => {
    const provider = new Roles()
    provider.current = await makeRole()
    await using pg = handler(provider, { drainTimeoutMs: 100 })
    const slow = failure(pg.execute('SELECT pg_sleep(60)'))
    await expect.poll(() => pg.poolStatus().busy, { timeout: 20_000 }).toBe(1)
    await provider.rotate()
    const error = await slow
    expect(error).toMatchObject({ code: 'POSTGRES_CONNECTION_LOST', retry: 'if-idempotent' })
    expect(error.message).toContain('its user has been replaced')
    expect(await whoAmI(pg)).toBe(provider.current.user)
    await pg.close()
    await Promise.all(provider.work)
    await dropRole(provider.current.user)
  })

  it('come from a function, for each login or until they expire', async () => {
    const { user, password } = db.address
    let asked = 0
    await using pg = handler(() => Promise.resolve({ user, password, n: ++asked }))
    await allAtOnce(pg, 2)
    await allAtOnce(pg, 3)
    // Two logins at one time share a question.
    expect([asked, pg.poolStatus().opened]).toEqual([2, 3])
    let kept = 0
    await using cached = handler(() => {
      kept++
      return Promise.resolve({ user, password, expiresAt: Date.now() + 3_600_000 })
    })
    for (let n = 1; n < 4; n++) {
      await allAtOnce(cached, n)
      await db.terminateOthers()
      await expect.poll(() => cached.poolStatus().total, { timeout: 20_000 }).toBe(0)
    }
    expect(kept).toBe(1)
    expect(cached.poolStatus().lost).toBe(6)
  })

  it('that a function cannot give are told as what it threw, without a secret', async () => {
    const { user, password } = db.address
    let fail = true
    await using pg = handler(() =>
      fail ? Promise.reject(new Error('token service is away')) : Promise.resolve({ user, password }),
    )
    expect(await failure(pg.connect({ timeoutMs: 5_000 }))).toMatchObject({
      code: 'POSTGRES_CREDENTIALS_UNAVAILABLE',
      retry: 'safe',
      message: expect.stringContaining('token service is away') as string,
    })
    fail = false
    expect(await whoAmI(pg)).toBe(user)
    const own = new AuthError('the lease has ended', { code: 'VAULT_LEASE_CLOSED' })
    await using other = handler(() => Promise.reject(own))
    expect(await failure(other.connect())).toBe(own)
  })

  it('stand in one place only, with the database named', () => {
    const credentials = (): Promise<never> => Promise.reject(new Error('not asked'))
    expect(() => new PostgresHandler({ user: 'app', database: 'main', credentials })).toThrow(
      /credentials: gives user and password/,
    )
    expect(() => new PostgresHandler({ credentials })).toThrow(/database: missing/)
  })
})
