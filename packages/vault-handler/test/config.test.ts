import { readFile } from 'node:fs/promises'
import { ConfigError, configKeys, Secret } from '@common-handlers/core'
import { describe, expect, it } from 'vitest'
import { parseVaultConfig } from '../src/config.ts'
import { vaultConfigFromEnvironment, VaultHandler, type VaultConfigInput, vaultConfigSchema } from '../src/index.ts'

const address = 'https://vault:8200'

describe('the options', () => {
  it('have defaults', () => {
    expect(parseVaultConfig({ address })).toEqual({
      address,
      tls: { verify: true },
      timeoutMs: 30_000,
      retry: { attempts: 5, budgetMs: 30_000, baseDelayMs: 100, maxDelayMs: 5_000 },
      renewToken: true,
      revokeOnClose: true,
    })
  })

  it('wrap what is secret, and leave the object of the caller as it was', () => {
    const input = { address, appRole: { roleId: 'role-abcd', secretId: 'secret-efgh' } }
    const parsed = parseVaultConfig(input)
    expect(parsed.appRole?.secretId).toBeInstanceOf(Secret)
    expect(parsed.appRole?.secretId?.expose()).toBe('secret-efgh')
    expect(input).toEqual({ address, appRole: { roleId: 'role-abcd', secretId: 'secret-efgh' } })
  })

  const wrong: [string, object, RegExp][] = [
    ['no address', {}, /address/],
    ['an address without a scheme', { address: 'vault:8200' }, /address: expected http/],
    ['a password in the address', { address: 'https://user:hunter22@vault:8200' }, /without user and password/],
    ['a socket without a path', { address: 'unix:///' }, /address/],
    [
      'two ways to log in',
      { address, token: 'abcd', userpass: { username: 'u', password: 'pass' } },
      /one way to log in, not token and userpass/,
    ],
    [
      'two secret ids',
      { address, appRole: { roleId: 'r', secretId: 's', secretIdFile: '/f' } },
      /appRole: give one of secretId, secretIdFile, secretIdWrapped and/,
    ],
    ['a user without a password', { address, userpass: { username: 'u' } }, /userpass: give password or passwordFile/],
    [
      'a certificate without its key',
      { address, tls: { clientCertificateFile: '/c.pem' } },
      /tls: clientCertificateFile and clientKeyFile/,
    ],
    [
      'a login by certificate without one, or without TLS',
      { address: 'http://vault:8200', cert: {}, tls: { clientCertificateFile: '/c.pem', clientKeyFile: '/k.pem' } },
      /cert: cert needs an address of https/,
    ],
    ['a login by certificate without a certificate', { address, cert: {} }, /cert: cert needs .* tls.clientCertificateFile/],
    ['keys of AWS that are not a function', { address, aws: { credentials: { accessKeyId: 'A' } } }, /expected a function/],
    ['a proxy without a scheme', { address, proxy: 'proxy:3128' }, /proxy: expected http/],
    ['a proxy before a socket', { address: 'unix:///s', proxy: 'http://proxy:3128' }, /proxy: a Unix socket/],
    ['a cache without an end', { address, cache: {} }, /cache.ttlMs/],
    ['a time-out of nothing', { address, timeoutMs: 0 }, /timeoutMs/],
    ['an unknown key', { address, tokn: 'x' }, /tokn/],
  ]
  it.each(wrong)('refuse %s', (_title, input, message) => {
    const parse = (): unknown => new VaultHandler(input as VaultConfigInput)
    expect(parse).toThrow(ConfigError)
    expect(parse).toThrow(message)
    expect(parse).not.toThrow(/hunter22/)
  })

  it('are described, each of them, and the secret ones marked', () => {
    const keys = configKeys(vaultConfigSchema)
    expect(keys.filter((key) => key.description === undefined).map((key) => key.path.join('.'))).toEqual([])
    expect(keys.filter((key) => key.secret).map((key) => key.path.join('.'))).toEqual([
      'token',
      'appRole.roleId',
      'appRole.secretId',
      'appRole.secretIdWrapped',
      'userpass.password',
      'jwt.jwt',
      'proxy',
    ])
  })
})

