import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { readdir } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { join } from 'node:path'
import { inspect, promisify } from 'node:util'
import { createConnections } from '@common-handlers/connections'
import { sqlItems } from '@common-handlers/connections/sql'
import { getOracleEngine, oracle, testOracleConnection } from '@common-handlers/oracle'
import { freePorts, readmeExample } from '@common-handlers/testkit'
import { describe, expect, it } from 'vitest'
import { dialect, tableOf } from '../src/source.ts'
import { fetchOf, toBound } from '../src/values.ts'

const root = join(import.meta.dirname, '..')
const password = 'a password of some length'
const place = { host: '127.0.0.1', serviceName: 'app', username: 'etl', password, connectTimeoutMs: 2_000 }

describe('configuration', () => {
  it('is read from ORACLE_*, a URL and both example files', async () => {
    const variables = {
      ORACLE_HOST: 'db',
      ORACLE_SERVICE_NAME: 'app',
      ORACLE_USERNAME: 'etl',
      ORACLE_PASSWORD: 'of the variables',
    }
    await using connections = createConnections({ connectors: [oracle], variables })
    const values = async (...given: Parameters<typeof connections.explain<'oracle'>>) =>
      Object.fromEntries((await connections.explain(...given)).map(({ key, value }) => [key, value]))
    expect(await values('oracle')).toMatchObject({
      host: 'db',
      serviceName: 'app',
      username: 'etl',
      port: 1521,
      sslMode: 'disable',
    })
    expect(await values('oracle', 'oracle://us%40er:pw%2F@other:1522/sales.example.com?sslMode=verify-full')).toMatchObject({
      host: 'other',
      port: 1522,
      serviceName: 'sales.example.com',
      username: 'us@er',
      sslMode: 'verify-full',
    })
    const names = (await readdir(join(root, 'examples'))).filter((name) => /\.(json|yaml)$/.test(name))
    expect(names).toHaveLength(2)
    for (const name of names)
      expect(await values('oracle', {}, { file: join(root, 'examples', name) })).toMatchObject({ port: 1521 })
  })

  it.each([
    [{ sslMode: 'require' }, 'sslMode'],
    [{ wallet: 'ewallet.pem' }, 'wallet'],
    [{ host: 'db)(HOST=other' }, 'host'],
    [{ serviceName: 'app?wallet_location=/tmp' }, 'serviceName'],
  ])('refuses %o', async (more, key) => {
    const refused = expect.stringContaining(key) as string
    await expect(getOracleEngine({ ...place, ...more } as never)).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: refused,
    })
  })
})

describe('without a server that answers', () => {
  it('says that nobody listens, and that there is no such host', async () => {
    const [port = 0] = await freePorts(1)
    const error: unknown = await getOracleEngine({ ...place, port }).catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({ code: 'ORACLE_CONNECT_FAILED', outcome: 'connection', retry: 'safe' })
    expect(inspect(error, { depth: 9 })).not.toContain(password)
    const report = await testOracleConnection({ ...place, port })
    expect(report.steps.at(-1)).toMatchObject({ name: `reach port ${port}`, error: { code: 'CONNECTIONS_PORT_REFUSED' } })
    const nowhere = { ...place, host: 'nowhere.invalid' }
    await expect(getOracleEngine(nowhere)).rejects.toMatchObject({ code: 'ORACLE_CONNECT_FAILED' })
    const walletless = { ...place, sslMode: 'verify-full', wallet: '/gone/ewallet.pem' } as const
    await expect(getOracleEngine(walletless)).rejects.toMatchObject({ code: 'ORACLE_WALLET_UNREADABLE' })
  })

  it('ends a call to one that says nothing: by its signal, its time-out, and that of the configuration', async () => {
    const server = createServer((socket) => socket.on('error', () => undefined)).listen(0, '127.0.0.1')
    await once(server, 'listening')
    const config = { ...place, port: (server.address() as AddressInfo).port }
    try {
      const reason = new RangeError('changed my mind')
      const abort = new AbortController()
      const aborted = getOracleEngine(config, { signal: abort.signal })
      setTimeout(() => abort.abort(reason), 50)
      await expect(aborted).rejects.toBe(reason)
      await expect(getOracleEngine(config, { timeoutMs: 50 })).rejects.toMatchObject({ outcome: 'timeout' })
      await expect(getOracleEngine({ ...config, connectTimeoutMs: 300 })).rejects.toMatchObject({
        code: 'ORACLE_CONNECT_TIMEOUT',
        retry: 'safe',
      })
    } finally {
      server.close()
    }
  })
})

