import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, statSync } from 'node:fs'
import { chmod, mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, afterEach, describe, expect, it } from 'vitest'
import { DuckDbHandler, type DuckDbHandlerOptions, ident, literal } from '@common-handlers/duckdb-handler'

const folder = await mkdtemp(join(tmpdir(), 'duckdb-'))
const opened: DuckDbHandler[] = []
const open = (options: Partial<DuckDbHandlerOptions> = {}): DuckDbHandler => {
  const db = new DuckDbHandler({ path: ':memory:', threads: 2, ...options })
  opened.push(db)
  return db
}
afterEach(() => Promise.all(opened.splice(0).map((db) => db.close())))
afterAll(() => rm(folder, { recursive: true }))

const ENDLESS = 'SELECT count(*) FROM range(1000000000000) t(i) WHERE i % 7 = 3'

describe('values', () => {
  it('come back exact', async () => {
    const { rows, columns } = await open()
      .query(`SELECT 9007199254740993 AS int8, 170141183460469231731687303715884105727 AS huge,
      1.50::DECIMAL(10,2) AS dec, TIMESTAMPTZ '2026-11-21 10:15:30.123457+02' AS tz, DATE '-infinity' AS d, 'NaN'::DOUBLE AS f,
      'a\\x00'::BLOB AS b, [1::BIGINT, NULL] AS l, {'a': 1, 'b': 0.10} AS s, MAP {'k': 2} AS m, NULL AS n, true AS t, '[1]'::JSON AS j`)
    expect(rows).toEqual([
      {
        int8: 9007199254740993n,
        huge: 170141183460469231731687303715884105727n,
        dec: '1.50',
        tz: '2026-11-21 08:15:30.123457+00',
        d: '-infinity',
        f: NaN,
        b: Buffer.from('a\0'),
        l: [1n, null],
        s: { a: 1, b: '0.10' },
        m: [{ key: 'k', value: 2 }],
        n: null,
        t: true,
        j: '[1]',
      },
    ])
    expect(columns.map((column) => column.type)).toEqual(
      expect.arrayContaining(['DECIMAL(10,2)', 'TIMESTAMP WITH TIME ZONE', 'JSON']),
    )
  })

  it('go in as parameters and as literals alike', async () => {
    const db = open()
    const values = [null, '', "it's; -- \0 \\N\n\u{1F5C3}", 1.5, NaN, Infinity, 2n ** 100n, true, Buffer.from([0, 255, 39])]
    for (const value of values) {
      expect((await db.query('SELECT ? AS v', [value])).rows).toEqual([{ v: value }])
      expect((await db.query(`SELECT ${literal(value)} AS v`)).rows).toEqual([{ v: value }])
    }
    expect((await db.query(`SELECT ${literal(-0)} AS v`)).rows).toEqual([{ v: -0 }])
    await expect(db.query('SELECT ?', [new Date() as never])).rejects.toMatchObject({ code: 'DUCKDB_PARAMETER_INVALID' })
  })

  it('of two columns with one name are an error, not the last one', async () => {
    await expect(open().query('SELECT 1 AS a, 2 AS a')).rejects.toMatchObject({
      code: 'DUCKDB_DUPLICATE_COLUMN',
      where: { column: 'a' },
    })
  })

  it('stream in batches', async () => {
    let rows = 0
    let largest = 0
    for await (const batch of open().stream('SELECT i FROM range(100000) t(i)')) {
      rows += batch.length
      largest = Math.max(largest, batch.length)
      if (rows > 50_000) break
    }
    expect(rows).toBeGreaterThan(50_000)
    expect(rows).toBeLessThan(60_000)
    expect(largest).toBeLessThan(10_000)
  })
})

