import { randomUUID } from 'node:crypto'
import { describeWith, openbaoAdmin, runWithHvac } from '@common-handlers/testkit'
import { afterAll, beforeAll, expect, it, vi } from 'vitest'
import { parseExact, writeExact } from '../src/exact-json.ts'
import { VaultHandler } from '../src/index.ts'

const SETUP = `
import hvac, json, os
job = json.loads(os.environ['JOB'])
client = hvac.Client(url=os.environ['ADDRESS'], token=os.environ['TOKEN'])
v1, v2 = client.secrets.kv.v1, client.secrets.kv.v2
`

const PATHS = ['plain', 'my key#1?x', 'a&b=c', 'Straße/日本 🔑', 'quo\'te"(1)', '%2e%2e/%41', 'deep/er/est', 'tail ', 'a+b *']
const VALUES = {
  text: 'quo\'te" <a href="x">&amp; \\ \u0000 \u2028 🔑 日本',
  lines: '-----BEGIN KEY-----\nabc\r\n-----END KEY-----\n',
  empty: '',
  'my key#1?x': 'odd name',
  日本: 'a name of Unicode',
  tree: { list: [1, 2.5, -0.1, true, null, { x: 'y' }], empty: {}, none: [] },
  safe: Number.MAX_SAFE_INTEGER,
  tiny: 5e-324,
}
const BIG = { max: 2n ** 63n - 1n, min: -(2n ** 63n), odd: 9007199254740993n }

