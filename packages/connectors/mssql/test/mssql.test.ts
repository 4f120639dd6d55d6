import { execFile } from 'node:child_process'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { createConnections } from '@common-handlers/connections'
import { getMssqlEngine, mssql, type MssqlParameter, testMssqlConnection } from '@common-handlers/mssql'
import { expect, it } from 'vitest'
import { tableOf } from '../src/source.ts'
import { toBound } from '../src/values.ts'

const root = join(import.meta.dirname, '..')
const place = { host: '127.0.0.1', database: 'app', username: 'etl', password: 'a password of some length' }

it('reads its configuration from MSSQL_*, a URL and both its example files', async () => {
  const variables = { MSSQL_HOST: 'db', MSSQL_DATABASE: 'app', MSSQL_USERNAME: 'etl', MSSQL_PASSWORD: 'of the variables' }
  await using connections = createConnections({ connectors: [mssql], variables })
  const values = async (...given: Parameters<typeof connections.explain<'mssql'>>) =>
    Object.fromEntries((await connections.explain(...given)).map(({ key, value }) => [key, value]))
  expect(await values('mssql')).toMatchObject({
    host: 'db',
    database: 'app',
    username: 'etl',
    port: 1433,
    sslMode: 'verify-full',
  })
  expect(await values('mssql', 'mssql://us%40er:pw%2F@other:1500/da%20ta?sslMode=require')).toMatchObject({
    host: 'other',
    port: 1500,
    database: 'da ta',
    username: 'us@er',
    sslMode: 'require',
  })
  const names = (await readdir(join(root, 'examples'))).filter((name) => /\.(json|yaml)$/.test(name))
  expect(names).toHaveLength(2)
  for (const name of names)
    expect(await values('mssql', {}, { file: join(root, 'examples', name) })).toMatchObject({ port: 1433 })
})

it.each([
  [{ sslMode: 'prefer' }, 'sslMode'],
  [{ sslMode: 'require', sslRootCert: 'ca.pem' }, 'sslRootCert'],
  [{ password: undefined }, 'password'],
])('refuses %o', async (more, key) => {
  const refused = expect.stringContaining(key) as string
  await expect(getMssqlEngine({ ...place, ...more } as never)).rejects.toMatchObject({ code: 'CONFIG_INVALID', message: refused })
})

it('says that there is no such host, and no such file of certificates', async () => {
  const nowhere = { ...place, host: 'nowhere.invalid', connectTimeoutMs: 5_000 }
  await expect(getMssqlEngine(nowhere)).rejects.toMatchObject({ code: 'MSSQL_CONNECT_FAILED', retry: 'safe' })
  const report = await testMssqlConnection(nowhere)
  expect(report.steps.at(-1)).toMatchObject({ name: 'find nowhere.invalid', error: { code: 'CONNECTIONS_NAME_UNKNOWN' } })
  await expect(getMssqlEngine({ ...place, sslRootCert: '/gone.pem' })).rejects.toMatchObject({ code: 'MSSQL_CERT_UNREADABLE' })
})

it.each<[MssqlParameter, string]>([
  [true, 'Bit'],
  [1, 'Int'],
  [2 ** 31, 'Float'],
  [-0, 'Float'],
  [0.1, 'Float'],
  [9_223_372_036_854_775_807n, 'BigInt'],
  ['text', 'NVarChar'],
  [null, 'NVarChar'],
  [new Uint8Array([1]), 'VarBinary'],
  [new Date(0), 'DateTime2'],
])('sends %o as %s', (given, type) => {
  expect(toBound(given).type).toBe(type)
})

it.each([2n ** 63n, Number.NaN, '\ud800', undefined, new Date(Number.NaN), {}])('sends no %o', (given) => {
  expect(() => toBound(given)).toThrow(RangeError)
})

// T-SQL as its documentation has it: no server has seen these.
it.each([
  ['decimal', [17, 38, 10], 'CONVERT(varchar(41), [c])', 'CONVERT(decimal(38, 10), @p1)'],
  ['money', [8, 19, 4], 'CONVERT(varchar(30), [c], 2)', 'CONVERT(money, @p1)'],
  ['timestamp', [8, 0, 0], 'CONVERT(bigint, [c])', 'CONVERT(binary(8), @p1)'],
  ['datetime2', [8, 27, 7], undefined, 'CONVERT(datetime2(7), @p1, 121)'],
  ['datetime', [8, 23, 3], undefined, 'CONVERT(datetime, @p1, 121)'],
  ['varchar', [20, 0, 0], undefined, 'CONVERT(varchar(20), @p1 COLLATE Latin1_General_CI_AS)'],
  ['varchar', [-1, 0, 0], undefined, 'CONVERT(varchar(max), @p1 COLLATE Latin1_General_CI_AS)'],
  ['nvarchar', [20, 0, 0], undefined, 'CONVERT(nvarchar(10), @p1 COLLATE Latin1_General_CI_AS)'],
  ['uniqueidentifier', [16, 0, 0], undefined, 'CONVERT(uniqueidentifier, @p1)'],
  ['bigint', [8, 19, 0], undefined, undefined],
  [null, [-1, 0, 0], undefined, undefined],
] as const)('reads and compares %s as it is', (type, [length, precision, scale], read, compared) => {
  const row = { name: 'c', type, length, precision, scale, collation: 'Latin1_General_CI_AS', position: null }
  const [column] = tableOf([row]).columns ?? []
  expect([column?.read, column?.compared?.('@p1')]).toEqual([read, compared])
})

it('takes the columns of a key in its order', () => {
  const row = (name: string, position: number | null) => ({
    name,
    type: 'int',
    length: 4,
    precision: 10,
    scale: 0,
    collation: null,
    position,
  })
  expect(tableOf([row('a', 2), row('b', null), row('c', 1)]).key).toEqual(['c', 'a'])
})

it('loads tedious with the first engine', async () => {
  const code = `
    import { createRequire } from 'node:module'
    import { getMssqlEngine } from '@common-handlers/mssql'
    const { cache } = createRequire(import.meta.url)
    const loaded = () => Object.keys(cache).some((path) => path.includes('/tedious/'))
    const before = loaded()
    await getMssqlEngine(${JSON.stringify({ ...place, port: 1 })}).catch(({ code }) => console.log(code))
    console.log(before, loaded())`
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['--conditions=@common-handlers/source', '--input-type=module', '-e', code],
    { cwd: root },
  )
  expect(stdout).toBe('MSSQL_CONNECT_FAILED\nfalse true\n')
})
