import { randomUUID } from 'node:crypto'
import { scrub, Secret } from '@common-handlers/core'
import { describeWith, openbaoAdmin, type OpenBaoAddress, startFaultProxy } from '@common-handlers/testkit'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { z } from 'zod'
import { VaultHandler } from '../src/index.ts'
import { failure } from './failure.ts'
import { recordingProxy } from './recording-proxy.ts'

const unique = (name: string): string => `${name}-${randomUUID().slice(0, 8)}`
const all = async (paths: AsyncIterable<string>): Promise<string[]> => {
  const found: string[] = []
  for await (const path of paths) found.push(path)
  return found
}

const odd = {
  text: 'quo\'te" <a href="x">&amp; \\ \u0000 \u2028 🔑 日本',
  empty: '',
  'my key#1?x': 'odd name',
  'a.b': { deep: [1, 2.5, -0.1, true, null, { x: 'y' }] },
  safe: Number.MAX_SAFE_INTEGER,
  long: 'x'.repeat(100_000),
}
const PATHS = [
  'my key#1?x',
  'a&b=c',
  'Straße/日本 🔑',
  'quo\'te"(1)',
  '%2e%2e/%41',
  'tail /',
  'back\\slash',
  'data/data/x',
  'a+b *',
]

describeWith(['openbao'], 'the KV engine', ({ openbao }) => {
  const v1 = unique('kv1')
  const v2 = unique('kv2')
  let vault: VaultHandler

  const handler = (server: OpenBaoAddress, options: { token?: string; address?: string } = {}): VaultHandler =>
    new VaultHandler({ address: server.address, token: server.rootToken, ...options })

  beforeAll(async () => {
    const admin = openbaoAdmin(openbao)
    await admin.mount(v1, 'kv', { version: '1' })
    await admin.mount(v2, 'kv', { version: '2' })
    vault = handler(openbao)
    // A version 2 mount upgrades itself for a moment and refuses writes meanwhile.
    await vault.kv.put(`${v2}/first`, { a: 'b' })
  })
  afterAll(() => vault.close())

  describe.each([1, 2])('version %i', (version) => {
    const mount = version === 1 ? v1 : v2

    it.each(PATHS)('gives back what was written at %j', async (name) => {
      await vault.kv.put(`${mount}/odd/${name}`, odd)
      const { data, version: made } = await vault.kv.get(`${mount}/odd/${name}`)
      expect(data).toEqual(odd)
      expect(made).toBe(version === 1 ? undefined : 1)
    })

    it('lists a folder, and all below it; each entry can be read', async () => {
      const folder = `${mount}/${unique('tree')}`
      const secrets = ['a', 'a/b', 'data/x', 'my key#1?x', 'z/1', 'z/y/2'].map((name) => `${folder}/${name}`)
      for (const [n, path] of secrets.entries()) await vault.kv.put(path, { n })
      const here = ['a', 'a/', 'data/', 'my key#1?x', 'z/'].map((name) => `${folder}/${name}`)
      expect(await all(vault.kv.list(folder))).toEqual(here)
      expect(await all(vault.kv.list(`${folder}/`))).toEqual(here)
      const found = await all(vault.kv.list(folder, { recursive: true }))
      expect(found.toSorted()).toEqual(secrets)
      for (const path of found) expect((await vault.kv.get(path)).data).toEqual({ n: secrets.indexOf(path) })
      expect(await all(vault.kv.list(mount))).toContain(`${folder}/`)
      expect(await all(vault.kv.list(`${folder}/none`, { recursive: true }))).toEqual([])
    })

    it('lists a folder that is called data at the top of a mount', async () => {
      const top = unique('data-mount')
      await openbaoAdmin(openbao).mount(top, 'kv', { version: String(version) })
      const path = version === 1 ? `${top}/data/x` : `${top}/data/data/x`
      await vi.waitFor(() => vault.kv.put(path, { it: 'is here' }), { timeout: 20_000 })
      expect(await all(vault.kv.list(top, { recursive: true }))).toEqual([path])
      expect((await vault.kv.get(path)).data).toEqual({ it: 'is here' })
    })

    it('deletes', async () => {
      const path = `${mount}/${unique('gone')}`
      await vault.kv.put(path, { a: 'b' })
      await vault.kv.delete(path)
      const code = version === 1 ? 'VAULT_SECRET_NOT_FOUND' : 'VAULT_VERSION_DELETED'
      expect(await failure(vault.kv.get(path))).toMatchObject({ name: 'NotFoundError', code })
    })

    it('refuses values that JSON cannot hold, by the name of the field', async () => {
      const values = { nan: NaN, half: '\ud83d', when: new Date(), map: new Map(), big: { list: [Infinity] } }
      for (const [field, value] of Object.entries(values)) {
        const error = await failure(vault.kv.put(`${mount}/never`, { fine: 1, [field]: value }))
        expect(error).toMatchObject({ name: 'DataError', code: 'VAULT_VALUE_INEXACT' })
        expect(error.message).toContain(`${mount}/never: the field ${field === 'big' ? 'big.list.0' : field} `)
      }
      expect(await failure(vault.kv.get(`${mount}/never`))).toMatchObject({ code: 'VAULT_SECRET_NOT_FOUND' })
    })

    it('writes what a Secret holds, and shows nothing of it', async () => {
      const password = `planted-${randomUUID()}`
      const path = `${mount}/${unique('secret')}`
      await vault.kv.put(path, { password: new Secret(password), deep: [new Secret(password)] })
      expect((await vault.kv.get(path)).data).toEqual({ password, deep: [password] })
      const text = `planted-${randomUUID()}`
      await vault.kv.put(path, { text })
      expect(scrub(`it is ${text}`)).toBe('it is [secret]')
    })

    it('validates by a schema', async () => {
      const path = `${mount}/${unique('typed')}`
      await vault.kv.put(path, { port: '5432' })
      const secret = await vault.kv.get(path, z.object({ port: z.coerce.number() }))
      expect(secret.data.port).toBe(5432)
      const wrong = vault.kv.get(path, z.object({ port: z.number() }))
      expect(await failure(wrong)).toMatchObject({ code: 'VAULT_SECRET_INVALID' })
    })
  })

  describe('integers beyond 2^53', () => {
    it('are exact in version 1', async () => {
      const data = { max: 2n ** 63n - 1n, min: -(2n ** 63n), huge: 10n ** 30n, odd: 9007199254740993n }
      await vault.kv.put(`${v1}/big`, data)
      expect((await vault.kv.get(`${v1}/big`)).data).toEqual(data)
      expect(await vault.resolve(`${v1}/big#odd`)).toBe('9007199254740993')
    })

    it('are refused in version 2, which would round them; those that it keeps are written', async () => {
      const error = await failure(vault.kv.put(`${v2}/big`, { id: { odd: 9007199254740993n } }))
      expect(error).toMatchObject({ code: 'VAULT_VALUE_INEXACT' })
      expect(error.message).toContain('id.odd is an integer that a KV version 2 mount would round; write it as text')
      // That it does, or the refusal would be in the way.
      await vault.request('PUT', `${v2}/data/big`, { body: { data: { odd: 9007199254740993n } } })
      expect((await vault.kv.get(`${v2}/big`)).data).toEqual({ odd: 9007199254740992n })
      const kept = { even: 9007199254740994n, round: -1152921504606847000n, small: 7 }
      await vault.kv.put(`${v2}/big`, kept)
      expect((await vault.kv.get(`${v2}/big`)).data).toEqual(kept)
    })
  })

  describe('check-and-set', () => {
    it('writes where the version is still the one that was read', async () => {
      const path = `${v2}/${unique('cas')}`
      expect(await vault.kv.put(path, { n: 1 }, { cas: 0 })).toMatchObject({ version: 1, deletedAt: undefined, destroyed: false })
      const again = await failure(vault.kv.put(path, { n: 2 }, { cas: 0 }))
      expect(again).toMatchObject({ name: 'ConflictError', code: 'VAULT_CAS_MISMATCH' })
      expect(await vault.kv.put(path, { n: 2 }, { cas: 1 })).toMatchObject({ version: 2 })
      expect(await failure(vault.kv.patch(path, { n: 3 }, { cas: 1 }))).toMatchObject({ code: 'VAULT_CAS_MISMATCH' })
      expect((await vault.kv.get(path)).data).toEqual({ n: 2 })
    })

    it('is asked for where the secret wants it, and update gives it', async () => {
      const path = `${v2}/${unique('strict')}`
      await vault.kv.setMetadata(path, { casRequired: true })
      expect(await failure(vault.kv.put(path, { n: 1 }))).toMatchObject({ name: 'ConfigError', code: 'VAULT_CAS_REQUIRED' })
      await vault.kv.update(path, () => ({ n: 1 }))
      expect(await failure(vault.kv.patch(path, { n: 2 }))).toMatchObject({ code: 'VAULT_CAS_REQUIRED' })
      await vault.kv.patch(path, { n: 2 }, { cas: 1 })
      expect((await vault.kv.get(path)).data).toEqual({ n: 2 })
    })

    it('10 concurrent updates of one number by two handlers add up to 10', async () => {
      const path = `${v2}/${unique('counter')}`
      await using other = handler(openbao)
      const schema = z.object({ n: z.number() })
      let rounds = 0
      await Promise.all(
        Array.from({ length: 10 }, (_, index) =>
          (index % 2 === 0 ? vault : other).kv.update(
            path,
            (current) => {
              rounds += 1
              return { n: (current?.n ?? 0) + 1 }
            },
            { schema },
          ),
        ),
      )
      expect((await vault.kv.get(path)).data).toEqual({ n: 10 })
      expect((await vault.kv.metadata(path)).currentVersion).toBe(10)
      // It did come to conflicts.
      expect(rounds).toBeGreaterThan(10)
    })

    it('an update that is always too late ends, and says that it may be tried again', async () => {
      const path = `${v2}/${unique('busy')}`
      const late = vault.kv.update(
        path,
        async () => {
          await vault.kv.put(path, { by: 'another' })
          return { by: 'me' }
        },
        { attempts: 3 },
      )
      expect(await failure(late)).toMatchObject({ code: 'VAULT_CAS_MISMATCH', retry: 'safe', context: { attempts: 3 } })
      expect((await vault.kv.get(path)).version).toBe(3)
    })

    it('an update sees nothing where a secret was deleted or destroyed, and can leave it so', async () => {
      const path = `${v2}/${unique('again')}`
      await vault.kv.put(path, { n: 1 })
      await vault.kv.delete(path)
      expect(await vault.kv.update(path, (current) => (current === undefined ? undefined : current))).toBeUndefined()
      expect((await vault.kv.metadata(path)).currentVersion).toBe(1)
      expect(await vault.kv.update(path, (current) => ({ was: current ?? null, n: 2 }))).toMatchObject({ version: 2 })
      await vault.kv.destroy(path, [2])
      await vault.kv.update(path, (current) => ({ was: current ?? null, n: 3 }))
      expect((await vault.kv.get(path)).data).toEqual({ was: null, n: 3 })
    })

    it('what the function throws is thrown', async () => {
      const update = vault.kv.update(`${v2}/first`, () => {
        throw new RangeError('not so')
      })
      await expect(update).rejects.toThrow(RangeError)
    })
  })

  describe('patch', () => {
    const before = { keep: 1, drop: 2, tree: { keep: 'a', drop: 'b' }, list: [1, 2] }
    const changes = { drop: null, tree: { drop: null, add: { x: null, y: 1 } }, list: [3], more: 'text' }
    const after = { keep: 1, tree: { keep: 'a', add: { y: 1 } }, list: [3], more: 'text' }

    it('merges on the server', async () => {
      await using proxy = await recordingProxy(openbao.address)
      await using counted = handler(openbao, { address: proxy.address })
      const path = `${v2}/${unique('patched')}`
      await vault.kv.put(path, before)
      expect(await counted.kv.patch(path, changes)).toMatchObject({ version: 2 })
      expect((await vault.kv.get(path)).data).toEqual(after)
      expect(proxy.count(`PATCH /v1/${path.replace('/', '/data/')} 200`)).toBe(1)
      expect(proxy.count('PUT')).toBe(0)
    })

    it('reads and writes with check-and-set where the policy does not allow it', async () => {
      const admin = openbaoAdmin(openbao)
      const name = unique('patched')
      await admin.writePolicy(name, `path "${v2}/data/${name}" { capabilities = ["read", "update"] }`)
      await using limited = handler(openbao, { token: await admin.createToken({ policies: [name] }) })
      await vault.kv.put(`${v2}/${name}`, before)
      expect(await limited.kv.patch(`${v2}/${name}`, changes)).toMatchObject({ version: 2 })
      expect((await vault.kv.get(`${v2}/${name}`)).data).toEqual(after)
      // All at once: none of the changes is lost.
      await Promise.all(Array.from({ length: 5 }, (_, n) => limited.kv.patch(`${v2}/${name}`, { [`n${n}`]: n })))
      expect((await vault.kv.get(`${v2}/${name}`)).data).toEqual({ ...after, n0: 0, n1: 1, n2: 2, n3: 3, n4: 4 })

      await admin.writePolicy(name, `path "${v2}/data/${name}" { capabilities = ["read"] }`)
      const denied = await failure(limited.kv.patch(`${v2}/${name}`, changes))
      expect(denied).toMatchObject({ name: 'PermissionError' })
      expect(denied.message).toContain('capabilities = ["patch"]')
    })

    it('needs a secret', async () => {
      expect(await failure(vault.kv.patch(`${v2}/none`, { a: 1 }))).toMatchObject({ code: 'VAULT_SECRET_NOT_FOUND' })
      const path = `${v2}/${unique('deleted')}`
      await vault.kv.put(path, before)
      await vault.kv.delete(path)
      expect(await failure(vault.kv.patch(path, { a: 1 }))).toMatchObject({ code: 'VAULT_VERSION_DELETED' })
    })
  })

  describe('versions', () => {
    it('are deleted, undeleted and destroyed one by one', async () => {
      const path = `${v2}/${unique('versions')}`
      for (const n of [1, 2, 3]) await vault.kv.put(path, { n })
      await vault.kv.delete(path, { versions: [1, 2] })
      expect(await failure(vault.kv.get(path, { version: 1 }))).toMatchObject({
        code: 'VAULT_VERSION_DELETED',
        context: { version: 1 },
      })
      expect((await vault.kv.get(path)).data).toEqual({ n: 3 })
      await vault.kv.undelete(path, [2])
      expect((await vault.kv.get(path, { version: 2 })).data).toEqual({ n: 2 })
      await vault.kv.destroy(path, [1])
      expect(await failure(vault.kv.get(path, { version: 1 }))).toMatchObject({ code: 'VAULT_VERSION_DESTROYED' })
      const versions = await vault.kv.versions(path)
      expect(versions.map(({ version, destroyed }) => [version, destroyed])).toEqual([
        [1, true],
        [2, false],
        [3, false],
      ])
      expect(versions[2]?.createdAt.getTime()).toBeGreaterThanOrEqual(versions[1]?.createdAt.getTime() ?? Infinity)
      expect(await failure(vault.kv.get(path, { version: 4 }))).toMatchObject({ code: 'VAULT_VERSION_NOT_FOUND' })
      expect(await failure(vault.kv.get(`${path}-none`, { version: 4 }))).toMatchObject({ code: 'VAULT_SECRET_NOT_FOUND' })
    })

    it('obey the metadata', async () => {
      const path = `${v2}/${unique('metadata')}`
      const customMetadata = { owner: 'team "a" & b', naïve: '日本' }
      await vault.kv.setMetadata(path, { maxVersions: 2, deleteVersionAfterMs: 5_400_000, customMetadata })
      for (const n of [1, 2, 3]) await vault.kv.put(path, { n })
      const metadata = await vault.kv.metadata(path)
      expect(metadata).toMatchObject({ currentVersion: 3, maxVersions: 2, casRequired: false, deleteVersionAfterMs: 5_400_000 })
      expect(metadata.customMetadata).toEqual(customMetadata)
      expect(metadata.versions.map(({ version }) => version)).toEqual([2, 3])
      const [, newest] = metadata.versions
      expect((newest?.deletedAt?.getTime() ?? 0) - (newest?.createdAt.getTime() ?? 0)).toBe(5_400_000)
      await vault.kv.setMetadata(path, { maxVersions: 5 })
      expect(await vault.kv.metadata(path)).toMatchObject({ maxVersions: 5, deleteVersionAfterMs: 5_400_000, customMetadata })
      expect((await vault.kv.get(path)).customMetadata).toEqual(customMetadata)
      expect(await failure(vault.kv.get(path, { version: 1 }))).toMatchObject({ code: 'VAULT_VERSION_NOT_FOUND' })

      await vault.kv.deleteMetadata(path)
      expect(await failure(vault.kv.metadata(path))).toMatchObject({ code: 'VAULT_SECRET_NOT_FOUND' })
      expect(await failure(vault.kv.get(path))).toMatchObject({ code: 'VAULT_SECRET_NOT_FOUND' })
    })

    it('are for version 2 mounts alone', async () => {
      const { kv } = vault
      const path = `${v1}/versionless`
      await kv.put(path, { a: 'b' })
      const calls: (() => Promise<unknown>)[] = [
        () => kv.get(path, { version: 1 }),
        () => kv.put(path, {}, { cas: 1 }),
        () => kv.patch(path, {}),
        () => kv.update(path, () => ({})),
        () => kv.delete(path, { versions: [1] }),
        () => kv.undelete(path, [1]),
        () => kv.destroy(path, [1]),
        () => kv.metadata(path),
        () => kv.versions(path),
        () => kv.setMetadata(path, {}),
        () => kv.deleteMetadata(path),
      ]
      for (const call of calls) {
        expect(await failure(call())).toMatchObject({ name: 'ConfigError', code: 'VAULT_MOUNT_UNVERSIONED' })
      }
      expect((await kv.get(path)).data).toEqual({ a: 'b' })
    })
  })

  it('a mount is no secret, and a path the server would not take is refused before it is asked', async () => {
    expect(await failure(vault.kv.put(v2, { a: 'b' }))).toMatchObject({ code: 'VAULT_PATH_INVALID' })
    for (const name of ['line\nbreak', 'no\u00a0break', 'zero\u200bwidth', 'a//b', '..', '']) {
      expect(await failure(vault.kv.put(`${v2}/x/${name}/y`, { a: 'b' }))).toMatchObject({ code: 'VAULT_PATH_INVALID' })
    }
  })

  it('a write whose answer is lost is made again without check-and-set, and is not with it', async () => {
    const { hostname, port } = new URL(openbao.address)
    await using proxy = await startFaultProxy({ host: hostname, port: Number(port) })
    await using cut = handler(openbao, { address: `http://127.0.0.1:${proxy.port}` })
    const path = `${v2}/${unique('lost')}`
    await cut.kv.put(path, { n: 1 })
    proxy.limitBytes(1, { once: true })
    expect(await failure(cut.kv.put(path, { n: 2 }, { cas: 1 }))).toMatchObject({
      code: 'VAULT_CONNECTION_LOST',
      retry: 'if-idempotent',
    })
    expect(await vault.kv.get(path)).toMatchObject({ data: { n: 2 }, version: 2 })
    proxy.limitBytes(1, { once: true })
    expect(await cut.kv.put(path, { n: 3 })).toMatchObject({ version: 4 })
  })
})