// hvac, the Vault client of Python, shares no code with this package: what one writes the other must read.
describeWith(['openbao'], 'beside hvac', ({ openbao }) => {
  const suffix = randomUUID().slice(0, 8)
  const mounts = { v1: `kv1-${suffix}`, v2: `kv2-${suffix}`, transit: `transit-${suffix}` }
  let vault: VaultHandler

  beforeAll(async () => {
    const admin = openbaoAdmin(openbao)
    await admin.mount(mounts.v1, 'kv', { version: '1' })
    await admin.mount(mounts.v2, 'kv', { version: '2' })
    await admin.mount(mounts.transit, 'transit')
    vault = new VaultHandler({ address: openbao.address, token: openbao.rootToken })
    // A version 2 mount upgrades itself for a moment and refuses writes meanwhile.
    await vi.waitFor(() => vault.kv.put(`${mounts.v2}/first`, { a: 'b' }), { timeout: 20_000 })
  })
  afterAll(() => vault.close())

  const python = async (program: string, job: object): Promise<unknown> => {
    const environment = { ADDRESS: openbao.address, TOKEN: openbao.rootToken, JOB: writeExact({ ...mounts, ...job }) }
    return parseExact(await runWithHvac(`${SETUP}${program}`, environment))
  }

  it('hvac reads what we wrote', async () => {
    for (const [n, path] of PATHS.entries()) {
      await vault.kv.put(`${mounts.v1}/${path}`, { ...VALUES, ...BIG, n })
      await vault.kv.put(`${mounts.v2}/${path}`, { ...VALUES, n })
      await vault.kv.patch(`${mounts.v2}/${path}`, { n: null, patched: 'yes' })
    }
    const read = (await python(
      `
print(json.dumps({
  'v1': [v1.read_secret(path, mount_point=job['v1'])['data'] for path in job['paths']],
  'v2': [v2.read_secret_version(path, mount_point=job['v2'], raise_on_deleted_version=True)['data']['data'] for path in job['paths']],
  'keys': [kv.list_secrets('', mount_point=job[name])['data']['keys'] for kv, name in [(v1, 'v1'), (v2, 'v2')]],
}))`,
      { paths: PATHS },
    )) as { v1: unknown; v2: unknown; keys: string[][] }
    expect(read.v1).toEqual(PATHS.map((_, n) => ({ ...VALUES, ...BIG, n })))
    expect(read.v2).toEqual(PATHS.map(() => ({ ...VALUES, patched: 'yes' })))
    for (const [index, mount] of [mounts.v1, mounts.v2].entries()) {
      const listed: string[] = []
      for await (const path of vault.kv.list(mount)) listed.push(path.slice(mount.length + 1))
      expect(listed).toEqual(read.keys[index])
    }
  })

  it('we read what hvac wrote', async () => {
    const paths = PATHS.map((path) => `by-hvac/${path}`)
    await python(
      `
for n, path in enumerate(job['paths']):
  v1.create_or_update_secret(path, {**job['values'], **job['big'], 'n': n}, method='POST', mount_point=job['v1'])
  v2.create_or_update_secret(path, {**job['values'], 'n': n}, mount_point=job['v2'])
print('null')`,
      { paths, values: VALUES, big: BIG },
    )
    for (const [n, path] of paths.entries()) {
      expect((await vault.kv.get(`${mounts.v1}/${path}`)).data).toEqual({ ...VALUES, ...BIG, n })
      expect((await vault.kv.get(`${mounts.v2}/${path}`)).data).toEqual({ ...VALUES, n })
    }
    for (const mount of [mounts.v1, mounts.v2]) {
      const found: string[] = []
      for await (const path of vault.kv.list(`${mount}/by-hvac`, { recursive: true })) found.push(path.slice(mount.length + 1))
      expect(found.toSorted()).toEqual(paths.toSorted())
    }
  })

  it('both see the same versions and metadata', async () => {
    const path = `${mounts.v2}/versions`
    for (const n of [1, 2, 3]) await vault.kv.put(path, { n }, { cas: n - 1 })
    await vault.kv.delete(path, { versions: [1] })
    await vault.kv.destroy(path, [2])
    await vault.kv.setMetadata(path, { maxVersions: 7, deleteVersionAfterMs: 90_000, customMetadata: { owner: 'wir' } })
    const seen = (await python(
      `
m = v2.read_secret_metadata('versions', mount_point=job['v2'])['data']
v2.undelete_secret_versions('versions', [1], mount_point=job['v2'])
v2.patch('versions', {'by': 'hvac'}, mount_point=job['v2'])
print(json.dumps({
  'max': m['max_versions'], 'after': m['delete_version_after'], 'custom': m['custom_metadata'],
  'versions': {n: [v['deletion_time'] != '', v['destroyed']] for n, v in m['versions'].items()},
}))`,
      {},
    )) as object
    expect(seen).toEqual({
      max: 7,
      after: '1m30s',
      custom: { owner: 'wir' },
      versions: { 1: [true, false], 2: [false, true], 3: [false, false] },
    })
    expect((await vault.kv.get(path, { version: 1 })).data).toEqual({ n: 1 })
    expect(await vault.kv.get(path)).toMatchObject({ data: { n: 3, by: 'hvac' }, version: 4 })
  })

  it('each decrypts, verifies and unwraps what the other made', async () => {
    const transit = vault.transit(mounts.transit)
    await transit.createKey('key')
    await transit.createKey('signer', { type: 'ecdsa-p256' })
    const ours = {
      ciphertext: await transit.encrypt('key', VALUES.text),
      signature: await transit.sign('signer', VALUES.text),
      wrapped: (await vault.wrapping.wrap({ text: VALUES.text }, 60_000)).token,
    }
    const theirs = (await python(
      `
import base64
t, m = client.secrets.transit, job['transit']
b64 = lambda text: base64.b64encode(text.encode()).decode()
print(json.dumps({
  'plaintext': base64.b64decode(t.decrypt_data('key', job['ciphertext'], mount_point=m)['data']['plaintext']).decode(),
  'valid': t.verify_signed_data('signer', b64(job['text']), signature=job['signature'], mount_point=m)['data']['valid'],
  'unwrapped': client.sys.unwrap(job['wrapped'])['data'],
  'ciphertext': t.encrypt_data('key', b64(job['text']), mount_point=m)['data']['ciphertext'],
  'signature': t.sign_data('signer', b64(job['text']), mount_point=m)['data']['signature'],
  'token': client.sys.wrap({'text': job['text']}, ttl=60)['wrap_info']['token'],
}))`,
      { ...ours, text: VALUES.text },
    )) as { plaintext: string; valid: boolean; unwrapped: object; ciphertext: string; signature: string; token: string }
    expect(theirs).toMatchObject({ plaintext: VALUES.text, valid: true, unwrapped: { text: VALUES.text } })
    expect(String(await transit.decrypt('key', theirs.ciphertext))).toBe(VALUES.text)
    expect(await transit.verify('signer', VALUES.text, theirs.signature)).toBe(true)
    expect((await vault.wrapping.unwrap(theirs.token)).data).toEqual({ text: VALUES.text })
  })
})
