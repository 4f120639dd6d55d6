import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { z } from 'zod'
import {
  configKeys,
  environmentName,
  environmentResolver,
  fileResolver,
  HandlerError,
  loadConfig,
  mergeConfig,
  scrub,
  Secret,
  secret,
} from '../src/index.ts'

const schema = z.strictObject({
  store: z.string().describe('where the runs are'),
  mode: z.enum(['full', 'incremental']).default('full'),
  columns: z.array(z.string()).optional(),
  postgres: z
    .strictObject({
      hostName: z.string().default('localhost'),
      port: z.number().int().default(5432),
      tls: z.boolean().default(false),
      password: secret().optional(),
    })
    .prefault({}),
})

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'config-'))
})
afterAll(() => rm(folder, { recursive: true }))

const file = async (name: string, text: string): Promise<string> => {
  const path = join(folder, name)
  await writeFile(path, text)
  return path
}

describe('loadConfig', () => {
  it('lets each layer win over those before it, key by key, and explains which one did', async () => {
    const yaml = await file('a.yaml', 'store: from-file\npostgres:\n  hostName: file-host\n  port: 1\ncolumns: [a, b]\n')
    const { value, explain } = await loadConfig({
      schema,
      defaults: { store: 'from-defaults' },
      file: yaml,
      env: { prefix: 'APP', variables: { APP_POSTGRES_PORT: '2', APP_POSTGRES_TLS: 'yes', APP_COLUMNS: 'c, d', APP_MODE: '' } },
      config: { postgres: { port: 3 } },
      overrides: { postgres: { port: 4 } },
    })
    expect(value).toEqual({
      store: 'from-file',
      mode: 'full',
      columns: ['c', 'd'],
      postgres: { hostName: 'file-host', port: 4, tls: true },
    })
    expect(explain()).toEqual([
      { key: 'columns', value: ['c', 'd'], origin: 'environment APP_COLUMNS' },
      { key: 'mode', value: 'full', origin: 'default' },
      { key: 'postgres.hostName', value: 'file-host', origin: `file ${yaml}` },
      { key: 'postgres.port', value: 4, origin: 'override' },
      { key: 'postgres.tls', value: true, origin: 'environment APP_POSTGRES_TLS' },
      { key: 'store', value: 'from-file', origin: `file ${yaml}` },
    ])
  })

  it('hides secrets and shows references as they were written', async () => {
    const passwordFile = await file('password', 'from-a-file\n')
    const { value, explain } = await loadConfig({
      schema,
      env: { prefix: 'APP', variables: { APP_STORE: 'env:STORE_URL', APP_POSTGRES_PASSWORD_FILE: passwordFile } },
      resolvers: { env: environmentResolver({ STORE_URL: 'resolved-store-value' }) },
    })
    expect(value.store).toBe('resolved-store-value')
    expect(scrub('resolved-store-value')).toBe('[secret]')
    expect(value.postgres.password?.expose()).toBe('from-a-file')
    expect(explain().find((line) => line.key === 'postgres.password')?.value).toBe('[secret]')
    expect(explain().find((line) => line.key === 'store')?.value).toBe('env:STORE_URL')
  })

  it('leaves a variable that ends in _FILE to the key of that name, where there is one', async () => {
    const { value } = await loadConfig({
      schema: z.strictObject({ token: z.string().optional(), tokenFile: z.string().optional() }),
      env: { prefix: 'APP', variables: { APP_TOKEN_FILE: '/run/secrets/token' } },
    })
    expect(value).toEqual({ tokenFile: '/run/secrets/token' })
  })

  it('reads file references, whole or one key of a JSON object', async () => {
    const plain = await file('plain', 'value-one\n')
    const json = await file('all.json', '{"password":"value-two"}')
    const load = (reference: string) =>
      loadConfig({ schema, config: { store: reference }, resolvers: { file: fileResolver } }).then(({ value }) => value.store)
    expect(await load(`file:${plain}`)).toBe('value-one')
    expect(await load(`file:${json}#password`)).toBe('value-two')
    expect(await load('file:///a/folder')).toBe('file:///a/folder')
    await expect(load(`file:${json}#user`)).rejects.toMatchObject({ code: 'CONFIG_REFERENCE_UNRESOLVED' })
  })

  it('names every problem with its key, its layer and the nearest known key', async () => {
    const yaml = await file('bad.yaml', 'stor: x\npostgres:\n  prot: 3\n  port: many\n')
    const error = await loadConfig({ schema, file: yaml }).catch((thrown: unknown) => thrown)
    expect(HandlerError.is(error) && error.message).toBe(
      [
        'the configuration cannot be used:',
        '  store: missing',
        `  postgres.port: Invalid input: expected number, received string (file ${yaml})`,
        `  postgres.prot: unknown key (file ${yaml}); did you mean "port"?`,
        `  stor: unknown key (file ${yaml}); did you mean "store"?`,
      ].join('\n'),
    )
  })

  it.each([
    [
      'unknown scheme',
      { store: 'vault:secret/app#x' },
      /store \(config\): vault:secret\/app#x: no resolver for "vault:" here; known: env/,
    ],
    ['unset variable', { store: 'env:NOPE' }, /store \(config\): env:NOPE: the environment variable NOPE is not set/],
  ])('says which reference cannot be resolved: %s', async (_name, config, message) => {
    await expect(loadConfig({ schema, config, resolvers: { env: environmentResolver({}) } })).rejects.toThrow(message)
  })

  it('names the file, line and column of a syntax error', async () => {
    const yaml = await file('broken.yaml', 'store: a\nmode: [\n')
    await expect(loadConfig({ schema, file: yaml })).rejects.toThrow(/broken\.yaml: .* at line \d+, column/s)
    await expect(loadConfig({ schema, file: join(folder, 'none.yaml') })).rejects.toMatchObject({
      code: 'CONFIG_FILE_UNREADABLE',
    })
  })

  it('leaves what it was given as it was', async () => {
    const config = Object.freeze({ store: 'x', postgres: Object.freeze({ port: 1 }) })
    await loadConfig({ schema, config, overrides: { postgres: { port: 2 } } })
    expect(config).toEqual({ store: 'x', postgres: { port: 1 } })
    expect(await mergeConfig({ schema, config, overrides: { postgres: { port: 2 } } })).toEqual({
      store: 'x',
      postgres: { port: 2 },
    })
  })

  it('cannot be used to reach a prototype', async () => {
    const config = JSON.parse('{"store":"x","__proto__":{"polluted":true}}') as Record<string, unknown>
    await expect(loadConfig({ schema, config })).rejects.toMatchObject({ code: 'CONFIG_INVALID' })
    expect(({} as { polluted?: boolean }).polluted).toBeUndefined()
  })
})

describe('configKeys', () => {
  it('knows each key with its type, default and secrecy', () => {
    expect(
      configKeys(schema).map(({ path, type, required, secret: hidden, default: fallback }) => [
        path.join('.'),
        type,
        required,
        hidden,
        fallback,
      ]),
    ).toEqual([
      ['store', 'string', true, false, undefined],
      ['mode', 'full | incremental', false, false, 'full'],
      ['columns', 'list', false, false, undefined],
      ['postgres.hostName', 'string', false, false, 'localhost'],
      ['postgres.port', 'number', false, false, 5432],
      ['postgres.tls', 'boolean', false, false, false],
      ['postgres.password', 'string', false, true, undefined],
    ])
    expect(environmentName('APP', ['postgres', 'hostName'])).toBe('APP_POSTGRES_HOST_NAME')
  })

  it('takes a Secret as well as a string where a secret is asked for', () => {
    expect(secret().parse('abcdef').expose()).toBe('abcdef')
    const given = new Secret('abcdef')
    expect(secret().parse(given)).toBe(given)
    expect(secret().safeParse('').success).toBe(false)
  })
})
