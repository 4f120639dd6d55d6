import { execFile } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { inspect, promisify } from 'node:util'
import { scrub } from '@common-handlers/core'
import {
  describeWith,
  openbaoAdmin,
  openbaoDatabase,
  type OpenBaoDatabase,
  runOnPostgres,
  startDurableOpenBao,
  startOpenBao,
} from '@common-handlers/testkit'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { z } from 'zod'
import { type Lease, VaultHandler, type VaultHandlerOptions } from '../src/index.ts'
import { failure } from './failure.ts'
import { recordingProxy } from './recording-proxy.ts'

const unique = (name: string): string => `${name}-${randomUUID().slice(0, 8)}`
/** Waits until something is so; the test's own time limit ends it. */
const until = (condition: () => Promise<boolean> | boolean): Promise<void> =>
  vi.waitFor(
    async () => {
      if (!(await condition())) throw new Error('not yet')
    },
    { timeout: 30_000, interval: 20 },
  )

/** What a lease tells, as words. */
function heard(lease: Lease<unknown>): string[] {
  const words: string[] = []
  for (const event of ['renewed', 'rotated', 'lost'] as const) lease.on(event, () => words.push(event))
  return words
}

// They wait for leases to end, all at the same time.
describeWith(['openbao', 'postgres'], 'a lease', ({ openbao, postgres }) => {
  const admin = openbaoAdmin(openbao)
  let engine: OpenBaoDatabase

  beforeAll(async () => {
    engine = await openbaoDatabase(openbao, postgres)
  })
  afterAll(() => engine?.remove())

  const handler = (options: Partial<VaultHandlerOptions> = {}): VaultHandler =>
    new VaultHandler({ address: openbao.address, token: openbao.rootToken, ...options })
  const canLogIn = ({ user, password }: { user: string; password: string }): Promise<boolean> =>
    runOnPostgres({ ...postgres, user, password }, 'SELECT 1').then(
      () => true,
      () => false,
    )

  it.concurrent('is a user of the database until it is closed, and its password is never shown', async () => {
    const path = await engine.role({ default_ttl: '1h', max_ttl: '24h' })
    await using vault = handler()
    const lease = await vault.lease(path)
    expect(lease.leaseId).toMatch(new RegExp(`^${path}/`))
    expect(lease.expiresAt - Date.now()).toBeGreaterThan(3_500_000)
    const held = await lease.acquire()
    expect(held).toMatchObject({ user: lease.value['username'] })
    expect([held.password, held.expiresAt]).toEqual([lease.value['password'], lease.expiresAt])
    expect(await canLogIn(held)).toBe(true)
    expect(scrub(`${held.user} ${held.password}`)).toBe(`${held.user} [secret]`)
    for (const shown of [
      inspect(lease, { depth: 20, showHidden: true }),
      JSON.stringify(lease),
      JSON.stringify(held),
      inspect(held),
    ]) {
      expect(shown).not.toContain(held.password)
    }
    await lease.close()
    await until(async () => (await engine.leases(path)) === 0)
    await until(async () => !(await canLogIn(held)))
    expect(await failure(lease.acquire())).toMatchObject({ code: 'VAULT_LEASE_CLOSED' })
    await lease.close()
    await lease.revoke()
  })

  it.concurrent('is revoked when its handler is closed', async () => {
    const path = await engine.role({ default_ttl: '1h' })
    const vault = handler()
    const leases = await Promise.all([vault.lease(path), vault.lease(path), vault.lease(path)])
    expect(await engine.leases(path)).toBe(3)
    await vault.close()
    await until(async () => (await engine.leases(path)) === 0)
    await Promise.all(leases.map((lease) => lease.close()))
  })

  it.concurrent('revoked by its reader says so when the server does not', async () => {
    const path = await engine.role({ default_ttl: '1h' })
    await using proxy = await recordingProxy(openbao.address, {
      fault: (request) => (request === 'PUT /v1/sys/leases/revoke' ? 403 : undefined),
    })
    await using vault = handler({ address: proxy.address })
    const lease = await vault.lease(path)
    expect(await failure(lease.revoke())).toMatchObject({ code: 'VAULT_PERMISSION_DENIED' })
  })

  it.concurrent('is renewed until its max TTL is near, and then replaced; the old one is revoked when it was released', async () => {
    const path = await engine.role({ default_ttl: '3s', max_ttl: '9s' })
    await using proxy = await recordingProxy(openbao.address)
    await using vault = handler({ address: proxy.address })
    await using lease = await vault.lease(path)
    const words = heard(lease)
    const [held, same] = [await lease.acquire(), await lease.acquire()]
    const seen = (): number => proxy.count('PUT /v1/sys/leases/revoke')
    const firstEnd = held.expiresAt
    await once(lease, 'renewed')
    expect(held.expiresAt).toBeGreaterThan(firstEnd)
    const [{ value, expiresAt }] = (await once(lease, 'rotated')) as [{ value: { username: string }; expiresAt: number }]
    expect(value).toBe(lease.value)
    expect(expiresAt).toBe(lease.expiresAt)
    expect(value.username).not.toBe(held.user)
    // At least a third of its time is left for those who have it.
    expect(await canLogIn(held)).toBe(true)
    held.release()
    held.release()
    expect(seen()).toBe(0)
    same.release()
    await until(() => seen() === 1)
    await until(async () => !(await canLogIn(held)))
    // Nine seconds of leases of three: renewed every 1.5 to 2 s until one renewal shows the end.
    expect(words.filter((word) => word === 'renewed').length).toBeGreaterThanOrEqual(2)
    expect(words.slice(words.indexOf('rotated'))).toEqual(['rotated'])
    expect(words).not.toContain('lost')
    expect(proxy.count('PUT /v1/sys/leases/renew')).toBeLessThanOrEqual(6)
    expect(proxy.count(`GET /v1/${path}`)).toBe(2)
  })

  it.concurrent('that was replaced stays for its grace, and for as long as somebody has acquired it', async () => {
    const path = await engine.role({ default_ttl: '1h' })
    await using vault = handler()
    await using lease = await vault.lease(path, { graceMs: 500 })
    const before = lease.leaseId
    // A renewal that gives less than before is what the end of the max TTL looks like.
    await engine.changeRole(path, { default_ttl: '30m' })
    await lease.renew()
    expect(lease.leaseId).not.toBe(before)
    expect(await engine.leases(path)).toBe(2)
    await until(async () => (await engine.leases(path)) === 1)
    expect((await admin.request('PUT', 'sys/leases/lookup', { lease_id: lease.leaseId })).status).toBe(200)
    // Somebody who acquired it is waited for, past the grace.
    const held = await lease.acquire()
    await engine.changeRole(path, { default_ttl: '20m' })
    await lease.renew()
    await sleep(1_000)
    expect(await engine.leases(path)).toBe(2)
    held.release()
    await until(async () => (await engine.leases(path)) === 1)
  })

  it.concurrent('whose renewals fail for its whole life is tried for as often as the back-off allows, and replaced once', async () => {
    const path = await engine.role({ default_ttl: '6s', max_ttl: '1h' })
    await using proxy = await recordingProxy(openbao.address, {
      fault: (request) => (request === 'PUT /v1/sys/leases/renew' ? 503 : undefined),
    })
    await using vault = handler({ address: proxy.address })
    await using lease = await vault.lease(path)
    const words = heard(lease)
    const held = await lease.acquire()
    await once(lease, 'rotated')
    expect(words).toEqual(['rotated'])
    expect(await canLogIn(held)).toBe(true)
    // Due at 3 s, replaced from 5 s on. The waits are at least 50, 100, 200 and then 250 ms.
    const tries = proxy.count('PUT /v1/sys/leases/renew 503')
    expect(tries).toBeGreaterThanOrEqual(3)
    expect(tries).toBeLessThanOrEqual(11)
    expect(proxy.count(`GET /v1/${path} 200`)).toBe(2)
  })

  it.concurrent('that cannot be kept is lost, those who ask for it are told why, and it comes back', async () => {
    const path = await engine.role({ default_ttl: '2s', max_ttl: '1h' })
    let down = false
    await using proxy = await recordingProxy(openbao.address, { fault: () => (down ? 503 : undefined) })
    await using vault = handler({ address: proxy.address })
    await using lease = await vault.lease(path)
    const words = heard(lease)
    down = true
    const [{ error }] = (await once(lease, 'lost')) as [{ error: unknown }]
    expect(error).toMatchObject({ code: 'VAULT_SERVER_ERROR' })
    expect(lease.expiresAt).toBeLessThanOrEqual(Date.now())
    expect(await failure(lease.acquire())).toMatchObject({ code: 'VAULT_SERVER_ERROR' })
    const reason = new Error('gave up')
    await expect(lease.acquire({ signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
    const tries = proxy.count('GET /v1/') + proxy.count('PUT /v1/')
    expect(tries).toBeLessThanOrEqual(40)
    down = false
    const waiting = lease.acquire().catch(() => lease.acquire())
    await once(lease, 'rotated')
    expect(await canLogIn(await waiting)).toBe(true)
    expect(words).toEqual(['lost', 'rotated'])
  })

  describe('that an operator revoked', () => {
    it.concurrent('is lost at its next renewal and replaced at once', async () => {
      const path = await engine.role({ default_ttl: '2s', max_ttl: '1h' })
      await using vault = handler()
      await using lease = await vault.lease(path)
      const words = heard(lease)
      await admin.request('PUT', 'sys/leases/revoke', { lease_id: lease.leaseId, sync: true })
      await once(lease, 'rotated')
      expect(words).toEqual(['lost', 'rotated'])
      expect(await canLogIn(await lease.acquire())).toBe(true)
    })

    it.concurrent('is replaced when the database rejects it, and kept when it does so for another reason', async () => {
      const path = await engine.role({ default_ttl: '1h' })
      await using proxy = await recordingProxy(openbao.address)
      await using vault = handler({ address: proxy.address })
      await using lease = await vault.lease(path)
      const words = heard(lease)
      const held = await lease.acquire()
      const again = await Promise.all(Array.from({ length: 20 }, () => lease.acquire({ rejected: held })))
      expect(new Set(again.map(({ user }) => user))).toEqual(new Set([held.user]))
      expect(proxy.count('PUT /v1/sys/leases/lookup 200')).toBe(1)
      await admin.request('PUT', 'sys/leases/revoke', { lease_id: lease.leaseId, sync: true })
      const next = await lease.acquire({ rejected: held })
      expect(next.user).not.toBe(held.user)
      expect(await canLogIn(next)).toBe(true)
      expect(words).toEqual(['lost', 'rotated'])
      // Rejected once more, but of a lease that is no more.
      expect((await lease.acquire({ rejected: held })).user).toBe(next.user)
      expect(proxy.count(`GET /v1/${path}`)).toBe(2)
    })
  })

  it.concurrent('is replaced when its token has gone and another was obtained', async () => {
    const path = await engine.role({ default_ttl: '1h' })
    const policy = unique('lease-reader')
    await admin.writePolicy(
      policy,
      `path "${path}" { capabilities = ["read"] }\npath "sys/leases/revoke" { capabilities = ["update"] }`,
    )
    const appRole = await admin.createAppRole(unique('lease-role'), { policies: [policy] })
    await using vault = handler({ token: undefined, appRole })
    await using lease = await vault.lease(path)
    const before = await lease.acquire()
    const { data } = (await vault.request('GET', 'auth/token/lookup-self')) as { data: { id: string } }
    await admin.request('POST', 'auth/token/revoke', { token: data.id })
    // Whatever finds out first that the token is no more.
    const words = heard(lease)
    const rotated = once(lease, 'rotated')
    await vault.request('GET', 'auth/token/lookup-self')
    await rotated
    expect(words).toEqual(['lost', 'rotated'])
    const next = await lease.acquire()
    expect(next.user).not.toBe(before.user)
    expect(await canLogIn(next)).toBe(true)
    await until(async () => !(await canLogIn(before)))
  })

  it.concurrent('is replaced before its token ends, while it is still good', async () => {
    const path = await engine.role({ default_ttl: '1h' })
    const policy = unique('lease-reader')
    await admin.writePolicy(policy, `path "${path}" { capabilities = ["read"] }`)
    const role = unique('lease-role')
    const appRole = await admin.createAppRole(role, { policies: [policy] })
    await admin.request('POST', `auth/approle/role/${role}`, { token_ttl: '5s', token_max_ttl: '5s' })
    await using vault = handler({ token: undefined, appRole })
    await using lease = await vault.lease(path)
    const words = heard(lease)
    const before = await lease.acquire()
    await once(lease, 'rotated')
    expect(words).toEqual(['rotated'])
    expect(before.expiresAt).toBeLessThan(Date.now() + 5_000)
    expect((await lease.acquire()).user).not.toBe(before.user)
    await until(async () => !(await canLogIn(before)))
  })

  it.concurrent('of a given token that has ended is lost, and says so', async () => {
    const path = await engine.role({ default_ttl: '2s', max_ttl: '1h' })
    const policy = unique('lease-reader')
    await admin.writePolicy(policy, `path "${path}" { capabilities = ["read"] }`)
    const token = await admin.createToken({ policies: [policy] })
    await using vault = handler({ token })
    await using lease = await vault.lease(path)
    await admin.request('POST', 'auth/token/revoke', { token })
    const [{ error }] = (await once(lease, 'lost')) as [{ error: unknown }]
    expect(error).toMatchObject({ code: 'VAULT_TOKEN_INVALID' })
    expect(await failure(lease.acquire())).toMatchObject({ code: 'VAULT_TOKEN_INVALID' })
  })

  it.concurrent('outlives a server that is sealed and one that is restarted', async () => {
    const server = await startDurableOpenBao()
    try {
      const own = await openbaoDatabase(server, postgres)
      const path = await own.role({ default_ttl: '1h', max_ttl: '24h' })
      await using vault = handler({ address: server.address, token: server.rootToken, retry: { attempts: 1 } })
      await using lease = await vault.lease(path)
      const words = heard(lease)
      const first = lease.leaseId
      await openbaoAdmin(server).seal()
      expect(await failure(lease.renew())).toMatchObject({ code: 'VAULT_SEALED' })
      await openbaoAdmin(server).unseal()
      await until(() => words.length === 1)
      await server.down()
      expect(await failure(lease.renew())).toMatchObject({ code: 'VAULT_CONNECTION_REFUSED' })
      await server.up()
      await until(() => words.length === 2)
      expect([lease.leaseId, words]).toEqual([first, ['renewed', 'renewed']])
      expect(await canLogIn(await lease.acquire())).toBe(true)
    } finally {
      await server.stop()
    }
  })

  it.concurrent('is replaced after a restart that forgot it', async () => {
    const server = await startOpenBao()
    try {
      const own = await openbaoDatabase(server, postgres)
      const path = await own.role({ default_ttl: '3s', max_ttl: '1h' })
      await using vault = handler({ address: server.address, token: server.rootToken })
      await using lease = await vault.lease(path)
      const before = lease.leaseId
      const rotated = once(lease, 'rotated')
      await server.down()
      await server.up()
      await own.restore()
      await rotated
      expect(lease.leaseId).not.toBe(before)
      expect(await canLogIn(await lease.acquire())).toBe(true)
    } finally {
      await server.stop()
    }
  })

  it.concurrent('does not keep a process alive', async () => {
    const path = await engine.role({ default_ttl: '1h' })
    const program = `
      import { VaultHandler } from '@common-handlers/vault-handler'
      const lease = await VaultHandler.fromEnvironment().lease('${path}')
      console.log(lease.leaseId)`
    const args = ['--conditions=@common-handlers/source', '--input-type=module', '--eval', program]
    const env = { PATH: process.env['PATH'], VAULT_ADDR: openbao.address, VAULT_TOKEN: openbao.rootToken }
    const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: import.meta.dirname, env })
    // Not closed: it is the server that ends it.
    expect((await admin.request('PUT', 'sys/leases/lookup', { lease_id: stdout.trim() })).status).toBe(200)
  })

  it.concurrent('of a static account is read again after each rotation', async () => {
    const { path, rotate } = await engine.staticRole({ rotation_period: '5s' })
    await using proxy = await recordingProxy(openbao.address)
    await using vault = handler({ address: proxy.address })
    await using lease = await vault.lease(path)
    const words = heard(lease)
    const held = await lease.acquire()
    expect([lease.leaseId, await canLogIn(held)]).toEqual(['', true])
    await once(lease, 'rotated')
    const next = await lease.acquire()
    expect(next.user).toBe(held.user)
    expect(next.password).not.toBe(held.password)
    expect([await canLogIn(held), await canLogIn(next)]).toEqual([false, true])
    // OpenBao looks every five seconds what is due: five to ten seconds, and reads again at 1 s at most.
    expect(proxy.count(`GET /v1/${path}`)).toBeLessThanOrEqual(14)
    // Rotated by hand: the database finds out first.
    await rotate()
    const third = await lease.acquire({ rejected: next })
    expect(await canLogIn(third)).toBe(true)
    expect(new Set(words)).toEqual(new Set(['rotated']))
    for (const one of [held, next, third]) one.release()
    await lease.close()
    expect(proxy.count('PUT /v1/sys/leases')).toBe(0)
  })

  it.concurrent('of another engine: made by a POST, with a schema, not renewable or without a lease', async () => {
    const pki = unique('pki')
    await admin.mount(pki, 'pki')
    await admin.request('POST', `${pki}/root/generate/internal`, { common_name: 'root of the test' })
    for (const generate_lease of [true, false]) {
      await admin.request('POST', `${pki}/roles/short-${generate_lease}`, { allow_any_name: true, ttl: '3s', generate_lease })
    }
    const schema = z.object({ serial_number: z.string(), private_key: z.string() })
    await using vault = handler()
    for (const generate_lease of [true, false]) {
      await using lease = await vault.lease(`${pki}/issue/short-${generate_lease}`, schema, { body: { common_name: 'app.test' } })
      const words = heard(lease)
      expect(lease.leaseId === '').toBe(!generate_lease)
      const before = lease.value.serial_number
      expect(scrub(`key ${lease.value.private_key}`)).toBe('key [secret]')
      await once(lease, 'rotated')
      expect(lease.value.serial_number).not.toBe(before)
      expect(words).toEqual(['rotated'])
      expect(await failure(lease.acquire())).toMatchObject({ name: 'DataError', code: 'VAULT_LEASE_WITHOUT_CREDENTIALS' })
    }
  })

  it.concurrent('is not had where there is none, and not left behind where its schema does not fit', async () => {
    await using vault = handler()
    await admin.putSecret('lease-test', { a: '1' })
    expect(await failure(vault.lease('secret/data/lease-test'))).toMatchObject({
      name: 'ConfigError',
      code: 'VAULT_LEASE_MISSING',
    })
    expect(await failure(vault.lease('no-such-mount/creds/x'))).toMatchObject({ code: 'VAULT_MOUNT_NOT_FOUND' })
    const path = await engine.role({ default_ttl: '1h' })
    expect(await failure(vault.lease(path, z.object({ user: z.string() })))).toMatchObject({ code: 'VAULT_SECRET_INVALID' })
    await until(async () => (await engine.leases(path)) === 0)
  })

  it.concurrent('goes on when a listener throws', async () => {
    const path = await engine.role({ default_ttl: '1s', max_ttl: '1h' })
    const error = vi.fn<() => void>()
    const silent = (): void => undefined
    const logger = { trace: silent, debug: silent, info: silent, warn: silent, error, child: () => logger }
    await using vault = handler({ logger })
    await using lease = await vault.lease(path)
    lease.on('renewed', () => {
      throw new Error('of the listener')
    })
    const words = heard(lease)
    await until(() => words.length >= 2)
    expect(error).toHaveBeenCalledTimes(words.length)
  })
})
