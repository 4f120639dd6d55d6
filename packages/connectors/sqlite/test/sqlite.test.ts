import { readmeExample } from '@common-handlers/testkit'
import { execFile } from 'node:child_process'
import { access, mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { promisify } from 'node:util'
import { closeAllConnections, createConnections } from '@common-handlers/connections'
import { getSqliteEngine, sqlite, type SqliteQuery, testSqliteConnection } from '@common-handlers/sqlite'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'

const root = join(import.meta.dirname, '..')
let folder: string
let files = 0
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sqlite-'))
})
afterEach(() => closeAllConnections())
afterAll(() => rm(folder, { recursive: true, force: true }))

/** A new file, made by the driver itself. */
function database(sql: string): string {
  const path = join(folder, `it's ${files++} #?.db`)
  const made = new DatabaseSync(path)
  made.exec(sql)
  made.close()
  return path
}

describe('an engine', () => {
  it('gives every value exactly as SQLite has it', async () => {
    const engine = await getSqliteEngine({ databasePath: database('CREATE TABLE t (n, i, r, s, b)') })
    const values = [null, -9_223_372_036_854_775_808n, 0.1, 'ä\0\n"', new Uint8Array([0, 255])]
    await engine.execute('INSERT INTO t VALUES (?, ?, ?, ?, ?)', values)
    await engine.execute('INSERT INTO t (i, r) VALUES (:i, :r)', { i: 1n, r: 1 })
    const rows = await engine.query('SELECT *, typeof(i) AS ti, typeof(r) AS tr FROM t ORDER BY rowid')
    expect(rows).toEqual([
      { n: null, i: -9_223_372_036_854_775_808n, r: 0.1, s: 'ä\0\n"', b: new Uint8Array([0, 255]), ti: 'integer', tr: 'real' },
      { n: null, i: 1n, r: 1, s: null, b: null, ti: 'integer', tr: 'real' },
    ])
  })

  it('streams more rows than it holds, other work going on, and lets go when the loop is left', async () => {
    const engine = await getSqliteEngine({ databasePath: database('CREATE TABLE t (i)') })
    const endless = 'WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n'
    let turns = 0
    const timer = setInterval(() => (turns += 1), 0)
    let last: unknown
    for await (const { i } of engine.stream(endless)) {
      last = i
      if (i === 100_000n) break
    }
    clearInterval(timer)
    expect(last).toBe(100_000n)
    expect(turns).toBeGreaterThan(10)
    // A statement that is still open would refuse this.
    expect(await engine.execute('DROP TABLE t')).toEqual({ rowsChanged: 0 })
  })

  it('ends a stream with its signal', async () => {
    const engine = await getSqliteEngine({ databasePath: ':memory:' })
    const abort = new AbortController()
    const rows = engine.stream('VALUES (1), (2), (3)', [], { signal: abort.signal })
    await rows.next()
    abort.abort(new Error('enough'))
    await expect(rows.next()).rejects.toThrow('enough')
  })

  it('closes though a stream was left standing', async () => {
    await using connections = createConnections({ connectors: [sqlite], variables: {} })
    const engine = await connections.getConnection('sqlite', { databasePath: ':memory:' })
    const rows = engine.stream('VALUES (1), (2), (3)')
    await rows.next()
    await connections.closeAllConnections({ graceMs: 10 })
    await expect(rows.next()).rejects.toMatchObject({ code: 'SQLITE_CLOSED' })
  })

  it('makes no file where there is none, unless it shall', async () => {
    const databasePath = join(folder, 'new.db')
    await expect(getSqliteEngine({ databasePath })).rejects.toMatchObject({
      code: 'SQLITE_CANNOT_OPEN',
      message: expect.stringContaining(databasePath) as string,
    })
    await expect(access(databasePath)).rejects.toThrow('ENOENT')
    await getSqliteEngine({ databasePath, create: true })
    await access(databasePath)
  })

  it('waits for a lock without holding up the process, and gives up in time', async () => {
    const databasePath = database('CREATE TABLE t (i)')
    const other = new DatabaseSync(databasePath)
    try {
      other.exec('BEGIN EXCLUSIVE')
      await expect(getSqliteEngine({ databasePath, busyTimeoutMs: 30 })).rejects.toMatchObject({
        code: 'SQLITE_LOCKED',
        retry: 'safe',
      })
      const waiting = getSqliteEngine({ databasePath })
      setTimeout(() => other.exec('COMMIT'), 50)
      const engine = await waiting
      expect(await engine.execute('INSERT INTO t VALUES (1), (2)')).toEqual({ rowsChanged: 2 })
    } finally {
      other.close()
    }
  })

  it('is shared by configuration and closed with all', async () => {
    const databasePath = database('CREATE TABLE t (i)')
    const one = await getSqliteEngine({ databasePath })
    const two = await getSqliteEngine(`sqlite://${encodeURI(databasePath).replaceAll('#', '%23').replaceAll('?', '%3F')}`)
    await two.execute('CREATE TEMP TABLE shared (i)')
    expect(await one.query('SELECT * FROM shared')).toEqual([])
    await closeAllConnections()
    await expect(one.query('SELECT 1')).rejects.toMatchObject({ code: 'SQLITE_CLOSED' })
    await one.close()
  })
})

