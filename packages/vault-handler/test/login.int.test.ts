import { generateKeyPairSync, randomUUID, sign } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { describeWith, openbaoAdmin, startDurableOpenBao } from '@common-handlers/testkit'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { VaultHandler, type VaultHandlerOptions } from '../src/index.ts'
import { certificateAuthority } from './certificates.ts'
import { failure } from './failure.ts'
import { recordingProxy } from './recording-proxy.ts'

const unique = (name: string): string => `${name}-${randomUUID().slice(0, 8)}`
const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })

/** Good from now for ten minutes. */
function jsonWebToken(claims: object): string {
  const now = Math.floor(Date.now() / 1000)
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url')
  const head = `${part({ alg: 'RS256', typ: 'JWT' })}.${part({ iat: now, nbf: now, exp: now + 600, ...claims })}`
  return `${head}.${sign('RSA-SHA256', Buffer.from(head), privateKey).toString('base64url')}`
}

describeWith(['openbao'], 'logging in', ({ openbao }) => {
  const policy = unique('login-reader')
  const role = unique('login-role')
  const mount = unique('login-kv')
  const secretPath = `${mount}/app`
  let folder: string
  let appRole: { roleId: string; secretId: string }

  const admin = (): ReturnType<typeof openbaoAdmin> => openbaoAdmin(openbao)
  const handler = (options: Partial<VaultHandlerOptions>): VaultHandler =>
    new VaultHandler({ address: openbao.address, ...options })
  const must = async (method: string, path: string, body: unknown): Promise<void> => {
    const { status, body: answer } = await admin().request(method, path, body)
    if (status >= 300) throw new Error(`${method} ${path}: ${status} ${JSON.stringify(answer)}`)
  }
  /** Whether the server still knows a token. */
  const isKnown = async (token: string): Promise<boolean> =>
    (await admin().request('POST', 'auth/token/lookup', { token })).status === 200
  const tokenOf = async (vault: VaultHandler): Promise<string> =>
    ((await vault.request('GET', 'auth/token/lookup-self')) as { data: { id: string } }).data.id

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'common-handlers-login-'))
    await admin().mount(mount, 'kv', { version: '1' })
    await must('PUT', secretPath, { user: 'reader-of-all' })
    await admin().writePolicy(policy, `path "${mount}/*" { capabilities = ["read"] }`)
    appRole = await admin().createAppRole(role, { policies: [policy], tokenTtl: '1h' })
  })
  afterAll(() => rm(folder, { recursive: true, force: true }))

  describe('by each method', () => {
    it('AppRole, the secret id given or in a file', async () => {
      const secretIdFile = join(folder, 'secret-id')
      await writeFile(secretIdFile, `${appRole.secretId}\n`)
      for (const options of [appRole, { roleId: appRole.roleId, secretIdFile }]) {
        await using vault = handler({ appRole: options })
        expect(await vault.getSecret(secretPath)).toEqual({ user: 'reader-of-all' })
      }
    })

    describe('AppRole, the secret id wrapped', () => {
      const wrap = async (path: string, body: object = {}): Promise<string> => {
        const response = await fetch(`${openbao.address}/v1/${path}`, {
          method: 'POST',
          headers: { 'x-vault-token': openbao.rootToken, 'x-vault-wrap-ttl': '60s' },
          body: JSON.stringify(body),
        })
        return ((await response.json()) as { wrap_info: { token: string } }).wrap_info.token
      }
      it('is unwrapped once, and used again by later logins', async () => {
        await using proxy = await recordingProxy(openbao.address)
        const secretIdWrapped = await wrap(`auth/approle/role/${role}/secret-id`)
        await using vault = handler({ address: proxy.address, appRole: { roleId: appRole.roleId, secretIdWrapped } })
        expect(await vault.getSecret(secretPath)).toEqual({ user: 'reader-of-all' })
        await vault.token.revoke()
        expect(await vault.getSecret(secretPath)).toEqual({ user: 'reader-of-all' })
        expect(proxy.seen.filter((line) => /wrapping|approle.login/.test(line))).toEqual([
          'POST /v1/sys/wrapping/lookup 200',
          'POST /v1/sys/wrapping/unwrap 200',
          'POST /v1/auth/approle/login 200',
          'POST /v1/auth/approle/login 200',
        ])
      })

      it('may stand in a file, and be another one later', async () => {
        const secretIdWrappedFile = join(folder, 'wrapped-secret-id')
        await writeFile(secretIdWrappedFile, `${await wrap(`auth/approle/role/${role}/secret-id`)}\n`)
        await using proxy = await recordingProxy(openbao.address)
        await using vault = handler({ address: proxy.address, appRole: { roleId: appRole.roleId, secretIdWrappedFile } })
        await vault.connect()
        await writeFile(secretIdWrappedFile, await wrap(`auth/approle/role/${role}/secret-id`))
        await vault.token.revoke()
        await vault.connect()
        expect(proxy.count('POST /v1/sys/wrapping/unwrap 200')).toBe(2)
      })

      it('that somebody has unwrapped before says that it may be stolen', async () => {
        const secretIdWrapped = await wrap(`auth/approle/role/${role}/secret-id`)
        const thief = await fetch(`${openbao.address}/v1/sys/wrapping/unwrap`, {
          method: 'POST',
          headers: { 'x-vault-token': secretIdWrapped },
        })
        expect(thief.status).toBe(200)
        await using vault = handler({ appRole: { roleId: appRole.roleId, secretIdWrapped } })
        const error = await failure(vault.connect())
        expect(error).toMatchObject({ name: 'AuthError', code: 'VAULT_WRAPPING_TOKEN_INVALID', retry: 'never' })
        expect(error.message).toContain('somebody has unwrapped it before')
        expect(error.message).not.toContain(secretIdWrapped)
      })

      it.each(['sys/wrapping/wrap', 'auth/token/create'])('that was made by %s is not opened', async (path) => {
        const secretIdWrapped = await wrap(path, { secret_id: appRole.secretId })
        await using proxy = await recordingProxy(openbao.address)
        await using vault = handler({ address: proxy.address, appRole: { roleId: appRole.roleId, secretIdWrapped } })
        expect(await failure(vault.connect())).toMatchObject({
          name: 'AuthError',
          code: 'VAULT_WRAPPING_TOKEN_FOREIGN',
          context: { madeBy: path },
        })
        expect(proxy.seen).toEqual(['POST /v1/sys/wrapping/lookup 200'])
      })
    })

    it('certificate', async () => {
      const authority = await certificateAuthority(openbao)
      const issued = await authority.issue('extractor.jobs')
      await using server = await startDurableOpenBao({ tls: await authority.issue('localhost') })
      const there = openbaoAdmin(server)
      await there.writePolicy('reader', 'path "secret/*" { capabilities = ["read"] }')
      await there.putSecret('app', { user: 'reader-of-all' })
      await there.request('POST', 'sys/auth/cert', { type: 'cert' })
      await there.request('POST', 'auth/cert/certs/jobs', {
        certificate: authority.certificate,
        allowed_common_names: ['extractor.jobs'],
        token_policies: ['reader'],
      })
      const files = { clientCertificateFile: join(folder, 'client.pem'), clientKeyFile: join(folder, 'client-key.pem') }
      const caFile = join(folder, 'ca.pem')
      await writeFile(caFile, authority.certificate)
      await writeFile(files.clientCertificateFile, issued.certificate)
      await writeFile(files.clientKeyFile, issued.key)
      for (const cert of [{}, { name: 'jobs' }]) {
        await using vault = handler({ address: server.tlsAddress, tls: { caFile, ...files }, cert })
        expect(await vault.getSecret('secret/app')).toEqual({ user: 'reader-of-all' })
        expect((await vault.token.lookup()).metadata['cert_name']).toBe('jobs')
      }
      const other = await authority.issue('somebody.else')
      await writeFile(files.clientCertificateFile, other.certificate)
      await writeFile(files.clientKeyFile, other.key)
      await using stranger = handler({ address: server.tlsAddress, tls: { caFile, ...files }, cert: {} })
      expect(await failure(stranger.connect())).toMatchObject({ name: 'AuthError', code: 'VAULT_LOGIN_FAILED' })
    })

    it('userpass', async () => {
      const method = unique('userpass')
      await must('POST', `sys/auth/${method}`, { type: 'userpass' })
      await must('POST', `auth/${method}/users/joe`, { password: 'joes-password', token_policies: [policy] })
      await using vault = handler({ userpass: { username: 'joe', password: 'joes-password', mount: method } })
      expect(await vault.getSecret(secretPath)).toEqual({ user: 'reader-of-all' })
    })

    it('JSON Web Token', async () => {
      const method = unique('jwt')
      await must('POST', `sys/auth/${method}`, { type: 'jwt' })
      await must('POST', `auth/${method}/config`, { jwt_validation_pubkeys: [publicKey.export({ type: 'spki', format: 'pem' })] })
      await must('POST', `auth/${method}/role/ci`, {
        role_type: 'jwt',
        user_claim: 'sub',
        bound_audiences: ['vault'],
        token_policies: [policy],
      })
      const jwt = jsonWebToken({ sub: 'build', aud: 'vault' })
      await using vault = handler({ jwt: { role: 'ci', jwt, mount: method } })
      expect(await vault.getSecret(secretPath)).toEqual({ user: 'reader-of-all' })
    })

    it('Kubernetes service account, with a stub of the TokenReview API', async () => {
      const review = createServer((request, response) => {
        request.resume().on('end', () => {
          const user = { username: 'system:serviceaccount:jobs:extractor', uid: 'uid-1', groups: [] }
          response.writeHead(201, { 'content-type': 'application/json' })
          response.end(
            JSON.stringify({
              apiVersion: 'authentication.k8s.io/v1',
              kind: 'TokenReview',
              status: { authenticated: true, user },
            }),
          )
        })
      }).listen(0, '127.0.0.1')
      await once(review, 'listening')
      try {
        const method = unique('kubernetes')
        await must('POST', `sys/auth/${method}`, { type: 'kubernetes' })
        await must('POST', `auth/${method}/config`, {
          kubernetes_host: `http://127.0.0.1:${(review.address() as AddressInfo).port}`,
          token_reviewer_jwt: jsonWebToken({ sub: 'reviewer' }),
          disable_local_ca_jwt: true,
          kubernetes_ca_cert: (await certificateAuthority(openbao)).certificate,
        })
        await must('POST', `auth/${method}/role/jobs`, {
          bound_service_account_names: ['extractor'],
          bound_service_account_namespaces: ['jobs'],
          token_policies: [policy],
        })
        const tokenFile = join(folder, 'service-account')
        const account = { namespace: 'jobs', serviceaccount: { name: 'extractor', uid: 'uid-1' } }
        await writeFile(tokenFile, jsonWebToken({ 'kubernetes.io': account }))
        await using vault = handler({ kubernetes: { role: 'jobs', tokenFile, mount: method } })
        expect(await vault.getSecret(secretPath)).toEqual({ user: 'reader-of-all' })
      } finally {
        review.closeAllConnections()
        review.close()
      }
    })

    it('not at all, which the server refuses', async () => {
      await using vault = handler({})
      expect(await failure(vault.getSecret(secretPath))).toMatchObject({ name: 'AuthError', code: 'VAULT_NO_CREDENTIALS' })
      expect((await vault.health()).state).toBe('active')
    })
  })

  describe('that fails', () => {
    it('names the method', async () => {
      await using vault = handler({ appRole: { roleId: appRole.roleId, secretId: 'not-the-secret-id' } })
      const error = await failure(vault.connect())
      expect(error).toMatchObject({ name: 'AuthError', code: 'VAULT_LOGIN_FAILED', retry: 'never' })
      expect(error.message).toBe('cannot log in at auth/approle/login: invalid role or secret ID')
    })

    it('names the file that cannot be read', async () => {
      await using vault = handler({ appRole: { roleId: appRole.roleId, secretIdFile: join(folder, 'none') } })
      expect(await failure(vault.connect())).toMatchObject({ name: 'ConfigError', code: 'VAULT_CREDENTIAL_FILE' })
    })

    it('is tried again by the next call', async () => {
      const secretIdFile = join(folder, 'late-secret-id')
      await using vault = handler({ appRole: { roleId: appRole.roleId, secretIdFile } })
      expect(await failure(vault.connect())).toMatchObject({ code: 'VAULT_CREDENTIAL_FILE' })
      await writeFile(secretIdFile, appRole.secretId)
      await expect(vault.connect()).resolves.toBeUndefined()
    })
  })

  it('happens at the first call, once for all who wait', async () => {
    await using proxy = await recordingProxy(openbao.address)
    await using vault = handler({ address: proxy.address, appRole })
    expect(proxy.seen).toEqual([])
    await Promise.all(Array.from({ length: 20 }, () => vault.getSecret(secretPath)))
    expect(proxy.count('POST /v1/auth/approle/login')).toBe(1)
  })

  it('goes on for the others when one of them gives up', async () => {
    await using vault = handler({ appRole })
    const controller = new AbortController()
    const left = vault.getSecret(secretPath, { signal: controller.signal })
    const stayed = vault.getSecret(secretPath)
    controller.abort(new Error('gave up'))
    await expect(left).rejects.toThrow('gave up')
    expect(await stayed).toEqual({ user: 'reader-of-all' })
  })

  describe('again', () => {
    it('when the token was revoked: once, however many calls find out', async () => {
      await using proxy = await recordingProxy(openbao.address)
      await using vault = handler({ address: proxy.address, appRole })
      await vault.getSecret(secretPath)
      await must('POST', 'auth/token/revoke', { token: await tokenOf(vault) })
      const found = await Promise.all(Array.from({ length: 20 }, () => vault.getSecret(secretPath)))
      expect(new Set(found.map((data) => data['user']))).toEqual(new Set(['reader-of-all']))
      expect(proxy.count('POST /v1/auth/approle/login 200')).toBe(2)
    })

    it('before the token ends, without a refused request', async () => {
      const short = await admin().createAppRole(unique('short'), { policies: [policy], tokenTtl: '1s' })
      await using proxy = await recordingProxy(openbao.address)
      await using vault = handler({ address: proxy.address, appRole: short, renewToken: false })
      await vault.getSecret(secretPath)
      await sleep(1_000)
      expect(await vault.getSecret(secretPath)).toEqual({ user: 'reader-of-all' })
      expect(proxy.count('POST /v1/auth/approle/login 200')).toBeGreaterThanOrEqual(2)
      expect(proxy.seen.filter((line) => line.endsWith(' 403'))).toEqual([])
    })

    it('not for a refusal by policy', async () => {
      await using proxy = await recordingProxy(openbao.address)
      await using vault = handler({ address: proxy.address, appRole })
      expect(await failure(vault.request('GET', 'sys/policies/acl'))).toMatchObject({ code: 'VAULT_PERMISSION_DENIED' })
      expect(proxy.count('POST /v1/auth/approle/login')).toBe(1)
    })

    it('not for a refusal by a policy that does not even let the token look itself up', async () => {
      const bareRole = unique('bare')
      const bare = await admin().createAppRole(bareRole, { policies: [policy] })
      await must('POST', `auth/approle/role/${bareRole}`, { token_no_default_policy: true })
      await using proxy = await recordingProxy(openbao.address)
      await using vault = handler({ address: proxy.address, appRole: bare })
      for (let call = 0; call < 3; call++) {
        expect(await failure(vault.request('GET', 'sys/policies/acl'))).toMatchObject({ code: 'VAULT_PERMISSION_DENIED' })
      }
      expect(proxy.count('POST /v1/auth/approle/login')).toBe(1)
    })

    it('with what a token file holds by now', async () => {
      const tokenFile = join(folder, 'token')
      const first = await admin().createToken({ policies: [policy] })
      await writeFile(tokenFile, first)
      await using vault = handler({ tokenFile })
      await vault.getSecret(secretPath)
      await must('POST', 'auth/token/revoke', { token: first })
      expect(await failure(vault.getSecret(secretPath))).toMatchObject({ name: 'AuthError', code: 'VAULT_TOKEN_INVALID' })
      await writeFile(tokenFile, `${await admin().createToken({ policies: [policy] })}\n`)
      expect(await vault.getSecret(secretPath)).toEqual({ user: 'reader-of-all' })
    })
  })

  it('a given token that was revoked is an error of its own, and one without rights another', async () => {
    const token = await admin().createToken({ policies: [policy] })
    await using vault = handler({ token })
    await vault.getSecret(secretPath)
    await must('POST', 'auth/token/revoke', { token })
    const error = await failure(vault.getSecret(secretPath))
    expect(error).toMatchObject({ name: 'AuthError', code: 'VAULT_TOKEN_INVALID', retry: 'never' })
    expect(error.message).toBe('the server does not accept the token: it has expired, was revoked or was never issued here')
    // Not even the right to look itself up.
    const { body } = await admin().request('POST', 'auth/token/create', { policies: [policy], no_default_policy: true })
    await using bare = handler({ token: (body as { auth: { client_token: string } }).auth.client_token })
    expect(await failure(bare.request('GET', 'sys/policies/acl'))).toMatchObject({ code: 'VAULT_PERMISSION_DENIED' })
  })

  it('leaves no token behind at close, but for one that was given or asked to stay', async () => {
    const own = handler({ appRole })
    const ownToken = await tokenOf(own)
    expect(await isKnown(ownToken)).toBe(true)
    await own.close()
    expect(await isKnown(ownToken)).toBe(false)

    const kept = handler({ appRole, revokeOnClose: false })
    const keptToken = await tokenOf(kept)
    await kept.close()
    expect(await isKnown(keptToken)).toBe(true)

    const givenToken = await admin().createToken({ policies: [policy] })
    const given = handler({ token: givenToken })
    await given.getSecret(secretPath)
    await given.close()
    expect(await isKnown(givenToken)).toBe(true)
  })

  it('is part of the check, with what each step took', async () => {
    await using vault = handler({ appRole })
    const good = await vault.check()
    expect(good).toMatchObject({ target: openbao.address, ok: true })
    expect(good.steps.map(({ name, ok }) => [name, ok])).toEqual([
      ['read the health', true],
      ['log in', true],
      ['look up the token', true],
    ])
    expect(good.steps.map(({ detail }) => detail)).toEqual([
      expect.stringMatching(/^version \S+, active$/),
      'token from auth/approle',
      expect.stringMatching(new RegExp(`^policies default, ${policy}; \\d+ s left$`)),
    ])
    await using wrong = handler({ appRole: { roleId: appRole.roleId, secretId: 'not-the-secret-id' } })
    const bad = await wrong.check()
    expect(bad.ok).toBe(false)
    expect(bad.steps.at(-1)).toMatchObject({ name: 'log in', ok: false, error: { code: 'VAULT_LOGIN_FAILED' } })
  })
})
