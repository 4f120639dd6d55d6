import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describeWith, openbaoAdmin, openbaoDatabase } from '@common-handlers/testkit'
import { expect, it, vi } from 'vitest'

const run = promisify(execFile)

describeWith(['openbao'], 'the examples', ({ openbao }) => {
  it('read-secret prints what the README says', async () => {
    await openbaoAdmin(openbao).putSecret('postgres/db', { user: 'app', password: 'correct horse' })
    const script = fileURLToPath(new URL('../examples/read-secret.ts', import.meta.url))
    const { stdout } = await run(process.execPath, ['--conditions=@common-handlers/source', script], {
      env: { PATH: process.env['PATH'], VAULT_ADDR: openbao.address, VAULT_TOKEN: openbao.rootToken },
    })
    expect(stdout).toBe(
      [
        'secret/postgres/db has the fields password, user',
        'the password has 13 characters',
        'NotFoundError: secret/postgres/db has no field "pasword"; it has: password, user',
        '',
      ].join('\n'),
    )
  })

  it('write-secrets prints what it did, and no value of it', async () => {
    const script = fileURLToPath(new URL('../examples/write-secrets.ts', import.meta.url))
    const { stdout } = await run(process.execPath, ['--conditions=@common-handlers/source', script], {
      env: { PATH: process.env['PATH'], VAULT_ADDR: openbao.address, VAULT_TOKEN: openbao.rootToken },
    })
    expect(stdout).toBe(
      [
        'secret/shop/deploys is at version 10 and has count',
        'secret/shop/stripe key#1 is at version 2 and has key, region',
        'deploys: 10',
        'handing on [secret]',
        "{ note: 'for your eyes only' }",
        'VAULT_WRAPPING_TOKEN_INVALID',
        '',
      ].join('\n'),
    )
  })

  it('wrapped-login logs in once with what it was handed', async () => {
    const admin = openbaoAdmin(openbao)
    await admin.putSecret('wrapped-login', { user: 'app' })
    await admin.writePolicy('wrapped-login', 'path "secret/data/wrapped-login" { capabilities = ["read"] }')
    const { roleId } = await admin.createAppRole('wrapped-login', { policies: ['wrapped-login'], tokenTtl: '1h' })
    const response = await fetch(`${openbao.address}/v1/auth/approle/role/wrapped-login/secret-id`, {
      method: 'POST',
      headers: { 'x-vault-token': openbao.rootToken, 'x-vault-wrap-ttl': '60s' },
    })
    const { wrap_info: wrapped } = (await response.json()) as { wrap_info: { token: string } }
    const folder = await mkdtemp(join(tmpdir(), 'common-handlers-example-'))
    const file = join(folder, 'wrapped')
    await writeFile(file, `${wrapped.token}\n`)
    const script = fileURLToPath(new URL('../examples/wrapped-login.ts', import.meta.url))
    const args = ['--conditions=@common-handlers/source', script, roleId, file, 'secret/wrapped-login']
    const env = { PATH: process.env['PATH'], VAULT_ADDR: openbao.address }
    const { stdout } = await run(process.execPath, args, { env })
    expect(stdout).toBe(
      'read: user\nfrom the cache: user\npolicies: default, wrapped-login; the token is renewed within 60 minutes\n',
    )
    await expect(run(process.execPath, args, { env })).rejects.toThrow('VAULT_WRAPPING_TOKEN_INVALID')
    await rm(folder, { recursive: true })
  })
})

describeWith(['openbao', 'postgres'], 'the example of a lease', ({ openbao, postgres }) => {
  it('prints what happens to it, and leaves none behind', async () => {
    const database = await openbaoDatabase(openbao, postgres)
    const path = await database.role({ default_ttl: '1h', max_ttl: '24h' })
    const script = fileURLToPath(new URL('../examples/database-lease.ts', import.meta.url))
    const { stdout } = await run(process.execPath, ['--conditions=@common-handlers/source', script, path], {
      env: { PATH: process.env['PATH'], VAULT_ADDR: openbao.address, VAULT_TOKEN: openbao.rootToken },
    })
    expect(stdout).toBe('it has the fields password, username\nit is good for 60 minutes\nrenewed\n')
    await vi.waitFor(async () => expect(await database.leases(path)).toBe(0), { timeout: 30_000 })
    await database.remove()
  })
})
