import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { describeWith, openbaoAdmin } from '@common-handlers/testkit'
import { beforeAll, describe, expect, it } from 'vitest'
import { VaultHandler } from '../src/index.ts'
import { failure } from './failure.ts'
import { recordingProxy } from './recording-proxy.ts'

const LOGIN = 'POST /v1/auth/approle/login'
const RENEW = 'POST /v1/auth/token/renew-self'
const LOOK_UP = 'GET /v1/auth/token/lookup-self'

describeWith(['openbao'], 'the life of a token', ({ openbao }) => {
  const name = `renewal-${randomUUID().slice(0, 8)}`
  const secretPath = `${name}/app`
  const admin = openbaoAdmin(openbao)

  beforeAll(async () => {
    await admin.mount(name, 'kv', { version: '1' })
    await admin.request('PUT', secretPath, { user: 'reader-of-all' })
    await admin.writePolicy(name, `path "${name}/*" { capabilities = ["read"] }`)
  })

  const role = (tokenTtl?: string): Promise<{ roleId: string; secretId: string }> =>
    admin.createAppRole(`${name}-${tokenTtl ?? 'default'}-${randomUUID().slice(0, 8)}`, {
      policies: [name],
      ...(tokenTtl === undefined ? {} : { tokenTtl }),
    })
  /** Reads again and again until a time has passed. */
  async function readFor(vault: VaultHandler, milliseconds: number, until: () => boolean = () => false): Promise<void> {
    for (const end = Date.now() + milliseconds; Date.now() < end && !until(); await sleep(100)) {
      expect(await vault.getSecret(secretPath)).toEqual({ user: 'reader-of-all' })
    }
  }

  describe.concurrent('in real time', () => {
    it('of 768 hours, the default of the server: at most one renewal in a minute', async () => {
      await using proxy = await recordingProxy(openbao.address)
      await using obtained = new VaultHandler({ address: proxy.address, appRole: await role() })
      await using given = new VaultHandler({ address: proxy.address, token: await admin.createToken({ policies: [name] }) })
      const days = 24 * 3_600_000
      for (const vault of [obtained, given]) {
        const { ttlMs } = await vault.token.lookup()
        expect(ttlMs).toBeGreaterThan(31 * days)
        expect(ttlMs).toBeLessThanOrEqual(32 * days)
      }
      await Promise.all([obtained, given].map((vault) => readFor(vault, 60_000)))
      expect(proxy.count(RENEW)).toBeLessThanOrEqual(1)
      expect(proxy.count(LOGIN)).toBe(1)
      // By hand, one each; and by itself the handler looks up the one that was given.
      expect(proxy.count(LOOK_UP)).toBe(3)
    })

    it('whose renewals fail with 503 to its end: no more calls than the back-off allows, and one login', async () => {
      const fault = (request: string): number | undefined => (request === RENEW ? 503 : undefined)
      await using proxy = await recordingProxy(openbao.address, { fault })
      await using vault = new VaultHandler({ address: proxy.address, appRole: await role('12s') })
      await readFor(vault, 15_000, () => proxy.count(LOGIN) > 1)
      // From 6 s at the earliest to 10.8 s: waits of 0.05, 0.1, 0.2 and 0.4 s at least, then of half a second.
      expect(proxy.count(RENEW)).toBeLessThanOrEqual(1 + 4 + 9)
      expect(proxy.count(RENEW)).toBeGreaterThan(2)
      expect(proxy.count(LOGIN)).toBe(2)
      expect(proxy.seen.filter((line) => line.endsWith(' 403'))).toEqual([])
    })

    it('is longer than its first lease, by one login', async () => {
      await using proxy = await recordingProxy(openbao.address)
      await using vault = new VaultHandler({ address: proxy.address, appRole: await role('4s') })
      await readFor(vault, 9_000)
      expect(proxy.count(`${RENEW} 200`)).toBeGreaterThanOrEqual(2)
      expect(proxy.count(RENEW)).toBeLessThanOrEqual(5)
      expect(proxy.count(LOGIN)).toBe(1)
    })

    it('ends at its maximum, and another takes its place before a call is refused', async () => {
      const { roleId, secretId } = await role('3s')
      const id = (await admin.request('LIST', 'auth/approle/role')).body as { data: { keys: string[] } }
      const mine = id.data.keys.filter((key) => key.startsWith(`${name}-3s-`))
      for (const key of mine) await admin.request('POST', `auth/approle/role/${key}`, { token_ttl: '3s', token_max_ttl: '6s' })
      await using proxy = await recordingProxy(openbao.address)
      await using vault = new VaultHandler({ address: proxy.address, appRole: { roleId, secretId } })
      await readFor(vault, 8_000)
      expect(proxy.count(`${RENEW} 200`)).toBeGreaterThanOrEqual(1)
      expect(proxy.count(LOGIN)).toBe(2)
      expect(proxy.seen.filter((line) => line.endsWith(' 403'))).toEqual([])
    })

    it('goes on for a token that was given, without a call', async () => {
      await using proxy = await recordingProxy(openbao.address)
      const token = await admin.createToken({ policies: [name], ttl: '5s', renewable: true })
      await using vault = new VaultHandler({ address: proxy.address, token })
      await vault.getSecret(secretPath)
      await sleep(8_000)
      expect(await vault.getSecret(secretPath)).toEqual({ user: 'reader-of-all' })
      expect(proxy.count(LOOK_UP)).toBe(1)
      expect(proxy.count(`${RENEW} 200`)).toBeGreaterThanOrEqual(1)
    })

    it('is left alone where it cannot be renewed, or must not be', async () => {
      await using proxy = await recordingProxy(openbao.address)
      const fixed = await admin.createToken({ policies: [name], ttl: '5s', renewable: false })
      await using vault = new VaultHandler({ address: proxy.address, token: fixed })
      const renewable = await admin.createToken({ policies: [name], ttl: '5s', renewable: true })
      await using passive = new VaultHandler({ address: proxy.address, token: renewable, renewToken: false })
      await Promise.all([vault, passive].map((one) => one.getSecret(secretPath)))
      await sleep(7_000)
      for (const one of [vault, passive]) {
        expect(await failure(one.getSecret(secretPath))).toMatchObject({ name: 'AuthError', code: 'VAULT_TOKEN_INVALID' })
      }
      expect(proxy.count(RENEW)).toBe(0)
      // One by itself, and one each to find out why the read was refused.
      expect(proxy.count(LOOK_UP)).toBe(3)
    })
  })

  it('can be looked up, renewed and ended by hand', async () => {
    await using proxy = await recordingProxy(openbao.address)
    await using vault = new VaultHandler({ address: proxy.address, appRole: await role('1h') })
    const info = await vault.token.lookup()
    expect(info).toMatchObject({
      policies: ['default', name],
      renewable: true,
      type: 'service',
      orphan: true,
      usesLeft: Infinity,
    })
    expect(info.ttlMs).toBeGreaterThan(3_590_000)
    expect(info.metadata['role_name']).toMatch(name)
    expect(await vault.token.renew()).toBe(3_600_000)
    expect(await vault.token.renew({ incrementMs: 120_000 })).toBe(120_000)
    expect((await vault.token.lookup()).ttlMs).toBeLessThanOrEqual(120_000)
    await vault.token.revoke()
    expect(await vault.getSecret(secretPath)).toEqual({ user: 'reader-of-all' })
    expect(proxy.count(LOGIN)).toBe(2)

    await using root = new VaultHandler({ address: openbao.address, token: openbao.rootToken })
    expect(await root.token.lookup()).toMatchObject({ policies: ['root'], ttlMs: Infinity })
    expect(await failure(root.token.renew())).toMatchObject({ name: 'RemoteError', code: 'VAULT_REQUEST_REFUSED' })

    const token = await admin.createToken({ policies: [name] })
    await using given = new VaultHandler({ address: openbao.address, token })
    await given.token.revoke()
    expect(await failure(given.getSecret(secretPath))).toMatchObject({ code: 'VAULT_TOKEN_INVALID' })
  })
})
