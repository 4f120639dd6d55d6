import { dwDestination, getPostgresEngine, type PostgresInput, type PostgresRow } from '@common-handlers/postgres'
import { createDatabase, describeWith, runOnPostgres, startFaultProxy, liveMemory } from '@common-handlers/testkit'
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest'

const alone = { reuse: false }

async function liveBytes(): Promise<number> {
  const { heapUsed, external } = await liveMemory()
  return heapUsed + external
}

type Row = Record<string, PostgresInput>

describeWith(['postgres'], 'the warehouse', ({ postgres: server }) => {
  const { host, port, user: username, password } = server
  let database: Awaited<ReturnType<typeof createDatabase>>
  let engine: Awaited<ReturnType<typeof getPostgresEngine>>
  const config = (more: object = {}) => ({ host, port, username, password, database: database.database, ...more })
  const table = (): Promise<PostgresRow[]> => engine.query('SELECT * FROM t ORDER BY id')

  beforeAll(async () => {
    database = await createDatabase(server, 'warehouse')
    engine = await getPostgresEngine(config(), alone)
  })
  afterAll(async () => {
    await engine.close()
    await database.drop()
  })
  beforeEach(async () => {
    await runOnPostgres(
      database,
      `DROP TABLE IF EXISTS t; DROP TABLE IF EXISTS parent;
       CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent VALUES (1);
       CREATE TABLE t (id int8 PRIMARY KEY, name varchar(5) NOT NULL, amount numeric CHECK (amount >= 0), at timestamptz,
                       doc jsonb, raw bytea, tags text[], parent int REFERENCES parent, email text UNIQUE, loaded text DEFAULT 'yes')`,
    )
  })

  const whole: Row = {
    id: 9_223_372_036_854_775_807n,
    name: 'a\t\\\n',
    amount: '12345678901234567890.1234567890',
    at: '2026-11-21 10:00:00.123456+00',
    doc: { n: 9_007_199_254_740_993n, list: [1, null, '\\N'] },
    raw: new Uint8Array([0, 92, 255]),
    tags: ['a,b', null, '"\\'],
    parent: null,
    email: '\\N',
  }
  const stored = {
    ...whole,
    doc: String.raw`{"n": 9007199254740993, "list": [1, null, "\\N"]}`,
    raw: Buffer.from([0, 92, 255]),
    tags: String.raw`{"a,b",NULL,"\"\\"}`,
    loaded: 'yes',
  }

  it.each(['load', 'upsert'] as const)('takes every value exactly by %s', async (way) => {
    await using dw = await dwDestination(config(), alone)
    const told: number[] = []
    const options = { key: ['id'], onProgress: ({ rows }: { rows: number }) => told.push(rows) }
    const { rows, bytes } = await dw[way]('t', [whole], options)
    expect([rows, bytes > 100, told]).toEqual([1, true, [1]])
    expect(await table()).toEqual([stored])
    expect(await dw[way]('t', [], options)).toEqual({ rows: 0, bytes: 0 })
  })

  it('changes what is there and adds what is not, as often as it is asked', async () => {
    await using dw = await dwDestination(config(), alone)
    const rows = (name: string): Row[] => [1, 2, 3].map((id) => ({ id, name }))
    await dw.load('t', [{ id: 2, name: 'old', email: 'stays' }])
    expect(await dw.upsert('t', rows('new'), { key: ['id'] })).toMatchObject({ rows: 3 })
    expect(await dw.upsert('t', rows('new'), { key: ['id'] })).toMatchObject({ rows: 3 })
    expect((await table()).map(({ id, name, email }) => [id, name, email])).toEqual([
      [1n, 'new', null],
      [2n, 'new', 'stays'],
      [3n, 'new', null],
    ])
    // Only a key: nothing to change.
    await dw.upsert('parent', [{ id: 1 }, { id: 2 }], { key: ['id'] })
    expect(await engine.query('SELECT id FROM parent ORDER BY id')).toEqual([{ id: 1 }, { id: 2 }])
    // What the table would count by itself is taken as given, as COPY does.
    await engine.execute('CREATE TABLE counted (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text)')
    await dw.upsert('counted', [{ id: 7, name: 'a' }], { key: ['id'] })
    await dw.load('counted', [{ id: 8, name: 'b' }])
    expect(await engine.query('SELECT id FROM counted ORDER BY id')).toEqual([{ id: 7 }, { id: 8 }])
    // In one statement after the other, however many at the same time.
    await Promise.all(['a', 'b', 'c'].map((name) => dw.upsert('t', rows(name), { key: ['id'] })))
    expect(new Set((await table()).map(({ name }) => name)).size).toBe(1)
  })

  const good = (id: number): Row => ({ id, name: `r${id}`, amount: '1', parent: 1, email: `${id}@example.com` })
  const bad = (change: Row): Row[] => [1, 2, 3, 4, 5, 6, 7].map((id) => (id === 5 ? { ...good(id), ...change } : good(id)))
  const at = (column: string) => ({ line: 5, column })

  it.each<[string, Row, object]>([
    ['a type', { amount: 'ten' }, { code: 'POSTGRES_DATA_INVALID', where: at('amount') }],
    ['a length', { name: 'too long' }, { code: 'POSTGRES_DATA_INVALID', where: at('name') }],
    ['NUL', { name: 'a\0' }, { code: 'POSTGRES_ROW_INVALID', where: at('name') }],
    ['no value', { name: undefined as unknown as null }, { code: 'POSTGRES_ROW_INVALID', where: at('name') }],
    ['a column of its own', { other: 1 }, { code: 'POSTGRES_ROW_INVALID', where: at('other') }],
  ])('names row and column of a value that is refused for %s, and keeps nothing', async (_, change, expected) => {
    await using dw = await dwDestination(config(), alone)
    const message = expect.stringMatching(/^row 5, column "/) as string
    await expect(dw.load('t', bad(change))).rejects.toMatchObject({ outcome: 'data', message, ...expected })
    await expect(dw.upsert('t', bad(change), { key: ['id'] })).rejects.toMatchObject({ outcome: 'data', message, ...expected })
    expect(await table()).toEqual([])
  })

  it.each<[string, Row, string | undefined]>([
    ['NOT NULL', { name: null }, 'name'],
    ['CHECK', { amount: -1 }, undefined],
    ['REFERENCES', { parent: 9 }, undefined],
    ['UNIQUE', { email: '2@example.com' }, undefined],
  ])('names the row that %s refuses in an upsert', async (_, change, column) => {
    await using dw = await dwDestination(config(), alone)
    await dw.load('t', [{ ...good(1), name: 'old' }])
    await expect(dw.upsert('t', bad(change), { key: ['id'] })).rejects.toMatchObject({
      code: 'POSTGRES_ROW_REFUSED',
      outcome: 'data',
      message: expect.stringContaining('row 5') as string,
      where: { line: 5, ...(column === undefined ? {} : { column }) },
      cause: { context: { table: 't' } },
    })
    expect((await table()).map(({ name }) => name)).toEqual(['old'])
  })

  it('needs the rights that README.md names, and no others', async () => {
    const role = `loader_${database.database}`
    await runOnPostgres(
      database,
      `CREATE ROLE ${role} LOGIN PASSWORD 'a password of some length'; REVOKE ALL ON DATABASE ${database.database} FROM PUBLIC;
       GRANT CONNECT ON DATABASE ${database.database} TO ${role}; GRANT INSERT ON t TO ${role}`,
    )
    try {
      await using dw = await dwDestination(config({ username: role, password: 'a password of some length' }), alone)
      expect(await dw.load('t', [{ id: 1, name: 'row' }])).toMatchObject({ rows: 1 })
      const upsert = () => dw.upsert('t', [{ id: 1, name: 'new' }], { key: ['id'] })
      await expect(upsert()).rejects.toMatchObject({ code: 'POSTGRES_PERMISSION_DENIED', outcome: 'permission' })
      await runOnPostgres(database, `GRANT SELECT, UPDATE ON t TO ${role}`)
      await expect(upsert()).rejects.toMatchObject({ code: 'POSTGRES_PERMISSION_DENIED' })
      await runOnPostgres(database, `GRANT TEMPORARY ON DATABASE ${database.database} TO ${role}`)
      expect(await upsert()).toMatchObject({ rows: 1 })
    } finally {
      await runOnPostgres(
        database,
        `GRANT CONNECT, TEMPORARY ON DATABASE ${database.database} TO PUBLIC; DROP OWNED BY ${role}; DROP ROLE ${role}`,
      )
    }
    expect((await table()).map(({ name }) => name)).toEqual(['new'])
  })

  it('says what of a call cannot be: table, column, key', async () => {
    await using dw = await dwDestination(config(), alone)
    await expect(dw.load('gone', [{ id: 1 }])).rejects.toMatchObject({ code: 'POSTGRES_TABLE_NOT_FOUND', outcome: 'not-found' })
    await expect(dw.load('t', [{ id: 1, nam: 'x' }])).rejects.toMatchObject({
      code: 'POSTGRES_COLUMN_NOT_FOUND',
      message: expect.stringContaining('it has id, name, amount') as string,
    })
    for (const key of [[], ['email'], ['name']]) {
      const upsert = dw.upsert('t', [{ id: 1, name: 'x' }], { key })
      await expect(upsert).rejects.toMatchObject({ code: 'POSTGRES_KEY_UNUSABLE', outcome: 'config' })
    }
    await expect(dw.upsert('t', [good(1), good(2), { ...good(3), id: 1 }], { key: ['id'] })).rejects.toMatchObject({
      code: 'POSTGRES_KEY_TWICE',
      message: expect.stringContaining('rows 1 and 3') as string,
    })
    await expect(dw.upsert('t', [{ id: null, name: 'x' }], { key: ['id'] })).rejects.toMatchObject({
      code: 'POSTGRES_ROW_INVALID',
      where: { line: 1, column: 'id' },
    })
    await dw.load('t', [good(1)])
    await expect(dw.load('t', [good(2), good(1)])).rejects.toMatchObject({ code: 'POSTGRES_ALREADY_EXISTS', outcome: 'conflict' })
    // With columns of the caller's choice a row may have others.
    await dw.load('t', [{ ...good(2), other: 1 }], { columns: ['id', 'name'], schema: 'public' })
    expect((await table()).map(({ email }) => email)).toEqual(['1@example.com', null])
  })

  it('takes rows as they come, more than it holds, and keeps none where their source fails', async () => {
    await using dw = await dwDestination(config(), alone)
    const text = 'x'.repeat(1_000)
    async function* source(count: number, failure?: Error): AsyncGenerator<Row> {
      for (let id = 1; id <= count; id++) {
        yield { id, name: 'row', email: `${id}${text}` }
        if (id % 1_000 === 0) await new Promise(setImmediate)
      }
      if (failure !== undefined) throw failure
    }
    const failure = new RangeError('the source is gone')
    await expect(dw.load('t', source(10_000, failure))).rejects.toBe(failure)
    await expect(dw.upsert('t', source(10_000, failure), { key: ['id'] })).rejects.toBe(failure)
    expect(await table()).toEqual([])
    let most = 0
    const before = await liveBytes()
    const count = 100_000
    async function* watched(): AsyncGenerator<Row> {
      let sent = 0
      for await (const row of source(count)) {
        if (++sent % 10_000 === 0) most = Math.max(most, (await liveBytes()) - before)
        yield row
      }
    }
    const { rows, bytes } = await dw.load('t', watched())
    expect([rows, await engine.query('SELECT count(*) AS n FROM t')]).toEqual([count, [{ n: 100_000n }]])
    expect(most).toBeLessThan(bytes / 4)
  })

  it('ends with its signal though the source says nothing, and with the server', async () => {
    await using dw = await dwDestination(config(), alone)
    let ended = false
    const reason = new RangeError('changed my mind')
    const abort = new AbortController()
    const silent: AsyncIterable<Row> = {
      [Symbol.asyncIterator]: () => ({
        next: () => {
          setTimeout(() => abort.abort(reason), 50)
          return new Promise(() => undefined)
        },
        return: () => {
          ended = true
          return Promise.resolve({ done: true, value: undefined })
        },
      }),
    }
    await expect(dw.load('t', silent, { signal: abort.signal })).rejects.toBe(reason)
    expect(ended).toBe(true)

    await using proxy = await startFaultProxy({ host, port })
    await using other = await dwDestination(config({ host: proxy.host, port: proxy.port }), alone)
    async function* cutting(): AsyncGenerator<Row> {
      for (let id = 1; ; id++) {
        yield { id, name: 'row' }
        if (id === 20_000) proxy.cut()
        if (id % 1_000 === 0) await new Promise(setImmediate)
      }
    }
    await expect(other.upsert('t', cutting(), { key: ['id'] })).rejects.toMatchObject({
      code: 'POSTGRES_CONNECTION_LOST',
      retry: 'safe',
    })
    expect(await table()).toEqual([])
    expect(await other.check()).toMatchObject({ ok: true })
  })
})
