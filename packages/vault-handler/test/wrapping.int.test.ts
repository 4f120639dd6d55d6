import { randomUUID } from 'node:crypto'
import { inspect } from 'node:util'
import { scrub } from '@common-handlers/core'
import { describeWith, openbaoAdmin } from '@common-handlers/testkit'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { VaultHandler } from '../src/index.ts'
import { failure } from './failure.ts'

describeWith(['openbao'], 'response wrapping', ({ openbao }) => {
  let vault: VaultHandler
  /** Has no token: it can open what it was given all the same. */
  let stranger: VaultHandler

  beforeAll(() => {
    vault = new VaultHandler({ address: openbao.address, token: openbao.rootToken })
    stranger = new VaultHandler({ address: openbao.address })
  })
  afterAll(async () => {
    await vault.close()
    await stranger.close()
  })

  it('hands data on once, to whoever has the token', async () => {
    const password = `planted-${randomUUID()}`
    const wrapped = await vault.wrapping.wrap({ password, big: 2n ** 63n - 1n }, 59_001)
    expect(wrapped).toMatchObject({ ttlMs: 60_000, creationPath: 'sys/wrapping/wrap' })
    expect(Math.abs(wrapped.createdAt.getTime() - Date.now())).toBeLessThan(60_000)
    expect(inspect(wrapped) + JSON.stringify(wrapped)).not.toContain(wrapped.token.expose())

    expect(await stranger.wrapping.lookup(wrapped.token)).toEqual({
      creationPath: 'sys/wrapping/wrap',
      createdAt: wrapped.createdAt,
      ttlMs: 60_000,
    })
    expect(await stranger.wrapping.unwrap(wrapped.token.expose())).toEqual({
      data: { password, big: 2n ** 63n - 1n },
      auth: undefined,
    })
    expect(scrub(password)).toBe('[secret]')
    for (const again of ['unwrap', 'lookup'] as const) {
      const error = await failure(stranger.wrapping[again](wrapped.token))
      expect(error).toMatchObject({ name: 'AuthError', code: 'VAULT_WRAPPING_TOKEN_INVALID', retry: 'never' })
      expect(error.message).not.toContain(wrapped.token.expose())
    }
  })

  it('wraps the answer to any request', async () => {
    const admin = openbaoAdmin(openbao)
    const role = `role-${randomUUID().slice(0, 8)}`
    const { roleId } = await admin.createAppRole(role, { policies: ['default'] })
    const path = `auth/approle/role/${role}/secret-id`
    const wrapped = await vault.request('POST', path, { body: {}, wrapTtlMs: 60_000 })
    expect(wrapped.creationPath).toBe(path)
    const { data } = await stranger.wrapping.unwrap(wrapped.token, { creationPath: path })
    await using login = new VaultHandler({
      address: openbao.address,
      appRole: { roleId, secretId: String(data?.['secret_id']) },
    })
    await login.connect()

    const token = await vault.request('POST', 'auth/token/create', { body: { policies: ['default'] }, wrapTtlMs: 60_000 })
    const { auth } = await stranger.wrapping.unwrap(token.token)
    expect(auth).toMatchObject({ client_token: expect.any(String), policies: ['default'] })
    expect(await failure(vault.request('DELETE', 'secret/data/none', { wrapTtlMs: 1_000 }))).toMatchObject({
      code: 'VAULT_ANSWER_NOT_WRAPPED',
    })
  })

  it('does not open what was made by another path', async () => {
    const forged = await vault.wrapping.wrap({ secret_id: 'forged' }, 60_000)
    const error = await failure(stranger.wrapping.unwrap(forged.token, { creationPath: 'auth/approle/role/app/secret-id' }))
    expect(error).toMatchObject({ name: 'AuthError', code: 'VAULT_WRAPPING_TOKEN_FOREIGN' })
    expect(error.message).toContain('sys/wrapping/wrap')
    // It was looked at and not used.
    expect(await stranger.wrapping.unwrap(forged.token)).toMatchObject({ data: { secret_id: 'forged' } })
  })

  it('rewraps: the old token ends, the new one holds the same', async () => {
    const first = await vault.wrapping.wrap({ a: 'b' }, 60_000)
    const second = await vault.wrapping.rewrap(first.token)
    expect(second).toMatchObject({ ttlMs: 60_000, creationPath: 'sys/wrapping/wrap' })
    expect(await failure(stranger.wrapping.unwrap(first.token))).toMatchObject({ code: 'VAULT_WRAPPING_TOKEN_INVALID' })
    expect((await stranger.wrapping.unwrap(second.token)).data).toEqual({ a: 'b' })
  })

  it('ends with its time', async () => {
    const wrapped = await vault.wrapping.wrap({ a: 'b' }, 1_000)
    await expect
      .poll(() => stranger.wrapping.lookup(wrapped.token).catch((error: unknown) => (error as { code?: string }).code), {
        timeout: 10_000,
      })
      .toBe('VAULT_WRAPPING_TOKEN_INVALID')
  })
})