describe('values', () => {
  it.each([
    [{ dbTypeName: 'NUMBER', precision: 19, scale: 0 }, 'VARCHAR', '9223372036854775807', 9_223_372_036_854_775_807n],
    [{ dbTypeName: 'NUMBER', precision: 38, scale: 10 }, 'VARCHAR', '0.1000000001', '0.1000000001'],
    [{ dbTypeName: 'NUMBER', precision: 0, scale: -127 }, 'VARCHAR', '12345678901234567890.5', '12345678901234567890.5'],
    [{ dbTypeName: 'BINARY_DOUBLE' }, undefined, Number.NaN, 'NaN'],
    [{ dbTypeName: 'BINARY_DOUBLE' }, undefined, 0.1, 0.1],
    [{ dbTypeName: 'CLOB' }, 'VARCHAR', 'text', 'text'],
    [{ dbTypeName: 'BLOB' }, 'RAW', Buffer.from([0]), Buffer.from([0])],
    [{ dbTypeName: 'VARCHAR2' }, undefined, 'text', 'text'],
    [{ dbTypeName: 'NUMBER', precision: 5, scale: 0 }, 'VARCHAR', null, null],
  ])('of %o are fetched as %s', (column, as, given, value) => {
    const fetch = fetchOf({ name: 'c', ...column })
    expect(fetch.as).toBe(as)
    expect(fetch.read === undefined ? given : fetch.read(given)).toEqual(value)
  })

  it.each([
    ['DATE', `TO_CHAR("c", 'YYYY-MM-DD HH24:MI:SS')`],
    ['TIMESTAMP', `TO_CHAR("c", 'YYYY-MM-DD HH24:MI:SS.FF9')`],
    ['TIMESTAMP WITH TIME ZONE', `TO_CHAR("c", 'YYYY-MM-DD HH24:MI:SS.FF9')`],
    ['JSON', 'JSON_SERIALIZE("c" RETURNING CLOB)'],
    ['INTERVAL DAY TO SECOND', 'TO_CHAR("c")'],
  ])('of type %s are refused, with what to select', (dbTypeName, advice) => {
    const refused = (): unknown => fetchOf({ name: 'c', dbTypeName })
    expect(refused).toThrow(expect.objectContaining({ code: 'ORACLE_VALUE_INEXACT', where: { column: 'c' } }) as Error)
    expect(refused).toThrow(advice)
  })

  it.each([null, true, 1, 9_223_372_036_854_775_807n, 'text'])('%s is bound as it is', (given) => {
    expect(toBound(given)).toBe(given)
  })

  it.each([Number.NaN, '\ud800', undefined, new Date(), {}])('%o is not bound', (given) => {
    expect(() => toBound(given)).toThrow(RangeError)
  })
})

