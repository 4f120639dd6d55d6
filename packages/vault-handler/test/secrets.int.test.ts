import { randomUUID } from 'node:crypto'
import { loadConfig, scrub, secret } from '@common-handlers/core'
import { describeWith, openbaoAdmin, type OpenBaoAddress } from '@common-handlers/testkit'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { VaultHandler } from '../src/index.ts'
import { failure } from './failure.ts'
import { recordingProxy } from './recording-proxy.ts'

const unique = (name: string): string => `${name}-${randomUUID().slice(0, 8)}`

/** A handler with the root token. */
const rootHandler = (openbao: OpenBaoAddress, address = openbao.address): VaultHandler =>
  new VaultHandler({ address, token: openbao.rootToken, retry: { attempts: 1 } })

describeWith(['openbao'], 'secrets of the KV engine', ({ openbao }) => {
  const v1 = unique('kv1')
  const v2 = unique('kv2')
  let vault: VaultHandler

  beforeAll(async () => {
    vault = rootHandler(openbao)
    const admin = openbaoAdmin(openbao)
    await admin.mount(v1, 'kv', { version: '1' })
    await admin.mount(v2, 'kv', { version: '2' })
    // A version 2 mount upgrades itself for a moment and refuses writes meanwhile.
    await vault.request('PUT', `${v2}/data/app`, { body: { data: { user: 'first', password: 'first-password' } } })
    await vault.request('PUT', `${v2}/data/app`, { body: { data: { user: 'second', password: 'second-password' } } })
    await vault.request('PUT', `${v1}/app`, { body: { user: 'only', password: 'only-password' } })
  })
  afterAll(() => vault.close())

  describe('version 2', () => {
    it('are read by the path of the secret and by the path of the API', async () => {
      const expected = { user: 'second', password: 'second-password' }
      expect(await vault.getSecret(`${v2}/app`)).toEqual(expected)
      expect(await vault.getSecret(`${v2}/data/app`)).toEqual(expected)
      expect(await vault.getSecret(`/${v2}/app/`)).toEqual(expected)
    })

    it('are read in an older version', async () => {
      expect(await vault.getSecret(`${v2}/app`, { version: 1 })).toEqual({ user: 'first', password: 'first-password' })
    })

    it('tell a missing secret, a missing version, a deleted and a destroyed one apart', async () => {
      expect(await failure(vault.getSecret(`${v2}/none`))).toMatchObject({
        name: 'NotFoundError',
        code: 'VAULT_SECRET_NOT_FOUND',
        message: `GET ${v2}/data/none: there is nothing at this path`,
      })
      await vault.request('PUT', `${v2}/data/gone`, { body: { data: { a: 'b' } } })
      await vault.request('DELETE', `${v2}/data/gone`)
      expect(await failure(vault.getSecret(`${v2}/gone`))).toMatchObject({
        code: 'VAULT_VERSION_DELETED',
        context: { version: 1 },
      })
      await vault.request('POST', `${v2}/undelete/gone`, { body: { versions: [1] } })
      expect(await vault.getSecret(`${v2}/gone`)).toEqual({ a: 'b' })
      await vault.request('PUT', `${v2}/destroy/gone`, { body: { versions: [1] } })
      expect(await failure(vault.getSecret(`${v2}/gone`))).toMatchObject({ code: 'VAULT_VERSION_DESTROYED' })
      expect(await failure(vault.getSecret(`${v2}/app`, { version: 77 }))).toMatchObject({ code: 'VAULT_VERSION_NOT_FOUND' })
    })

    it('refuse a write that lost its check-and-set', async () => {
      const lost = vault.request('POST', `${v2}/data/app`, { body: { options: { cas: 1 }, data: { user: 'late' } } })
      expect(await failure(lost)).toMatchObject({ name: 'ConflictError', code: 'VAULT_CAS_MISMATCH' })
      expect(await vault.getSecret(`${v2}/app`)).toMatchObject({ user: 'second' })
    })

    it('asked for raw without data/ say so', async () => {
      expect(await failure(vault.request('GET', `${v2}/app`))).toMatchObject({ code: 'VAULT_PATH_WITHOUT_DATA' })
    })
  })

  describe('version 1', () => {
    it('are read by their path', async () => {
      expect(await vault.getSecret(`${v1}/app`)).toEqual({ user: 'only', password: 'only-password' })
      expect(await failure(vault.getSecret(`${v1}/none`))).toMatchObject({ code: 'VAULT_SECRET_NOT_FOUND' })
    })

    it('have no versions', async () => {
      expect(await failure(vault.getSecret(`${v1}/app`, { version: 1 }))).toMatchObject({ code: 'VAULT_MOUNT_UNVERSIONED' })
    })

    it('may begin with data/', async () => {
      await vault.request('PUT', `${v1}/data/app`, { body: { user: 'nested' } })
      expect(await vault.getSecret(`${v1}/data/app`)).toEqual({ user: 'nested' })
    })

    it('are still found when their mount has become version 2', async () => {
      const mount = unique('upgraded')
      await openbaoAdmin(openbao).mount(mount, 'kv', { version: '1' })
      await vault.request('PUT', `${mount}/app`, { body: { user: 'before' } })
      expect(await vault.getSecret(`${mount}/app`)).toEqual({ user: 'before' })
      await vault.request('POST', `sys/mounts/${mount}/tune`, { body: { options: { version: '2' } } })
      await expect.poll(() => vault.getSecret(`${mount}/app`).catch(String), { timeout: 20_000 }).toEqual({ user: 'before' })
    })
  })

  it.each(['my key#1?x', 'a&b=c', 'Straße/日本 🔑', 'quo\'te"(1)', '%2e%2e/%41'])('with the name %j', async (name) => {
    for (const mount of [v1, v2]) {
      const body = { name, where: mount }
      await vault.request('PUT', mount === v1 ? `${mount}/${name}` : `${mount}/data/${name}`, {
        body: mount === v1 ? body : { data: body },
      })
      expect(await vault.getSecret(`${mount}/${name}`)).toEqual(body)
    }
    const [top = ''] = name.split('/')
    const listed = (await vault.request('LIST', v1)) as { data: { keys: string[] } }
    expect(listed.data.keys).toContain(name.includes('/') ? `${top}/` : top)
  })

  it('ask for the mount once, however many are read at once', async () => {
    await using proxy = await recordingProxy(openbao.address)
    await using counted = rootHandler(openbao, proxy.address)
    await Promise.all(Array.from({ length: 20 }, () => counted.getSecret(`${v2}/app`)))
    await counted.getSecret(`${v2}/app`)
    expect(proxy.count('GET /v1/sys/internal/ui/mounts/')).toBe(1)
    expect(proxy.count(`GET /v1/${v2}/data/app 200`)).toBe(21)
  })

  it('are validated by a schema, whose output is what is returned', async () => {
    await vault.request('PUT', `${v2}/data/db`, { body: { data: { host: 'db', port: '5432' } } })
    const schema = z.object({ host: z.string(), port: z.coerce.number() })
    const found: { host: string; port: number } = await vault.getSecret(`${v2}/db`, schema)
    expect(found).toEqual({ host: 'db', port: 5432 })
    const error = await failure(vault.getSecret(`${v2}/app`, schema))
    expect(error).toMatchObject({ name: 'DataError', code: 'VAULT_SECRET_INVALID' })
    expect(error.message).toMatch(/^\S+\/app is not what the schema asks for:\n {2}host: /)
  })

  it('are resolved field by field, as text', async () => {
    const data = { text: 'a"b', number: 5432, yes: true, tree: { a: [1, null] }, nothing: null, empty: '', 'a.b': 'dotted' }
    await vault.request('PUT', `${v2}/data/types`, { body: { data } })
    const { resolve } = vault
    expect(await resolve(`${v2}/types#text`)).toBe('a"b')
    expect(await resolve(`${v2}/types#number`)).toBe('5432')
    expect(await resolve(`${v2}/types#yes`)).toBe('true')
    expect(await resolve(`${v2}/types#tree`)).toBe('{"a":[1,null]}')
    expect(await resolve(`${v2}/types#empty`)).toBe('')
    expect(await resolve(`${v2}/types#a.b`)).toBe('dotted')
    expect(await failure(resolve(`${v2}/types#nothing`))).toMatchObject({ code: 'VAULT_FIELD_NOT_FOUND' })
    expect(await failure(resolve(`${v2}/types#toString`))).toMatchObject({ code: 'VAULT_FIELD_NOT_FOUND' })
    expect((await failure(resolve(`${v2}/app#pasword`))).message).toBe(`${v2}/app has no field "pasword"; it has: password, user`)
  })

  it('stand behind the references of a configuration', async () => {
    const schema = z.strictObject({ user: z.string(), password: secret() })
    const loaded = await loadConfig({
      schema,
      config: { user: `vault:${v2}/app#user`, password: `vault:${v2}/data/app#password` },
      resolvers: { vault: vault.resolve },
    })
    expect(loaded.value.user).toBe('second')
    expect(loaded.value.password.expose()).toBe('second-password')
    const missing = loadConfig({
      schema,
      config: { user: 'u', password: `vault:${v2}/none#password` },
      resolvers: { vault: vault.resolve },
    })
    expect((await failure(missing)).message).toContain('there is nothing at this path')
  })

  it('are struck out of every text from then on', async () => {
    const value = `planted-${randomUUID()}`
    await vault.request('PUT', `${v2}/data/planted`, { body: { data: { deep: { list: [value] } } } })
    await vault.getSecret(`${v2}/planted`)
    expect(scrub(`it is ${value}`)).toBe('it is [secret]')
  })

  it('but for what stands in their own path', async () => {
    const user = unique('postgres')
    await vault.request('PUT', `${v2}/data/${user}/db`, { body: { data: { user } } })
    await vault.getSecret(`${v2}/${user}/db`)
    expect((await failure(vault.resolve(`${v2}/${user}/db#password`))).message).toContain(
      `${v2}/${user}/db has no field "password"`,
    )
  })

  it('where nothing is mounted, or the path is no secret', async () => {
    const error = await failure(vault.getSecret('no-such-mount/app'))
    expect(error).toMatchObject({ name: 'PermissionError', code: 'VAULT_PERMISSION_DENIED' })
    expect(error.message).toContain('nothing is mounted at no-such-mount/app')
    expect(await failure(vault.getSecret(v2))).toMatchObject({ code: 'VAULT_PATH_INVALID' })
    expect(await failure(vault.request('GET', 'no-such-mount/app'))).toMatchObject({ code: 'VAULT_MOUNT_NOT_FOUND' })
    expect(await failure(vault.request('GET', 'sys/no-such-path'))).toMatchObject({ code: 'VAULT_PATH_UNSUPPORTED' })
  })

  it('are not looked for in an engine that makes something new at each read', async () => {
    const mount = unique('transit')
    await openbaoAdmin(openbao).mount(mount, 'transit')
    expect(await failure(vault.getSecret(`${mount}/keys/a`))).toMatchObject({ name: 'ConfigError', code: 'VAULT_MOUNT_NOT_KV' })
  })

  it('a policy that does not reach names what is missing', async () => {
    const admin = openbaoAdmin(openbao)
    const policy = unique('reader')
    await admin.writePolicy(policy, `path "${v2}/data/app" { capabilities = ["read"] }`)
    await using reader = new VaultHandler({ address: openbao.address, token: await admin.createToken({ policies: [policy] }) })
    expect(await reader.getSecret(`${v2}/app`)).toMatchObject({ user: 'second' })
    const denied = await failure(reader.getSecret(`${v2}/other`))
    expect(denied).toMatchObject({ name: 'PermissionError', code: 'VAULT_PERMISSION_DENIED', retry: 'never' })
    expect(denied.message).toContain(`path "${v2}/data/other" { capabilities = ["read"] }`)
    expect((await failure(reader.getSecret(`${v1}/app`))).message).toContain(`(KV version 1: path "${v1}/app")`)
    const written = reader.request('PUT', `${v2}/data/app`, { body: { data: { user: 'x' } } })
    expect((await failure(written)).message).toContain('capabilities = ["create", "update"]')
  })

  it('in a namespace are apart from those outside', async () => {
    const namespace = unique('team')
    await vault.request('POST', `sys/namespaces/${namespace}`, { body: {} })
    const inside = new VaultHandler({ address: openbao.address, token: openbao.rootToken, namespace })
    await inside.request('POST', 'sys/mounts/kv', { body: { type: 'kv', options: { version: '1' } } })
    await inside.request('PUT', 'kv/app', { body: { user: 'inside' } })
    expect(await inside.getSecret('kv/app')).toEqual({ user: 'inside' })
    expect(await inside.check()).toMatchObject({ ok: true })
    await inside.close()
    await using nowhere = new VaultHandler({ address: openbao.address, token: openbao.rootToken, namespace: 'nowhere' })
    expect(await failure(nowhere.request('GET', 'kv/app'))).toMatchObject({ code: 'VAULT_NAMESPACE_NOT_FOUND' })
  })
})
