import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describeWith, openbaoAdmin } from '@common-handlers/testkit'
import { expect, it } from 'vitest'

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
