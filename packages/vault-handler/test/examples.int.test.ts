import { execFile } from 'node:child_process'
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
