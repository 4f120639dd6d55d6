import { execFile } from 'node:child_process'
import { chmod, chown, mkdtemp, readdir, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inspect, promisify } from 'node:util'
import { createConnections } from '@common-handlers/connections'
import { getPostgresEngine, postgres, type PostgresInput, testPostgresConnection } from '@common-handlers/postgres'
import {
  createDatabase,
  describeWith,
  type PostgresServer,
  runOnPostgres,
  serverCertificate,
  startFaultProxy,
  startPostgres,
  readmeExample,
} from '@common-handlers/testkit'
import { afterAll, beforeAll, expect, it } from 'vitest'

const root = join(import.meta.dirname, '..')
const alone = { reuse: false }

describeWith(['postgres'], 'an engine', ({ postgres: server }) => {
  const { host, port, user: username, password } = server
  let database: Awaited<ReturnType<typeof createDatabase>>
  const config = (more: object = {}) => ({ host, port, username, password, database: database.database, ...more })

  beforeAll(async () => {
    database = await createDatabase(server, 'engine')
  })
  afterAll(() => database.drop())

  it('takes every kind of value as a parameter', async () => {
    await using engine = await getPostgresEngine(config(), alone)
    const values: [type: string, given: PostgresInput, text: string | null][] = [
      ['int8', 9_223_372_036_854_775_807n, '9223372036854775807'],
      ['numeric', '1.10', '1.10'],
      ['float8', -0, '-0'],
      ['bool', false, 'false'],
      ['text', null, null],
      ['bytea', new Uint8Array([0, 255]), String.raw`\x00ff`],
      ['timestamptz', new Date('2026-11-21T10:00:00.123Z'), '2026-11-21 10:00:00.123+00'],
      ['date', new Date('-000043-03-15T00:00:00Z'), '0044-03-15 BC'],
      ['text[]', ['a"b', null, '\\', 'NULL'], String.raw`{"a\"b",NULL,"\\","NULL"}`],
      ['int8[]', [[1n], [2n]], '{{1},{2}}'],
      ['json', { n: 9_007_199_254_740_993n }, '{"n":9007199254740993}'],
    ]
    for (const [type, given, text] of values) {
      expect(await engine.query(`SELECT $1::${type}::text AS v`, [given])).toEqual([{ v: text }])
    }
    for (const [given, why] of [
      ['a\0b', 'NUL'],
      ['\ud800', 'surrogate'],
      [undefined as unknown as null, 'use null'],
      [new Date(Number.NaN), 'invalid Date'],
    ] as const) {
      await expect(engine.query('SELECT $1, $2', [1, given])).rejects.toMatchObject({
        code: 'POSTGRES_PARAMETER_INVALID',
        outcome: 'config',
        message: expect.stringMatching(new RegExp(`\\$2.*${why}`)) as string,
      })
    }
  })

  it('says how many rows were changed, by one statement or several', async () => {
    await using engine = await getPostgresEngine(config(), alone)
    expect(await engine.execute('CREATE TABLE changed (i int); INSERT INTO changed VALUES (1), (2); SELECT 1')).toEqual({
      rowsChanged: 2,
    })
    expect(await engine.execute('UPDATE changed SET i = i + $1', [1])).toEqual({ rowsChanged: 2 })
    // Several at once are one transaction.
    await expect(engine.execute('DELETE FROM changed; SELECT 1 / 0')).rejects.toMatchObject({ code: 'POSTGRES_DATA_INVALID' })
    expect(await engine.query('SELECT count(*) AS n FROM changed')).toEqual([{ n: 2n }])
  })

  it('gives nobody a connection that somebody left in a transaction', async () => {
    await using engine = await getPostgresEngine(config({ maxConnections: 1 }), alone)
    await engine.execute('BEGIN; CREATE TABLE forgotten ()')
    await expect(engine.query('SELECT * FROM forgotten')).rejects.toMatchObject({ code: 'POSTGRES_TABLE_NOT_FOUND' })
  })

  it('gives nobody a connection whose settings somebody has changed', async () => {
    await using engine = await getPostgresEngine(config({ maxConnections: 1 }), alone)
    const now = () => engine.query(`SELECT '2026-11-21 10:00:00+00'::timestamptz AS at, pg_backend_pid() AS pid`)
    const [before] = await now()
    await engine.execute(`SET TimeZone = 'America/New_York'; SET DateStyle = 'SQL'`)
    const [after] = await now()
    expect(after?.['at']).toBe('2026-11-21 10:00:00+00')
    expect(after?.['pid']).not.toBe(before?.['pid'])
    await engine.execute(`SET application_name = 'other'; BEGIN; SET LOCAL TimeZone = 'Asia/Tokyo'; COMMIT`)
    expect(await now()).toEqual([after])
  })

  it('waits for a connection that others have, and no longer than it may', async () => {
    await using engine = await getPostgresEngine(config({ maxConnections: 1, connectTimeoutMs: 300 }), alone)
    const rows = engine.stream('SELECT generate_series(1, 100000) AS n')
    await rows.next()
    await expect(engine.query('SELECT 1')).rejects.toMatchObject({ code: 'POSTGRES_POOL_EXHAUSTED', retry: 'safe' })
    const abort = new AbortController()
    const aborted = engine.query('SELECT 1', [], { signal: abort.signal })
    abort.abort(new Error('enough'))
    await expect(aborted).rejects.toThrow('enough')
    const waiting = engine.query('SELECT 2 AS two')
    await rows.return()
    expect(await waiting).toEqual([{ two: 2 }])
  })

  it('ends a statement by its own limit and by that of the server, and goes on', async () => {
    await using engine = await getPostgresEngine(config({ statementTimeoutMs: 200 }), alone)
    await expect(engine.query('SELECT pg_sleep(30)', [], { timeoutMs: 50 })).rejects.toMatchObject({ code: 'POSTGRES_TIMEOUT' })
    await expect(engine.query('SELECT pg_sleep(30)')).rejects.toMatchObject({
      code: 'POSTGRES_STATEMENT_CANCELLED',
      outcome: 'timeout',
    })
    expect(await engine.query('SELECT 1 AS one')).toEqual([{ one: 1 }])
  })

  it('says that the server went away in the middle, and comes back by itself', async () => {
    await using proxy = await startFaultProxy({ host, port })
    await using engine = await getPostgresEngine(config({ host: proxy.host, port: proxy.port }), alone)
    const rows = engine.stream(`SELECT n, repeat('x', 1000) AS text FROM generate_series(1, 200000) n`)
    await rows.next()
    proxy.cut()
    const read = async () => {
      for await (const { n } of rows) expect(typeof n).toBe('number')
    }
    await expect(read()).rejects.toMatchObject({ code: 'POSTGRES_CONNECTION_LOST', retry: 'if-idempotent' })
    expect(await engine.query('SELECT 1 AS one')).toEqual([{ one: 1 }])

    const killed = engine.query('SELECT pg_terminate_backend(pg_backend_pid())')
    await expect(killed).rejects.toMatchObject({ code: 'POSTGRES_CONNECTION_LOST' })
    // An idle connection that was lost is not lent out.
    proxy.cut('end')
    await expect.poll(() => proxy.connections).toBe(0)
    expect(await engine.query('SELECT 1 AS one')).toEqual([{ one: 1 }])

    await proxy.refuse()
    const refused = () => engine.query('SELECT 1').catch(({ code, retry }: Record<string, unknown>) => [code, retry])
    // The idle connection may not have noticed yet.
    await expect.poll(refused).toEqual(['POSTGRES_CONNECT_FAILED', 'safe'])
    await proxy.accept()
    expect(await engine.query('SELECT 1 AS one')).toEqual([{ one: 1 }])

    // A server that hangs holds nobody up longer than the caller likes.
    proxy.stall()
    await expect(engine.query('SELECT 1', [], { timeoutMs: 100 })).rejects.toMatchObject({ outcome: 'timeout' })
    proxy.resume()
  })

  it('closes though a stream is left standing', async () => {
    await using connections = createConnections({ connectors: [postgres], variables: {} })
    const engine = await connections.getConnection('postgres', config())
    const rows = engine.stream('SELECT generate_series(1, 100000) AS n')
    await rows.next()
    await connections.closeAllConnections({ graceMs: 50 })
    await expect(rows.next()).rejects.toMatchObject({ code: 'POSTGRES_CLOSED' })
    await using other = await getPostgresEngine(config(), alone)
    const left = `SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`
    await expect.poll(() => other.query(left)).toEqual([{ n: 0n }])
  })

  it('takes tables of a schema, keys of several columns and columns that are not asked for', async () => {
    await runOnPostgres(
      database,
      `CREATE SCHEMA "s t"; CREATE TABLE "s t"."T" (x int, y text, at timestamptz, note text, PRIMARY KEY (y, x) INCLUDE (note));
       INSERT INTO "s t"."T" VALUES (1, 'k', '2026-11-21 10:00:00.000001Z', 'n'); CREATE VIEW v AS SELECT * FROM "s t"."T"`,
    )
    await using connections = createConnections({ connectors: [postgres], variables: {} })
    await using connector = await connections.createConnector({ protocol: 'postgres', ...config() })
    const query = { schema: 's t', table: 'T', columns: ['note'], watermarkColumn: 'at' }
    expect((await connector.fetchData(query)).items).toMatchObject([
      {
        data: { note: 'n' },
        key: '["k",1]',
        watermark: '["2026-11-21 10:00:00.000001+00","k",1]',
        source: `postgres://${host}:${port}/${database.database}#s t.T`,
      },
    ])
    await expect(connector.fetchData({ table: 'v', watermarkColumn: 'at' })).rejects.toMatchObject({
      code: 'POSTGRES_QUERY_INVALID',
      message: expect.stringContaining('keyColumns') as string,
    })
    await expect(connector.fetchData({ table: 'T' })).rejects.toThrow('there is no table or view "T"')
    await expect(connector.fetchData({ table: 'v', watermarkColumn: 'AT', keyColumns: ['x'] })).rejects.toMatchObject({
      code: 'POSTGRES_COLUMN_NOT_FOUND',
    })
    const parameters = ['k', 1]
    const { items } = await connector.fetchData({ sql: 'SELECT note FROM v WHERE y = $1 AND x = $2', parameters })
    expect(items.map(({ data }) => data)).toEqual([{ note: 'n' }])
  })

  it('reads its configuration from PG_*, a URL, and reports its test step by step', async () => {
    const variables = { PG_HOST: host, PG_DATABASE: database.database, PG_USERNAME: username, PG_PASSWORD: password }
    await using connections = createConnections({ connectors: [postgres], variables })
    const report = await connections.testConnection('postgres', { port })
    expect(report.steps.map(({ name, ok }) => [name, ok])).toEqual(
      ['read the configuration', `find ${host}`, `reach port ${port}`, 'log in', 'version', 'rights', 'latency'].map((name) => [
        name,
        true,
      ]),
    )
    expect(report.steps[4]?.detail).toMatch(/^PostgreSQL \d+/)
    const url = `postgres://${username}:${encodeURIComponent(password)}@${host}:${port}/${database.database}?applicationName=by%20URL`
    await using engine = await getPostgresEngine(url, alone)
    const [row] = await engine.query(`SELECT current_setting('application_name') AS name, current_setting('TimeZone') AS zone`)
    expect(row).toEqual({ name: 'by URL', zone: 'UTC' })
    expect(inspect(engine, { depth: 9 })).not.toContain(password)
  })

  it('the example of README.md', async () => {
    const code = await readmeExample(root)
    await runOnPostgres(database, 'CREATE TABLE orders_in_dw (id bigint PRIMARY KEY, total numeric, changed_at timestamptz)')
    const place = { HOST: host, PORT: String(port), DATABASE: database.database, USERNAME: username, PASSWORD: password }
    const variables = Object.entries(place).flatMap(([name, value]) => [
      [`PG_${name}`, value],
      [`DW_${name}`, value],
    ])
    const { stdout } = await promisify(execFile)(
      process.execPath,
      ['--conditions=@common-handlers/source', '--input-type=module-typescript', '-e', code],
      { cwd: root, env: { ...process.env, ...(Object.fromEntries(variables) as Record<string, string>) } },
    )
    expect(stdout).toBe(`{
  id: 9007199254740993n,
  total: '10.10',
  changed_at: '2026-11-21 10:00:00.123456+00'
}
2
0
`)
  })

  it('looks into no variable that pg would read by itself', async () => {
    const code = `
      import { getPostgresEngine } from '@common-handlers/postgres'
      const loaded = () => process.moduleLoadList.length
      const { PG_TEST } = process.env
      const { password, ...config } = JSON.parse(PG_TEST)
      await getPostgresEngine(config).catch(({ code, message }) => console.log(code, message.includes('none was given')))
      const engine = await getPostgresEngine({ ...config, password })
      console.log(await engine.query('SELECT 1 AS one'))
      await engine.close()
      process.exit()`
    const misleading = {
      PGPASSWORD: password,
      PGOPTIONS: '-c nonsense=1',
      PGBINARY: '1',
      PGREPLICATION: 'database',
      PGSSLMODE: 'require',
    }
    const { stdout } = await promisify(execFile)(
      process.execPath,
      ['--conditions=@common-handlers/source', '--input-type=module', '-e', code],
      { cwd: root, env: { ...process.env, ...misleading, PG_TEST: JSON.stringify(config()) } },
    )
    expect(stdout).toBe('POSTGRES_LOGIN_REFUSED true\n[ { one: 1 } ]\n')
  })
})