describe('the environment', () => {
  it('gives what the Go client reads', () => {
    expect(
      vaultConfigFromEnvironment({
        VAULT_ADDR: address,
        VAULT_TOKEN: 'hvs.abcdef',
        VAULT_NAMESPACE: 'team',
        VAULT_CACERT: '/ca.pem',
        VAULT_CAPATH: '/ca',
        VAULT_CLIENT_CERT: '/c.pem',
        VAULT_CLIENT_KEY: '/k.pem',
        VAULT_TLS_SERVER_NAME: 'vault.internal',
        VAULT_SKIP_VERIFY: 'true',
        VAULT_CLIENT_TIMEOUT: '90',
        VAULT_MAX_RETRIES: '2',
        VAULT_RATE_LIMIT: '10:20',
        VAULT_PROXY_ADDR: 'http://proxy:3128',
      }),
    ).toEqual({
      address,
      token: 'hvs.abcdef',
      namespace: 'team',
      tls: {
        caFile: '/ca.pem',
        caDirectory: '/ca',
        clientCertificateFile: '/c.pem',
        clientKeyFile: '/k.pem',
        serverName: 'vault.internal',
        verify: false,
      },
      proxy: 'http://proxy:3128',
      timeoutMs: 90_000,
      retry: { attempts: 3 },
      rateLimit: { perSecond: 10, burst: 20 },
    })
  })

  it('without variables means the server on this machine', () => {
    expect(vaultConfigFromEnvironment({ VAULT_ADDR: '' })).toEqual({ address: 'https://127.0.0.1:8200', tls: {} })
  })

  it('takes the names of OpenBao first', () => {
    expect(vaultConfigFromEnvironment({ BAO_ADDR: 'https://bao:8200', VAULT_ADDR: address }).address).toBe('https://bao:8200')
  })

  it.each([
    ['45s', 45_000],
    ['1m30s', 90_000],
    ['1.5s', 1_500],
    ['250ms', 250],
  ])('reads the time-out %s', (text, milliseconds) => {
    expect(vaultConfigFromEnvironment({ VAULT_CLIENT_TIMEOUT: text }).timeoutMs).toBe(milliseconds)
  })

  it.each([
    ['VAULT_CLIENT_TIMEOUT', 'soon'],
    ['VAULT_SKIP_VERIFY', 'perhaps'],
    ['VAULT_MAX_RETRIES', '-1'],
    ['VAULT_RATE_LIMIT', '10/s'],
  ])('refuses %s=%s by name', (name, value) => {
    expect(() => vaultConfigFromEnvironment({ [name]: value })).toThrow(new RegExp(`^${name} cannot be read`))
  })

  it('may name a socket, and a proxy by its other name', () => {
    expect(parseVaultConfig(vaultConfigFromEnvironment({ VAULT_ADDR: 'unix:///run/agent.sock' })).address).toMatch(/^unix:/)
    expect(vaultConfigFromEnvironment({ VAULT_HTTP_PROXY: 'http://proxy:3128' }).proxy).toBe('http://proxy:3128')
  })

  it('gives its token up for a way to log in among the options', () => {
    const variables = { VAULT_ADDR: address, VAULT_TOKEN: 'hvs.abcdef' }
    expect(() => VaultHandler.fromEnvironment({ appRole: { roleId: 'role' } }, variables)).not.toThrow()
    expect(() => VaultHandler.fromEnvironment({ appRole: { roleId: 'role' }, token: 'x' }, variables)).toThrow(
      /one way to log in/,
    )
  })
})

it('the README names every option, and has the example as it runs', async () => {
  const [readme, example] = await Promise.all(
    ['../README.md', '../examples/read-secret.ts'].map((file) => readFile(new URL(file, import.meta.url), 'utf8')),
  )
  const missing = configKeys(vaultConfigSchema).filter((key) => !readme?.includes(`| \`${key.path.join('.')}\` |`))
  expect(missing.map((key) => key.path.join('.'))).toEqual([])
  const [, fence = 'no fence'] = /```ts\n([\s\S]*?)```/.exec(readme ?? '') ?? []
  expect(example).toContain(fence)
})