describe('statements', () => {
  it('tell how many rows they changed; names may be anything', async () => {
    const db = open()
    const table = ident('a "b".c;')
    await db.execute(`CREATE TABLE ${table} (x INTEGER PRIMARY KEY)`)
    expect(await db.execute(`INSERT INTO ${table} SELECT * FROM range(5)`)).toEqual({ rowsChanged: 5 })
    expect(await db.execute(`DELETE FROM ${table} WHERE x > ?`, [2])).toEqual({ rowsChanged: 2 })
    await expect(db.execute(`INSERT INTO ${table} VALUES (1)`)).rejects.toMatchObject({
      code: 'DUCKDB_CONSTRAINT',
      outcome: 'conflict',
    })
  })

  it('in a transaction happen together or not at all', async () => {
    const db = open()
    await db.execute('CREATE TABLE t (x INTEGER)')
    const sum = async (): Promise<unknown> => (await db.query('SELECT sum(x) AS s FROM t')).rows[0]?.['s']
    const result = await db.transaction(async (transaction) => {
      await Promise.all([transaction.execute('INSERT INTO t VALUES (1)'), transaction.execute('INSERT INTO t VALUES (2)')])
      expect(await sum()).toBeNull()
      return (await transaction.query('SELECT count(*) AS n FROM t')).rows
    })
    expect(result).toEqual([{ n: 2n }])
    expect(await sum()).toBe(3n)
    const failed = db.transaction(async (transaction) => {
      await transaction.execute('INSERT INTO t VALUES (10)')
      throw new Error('changed my mind')
    })
    await expect(failed).rejects.toThrow('changed my mind')
    const broken = db.transaction(async (transaction) => {
      await transaction.execute('INSERT INTO t VALUES (10)')
      await transaction.execute('INSERT INTO nowhere VALUES (10)')
    })
    await expect(broken).rejects.toMatchObject({ code: 'DUCKDB_NOT_FOUND' })
    expect(await sum()).toBe(3n)
  })

  it('of two transactions on one row: one wins, the other may be repeated', async () => {
    const db = open()
    await db.execute('CREATE TABLE t AS SELECT 1 AS x')
    const both = db.transaction(async (first) => {
      await first.execute('UPDATE t SET x = 2')
      const second = db.transaction((other) => other.execute('UPDATE t SET x = 3'))
      await expect(second).rejects.toMatchObject({ code: 'DUCKDB_TRANSACTION_CONFLICT', retry: 'safe' })
    })
    await both
    expect((await db.query('SELECT x FROM t')).rows).toEqual([{ x: 2 }])
  })
})

