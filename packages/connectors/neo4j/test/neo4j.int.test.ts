import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { closeAllConnections, createConnections, ingestionResultSchema } from '@common-handlers/connections'
import {
  getNeo4jClient,
  neo4j,
  type Neo4jConfigInput,
  type Neo4jQuery,
  type Neo4jRelationship,
  testNeo4jConnection,
} from '@common-handlers/neo4j'
import {
  connectorConformance,
  describeWith,
  runOnNeo4j,
  startFaultProxy,
  startNeo4j,
  readmeExample,
} from '@common-handlers/testkit'
import { afterAll, afterEach, expect, it } from 'vitest'

const root = join(import.meta.dirname, '..')

// One server for all: it takes its time to start.
describeWith([], 'neo4j', async () => {
  const server = await startNeo4j()
  const { hostname: host, port } = new URL(server.url)
  const { user: username, password } = server
  const config = (more: Partial<Neo4jConfigInput> = {}): Neo4jConfigInput => ({
    host,
    port: Number(port),
    username,
    password,
    ...more,
  })
  const connections = createConnections({ connectors: [neo4j], variables: {} })
  afterEach(() => closeAllConnections())
  afterAll(async () => {
    await connections.closeAllConnections()
    await server.stop()
  })
  const run = async (query: Neo4jQuery) => {
    await using connector = await connections.createConnector({ protocol: 'neo4j', ...config() })
    return (await connector.fetchData(query)).items
  }
  const running = async (mark: string): Promise<number> => {
    const rows = await runOnNeo4j(server, 'SHOW TRANSACTIONS YIELD currentQuery RETURN currentQuery')
    return rows.filter(([text]) => String(text).includes(mark)).length
  }

  await runOnNeo4j(server, 'UNWIND range(0, 9999) AS i CREATE (:Order {id: i, at: i % 7})')
  const query = { nodes: 'Order', watermarkProperty: 'at', keyProperty: 'id' }
  connectorConformance('neo4j', {
    protocol: 'neo4j',
    connections,
    schema: ingestionResultSchema,
    config: config(),
    query,
    count: 10_000,
    after: (watermark) => ({ ...query, watermark }),
    at: (free) => config({ port: free }),
    // Not the user of the other tests: after some wrong passwords Neo4j takes none for a while.
    refused: config({ username: 'nobody', password: 'a wrong password' }),
    another: config({ fetchSize: 100 }),
    secret: password,
  })

  it('gives every value exactly', async () => {
    const client = await getNeo4jClient(config())
    const [row] = await client.query(
      `CYPHER 5 RETURN 9223372036854775807 AS big, 1 AS one, 1.0 AS float, 0.1 AS tenth, null AS nothing, true AS yes, $text AS text,
        $bytes AS bytes, $big AS given, $float AS alsoFloat, valueType($float) AS floatType, valueType($big) AS bigType,
        date('2026-11-21') AS date, datetime('2026-11-21T10:00:00.123456789+01:00[Europe/Berlin]') AS zoned,
        datetime('0001-01-01T00:00:00.000000001Z') AS old, localdatetime('2026-11-21T10:00:00.1') AS local,
        time('10:00:00.5+02:00') AS time, localtime('10:00:00') AS localTime, duration('P1Y2M3DT4H5M6.000000007S') AS duration,
        point({x: 1, y: 2, z: 3}) AS point, [1, [2.5, {a: 3}]] AS list, {a: [date('2026-01-01')]} AS map`,
      { text: 'ä\0\n"', bytes: new Uint8Array([0, 127, 255]), big: -9_223_372_036_854_775_808n, float: 1 },
    )
    expect(row).toEqual({
      big: 9_223_372_036_854_775_807n,
      one: 1n,
      float: 1,
      tenth: 0.1,
      nothing: null,
      yes: true,
      text: 'ä\0\n"',
      bytes: new Uint8Array([0, 127, 255]),
      given: -9_223_372_036_854_775_808n,
      alsoFloat: 1,
      floatType: 'FLOAT NOT NULL',
      bigType: 'INTEGER NOT NULL',
      date: '2026-11-21',
      zoned: '2026-11-21T10:00:00.123456789+01:00[Europe/Berlin]',
      old: '0001-01-01T00:00:00.000000001Z',
      local: '2026-11-21T10:00:00.100000000',
      time: '10:00:00.500000000+02:00',
      localTime: '10:00:00',
      duration: 'P1Y2M3DT4H5M6.000000007S',
      point: { srid: 9157n, x: 1, y: 2, z: 3 },
      list: [1n, [2.5, { a: 3n }]],
      map: { a: ['2026-01-01'] },
    })
  })

  it('gives nodes, relationships and paths as plain objects', async () => {
    const client = await getNeo4jClient(config())
    const changes = await client.execute('CREATE (:Person:Buyer {id: $id})-[:BOUGHT {n: 2}]->(:Thing)', { id: 1n })
    expect(changes).toMatchObject({ nodesCreated: 2, relationshipsCreated: 1, propertiesSet: 2 })
    const [row] = await client.query('MATCH path = (p:Person)-[r:BOUGHT]->(t:Thing) RETURN p, r, path')
    const text = expect.any(String) as string
    const person = { elementId: text, labels: ['Person', 'Buyer'], properties: { id: 1n } }
    const bought = { elementId: text, type: 'BOUGHT', startNodeElementId: text, endNodeElementId: text, properties: { n: 2n } }
    const thing = { elementId: text, labels: ['Thing'], properties: {} }
    expect(row).toEqual({
      p: person,
      r: bought,
      path: { start: person, end: thing, segments: [{ start: person, relationship: bought, end: thing }] },
    })
    const [item] = await run({ relationships: 'BOUGHT', watermarkProperty: 'n' })
    expect(item).toMatchObject({ key: (row as unknown as { r: Neo4jRelationship }).r.elementId, data: bought })
  })

  it.each([
    ['numbers', ['1', '1.5', '9007199254740992', '9007199254740993', '-0.5']],
    ['texts', ["'10'", "'9'", "'ä'", "''"]],
    ['dates', ["date('2026-01-01')", "date('-0001-01-01')"]],
    [
      'moments',
      [
        "datetime('2026-11-21T10:00:00.123456789Z')",
        "datetime('2026-11-21T11:00:00.123456789+01:00')",
        "datetime('2026-11-21T11:00:00.123456789[Europe/Berlin]')",
        "datetime('2026-11-21T10:00:00.12345679Z')",
      ],
    ],
    ['local', ["localdatetime('2026-11-21T10:00:00')", "localdatetime('2026-11-21T10:00:00.000000001')"]],
    ['times', ["time('10:00:00+01:00')", "time('09:00:00Z')", "time('09:30:00Z')"]],
  ])('goes on after any of %s, ties included', async (kind, places) => {
    const nodes = `Kept \`${kind}\``
    const label = `\`${nodes.replaceAll('`', '``')}\``
    const client = await getNeo4jClient(config())
    await client.execute(`UNWIND range(1, 2) AS i UNWIND [${places.join(', ')}] AS at CREATE (n:${label} {at: at})`)
    await client.execute(`CREATE (:${label} {other: 1})`)
    for (const keyProperty of [undefined, 'key']) {
      await client.execute(`MATCH (n:${label}) SET n.key = elementId(n)`)
      const all = await run({ nodes, watermarkProperty: 'at', keyProperty })
      expect(all).toHaveLength(2 * places.length)
      for (const [index, { watermark }] of all.entries()) {
        const rest = await run({ nodes, watermarkProperty: 'at', keyProperty, watermark })
        expect(rest.map(({ key }) => key)).toEqual(all.slice(index + 1).map(({ key }) => key))
      }
    }
  })

  it('refuses what has no place in the order, and a watermark that is not its own', async () => {
    const client = await getNeo4jClient(config())
    await client.execute(`CREATE (:Mixed {at: 1, list: [1], long: duration('P1D')}), (:Mixed {at: 'a', key: 1})`)
    const unusable = { code: 'NEO4J_WATERMARK_UNUSABLE', outcome: 'data' }
    for (const watermarkProperty of ['at', 'list', 'long']) {
      await expect(run({ nodes: 'Mixed', watermarkProperty })).rejects.toMatchObject(unusable)
    }
    await expect(run({ nodes: 'Mixed', watermarkProperty: 'at', keyProperty: 'none' })).rejects.toMatchObject(unusable)
    await expect(run({ nodes: 'Mixed', watermark: '[]' })).rejects.toMatchObject({ code: 'NEO4J_QUERY_INVALID' })
    await expect(run({ nodes: 'A\\u0060' })).rejects.toMatchObject({ code: 'NEO4J_QUERY_INVALID' })
    for (const watermark of ['', '[]', '[1,2]', '[{"number":"x"},{"string":"a"}]', '[{"sql":"x"},{"string":"a"}]']) {
      const wrong = { nodes: 'Mixed', watermarkProperty: 'at', watermark }
      await expect(run(wrong)).rejects.toMatchObject({ code: 'NEO4J_WATERMARK_INVALID' })
    }
  })

  it('streams a result larger than memory, no more of it than is taken', async () => {
    await using proxy = await startFaultProxy({ host, port: Number(port) })
    const client = await getNeo4jClient(config({ port: proxy.port, fetchSize: 10 }))
    // 100 GB, of which a few hundred KB may arrive.
    const rows = client.stream(`UNWIND range(1, 100000000) AS i RETURN i, '${'x'.repeat(1000)}' AS text`)
    proxy.limitBytes(500_000)
    expect((await rows.next()).value).toMatchObject({ i: 1n })
    await new Promise((resolve) => setTimeout(resolve, 300))
    for (let i = 2n; i < 200n; i++) expect((await rows.next()).value).toMatchObject({ i })
    await rows.return()
  })

  it.each(['leave', 'abort', 'timeout', 'close'] as const)('ends what runs on the server: %s', async (how) => {
    const client = await getNeo4jClient(config({ fetchSize: 2 }))
    // Silent for hours, or one record after the other.
    const slow = `UNWIND range(1, 1000000) AS a UNWIND range(1, 1000000) AS b WITH a, b WHERE a + b < 0 RETURN '${how}' AS mark`
    const endless = `UNWIND range(1, 1000000000) AS a RETURN '${how}' AS mark`
    const abort = new AbortController()
    if (how === 'leave') {
      const rows = client.stream(endless)
      await rows.next()
      expect(await running(`'${how}' AS mark`)).toBe(1)
      await rows.return()
    } else {
      const asked = client.query(slow, {}, how === 'timeout' ? { timeoutMs: 1000 } : { signal: abort.signal })
      const failed = asked.catch((error: unknown) => error)
      if (how !== 'timeout') await expect.poll(() => running(`'${how}' AS mark`), { timeout: 10_000 }).toBe(1)
      if (how === 'abort') abort.abort(new RangeError('enough'))
      if (how === 'close') await closeAllConnections({ graceMs: 0 })
      expect(await failed).toMatchObject(
        { abort: { message: 'enough' }, timeout: { code: 'NEO4J_TIMEOUT' }, close: { code: 'NEO4J_CLOSED' } }[how],
      )
    }
    await expect.poll(() => running(`'${how}' AS mark`), { timeout: 10_000 }).toBe(0)
    if (how !== 'close') expect(await client.query('RETURN 1 AS one')).toEqual([{ one: 1n }])
  })

  it('says that the server is gone in the middle, and finds it again', async () => {
    await using proxy = await startFaultProxy({ host, port: Number(port) })
    const client = await getNeo4jClient(config({ port: proxy.port, fetchSize: 10 }))
    const rows = client.stream('UNWIND range(1, 1000000) AS i RETURN i')
    await rows.next()
    proxy.cut()
    const lost = (async () => {
      for await (const _row of rows);
    })()
    await expect(lost).rejects.toMatchObject({ code: 'NEO4J_CONNECTION_LOST', outcome: 'connection', retry: 'if-idempotent' })
    await proxy.refuse()
    await expect(client.query('RETURN 1')).rejects.toMatchObject({ code: 'NEO4J_UNREACHABLE', retry: 'safe' })
    await proxy.accept()
    expect(await client.query('RETURN 1 AS one')).toEqual([{ one: 1n }])
  })

  it('waits no longer than it is told for a server that is silent, and closes beside it', async () => {
    await using proxy = await startFaultProxy({ host, port: Number(port) })
    const client = await getNeo4jClient(config({ port: proxy.port, answerTimeoutMs: 300, attempts: 1 }), { reuse: false })
    expect(await client.query('RETURN 1 AS one')).toEqual([{ one: 1n }])
    proxy.stall()
    await expect(client.query('RETURN 1')).rejects.toMatchObject({ code: 'NEO4J_NO_ANSWER', outcome: 'timeout' })
    await client.close({ graceMs: 0 })
  })

  it('asks for a certificate that it can trust', async () => {
    const there = config({ tls: true, attempts: 1 })
    await expect(getNeo4jClient(there)).rejects.toMatchObject({ code: 'NEO4J_TLS_FAILED', retry: 'never' })
    expect((await testNeo4jConnection(there)).steps.at(-1)).toMatchObject({
      ok: false,
      error: { code: 'CONNECTIONS_CERTIFICATE_UNTRUSTED' },
    })
    const report = await testNeo4jConnection({ ...there, ca: server.caCert })
    expect(report.ok, JSON.stringify(report)).toBe(true)
    expect(report.steps.map(({ name, detail }) => [name, detail]).slice(4)).toEqual([
      ['log in', 'as neo4j'],
      ['version', expect.stringMatching(/^Neo4j 2026\.08\.1, community$/)],
      ['rights', expect.stringMatching(/^\d+ labels may be read$/)],
      ['latency', expect.stringMatching(/^[\d.]+ ms$/)],
    ])
    const client = await getNeo4jClient({ ...there, ca: server.caCert })
    expect(await client.query('RETURN 1 AS one')).toEqual([{ one: 1n }])
  })

  it('serves two configurations side by side, also through a routing table', async () => {
    const one = await getNeo4jClient(config())
    const two = await getNeo4jClient(`neo4j://${username}:${password}@${host}:${port}/system`)
    expect(await one.query('CALL db.info() YIELD name')).toEqual([{ name: 'neo4j' }])
    expect(await two.query('CALL db.info() YIELD name')).toEqual([{ name: 'system' }])
    await one.close()
    expect(await two.query('CALL db.info() YIELD name')).toEqual([{ name: 'system' }])
  })

  it.each([
    ['SELEC', {}, 'NEO4J_STATEMENT_INVALID', 'remote'],
    ['CREATE (:Written)', {}, 'NEO4J_FORBIDDEN', 'permission'],
    ['CALL no.such()', {}, 'NEO4J_NOT_FOUND', 'not-found'],
    ['RETURN $x', { x: new Date() }, 'NEO4J_PARAMETER_INVALID', 'config'],
    ['RETURN $x', { x: 2n ** 63n }, 'NEO4J_PARAMETER_INVALID', 'config'],
  ])('a query %s with %o is %s', async (cypher, parameters, code, outcome) => {
    const client = await getNeo4jClient(config())
    await expect(client.query(cypher, parameters as never)).rejects.toMatchObject({ code, outcome, retry: 'never' })
  })

  it('says what a login lacks', async () => {
    await runOnNeo4j(server, `CREATE USER late SET PASSWORD 'to be changed'`, { database: 'system' })
    const late = getNeo4jClient(config({ username: 'late', password: 'to be changed' }))
    await expect(late).rejects.toMatchObject({ code: 'NEO4J_PASSWORD_EXPIRED', outcome: 'auth' })
    await expect(getNeo4jClient(config({ database: 'nope' }))).rejects.toMatchObject({ code: 'NEO4J_NOT_FOUND' })
    await runOnNeo4j(server, 'CREATE CONSTRAINT one FOR (n:Single) REQUIRE n.id IS UNIQUE')
    const client = await getNeo4jClient(config())
    await client.execute('CREATE (:Single {id: 1})')
    await expect(client.execute('CREATE (:Single {id: 1})')).rejects.toMatchObject({
      code: 'NEO4J_CONSTRAINT',
      outcome: 'conflict',
    })
  })

  it('the example of README.md', async () => {
    const code = await readmeExample(root)
    const { stdout } = await promisify(execFile)(
      process.execPath,
      ['--conditions=@common-handlers/source', '--input-type=module-typescript', '-e', code],
      {
        cwd: root,
        env: { ...process.env, NEO4J_HOST: host, NEO4J_PORT: port, NEO4J_USERNAME: username, NEO4J_PASSWORD: password },
      },
    )
    expect(stdout).toBe(`{ at: '2026-11-21T10:00:00Z', id: 9007199254740993n }\n1\n`)
  })
})
