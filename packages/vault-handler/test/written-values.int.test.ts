import { randomUUID } from 'node:crypto'
import { inspect } from 'node:util'
import type { Logger } from '@common-handlers/core'
import { describeWith, openbaoAdmin } from '@common-handlers/testkit'
import { expect, it, vi } from 'vitest'
import { VaultHandler } from '../src/index.ts'

describeWith(['openbao'], 'what is written', ({ openbao }) => {
  it('is found in no log and in no error', async () => {
    const admin = openbaoAdmin(openbao)
    const suffix = randomUUID().slice(0, 8)
    const [mount, transitMount] = [`kv-${suffix}`, `transit-${suffix}`]
    await admin.mount(mount, 'kv', { version: '2' })
    await admin.mount(transitMount, 'transit')
    const output: string[] = []
    const log = (...parts: unknown[]): void =>
      void output.push(inspect(parts, { depth: 20, showHidden: true }), JSON.stringify(parts))
    const logger: Logger = { trace: log, debug: log, info: log, warn: log, error: log, child: () => logger }
    await using vault = new VaultHandler({
      address: openbao.address,
      token: openbao.rootToken,
      logger,
      retry: { attempts: 2, baseDelayMs: 1 },
    })
    await using nowhere = new VaultHandler({
      address: 'http://127.0.0.1:1',
      token: 'x',
      logger,
      retry: { attempts: 2, baseDelayMs: 1 },
    })
    await vi.waitFor(() => vault.kv.put(`${mount}/app`, { first: 1 }), { timeout: 20_000 })
    await vault.transit(transitMount).createKey('signer', { type: 'ed25519' })

    const planted: string[] = []
    const plant = (): string => {
      const value = `planted ${planted.length} "q" <&> ${randomUUID()}`
      planted.push(value)
      return value
    }
    const secret = (): Record<string, unknown> => ({ plain: plant(), list: [{ deep: plant() }] })
    const codes = new Set<string>()
    const fails = async (call: Promise<unknown>): Promise<void> => {
      const error: unknown = await call.then(
        () => undefined,
        (thrown: unknown) => thrown,
      )
      if (!(error instanceof Error)) throw new Error('expected it to fail')
      codes.add((error as { code?: string }).code ?? error.name)
      for (let at: unknown = error; at instanceof Error; at = at.cause) log(at, String(at), at.stack)
    }
    const path = `${mount}/app`
    await fails(vault.kv.put(path, secret(), { cas: 77 }))
    await fails(vault.kv.patch(path, secret(), { cas: 77 }))
    await fails(vault.kv.patch(`${mount}/none`, secret()))
    await fails(vault.kv.put(path, { ...secret(), big: 9007199254740993n }))
    await fails(
      vault.kv.update(
        path,
        async () => {
          await vault.kv.put(path, secret())
          return secret()
        },
        { attempts: 2 },
      ),
    )
    await vault.kv.setMetadata(path, { casRequired: true })
    await fails(vault.kv.put(path, secret()))
    await fails(vault.kv.setMetadata(path, { customMetadata: { owner: plant(), empty: '' } }))
    await fails(vault.transit(transitMount).encrypt('signer', plant()))
    await fails(vault.transit(transitMount).decrypt('signer', plant()))
    await fails(vault.wrapping.unwrap(plant()))
    await fails(vault.wrapping.rewrap(plant()))
    await fails(nowhere.kv.put(path, secret()))
    await fails(nowhere.wrapping.wrap(secret(), 1_000))
    expect([...codes].toSorted()).toEqual([
      'VAULT_CAS_MISMATCH',
      'VAULT_CAS_REQUIRED',
      'VAULT_CONNECTION_REFUSED',
      'VAULT_REQUEST_REFUSED',
      'VAULT_SECRET_NOT_FOUND',
      'VAULT_VALUE_INEXACT',
      'VAULT_WRAPPING_TOKEN_INVALID',
    ])
    log(vault, vault.kv, vault.transit(), vault.wrapping)
    const all = output.join('\n')
    expect(all).toContain('tried again')
    expect(planted.length).toBeGreaterThan(15)
    for (const value of planted) {
      for (const spelling of [
        value,
        encodeURIComponent(value),
        JSON.stringify(value).slice(1, -1),
        Buffer.from(value).toString('base64'),
      ]) {
        expect(all.includes(spelling), `${value} was printed`).toBe(false)
      }
    }
  })
})