// describeWith says whether there are binaries at all; TLS then gets a server of its own.
describeWith(['postgres'], 'TLS', () => {
  let folder = ''
  let server: PostgresServer
  let certificate: Awaited<ReturnType<typeof serverCertificate>>
  const config = (more: object) => {
    const { port, user: username, password, database } = server
    return { host: 'localhost', port, username, password, database, ...more }
  }
  const encrypted = async (more: object): Promise<unknown> => {
    await using engine = await getPostgresEngine(config(more), alone)
    const [row] = await engine.query('SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()')
    return row?.['ssl']
  }

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'postgres-tls-'))
    certificate = await serverCertificate(folder)
    server = await startPostgres()
    await using engine = await getPostgresEngine(config({}), alone)
    const [row] = await engine.query('SHOW data_directory')
    // The server runs under another account where the tests run as root, and wants its key for itself.
    const owner = await stat(String(row?.['data_directory']))
    await chmod(folder, 0o755)
    await chmod(certificate.keyFile, 0o600)
    await chown(certificate.keyFile, owner.uid, owner.gid)
    for (const [name, value] of [
      ['ssl_cert_file', certificate.certificateFile],
      ['ssl_key_file', certificate.keyFile],
    ]) {
      await runOnPostgres(server, `ALTER SYSTEM SET ${name} = '${value}'`)
    }
  })
  afterAll(async () => {
    await server.stop()
    await rm(folder, { recursive: true, force: true })
  })

  it('is asked for where the server has none, and used and checked as the mode says', async () => {
    await expect(encrypted({ sslMode: 'require' })).rejects.toMatchObject({ code: 'POSTGRES_TLS_NOT_OFFERED' })
    expect((await testPostgresConnection(config({ sslMode: 'require' }))).steps.at(-1)?.error?.code).toBe(
      'POSTGRES_TLS_NOT_OFFERED',
    )
    await runOnPostgres(server, 'ALTER SYSTEM SET ssl = on')
    await runOnPostgres(server, 'SELECT pg_reload_conf()')
    await expect.poll(() => encrypted({ sslMode: 'require' }).catch(() => false)).toBe(true)
    const sslRootCert = certificate.caFile
    expect(await encrypted({ sslMode: 'disable' })).toBe(false)
    expect(await encrypted({ sslMode: 'verify-ca', sslRootCert })).toBe(true)
    expect(await encrypted({ sslMode: 'verify-full', sslRootCert: certificate.caCert })).toBe(true)

    const unknown = { sslMode: 'verify-full' }
    await expect(encrypted(unknown)).rejects.toMatchObject({ code: 'POSTGRES_TLS_UNTRUSTED', retry: 'never' })
    const report = await testPostgresConnection(config(unknown))
    expect(report.steps.at(-1)).toMatchObject({ ok: false, error: { code: 'CONNECTIONS_CERTIFICATE_UNTRUSTED' } })
    expect(await testPostgresConnection(config({ sslMode: 'verify-full', sslRootCert }))).toMatchObject({ ok: true })
    await expect(encrypted({ sslMode: 'verify-ca', sslRootCert: join(folder, 'gone.pem') })).rejects.toMatchObject({
      code: 'POSTGRES_CERT_UNREADABLE',
    })
  })

  it('cancels on the server, over TLS too', async () => {
    await using engine = await getPostgresEngine(config({ sslMode: 'verify-full', sslRootCert: certificate.caFile }), alone)
    const reason = new Error('enough')
    const abort = new AbortController()
    const slow = engine.query('SELECT pg_sleep(60)', [], { signal: abort.signal })
    const active = async () => {
      const [row] = await engine.query(`SELECT count(*) AS n FROM pg_stat_activity WHERE wait_event = 'PgSleep'`)
      return row?.['n']
    }
    await expect.poll(active).toBe(1n)
    abort.abort(reason)
    await expect(slow).rejects.toBe(reason)
    expect(await active()).toBe(0n)
  })
})

it('has example files that its schema takes', async () => {
  const names = (await readdir(join(root, 'examples'))).filter((name) => /\.(json|yaml)$/.test(name))
  expect(names).toHaveLength(2)
  await using connections = createConnections({ connectors: [postgres], variables: { PG_PASSWORD: 'of the variables' } })
  for (const name of names) {
    const explained = await connections.explain('postgres', {}, { file: join(root, 'examples', name) })
    expect(explained.find(({ key }) => key === 'database')?.value).toBe('app')
  }
})

it('loads pg with the first engine', async () => {
  const code = `
    import { createRequire } from 'node:module'
    import { postgres } from '@common-handlers/postgres'
    const { cache } = createRequire(import.meta.url)
    const loaded = () => Object.keys(cache).some((path) => path.includes('/pg/'))
    const before = loaded()
    await postgres.open({ host: '127.0.0.1', port: 1, connectTimeoutMs: 1000, maxConnections: 1, sslMode: 'disable' }, { signal: new AbortController().signal }).catch(() => undefined)
    console.log(before, loaded())`
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['--conditions=@common-handlers/source', '--input-type=module', '-e', code],
    { cwd: root },
  )
  expect(stdout).toBe('false true\n')
})