describe('an end before the end', () => {
  it('comes by signal, with its reason, and the database goes on', async () => {
    const db = open()
    await db.connect()
    const abort = new AbortController()
    const reason = new Error('enough')
    const query = db.query(ENDLESS, [], { signal: abort.signal })
    setTimeout(() => abort.abort(reason), 50)
    await expect(query).rejects.toBe(reason)
    await expect(db.query('SELECT 1', [], { signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
    expect((await db.query('SELECT 1 AS x')).rows).toEqual([{ x: 1 }])
  })

  it('comes by time limit', async () => {
    const db = open({ timeoutMs: 60 })
    await expect(db.query(ENDLESS)).rejects.toMatchObject({ code: 'DUCKDB_TIMEOUT', outcome: 'timeout' })
    const stream = db.stream(ENDLESS)
    await expect(stream.next()).rejects.toMatchObject({ code: 'DUCKDB_TIMEOUT' })
  })

  it('rolls a transaction back', async () => {
    const db = open()
    await db.execute('CREATE TABLE t (x INTEGER)')
    const abort = new AbortController()
    const work = db.transaction(
      async (transaction) => {
        await transaction.execute('INSERT INTO t VALUES (1)')
        setTimeout(() => abort.abort(new Error('enough')), 30)
        await transaction.query(ENDLESS)
      },
      { signal: abort.signal },
    )
    await expect(work).rejects.toThrow('enough')
    expect((await db.query('SELECT count(*) AS n FROM t')).rows).toEqual([{ n: 0n }])
  })

  it('comes by close(), after its grace; a second close is the same one', async () => {
    const db = open()
    await db.connect()
    const query = db.query(ENDLESS).catch((error: unknown) => error)
    await Promise.all([db.close({ graceMs: 20 }), db.close()])
    expect(await query).toMatchObject({ code: 'DUCKDB_CLOSED' })
    await expect(db.query('SELECT 1')).rejects.toMatchObject({ code: 'DUCKDB_CLOSED' })
  })
})

describe('a file', () => {
  const program = `
    import { DuckDBInstance } from '@duckdb/node-api'
    try { await DuckDBInstance.create(process.argv[1], { access_mode: process.argv[2] }); console.log('opened'); setInterval(() => {}, 1000) }
    catch (error) { console.log(error.message) }`
  const other = async (path: string, mode = 'AUTOMATIC'): Promise<{ said: string; end: () => Promise<void>; pid: number }> => {
    const child = spawn(process.execPath, ['--input-type=module', '-e', program, path, mode], {
      cwd: import.meta.dirname,
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const [said] = (await once(child.stdout, 'data')) as [Buffer]
    const end = async (): Promise<void> => {
      if (child.exitCode === null && child.kill('SIGKILL')) await once(child, 'exit')
    }
    return { said: said.toString().trim(), end, pid: child.pid ?? 0 }
  }

  it('is locked by another process: a conflict that names the process, and over when it ends', async () => {
    const path = join(folder, 'locked.duckdb')
    const holder = await other(path)
    expect(holder.said).toBe('opened')
    const db = open({ path })
    await expect(db.query('SELECT 1')).rejects.toMatchObject({
      code: 'DUCKDB_LOCKED',
      retry: 'safe',
      context: { pid: holder.pid },
    })
    await holder.end()
    expect((await db.query('SELECT 1 AS x')).rows).toEqual([{ x: 1 }])
  })

  it('stays locked while one of two handlers of this process has it open', async () => {
    const path = join(folder, 'shared.duckdb')
    const [first, second] = [open({ path }), open({ path })]
    await first.execute('CREATE TABLE t AS SELECT 1 AS x')
    expect((await second.query('SELECT x FROM t')).rows).toEqual([{ x: 1 }])
    await expect(open({ path, threads: 1 }).connect()).rejects.toMatchObject({ code: 'DUCKDB_OPEN_OTHERWISE' })
    await second.close()
    const stranger = await other(path)
    expect(stranger.said).toContain('Could not set lock')
    await stranger.end()
    await first.close()
    const heir = await other(path)
    expect(heir.said).toBe('opened')
    await heir.end()
  })

  it('keeps what was committed, and can be opened for reading only', async () => {
    const path = join(folder, 'kept.duckdb')
    const db = open({ path })
    await db.execute('CREATE TABLE t AS SELECT 1 AS x')
    await db.close()
    const reader = open({ path, readOnly: true })
    expect((await reader.query('SELECT x FROM t')).rows).toEqual([{ x: 1 }])
    await expect(reader.execute('CREATE TABLE u (x INTEGER)')).rejects.toMatchObject({
      code: 'DUCKDB_READ_ONLY',
      outcome: 'permission',
    })
    expect((await reader.check()).steps.map(({ name, ok, detail }) => [name, ok, detail])).toEqual([
      ['open the database', true, 'v1.5.6'],
      ['read its tables', true, '1 tables'],
    ])
  })

  it('is there whole or not at all, whoever else makes it', async () => {
    const many = join(folder, 'many')
    await mkdir(many)
    const paths = Array.from({ length: 40 }, (_, n) => join(many, `${n}.duckdb`))
    const script = `
      import { DuckDbHandler } from '@common-handlers/duckdb-handler'
      const codes = []
      for (const path of process.argv.slice(1)) {
        const db = new DuckDbHandler({ path })
        await db.execute('CREATE TABLE IF NOT EXISTS t AS SELECT 1 AS x').catch((error) => codes.push(error.code))
        await db.close()
      }
      console.log(JSON.stringify(codes))`
    const args = ['--conditions=@common-handlers/source', '--input-type=module', '-e', script, ...paths]
    const makers = [1, 2].map(() => promisify(execFile)(process.execPath, args, { cwd: import.meta.dirname }))
    // The smallest database is three blocks of header.
    const end = performance.now() + 30_000
    const halves = paths.filter((path) => {
      let size: number | undefined
      while (size === undefined && performance.now() < end) size = statSync(path, { throwIfNoEntry: false })?.size
      return size === undefined || size < 3 * 4096
    })
    expect(halves).toEqual([])
    const codes = (await Promise.all(makers)).flatMap(({ stdout }) => JSON.parse(stdout) as string[])
    expect(codes.filter((code) => code !== 'DUCKDB_LOCKED')).toEqual([])
    expect((await readdir(many)).length).toBe(paths.length)
    for (const path of paths) expect((await open({ path }).query('SELECT x FROM t')).rows).toEqual([{ x: 1 }])
  })

  it('may have any name, and a link for it', async () => {
    const path = join(folder, 'x'.repeat(240))
    await open({ path }).execute('CREATE TABLE t AS SELECT 1 AS x')
    const [target, alias] = [join(folder, 'target.duckdb'), join(folder, 'alias.duckdb')]
    await symlink(target, alias)
    await open({ path: alias }).connect()
    expect(existsSync(target)).toBe(true)
    expect((await readdir(folder)).filter((name) => name.startsWith('.'))).toEqual([])
  })

  it('that is none, is missing or in no folder is an error that says so', async () => {
    const path = join(folder, 'none.duckdb')
    await writeFile(path, 'no database at all'.repeat(1000))
    await expect(open({ path }).connect()).rejects.toMatchObject({ code: 'DUCKDB_FILE_UNUSABLE', outcome: 'data' })
    await expect(open({ path: join(folder, 'missing.duckdb'), readOnly: true }).connect()).rejects.toMatchObject({
      code: 'DUCKDB_FILE_NOT_FOUND',
    })
    const below = join(path, 'x.duckdb')
    await expect(open({ path: below }).connect()).rejects.toMatchObject({ message: expect.stringContaining(below) })
    const check = await open({ path: join(folder, 'no', 'x.duckdb') }).check()
    expect(check).toMatchObject({ ok: false, steps: [{ name: 'open the database', error: { code: 'DUCKDB_FILE_NOT_FOUND' } }] })
    if (process.getuid?.() !== 0) {
      await chmod(path, 0)
      await expect(open({ path }).connect()).rejects.toMatchObject({ code: 'DUCKDB_FORBIDDEN' })
    }
  })
})

describe('limits', () => {
  it('of memory and of the temporary folder hold', async () => {
    const db = open({ memoryLimit: '20MB', tempDirectory: join(folder, 'temp'), maxTempDirectorySize: '1MB' })
    await expect(db.query('SELECT list(random()) AS l FROM range(5000000)')).rejects.toMatchObject({
      code: 'DUCKDB_OUT_OF_MEMORY',
    })
    await expect(
      db.execute('CREATE TABLE t AS SELECT random() AS r, random() AS s FROM range(3000000) ORDER BY r'),
    ).rejects.toMatchObject({
      code: expect.stringMatching(/DUCKDB_(OUT_OF_MEMORY|TEMP_FULL)/),
      outcome: 'capacity',
    })
    expect((await db.query('SELECT 1 AS x')).rows).toEqual([{ x: 1 }])
  })

  it('of the options are checked before anything is done', () => {
    expect(() => new DuckDbHandler({ path: '' })).toThrow('path')
    expect(() => new DuckDbHandler({ path: 'x', memoryLimit: 'much' })).toThrow('memoryLimit')
    expect(() => new DuckDbHandler({ path: 'x', nope: 1 } as never)).toThrow('nope')
  })
})

it('checks itself, and leaves nothing behind', async () => {
  const db = open()
  const check = await db.check()
  expect(check).toMatchObject({ ok: true, target: ':memory:', steps: [{ detail: 'v1.5.6' }, { detail: '0 tables' }] })
  expect((await db.query(`SELECT count(*) AS n FROM duckdb_schemas() WHERE schema_name = '__check'`)).rows).toEqual([{ n: 0n }])
})