describe('errors', () => {
  it.each([
    ['SELECT * FROM missing', 'SQLITE_NOT_FOUND', 'not-found'],
    ['CREATE TABLE t (i)', 'SQLITE_EXISTS', 'conflict'],
    ['SELEC', 'SQLITE_STATEMENT_INVALID', 'remote'],
    ['SELECT "no such column" FROM t', 'SQLITE_NOT_FOUND', 'not-found'],
    ['INSERT INTO t VALUES (1)', 'SQLITE_CONSTRAINT', 'conflict'],
    ['SELECT 1 AS a, 2 AS a', 'SQLITE_DUPLICATE_COLUMN', 'data'],
    [`INSERT INTO t VALUES ('text')`, 'SQLITE_VALUE_INVALID', 'data'],
  ])('%s is %s', async (sql, code, outcome) => {
    const engine = await getSqliteEngine({
      databasePath: database('CREATE TABLE t (i INTEGER PRIMARY KEY); INSERT INTO t VALUES (1)'),
    })
    await expect(engine.query(sql)).rejects.toMatchObject({ code, outcome, retry: 'never' })
  })

  it('of files and parameters', async () => {
    const databasePath = database('CREATE TABLE t (i)')
    const reader = await getSqliteEngine({ databasePath, readOnly: true })
    await expect(reader.execute('INSERT INTO t VALUES (1)')).rejects.toMatchObject({
      code: 'SQLITE_READ_ONLY',
      outcome: 'permission',
    })
    for (const value of [true, new Date(), {}, undefined]) {
      const parameter = value as unknown as bigint
      await expect(reader.query('SELECT ?', [parameter])).rejects.toMatchObject({ code: 'SQLITE_PARAMETER_INVALID' })
      await expect(reader.query('SELECT :a', { a: parameter })).rejects.toMatchObject({ code: 'SQLITE_PARAMETER_INVALID' })
    }
    const text = join(folder, 'text.db')
    await writeFile(text, 'no database at all, but a text of some length')
    await expect(getSqliteEngine({ databasePath: text })).rejects.toMatchObject({ code: 'SQLITE_FILE_UNUSABLE', outcome: 'data' })
    const report = await testSqliteConnection({ databasePath: text })
    expect(report.steps.map(({ name, ok, error }) => [name, ok, error?.code])).toEqual([
      ['read the configuration', true, undefined],
      [`open ${text}`, false, 'SQLITE_FILE_UNUSABLE'],
    ])
    expect(await testSqliteConnection({ databasePath })).toMatchObject({ ok: true, target: databasePath })
  })
})

