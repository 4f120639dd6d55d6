import { createPublicKey, randomBytes, randomUUID, verify } from 'node:crypto'
import { describeWith, openbaoAdmin } from '@common-handlers/testkit'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { type Transit, VaultHandler } from '../src/index.ts'
import { failure } from './failure.ts'

describeWith(['openbao'], 'the transit engine', ({ openbao }) => {
  const mount = `transit-${randomUUID().slice(0, 8)}`
  let vault: VaultHandler
  let transit: Transit

  beforeAll(async () => {
    await openbaoAdmin(openbao).mount(mount, 'transit')
    vault = new VaultHandler({ address: openbao.address, token: openbao.rootToken })
    transit = vault.transit(mount)
    await transit.createKey('orders')
    await transit.createKey('derived', { derived: true })
    await transit.createKey('signer', { type: 'ed25519' })
  })
  afterAll(() => vault.close())

  it.each([
    ['bytes', randomBytes(100_000)],
    ['every byte', Uint8Array.from({ length: 256 }, (_, byte) => byte)],
    ['a part of a buffer', Buffer.from('not this, but this').subarray(10)],
    ['nothing', Buffer.alloc(0)],
    ['text', 'Straße 日本 🔑 \u0000'],
  ])('encrypts and decrypts %s', async (_, plaintext) => {
    const ciphertext = await transit.encrypt('orders', plaintext)
    expect(ciphertext).toMatch(/^vault:v\d+:/)
    expect((await transit.decrypt('orders', ciphertext)).equals(Buffer.from(plaintext))).toBe(true)
  })

  it('encrypts and decrypts a batch, and reports the bad items at their places', async () => {
    const plaintexts = ['a', Buffer.from('b'), 'c']
    const encrypted = await transit.encryptBatch(
      'orders',
      plaintexts.map((plaintext) => ({ plaintext })),
    )
    const ciphertexts = encrypted.map((result) => (result.status === 'fulfilled' ? result.value : ''))
    const [first = '', , third = ''] = ciphertexts
    const results = await transit.decryptBatch('orders', [
      { ciphertext: first },
      { ciphertext: 'vault:v1:junk' },
      { ciphertext: third },
    ])
    expect(results).toMatchObject([
      { status: 'fulfilled', value: Buffer.from('a') },
      { status: 'rejected', reason: { name: 'DataError', code: 'VAULT_CIPHERTEXT_INVALID', context: { item: 1 } } },
      { status: 'fulfilled', value: Buffer.from('c') },
    ])
    // All bad is still a result for each.
    expect(await transit.decryptBatch('orders', [{ ciphertext: 'x' }, { ciphertext: 'y' }])).toMatchObject([
      { status: 'rejected', reason: { context: { item: 0 } } },
      { status: 'rejected', reason: { context: { item: 1 } } },
    ])
    expect(await transit.decryptBatch('orders', [])).toEqual([])
    const derived = await transit.encryptBatch('derived', [
      { plaintext: 'a', context: 'user 1', keyVersion: 9 },
      { plaintext: 'b', context: 'user 2' },
    ])
    expect(derived.map(({ status }) => status)).toEqual(['rejected', 'fulfilled'])
  })

  it('wants the context and the associated data of a value back', async () => {
    const ciphertext = await transit.encrypt('derived', 'hello', { context: 'user 1' })
    expect(String(await transit.decrypt('derived', ciphertext, { context: Buffer.from('user 1') }))).toBe('hello')
    const wrong = await failure(transit.decrypt('derived', ciphertext, { context: 'user 2' }))
    expect(wrong).toMatchObject({ name: 'DataError', code: 'VAULT_CIPHERTEXT_INVALID', retry: 'never' })
    const bound = await transit.encrypt('orders', 'hello', { associatedData: 'order 7' })
    expect(String(await transit.decrypt('orders', bound, { associatedData: 'order 7' }))).toBe('hello')
    expect(await failure(transit.decrypt('orders', bound))).toMatchObject({ code: 'VAULT_CIPHERTEXT_INVALID' })
  })

  it('rewraps with the newest version of a rotated key', async () => {
    await transit.createKey('rotated')
    const old = await transit.encrypt('rotated', 'hello')
    await transit.rotateKey('rotated')
    const info = await transit.readKey('rotated')
    expect(info).toMatchObject({
      name: 'rotated',
      type: 'aes256-gcm96',
      latestVersion: 2,
      minDecryptionVersion: 1,
      derived: false,
    })
    expect(info.versions.map(({ version }) => version)).toEqual([1, 2])
    const fresh = await transit.rewrap('rotated', old)
    expect([old, fresh, await transit.encrypt('rotated', 'x', { keyVersion: 1 })].map((text) => text.slice(0, 9))).toEqual([
      'vault:v1:',
      'vault:v2:',
      'vault:v1:',
    ])
    expect(String(await transit.decrypt('rotated', fresh))).toBe('hello')
    const batch = await transit.rewrapBatch('rotated', [{ ciphertext: 'junk' }, { ciphertext: old }])
    expect(batch).toMatchObject([
      { status: 'rejected', reason: { code: 'VAULT_CIPHERTEXT_INVALID' } },
      { status: 'fulfilled', value: expect.stringMatching(/^vault:v2:/) },
    ])
  })

  it('signs, so that anybody with the public key can verify', async () => {
    const signature = await transit.sign('signer', 'hello')
    const { versions } = await transit.readKey('signer')
    const [, , body = ''] = signature.split(':')
    const key = createPublicKey({
      key: { kty: 'OKP', crv: 'Ed25519', x: Buffer.from(versions[0]?.publicKey ?? '', 'base64').toString('base64url') },
      format: 'jwk',
    })
    expect(verify(null, Buffer.from('hello'), key, Buffer.from(body, 'base64'))).toBe(true)
    expect(await transit.verify('signer', 'hello', signature)).toBe(true)
    expect(await transit.verify('signer', 'hullo', signature)).toBe(false)
    for (const junk of ['', 'junk', 'vault:v1:++', 'vault:v9:AAAA'])
      expect(await transit.verify('signer', 'hello', junk)).toBe(false)
    expect(await failure(transit.verify('none', 'hello', signature))).toMatchObject({ code: 'VAULT_KEY_NOT_FOUND' })

    const signatures = await transit.signBatch('signer', [{ input: 'a' }, { input: 'b' }])
    const [a = '', b = ''] = signatures.map((result) => (result.status === 'fulfilled' ? result.value : ''))
    const verdicts = await transit.verifyBatch('signer', [
      { input: 'a', signature: a },
      { input: 'a', signature: b },
      { input: 'b', signature: 'junk' },
    ])
    expect(verdicts).toEqual([true, false, false].map((value) => ({ status: 'fulfilled', value })))
  })

  it('signs with RSA by the algorithm that is asked for', async () => {
    await transit.createKey('rsa', { type: 'rsa-2048' })
    const how = { hashAlgorithm: 'sha2-512', signatureAlgorithm: 'pkcs1v15' } as const
    const signature = await transit.sign('rsa', 'hello', how)
    const { versions } = await transit.readKey('rsa')
    const body = Buffer.from(signature.split(':')[2] ?? '', 'base64')
    expect(verify('sha512', Buffer.from('hello'), versions[0]?.publicKey ?? '', body)).toBe(true)
    expect(await transit.verify('rsa', 'hello', signature, how)).toBe(true)
    expect(await transit.verify('rsa', 'hello', signature)).toBe(false)
  })

  it('makes keyed digests', async () => {
    const hmac = await transit.hmac('orders', 'hello')
    expect(await transit.hmac('orders', Buffer.from('hello'))).toBe(hmac)
    expect(await transit.verifyHmac('orders', 'hello', hmac)).toBe(true)
    expect(await transit.verifyHmac('orders', 'hullo', hmac)).toBe(false)
    expect(await transit.verifyHmac('orders', 'hello', 'junk')).toBe(false)
    const long = await transit.hmac('orders', 'hello', { algorithm: 'sha2-512' })
    expect(await transit.verifyHmac('orders', 'hello', long, { algorithm: 'sha2-512' })).toBe(true)
    expect(await transit.hmacBatch('orders', [{ input: 'hello' }, { input: 'x' }])).toMatchObject([
      { status: 'fulfilled', value: hmac },
      { status: 'fulfilled', value: expect.not.stringMatching(hmac) },
    ])
  })

  it('makes keys for use outside', async () => {
    const { plaintext, ciphertext } = await transit.dataKey('orders', { bits: 512 })
    expect(plaintext).toHaveLength(64)
    expect((await transit.decrypt('orders', ciphertext)).equals(plaintext)).toBe(true)
  })

  it('names a key or a mount that is not there, and what a policy lacks; never the plaintext', async () => {
    const plaintext = `planted-${randomUUID()}`
    expect(await failure(transit.decrypt('none', 'vault:v1:AAAA'))).toMatchObject({
      name: 'NotFoundError',
      code: 'VAULT_KEY_NOT_FOUND',
    })
    expect(await failure(transit.readKey('none'))).toMatchObject({ name: 'NotFoundError', code: 'VAULT_KEY_NOT_FOUND' })
    expect(await failure(vault.transit('no-transit').encrypt('orders', plaintext))).toMatchObject({
      code: 'VAULT_MOUNT_NOT_FOUND',
    })
    const token = await openbaoAdmin(openbao).createToken({ policies: ['default'] })
    await using limited = new VaultHandler({ address: openbao.address, token })
    const denied = await failure(limited.transit(mount).encrypt('orders', plaintext))
    expect(denied.message).toContain(`path "${mount}/encrypt/orders" { capabilities = [`)
    const refused = await failure(transit.encrypt('signer', plaintext))
    expect(refused).toMatchObject({ code: 'VAULT_REQUEST_REFUSED' })
    for (const error of [denied, refused]) {
      for (const text of [plaintext, Buffer.from(plaintext).toString('base64')]) expect(JSON.stringify(error)).not.toContain(text)
    }
  })
})
