import { execFile } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describeWith, openbaoAdmin } from '@common-handlers/testkit'
import { expect, it } from 'vitest'

const run = promisify(execFile)

describeWith(['openbao'], 'secrets', ({ openbao }) => {
  it('are found in no log, error, inspect output or DEBUG output', async () => {
    const admin = openbaoAdmin(openbao)
    const mount = `leak-${randomUUID().slice(0, 8)}`
    await admin.mount(mount, 'kv', { version: '2' })
    await admin.createAppRole(mount, { policies: ['default'] })
    for (const method of ['userpass', 'jwt']) await admin.request('POST', `sys/auth/${method}`, { type: method })
    const policy = `path "${mount}/*" { capabilities = ["read", "create", "update", "list"] }`
    await admin.writePolicy(mount, policy)
    const token = await admin.createToken({ policies: [mount] })
    const values = Object.fromEntries(
      Array.from({ length: 14 }, (_, index) => [`value${index}`, `planted ${index} "q" <&> ${randomUUID()}`]),
    )
    const secrets = {
      token,
      deadToken: `s.${randomUUID()}`,
      roleId: randomUUID(),
      secretId: randomUUID(),
      password: `pässword-${randomUUID()}`,
      jwt: `${Buffer.from(randomUUID()).toString('base64url')}.e30.c2ln`,
      ...values,
    }
    const script = fileURLToPath(new URL('planted-secrets.ts', import.meta.url))
    const { stdout, stderr } = await run(process.execPath, ['--conditions=@common-handlers/source', script], {
      env: {
        ...process.env,
        DEBUG: '*',
        NODE_DEBUG: '',
        PLANTED: JSON.stringify({ address: openbao.address, mount, ...secrets }),
      },
      maxBuffer: 64 * 1024 * 1024,
    })
    const output = stdout + stderr
    // It did go through all of it: each kind of error was printed.
    for (const code of [
      'VAULT_CAS_MISMATCH',
      'VAULT_LOGIN_FAILED',
      'VAULT_TOKEN_INVALID',
      'VAULT_CONNECTION_REFUSED',
      'VAULT_HOST_NOT_FOUND',
      'VAULT_FIELD_NOT_FOUND',
    ]) {
      expect(output).toContain(code)
    }
    expect(stdout.trimEnd().endsWith('the end')).toBe(true)
    expect(Object.keys(secrets)).toHaveLength(20)
    for (const [name, value] of Object.entries(secrets)) {
      for (const spelling of [
        value,
        encodeURIComponent(value),
        JSON.stringify(value).slice(1, -1),
        Buffer.from(value).toString('base64'),
      ]) {
        expect(output.includes(spelling), `${name} was printed`).toBe(false)
      }
    }
  })
})
