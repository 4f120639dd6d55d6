import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import {
  cassandra,
  type CassandraConfigInput,
  type CassandraQuery,
  getCassandraClient,
  testCassandraConnection,
} from '@common-handlers/cassandra'
import { closeAllConnections, createConnections, ingestionResultSchema } from '@common-handlers/connections'
import { connectorConformance, describeWith, startCassandra, startFaultProxy, readmeExample } from '@common-handlers/testkit'
import { afterAll, afterEach, expect, it } from 'vitest'

const root = join(import.meta.dirname, '..')

// One server for all: it takes its time to start.
describeWith([], 'cassandra', async () => {
  const server = await startCassandra()
  const { port, user: username, password: first } = server
  const config = (more: Partial<CassandraConfigInput> = {}): CassandraConfigInput => ({
    hosts: [`127.0.0.1:${port}`],
    localDataCenter: server.datacenter,
    keyspace: 'shop',
    username: 'etl',
    password,
    ...more,
  })
  const password = 'a very secret password'
  const connections = createConnections({ connectors: [cassandra], variables: {} })
  afterEach(() => closeAllConnections())
  afterAll(async () => {
    await connections.closeAllConnections()
    await server.stop()
  })
  const run = async (query: CassandraQuery) => {
    await using connector = await connections.createConnector({ protocol: 'cassandra', ...config() })
    return (await connector.fetchData(query)).items
  }

  const asAdmin = () => getCassandraClient(config({ keyspace: 'system', username, password: first }))
  const admin = await asAdmin()
  for (const keyspace of ['shop', 'other']) {
    await admin.execute(`CREATE KEYSPACE ${keyspace} WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}`)
  }
  await admin.execute(`CREATE ROLE etl WITH PASSWORD = '${password}' AND LOGIN = true`)
  for (const keyspace of ['shop', 'other']) await admin.execute(`GRANT ALL PERMISSIONS ON KEYSPACE ${keyspace} TO etl`)
  await admin.execute('CREATE TABLE shop.orders (id bigint PRIMARY KEY, n int)')
  const ids = Array.from({ length: 10_000 }, (_, id) => BigInt(id))
  for (let at = 0; at < ids.length; at += 100) {
    const part = ids.slice(at, at + 100)
    await Promise.all(part.map((id) => admin.execute('INSERT INTO shop.orders (id, n) VALUES (?, ?)', [id, Number(id % 7n)])))
  }

  connectorConformance('cassandra', {
    protocol: 'cassandra',
    connections,
    schema: ingestionResultSchema,
    config: config(),
    query: { table: 'orders' },
    count: 10_000,
    after: (watermark) => ({ table: 'orders', watermark }),
    at: (free) => config({ hosts: [`127.0.0.1:${free}`], connectTimeoutMs: 1000 }),
    refused: config({ password: 'a wrong password' }),
    another: config({ fetchSize: 100, concurrency: 1 }),
    secret: password,
  })

  it('gives every value exactly', async () => {
    const client = await getCassandraClient(config())
    await client.execute('CREATE TYPE address (street text, number bigint)')
    const columns = {
      id: ['bigint', '9223372036854775807', 9_223_372_036_854_775_807n],
      small: ['smallint', '-2', -2],
      tiny: ['tinyint', '3', 3],
      "'Quoted'": ['int', '-2147483648', -2_147_483_648],
      decimals: [
        'list<decimal>',
        '[12345678901234567890.12340, -0.001, 1e10, -1.5e-20, 0.00, 100]',
        ['12345678901234567890.12340', '-0.001', '1E10', '-0.000000000000000000015', '0.00', '100'],
      ],
      varint: ['varint', '-123456789012345678901234567890', -123_456_789_012_345_678_901_234_567_890n],
      single: ['float', '0.1', Math.fround(0.1)],
      double: ['double', '0.1', 0.1],
      bytes: ['blob', '0x00ff', new Uint8Array([0, 255])],
      yes: ['boolean', 'true', true],
      text: ['text', `'ä''"'`, `ä'"`],
      uuid: ['uuid', '8c6a2c8e-3b8e-4c55-9a0c-0f6f5c9f1a11', '8c6a2c8e-3b8e-4c55-9a0c-0f6f5c9f1a11'],
      timeuuid: ['timeuuid', '50554d6e-29bb-11e5-b345-feff819cdc9f', '50554d6e-29bb-11e5-b345-feff819cdc9f'],
      at: ['timestamp', "'2026-11-21T10:00:00.123Z'", '2026-11-21T10:00:00.123Z'],
      date: ['date', "'2026-11-21'", '2026-11-21'],
      time: ['time', "'10:00:00.123456789'", '10:00:00.123456789'],
      duration: ['duration', '1mo2d3h4ns', '1mo2d3h4ns'],
      inet: ['inet', "'::1'", '::1'],
      by_text: ['map<text, bigint>', "{'a': 9223372036854775807}", { a: 9_223_372_036_854_775_807n }],
      by_number: ['map<int, frozen<list<timestamp>>>', '{1: [0]}', [[1, ['1970-01-01T00:00:00.000Z']]]],
      uuids: ['set<uuid>', '{8c6a2c8e-3b8e-4c55-9a0c-0f6f5c9f1a11}', ['8c6a2c8e-3b8e-4c55-9a0c-0f6f5c9f1a11']],
      pair: ['tuple<int, decimal, text>', "(1, 2.50, 'x')", [1, '2.50', 'x']],
      address: ['frozen<address>', "{street: 's'}", { street: 's', number: null }],
      vector: ['vector<float, 2>', '[0.5, 0.25]', [0.5, 0.25]],
      nothing: ['int', 'null', null],
    } as const satisfies Record<string, readonly [string, string, unknown]>
    const names = Object.keys(columns).map((name) => `"${name}"`)
    const list = Object.entries(columns).map(([name, [type]]) => `"${name}" ${type}${name === 'id' ? ' PRIMARY KEY' : ''}`)
    await client.execute(`CREATE TABLE "All" (${list.join(', ')})`)
    const values = Object.values(columns).map(([, literal]) => literal)
    await client.execute(`INSERT INTO "All" (${names.join(', ')}) VALUES (${values.join(', ')})`)
    const expected = Object.fromEntries(Object.entries(columns).map(([name, [, , value]]) => [name, value]))
    expect(await client.query('SELECT * FROM "All"')).toEqual([expected])
    expect(await run({ table: 'All' })).toMatchObject([{ data: expected, key: '9223372036854775807' }])

    await client.execute('CREATE TABLE counted (id text PRIMARY KEY, n counter)')
    await client.execute('UPDATE counted SET n = n + 9007199254740993 WHERE id = ?', ['a'])
    expect(await client.query('SELECT * FROM counted')).toEqual([{ id: 'a', n: 9_007_199_254_740_993n }])
    await client.execute('CREATE TABLE far (id int PRIMARY KEY, at timestamp)')
    await client.execute('INSERT INTO far (id, at) VALUES (1, 9223372036854775807)')
    await expect(client.query('SELECT at FROM far')).rejects.toMatchObject({
      code: 'CASSANDRA_VALUE_INVALID',
      where: { column: 'at' },
    })
    await expect(client.query('SELECT id AS at, at FROM far')).rejects.toMatchObject({ code: 'CASSANDRA_DUPLICATE_COLUMN' })
  })

  it('takes parameters by the types of the server', async () => {
    const client = await getCassandraClient(config())
    await client.execute('CREATE TYPE named (name text, n bigint)')
    await client.execute(
      'CREATE TABLE given (id bigint PRIMARY KEY, i int, d decimal, v varint, b blob, at timestamp, u uuid, m map<text, bigint>, n named, l list<int>)',
    )
    const at = '2026-11-21T10:00:00.123Z'
    const uuid = '8c6a2c8e-3b8e-4c55-9a0c-0f6f5c9f1a11'
    await client.execute('INSERT INTO given (id, i, d, v, b, at, u, m, n, l) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)', [
      1n,
      5,
      '1.50',
      12_345_678_901_234_567_890n,
      new Uint8Array([1]),
      new Date(at),
      uuid,
      new Map([['a', 1n]]),
      { name: 'x', n: 2n },
      [1, 2],
    ])
    expect(await client.query('SELECT * FROM given WHERE id = ?', [1n])).toEqual([
      {
        id: 1n,
        i: 5,
        d: '1.50',
        v: 12_345_678_901_234_567_890n,
        b: new Uint8Array([1]),
        at,
        u: uuid,
        m: { a: 1n },
        n: { name: 'x', n: 2n },
        l: [1, 2],
      },
    ])
  })

  it('scans in the order of the tokens, several ranges at once, also parts of rows', async () => {
    const client = await getCassandraClient(config({ fetchSize: 70, concurrency: 3 }))
    const tokens: bigint[] = []
    const found = new Set<unknown>()
    for await (const { row, token, key } of client.scan('orders', { columns: ['n'] })) {
      tokens.push(token)
      found.add(key['id'])
      expect(Object.keys(row)).toEqual(['n'])
    }
    expect(found.size).toBe(10_000)
    expect(tokens).toEqual(tokens.toSorted((a, b) => (a < b ? -1 : 1)))
    await expect(run({ table: 'orders', columns: ['N'] })).rejects.toMatchObject({ code: 'CASSANDRA_QUERY_INVALID' })
    await expect(run({ table: 'Orders' })).rejects.toMatchObject({ code: 'CASSANDRA_NOT_FOUND' })
    for (const watermark of ['', 'x', '9223372036854775808', '[1]']) {
      await expect(run({ table: 'orders', watermark })).rejects.toMatchObject({ code: 'CASSANDRA_WATERMARK_INVALID' })
    }
    expect(await run({ table: 'orders', watermark: '9223372036854775807' })).toEqual([])
  })

  it('leaves no row of a partition out that was not read to its end', async () => {
    const client = await getCassandraClient(config())
    await client.execute(
      'CREATE TABLE lines ("Order" int, line int, PRIMARY KEY ("Order", line)) WITH CLUSTERING ORDER BY (line DESC)',
    )
    for (let order = 0; order < 5; order++) {
      for (let line = 0; line < 4; line++) await client.execute('INSERT INTO lines ("Order", line) VALUES (?, ?)', [order, line])
    }
    const all = await run({ table: 'lines' })
    expect(all).toHaveLength(20)
    expect(all[0]?.key).toMatch(/^\[\d,3\]$/)
    for (const [index, { watermark }] of all.entries()) {
      const rest = await run({ table: 'lines', watermark })
      // A partition has four rows: what is not whole comes again.
      const begun = index - (index % 4) + (index % 4 === 3 ? 4 : 0)
      expect(rest.map(({ key }) => key)).toEqual(all.slice(begun).map(({ key }) => key))
    }
  })

  it('asks for no page more when a loop is left or aborted', async () => {
    const client = await getCassandraClient(config({ fetchSize: 10 }))
    const abort = new AbortController()
    const scan = client.scan('orders', {}, { signal: abort.signal })
    await scan.next()
    abort.abort(new RangeError('enough'))
    await expect(scan.next()).rejects.toThrow('enough')
    const rows = client.stream('SELECT * FROM orders')
    await rows.next()
    await rows.return()
    expect(await client.query('SELECT n FROM orders WHERE id = ?', [8n])).toEqual([{ n: 1 }])
  })

  it('says that the server is gone in the middle, and finds it again', async () => {
    await using proxy = await startFaultProxy({ host: '127.0.0.1', port })
    const there = config({ hosts: [`127.0.0.1:${proxy.port}`], fetchSize: 10, attempts: 1 })
    const client = await getCassandraClient(there)
    const rows = client.stream('SELECT * FROM orders')
    await rows.next()
    await proxy.refuse()
    const lost = (async () => {
      for await (const _row of rows);
    })()
    await expect(lost).rejects.toMatchObject({ outcome: 'connection' })
    await expect(client.query('SELECT key FROM system.local')).rejects.toMatchObject({ outcome: 'connection' })
    await proxy.accept()
    await expect.poll(() => client.query('SELECT key FROM system.local').catch(() => []), { timeout: 10_000 }).toHaveLength(1)
  })

  it('reads on where a page is lost', async () => {
    await using proxy = await startFaultProxy({ host: '127.0.0.1', port })
    const client = await getCassandraClient(config({ hosts: [`127.0.0.1:${proxy.port}`], fetchSize: 100, attempts: 20 }))
    const found: unknown[] = []
    for await (const { key } of client.scan('orders')) {
      found.push(key['id'])
      if (found.length === 3000) proxy.cut()
    }
    expect([found.length, new Set(found).size]).toEqual([10_000, 10_000])
  })

  it('waits no longer than it is told for a server that is silent, and closes beside it', async () => {
    await using proxy = await startFaultProxy({ host: '127.0.0.1', port })
    const there = config({ hosts: [`127.0.0.1:${proxy.port}`], answerTimeoutMs: 300, connectTimeoutMs: 500, attempts: 1 })
    const client = await getCassandraClient(there)
    proxy.stall()
    await expect(client.query('SELECT key FROM system.local')).rejects.toMatchObject({
      code: 'CASSANDRA_NO_ANSWER',
      outcome: 'timeout',
    })
    await closeAllConnections({ graceMs: 0 })
  })

  it('asks for a certificate that it can trust', async () => {
    const there = config({ tls: true, attempts: 1 })
    await expect(getCassandraClient(there)).rejects.toMatchObject({ code: 'CASSANDRA_TLS_FAILED', retry: 'never' })
    expect((await testCassandraConnection(there)).steps.at(-1)).toMatchObject({
      ok: false,
      error: { code: 'CONNECTIONS_CERTIFICATE_UNTRUSTED' },
    })
    const report = await testCassandraConnection({ ...there, ca: server.caCert })
    expect(report.ok, JSON.stringify(report)).toBe(true)
    expect(report.steps.map(({ name, detail }) => [name, detail]).slice(4)).toEqual([
      ['log in', 'as etl'],
      ['version', 'Cassandra 5.0.6 in datacenter1'],
      ['rights', expect.stringMatching(/^\d+ of \d+ tables may be read$/)],
      ['latency', expect.stringMatching(/^[\d.]+ ms$/)],
    ])
  })

  it('serves two configurations side by side', async () => {
    const one = await getCassandraClient(config())
    const two = await getCassandraClient(
      `cassandra://etl:${encodeURIComponent(password)}@127.0.0.1:${port}/other?localDataCenter=${server.datacenter}`,
    )
    await one.execute('CREATE TABLE beside (id int PRIMARY KEY)')
    await two.execute('CREATE TABLE beside (id int PRIMARY KEY)')
    await one.execute('INSERT INTO beside (id) VALUES (1)')
    expect([await one.query('SELECT * FROM beside'), await two.query('SELECT * FROM beside')]).toEqual([[{ id: 1 }], []])
    await one.close()
    await two.execute('INSERT INTO beside (id) VALUES (2)')
    expect(await two.query('SELECT * FROM beside')).toEqual([{ id: 2 }])
  })

  it('says what a configuration lacks', async () => {
    await expect(getCassandraClient(config({ localDataCenter: 'dc9' }))).rejects.toMatchObject({
      code: 'CASSANDRA_OPTION_INVALID',
      message: expect.stringContaining('datacenter1') as string,
    })
    await expect(getCassandraClient(config({ keyspace: 'nope' }))).rejects.toMatchObject({ code: 'CASSANDRA_NOT_FOUND' })
    await expect(getCassandraClient({ ...config(), username: undefined, password: undefined })).rejects.toMatchObject({
      code: 'CASSANDRA_LOGIN_REFUSED',
    })
    const again = await asAdmin()
    await again.execute("CREATE ROLE guest WITH PASSWORD = 'guest' AND LOGIN = true")
    const report = await testCassandraConnection(config({ username: 'guest', password: 'guest' }))
    expect(report.steps.at(-1)).toMatchObject({ name: 'rights', ok: false, error: { code: 'CASSANDRA_FORBIDDEN' } })
  })

  it.each([
    ['SELEC', [], 'CASSANDRA_STATEMENT_INVALID', 'remote'],
    ['SELECT * FROM missing', [], 'CASSANDRA_NOT_FOUND', 'not-found'],
    ['SELECT missing FROM orders', [], 'CASSANDRA_NOT_FOUND', 'not-found'],
    ['CREATE TABLE orders (id int PRIMARY KEY)', [], 'CASSANDRA_EXISTS', 'conflict'],
    ['SELECT * FROM system_auth.roles', [], 'CASSANDRA_FORBIDDEN', 'permission'],
    ['SELECT * FROM orders WHERE id = ?', [5], 'CASSANDRA_PARAMETER_INVALID', 'config'],
    ['INSERT INTO orders (id, n) VALUES (?, ?)', [1n, 2 ** 31], 'CASSANDRA_PARAMETER_INVALID', 'config'],
  ])('%s with %o is %s', async (cql, parameters, code, outcome) => {
    const client = await getCassandraClient(config())
    await expect(client.query(cql, parameters)).rejects.toMatchObject({ code, outcome, retry: 'never' })
  })

  it('the example of README.md', async () => {
    const code = await readmeExample(root)
    const variables = {
      CASSANDRA_HOSTS: `127.0.0.1:${port}`,
      CASSANDRA_KEYSPACE: 'shop',
      CASSANDRA_LOCAL_DATA_CENTER: server.datacenter,
      CASSANDRA_USERNAME: 'etl',
      CASSANDRA_PASSWORD: password,
    }
    const { stdout } = await promisify(execFile)(
      process.execPath,
      ['--conditions=@common-handlers/source', '--input-type=module-typescript', '-e', code],
      { cwd: root, env: { ...process.env, ...variables } },
    )
    expect(stdout).toBe(`{ id: 9007199254740993n, total: '0.10' }\n0\n`)
  })
})