describe('incremental extraction', () => {
  const run = async (databasePath: string, query: SqliteQuery) => {
    await using connections = createConnections({ connectors: [sqlite], variables: {} })
    await using connector = await connections.createConnector({ protocol: 'sqlite', databasePath })
    return await connector.fetchData(query)
  }

  it('goes on after any row, ties included, in one order', async () => {
    const rows = Array.from({ length: 60 }, (_, index) => `(${(index * 37) % 60}, ${Math.floor(index / 7)}, 'r${index}')`)
    const path = database(`CREATE TABLE t (id INTEGER PRIMARY KEY, at INTEGER, v TEXT); INSERT INTO t VALUES ${rows.join(',')}`)
    const query = { table: 't', watermarkColumn: 'at' }
    const all = await run(path, query)
    expect(all.items).toHaveLength(60)
    const order = all.items.map(({ data }) => data as { id: bigint; at: bigint })
    expect(order).toEqual(order.toSorted((a, b) => (a.at < b.at || (a.at === b.at && a.id < b.id) ? -1 : 1)))
    for (const [index, { watermark }] of all.items.entries()) {
      const rest = await run(path, { ...query, watermark })
      expect(rest.items.map(({ key }) => key)).toEqual(all.items.slice(index + 1).map(({ key }) => key))
    }
  })

  it('keeps 64-bit integers, text and numbers apart in a watermark', async () => {
    const path = database(
      `CREATE TABLE t (at); INSERT INTO t VALUES (9007199254740992), (9007199254740993), ('9'), (0.1), (NULL), ('10')`,
    )
    const { items } = await run(path, { table: 't', watermarkColumn: 'at' })
    expect(items.map(({ data }) => data)).toEqual(
      [0.1, 9_007_199_254_740_992n, 9_007_199_254_740_993n, '10', '9'].map((at) => ({ at })),
    )
    const watermark = items[1]?.watermark
    const rest = await run(path, { table: 't', watermarkColumn: 'at', watermark })
    expect(rest.items.map(({ data }) => data)).toEqual([{ at: 9_007_199_254_740_993n }, { at: '10' }, { at: '9' }])
  })

  it('takes key and watermark from columns that are not asked for', async () => {
    const path = database(`CREATE TABLE "a ""b""" (x, y, at, PRIMARY KEY (y, x)); INSERT INTO "a ""b""" VALUES (1, 'k', 5)`)
    const { items } = await run(path, { table: 'a "b"', columns: ['x'], watermarkColumn: 'at' })
    expect(items).toMatchObject([
      { data: { x: 1n }, key: '["k",1]', watermark: '[{"i":"5"},"k",{"i":"1"}]', source: `sqlite:${path}#a "b"` },
    ])
    expect(Object.keys(items[0]?.data as object)).toEqual(['x'])
  })

  it('reads tables of attached files, and none of another schema', async () => {
    const path = database('CREATE TABLE t (id INTEGER PRIMARY KEY, at)')
    const other = database("CREATE TABLE t (at, k TEXT PRIMARY KEY); INSERT INTO t VALUES (1, 'x')")
    await using connections = createConnections({ connectors: [sqlite], variables: {} })
    await using connector = await connections.createConnector({ protocol: 'sqlite', databasePath: path })
    const engine = await connections.getConnection('sqlite', { databasePath: path })
    await engine.execute('ATTACH ? AS other', [other])
    const { items } = await connector.fetchData({ table: 't', schema: 'other', watermarkColumn: 'at' })
    expect(items).toMatchObject([{ key: 'x', data: { at: 1n, k: 'x' }, source: `sqlite:${path}#other.t` }])
    await expect(connector.fetchData({ table: 't', schema: 'none' })).rejects.toThrow('there is no table or view "t"')
  })

  it('refuses what has no order, and a watermark that is not its own', async () => {
    const path = database(
      "CREATE TABLE t (at, b BLOB PRIMARY KEY); CREATE VIEW w AS SELECT at FROM t; INSERT INTO t VALUES (1, x'00')",
    )
    await expect(run(path, { table: 'w', watermarkColumn: 'at' })).rejects.toMatchObject({ code: 'SQLITE_QUERY_INVALID' })
    await expect(run(path, { table: 'gone' })).rejects.toThrow('there is no table or view "gone"')
    await expect(run(path, { table: 't', watermarkColumn: 'AT' })).rejects.toThrow('the column "AT" is written otherwise')
    await expect(run(path, { table: 't', watermarkColumn: 'at' })).rejects.toMatchObject({ code: 'SQLITE_WATERMARK_UNUSABLE' })
    for (const watermark of ['', '[1]', '[{"i":"x"},1]', '[null,1]']) {
      await expect(run(path, { table: 't', watermarkColumn: 'at', watermark })).rejects.toMatchObject({
        code: 'SQLITE_WATERMARK_INVALID',
      })
    }
  })
})

it('is found by its protocol among the dependencies of a project', async () => {
  const project = await mkdtemp(join(folder, 'project-'))
  const code = `
    import { getConnection } from '@common-handlers/connections'
    const db = await getConnection('sqlite', 'sqlite::memory:')
    console.log(await db.query('SELECT 1 AS one'))
    await getConnection('ftp').catch((error) => console.log(error.message))`
  await mkdir(join(project, 'node_modules/@common-handlers'), { recursive: true })
  await writeFile(
    join(project, 'package.json'),
    JSON.stringify({ type: 'module', dependencies: { '@common-handlers/sqlite': '*' } }),
  )
  await symlink(root, join(project, 'node_modules/@common-handlers/sqlite'))
  await symlink(join(root, '../../connections'), join(project, 'node_modules/@common-handlers/connections'))
  await writeFile(join(project, 'main.mjs'), code)
  const { stdout } = await promisify(execFile)(process.execPath, ['--conditions=@common-handlers/source', 'main.mjs'], {
    cwd: project,
  })
  expect(stdout).toBe(`[ { one: 1n } ]
there is no connector for "ftp" here; there are: http, sqlite. Install it: npm install @common-handlers/ftp
`)
})

it('loads SQLite with the first engine', async () => {
  const code = `
    import { getSqliteEngine } from '@common-handlers/sqlite'
    const loaded = () => process.moduleLoadList.some((name) => name.endsWith(' sqlite'))
    const before = loaded()
    await getSqliteEngine('sqlite::memory:')
    console.log(before, loaded())`
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['--conditions=@common-handlers/source', '--input-type=module', '-e', code],
    { cwd: root },
  )
  expect(stdout).toBe('false true\n')
})

it('has example files that its schema takes', async () => {
  const names = (await readdir(join(root, 'examples'))).filter((name) => /\.(json|yaml)$/.test(name))
  expect(names).toHaveLength(2)
  await using connections = createConnections({ connectors: [sqlite], variables: {} })
  for (const name of names) {
    const explained = await connections.explain('sqlite', {}, { file: join(root, 'examples', name) })
    expect(explained.find(({ key }) => key === 'databasePath')?.value).toBe('/data/app.db')
  }
})

it('the example of README.md', async () => {
  const code = await readmeExample(root)
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['--conditions=@common-handlers/source', '--input-type=module-typescript', '-e', code],
    { cwd: root },
  )
  expect(stdout).toBe(`{ id: 9007199254740993n, changed_at: '2026-11-21T10:00:00Z' }\n1\n`)
})
