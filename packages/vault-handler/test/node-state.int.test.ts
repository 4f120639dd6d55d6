import { describeWith, openbaoAdmin, type OpenBaoServer, startDurableOpenBao, startOpenBao } from '@common-handlers/testkit'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { VaultHandler } from '../src/index.ts'
import { failure } from './failure.ts'
import { recordingProxy } from './recording-proxy.ts'

// A server of its own: others would not like to have theirs sealed and killed.
describeWith(['openbao'], 'a server that is sealed, gone or back', () => {
  let server: OpenBaoServer
  let vault: VaultHandler

  beforeAll(async () => {
    server = await startOpenBao()
    await openbaoAdmin(server).putSecret('app', { user: 'from-the-vault' })
    vault = new VaultHandler({
      address: server.address,
      token: server.rootToken,
      retry: { attempts: 1_000, budgetMs: 60_000, baseDelayMs: 20, maxDelayMs: 20 },
    })
  })
  afterAll(async () => {
    await vault?.close()
    await server?.stop()
  })

  const impatient = (): VaultHandler =>
    new VaultHandler({ address: server.address, token: server.rootToken, retry: { attempts: 1 } })

  it('sealed: an error that says so, a check that says so, and a call that waits for the operator', async () => {
    const admin = openbaoAdmin(server)
    await admin.seal()
    await using once = impatient()
    expect(await failure(once.getSecret('secret/app'))).toMatchObject({
      name: 'RemoteError',
      code: 'VAULT_SEALED',
      retry: 'safe',
    })
    expect(await once.health()).toMatchObject({ initialized: true, sealed: true, state: 'sealed' })
    const check = await once.check()
    expect(check.steps).toMatchObject([{ name: 'read the health', ok: false, error: { code: 'VAULT_SEALED' } }])

    const waiting = vault.getSecret('secret/app')
    await admin.unseal()
    expect(await waiting).toEqual({ user: 'from-the-vault' })
  })

  it('restarted: a call in the middle finds it again', async () => {
    // Connections that were kept are dead after this.
    await vault.request('GET', 'auth/token/lookup-self')
    await server.down()
    await using once = impatient()
    expect(await failure(once.request('GET', 'auth/token/lookup-self'))).toMatchObject({
      name: 'ConnectionError',
      code: 'VAULT_CONNECTION_REFUSED',
      retry: 'safe',
    })
    expect((await once.check()).steps).toMatchObject([{ ok: false, error: { code: 'VAULT_CONNECTION_REFUSED' } }])
    const waiting = vault.request('GET', 'auth/token/lookup-self')
    await server.up()
    expect(await waiting).toMatchObject({ data: { policies: ['root'] } })
  })
})

describeWith(['openbao'], 'a server that keeps its data and is restarted in the middle', () => {
  it('loses no call and no token', async () => {
    await using server = await startDurableOpenBao()
    const admin = openbaoAdmin(server)
    await admin.putSecret('app', { user: 'from-the-vault' })
    await admin.writePolicy('reader', 'path "secret/*" { capabilities = ["read"] }')
    await using proxy = await recordingProxy(server.address)
    await using vault = new VaultHandler({
      address: proxy.address,
      appRole: await admin.createAppRole('reader', { policies: ['reader'] }),
      retry: { attempts: 1_000, budgetMs: 60_000, baseDelayMs: 20, maxDelayMs: 100 },
    })
    await vault.getSecret('secret/app')
    const reading = new AbortController()
    let reads = 0
    const readers = Array.from({ length: 5 }, async () => {
      while (!reading.signal.aborted) {
        expect(await vault.getSecret('secret/app')).toEqual({ user: 'from-the-vault' })
        reads++
      }
    })
    // Killed, then back and sealed for a moment, then a standby for another.
    await server.restart()
    const before = reads
    await expect.poll(() => reads, { timeout: 30_000 }).toBeGreaterThan(before + 20)
    reading.abort()
    await Promise.all(readers)
    expect(proxy.count('POST /v1/auth/approle/login')).toBe(1)
  })
})