// SQL as Oracle's documentation has it: no server has seen it.
it('goes on after a watermark', async () => {
  const row = (name: string, type: string, position: bigint | null) => ({ name, type, position })
  const described = tableOf([
    row('ID', 'NUMBER', 2n),
    row('REGION', 'VARCHAR2', 1n),
    row('CHANGED', 'TIMESTAMP(6)', null),
    row('DAY', 'DATE', null),
    row('SEEN', 'TIMESTAMP(6) WITH LOCAL TIME ZONE', null),
    row('MORE', 'JSON', null),
  ])
  const asked: unknown[] = []
  const given = { REGION: 'eu', ID: '7', CHANGED: '2026-11-21 10:00:00.123456789', DAY: null, SEEN: null, MORE: null }
  const source = {
    protocol: 'oracle',
    prefix: 'ORACLE',
    name: 'oracle://db:1521/app',
    dialect,
    describe: () => Promise.resolve(described),
    stream: async function* (...all: unknown[]) {
      asked.push(...all.slice(0, 2))
      yield await Promise.resolve(given)
    },
  }
  const query = {
    table: 'ORDERS',
    schema: 'SALES',
    watermarkColumn: 'CHANGED',
    watermark: '["2026-11-21 09:00:00.000000001","eu","6"]',
  }
  const items = await Array.fromAsync(sqlItems(source, query, new AbortController().signal))
  expect(items).toMatchObject([{ key: '["eu","7"]', watermark: '["2026-11-21 10:00:00.123456789","eu","7"]', data: given }])
  const at = (position: number): string => `TO_TIMESTAMP(:${position}, 'YYYY-MM-DD HH24:MI:SS.FF9')`
  expect(asked[0]).toBe(
    `SELECT "ID" AS "ID", "REGION" AS "REGION", TO_CHAR("CHANGED", 'YYYY-MM-DD HH24:MI:SS.FF9') AS "CHANGED", ` +
      `TO_CHAR("DAY", 'YYYY-MM-DD HH24:MI:SS') AS "DAY", ` +
      `TO_CHAR(CAST("SEEN" AS TIMESTAMP(9) WITH TIME ZONE), 'YYYY-MM-DD HH24:MI:SS.FF9 TZH:TZM') AS "SEEN", ` +
      `JSON_SERIALIZE("MORE" RETURNING CLOB) AS "MORE" FROM "SALES"."ORDERS" WHERE "CHANGED" IS NOT NULL AND ` +
      `"CHANGED" >= ${at(1)} AND ("CHANGED" > ${at(2)} OR "CHANGED" = ${at(3)} AND "REGION" > :4 OR ` +
      `"CHANGED" = ${at(5)} AND "REGION" = :6 AND "ID" > TO_NUMBER(:7)) ` +
      `ORDER BY "SALES"."ORDERS"."CHANGED", "SALES"."ORDERS"."REGION", "SALES"."ORDERS"."ID"`,
  )
  const time = '2026-11-21 09:00:00.000000001'
  expect(asked[1]).toEqual([time, time, time, 'eu', time, 'eu', '6'])
})

it('loads oracledb with the first engine, and nothing of Oracle’s client', async () => {
  const code = `
    import { createRequire } from 'node:module'
    import { getOracleEngine } from '@common-handlers/oracle'
    const { cache } = createRequire(import.meta.url)
    const loaded = () => Object.keys(cache).some((path) => path.includes('/oracledb/'))
    const before = loaded()
    await getOracleEngine(${JSON.stringify({ ...place, port: 1 })}).catch(({ code }) => console.log(code))
    console.log(before, loaded(), Object.keys(cache).some((path) => path.endsWith('.node')))`
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['--conditions=@common-handlers/source', '--input-type=module', '-e', code],
    { cwd: root },
  )
  expect(stdout).toBe('ORACLE_CONNECT_FAILED\nfalse true false\n')
})

it('the example of README.md, which nobody answers here', async () => {
  const code = await readmeExample(root)
  const [port = 0] = await freePorts(1)
  const env = {
    ORACLE_HOST: '127.0.0.1',
    ORACLE_PORT: String(port),
    ORACLE_SERVICE_NAME: 'app',
    ORACLE_USERNAME: 'etl',
    ORACLE_PASSWORD: password,
  }
  const run = promisify(execFile)(
    process.execPath,
    ['--conditions=@common-handlers/source', '--input-type=module-typescript', '-e', code],
    { cwd: root, env: { ...process.env, ...env } },
  )
  await expect(run).rejects.toMatchObject({ stderr: expect.stringContaining('ORACLE_CONNECT_FAILED') as string })
})
