import { execFile } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describeWith, openbaoAdmin } from '@common-handlers/testkit'
import { expect, it } from 'vitest'
import { recordingProxy } from './recording-proxy.ts'

const run = promisify(execFile)

describeWith(['openbao'], 'secrets', ({ openbao }) => {
  it('are found in no log, error, inspect output or DEBUG output', async () => {
    const admin = openbaoAdmin(openbao)
    const mount = `leak-${randomUUID().slice(0, 8)}`
    await admin.mount(mount, 'kv', { version: '2' })
    await admin.createAppRole(mount, { policies: ['default'] })
    for (const method of ['userpass', 'jwt']) await admin.request('POST', `sys/auth/${method}`, { type: method })
    const policy = `path "${mount}/*" { capabilities = ["read", "create", "update", "patch", "list"] }`
    await admin.writePolicy(mount, policy)
    const token = await admin.createToken({ policies: [mount], ttl: '1h', renewable: true })
    // Renewals fail; reads do too once the script has asked for the seal status.
    let broken = false
    await using proxy = await recordingProxy(openbao.address, {
      fault: (request) => {
        broken ||= request === 'GET /v1/sys/seal-status'
        const fails = request === 'POST /v1/auth/token/renew-self' || (broken && request.startsWith(`GET /v1/${mount}/data`))
        return fails ? 503 : undefined
      },
    })
    const values = Object.fromEntries(
      Array.from({ length: 14 }, (_, index) => [`value${index}`, `planted ${index} "q" <&> ${randomUUID()}`]),
    )
    const secrets = {
      token,
      deadToken: `s.${randomUUID()}`,
      roleId: randomUUID(),
      secretId: randomUUID(),
      password: `pässword-${randomUUID()}`,
      shortToken: await admin.createToken({ policies: [mount], ttl: '10s', renewable: true }),
      wrappedSecretId: `s.${randomUUID()}`,
      awsKey: `aws/${randomUUID()}`,
      awsSession: `session/${randomUUID()}`,
      proxyPassword: `proxy-${randomUUID()}`,
      jwt: `${Buffer.from(randomUUID()).toString('base64url')}.e30.c2ln`,
      ...values,
    }
    const script = fileURLToPath(new URL('planted-secrets.ts', import.meta.url))
    const { stdout, stderr } = await run(process.execPath, ['--conditions=@common-handlers/source', script], {
      env: {
        ...process.env,
        DEBUG: '*',
        NODE_DEBUG: '',
        PLANTED: JSON.stringify({ address: proxy.address, mount, ...secrets }),
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
      'VAULT_WRAPPING_TOKEN_INVALID',
      'VAULT_SERVER_ERROR',
      'vault secret could not be read',
      'vault token could not be kept alive',
      'vault token obtained',
    ]) {
      expect(output).toContain(code)
    }
    expect(stdout.trimEnd().endsWith('the end')).toBe(true)
    expect(Object.keys(secrets)).toHaveLength(25)
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
