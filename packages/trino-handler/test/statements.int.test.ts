import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { describeWith } from '@common-handlers/testkit'
import { afterAll, describe, expect, it } from 'vitest'
import { ident, sql, TrinoHandler, trinoErrorFacts } from '../src/index.ts'

const run = promisify(execFile)

/** Reads for minutes unless it is stopped. */
const LONG = 'SELECT count(*) AS n FROM tpch.sf1000.lineitem WHERE comment LIKE ?'

describeWith(['trino'], 'statements', ({ trino: { url, user, catalog, stagingCatalog, s3 } }) => {
  const trino = new TrinoHandler({ url, user, catalog })
  const schema = `statements_${crypto.randomUUID().slice(0, 8)}`
  const counter = { catalog, schema, table: 'counter' }
  const name = ident(catalog, schema, counter.table).text
  afterAll(async () => {
    await trino.execute(sql`DROP SCHEMA IF EXISTS ${ident(catalog, schema)} CASCADE`)
    await trino.close()
  })
  const makeTable = async (): Promise<void> => {
    await trino.execute(sql`CREATE SCHEMA IF NOT EXISTS ${ident(catalog, schema)}`)
    await trino.execute(`CREATE OR REPLACE TABLE ${name} (id bigint)`)
  }
  const rowCount = async (): Promise<bigint | undefined> =>
    (await trino.query<{ n: bigint }>(`SELECT count(*) AS n FROM ${name}`)).rows[0]?.n

  it('says what a statement did', async () => {
    await makeTable()
    const inserted = await trino.execute(`INSERT INTO ${name} SELECT n FROM UNNEST(sequence(1, 1000)) AS t(n)`)
    expect(inserted).toMatchObject({ updateType: 'INSERT', updateCount: 1000, stats: { state: 'FINISHED' } })
    expect(await trino.queryState(inserted.queryId)).toBe('finished')
    const read = await trino.query(`SELECT id FROM ${name} WHERE id > ? ORDER BY id`, [998n])
    expect(read).toMatchObject({
      rows: [{ id: 999n }, { id: 1000n }],
      columns: [{ name: 'id', type: 'bigint' }],
      updateType: undefined,
    })
  })

  it('gives columns of an empty result, and rows of one page or many', async () => {
    const empty = await trino.query('SELECT * FROM tpch.tiny.nation WHERE false')
    expect(empty.rows).toEqual([])
    expect(empty.columns.map((column) => column.name)).toEqual(['nationkey', 'name', 'regionkey', 'comment'])
    const { rows } = await trino.query<{ orderkey: bigint }>('SELECT orderkey FROM tpch.tiny.orders')
    expect(new Set(rows.map((row) => row.orderkey)).size).toBe(15_000)
  })

  it('tells how far it has come', async () => {
    const seen: { state: string; processedRows: number; percentage: number | undefined; queryId: string }[] = []
    const { queryId } = await trino.query('SELECT count(*) FROM tpch.sf1.lineitem', [], {
      onProgress: (stats) => seen.push(stats),
    })
    expect(seen.at(0)?.state).toBe('QUEUED')
    expect(seen.at(-1)).toMatchObject({ state: 'FINISHED', percentage: 100, queryId })
    expect(seen.at(-1)?.processedRows).toBeGreaterThan(6_000_000)
  })

  describe('errors', () => {
    it.each([
      ['SELEC 1', 'remote', { errorName: 'SYNTAX_ERROR', line: 1, column: 1 }],
      ['SELECT *\n  FROM tpch.tiny.nowhere', 'not-found', { errorName: 'TABLE_NOT_FOUND', line: 2, column: 8 }],
      ['SELECT * FROM nowhere.a.b', 'not-found', { errorName: 'CATALOG_NOT_FOUND' }],
      ['SELECT * FROM tpch.nowhere.b', 'not-found', { errorName: 'SCHEMA_NOT_FOUND' }],
      ['SELECT\n nothing FROM tpch.tiny.nation', 'not-found', { errorName: 'COLUMN_NOT_FOUND', line: 2, column: 2 }],
      ['SELECT nothing(1)', 'not-found', { errorName: 'FUNCTION_NOT_FOUND' }],
      ["SELECT CAST('a' AS bigint)", 'data', { errorName: 'INVALID_CAST_ARGUMENT' }],
      ['SELECT 1 / (nationkey - nationkey) FROM tpch.tiny.nation', 'data', { errorName: 'DIVISION_BY_ZERO' }],
      ["SELECT fail('stop here')", 'remote', { errorName: 'GENERIC_USER_ERROR' }],
      ['ALTER TABLE tpch.tiny.nation ADD COLUMN x bigint', 'remote', { errorName: 'NOT_SUPPORTED' }],
    ])('%s', async (text, outcome, facts) => {
      const error: unknown = await trino.query(text).catch((thrown: unknown) => thrown)
      expect(error).toMatchObject({ outcome, retry: 'never', code: `TRINO_${facts.errorName}` })
      expect(trinoErrorFacts(error)).toMatchObject({ ...facts, queryId: expect.stringMatching(/^\d{8}_/) })
    })

    it('say the place in a statement with parameters too', async () => {
      const syntax: unknown = await trino.query('SELECT ?\n  FRO x', [1]).catch((thrown: unknown) => thrown)
      expect(trinoErrorFacts(syntax)).toMatchObject({ errorName: 'SYNTAX_ERROR', line: 2, column: 7 })
      const first: unknown = await trino.query('SELECT ? FRO x', [1]).catch((thrown: unknown) => thrown)
      expect(trinoErrorFacts(first)).toMatchObject({ errorName: 'SYNTAX_ERROR', line: 1, column: 14 })
      const column: unknown = await trino
        .query('SELECT ?,\n nothing FROM tpch.tiny.nation', [1])
        .catch((thrown: unknown) => thrown)
      expect(trinoErrorFacts(column)).toMatchObject({ errorName: 'COLUMN_NOT_FOUND', line: 2, column: 2 })
    })

    it('refuse what would be without effect', async () => {
      await expect(trino.execute("SET SESSION query_max_run_time = '1h'")).rejects.toMatchObject({ code: 'TRINO_SESSION_CHANGE' })
      await using limited = new TrinoHandler({ url, user, sessionProperties: { query_max_run_time: '7m' } })
      const { rows } = await limited.query<{ Name: string; Value: string }>("SHOW SESSION LIKE 'query_max_run_time'")
      expect(rows[0]?.Value).toBe('7m')
    })

    it('a server without passwords refuses one over http', async () => {
      await using other = new TrinoHandler({ url, user, password: 'a-long-password' })
      await expect(other.query('SELECT 1')).rejects.toMatchObject({ outcome: expect.stringMatching(/auth|permission/) })
    })
  })

  describe('a statement ends on the server when its caller', () => {
    const ended = async (queryId: string): Promise<string> => {
      for (;;) {
        const state = await trino.queryState(queryId)
        if (state !== 'running' && state !== 'queued') return state
        await sleep(50)
      }
    }

    it('aborts', async () => {
      for (const when of ['QUEUED', 'RUNNING']) {
        const abort = new AbortController()
        let id = ''
        const running = trino.query(LONG, ['%x%'], {
          signal: abort.signal,
          onProgress: ({ queryId, state }) => {
            id = queryId
            if (state === when) abort.abort()
          },
        })
        await expect(running).rejects.toThrow(expect.objectContaining({ name: 'AbortError' }))
        expect(['failed', 'unknown']).toContain(await ended(id))
      }
    })

    it('runs out of time', async () => {
      let id = ''
      const running = trino.query(LONG, ['%x%'], { timeoutMs: 1_500, onProgress: ({ queryId }) => (id = queryId) })
      await expect(running).rejects.toMatchObject({ code: 'TRINO_TIMEOUT', outcome: 'timeout', retry: 'if-idempotent' })
      expect(await ended(id)).toBe('failed')
    })

    it('leaves the loop', async () => {
      let id = ''
      for await (const page of trino.pages('SELECT * FROM tpch.sf1000.lineitem')) {
        id = page.queryId
        break
      }
      expect(await ended(id)).toBe('failed')
    })

    it('throws in the loop', async () => {
      let id = ''
      const reading = async (): Promise<void> => {
        for await (const page of trino.pages('SELECT * FROM tpch.sf1000.lineitem')) {
          id = page.queryId
          throw new Error('enough')
        }
      }
      await expect(reading()).rejects.toThrow('enough')
      expect(await ended(id)).toBe('failed')
    })

    it('closes the handler', async () => {
      const other = new TrinoHandler({ url, user })
      const { promise: begun, resolve } = Promise.withResolvers<string>()
      const running = other.query(LONG, ['%x%'], { onProgress: ({ queryId }) => resolve(queryId) })
      const failure = running.catch((error: unknown) => error)
      await begun
      await other.close({ graceMs: 100 })
      expect(await failure).toMatchObject({ code: 'TRINO_CLOSED', retry: 'if-idempotent' })
      expect(['failed', 'unknown']).toContain(await ended(await begun))
    })
  })

  describe('submit', () => {
    const insert = (): string => `INSERT INTO ${name} SELECT n FROM UNNEST(sequence(1, 10)) AS t(n)`

    it('runs nothing before follow, and everything after', async () => {
      await makeTable()
      const submitted = await trino.submit(insert())
      await sleep(2_000)
      expect(await rowCount()).toBe(0n)
      expect(await trino.queryState(submitted.queryId)).toBe('unknown')
      expect(await submitted.follow()).toMatchObject({ queryId: submitted.queryId, updateCount: 10 })
      expect(await rowCount()).toBe(10n)
    })

    it('can be taken back for good by whoever has the handle', async () => {
      await makeTable()
      const submitted = await trino.submit(insert())
      await using other = new TrinoHandler({ url, user })
      const handle = JSON.parse(JSON.stringify(submitted.handle)) as typeof submitted.handle
      expect(await other.cancel(handle)).toMatch(/unknown|failed/)
      await expect(submitted.follow()).rejects.toMatchObject({
        retry: expect.any(String),
        code: expect.stringMatching(/TRINO_USER_CANCELED|TRINO_QUERY_LOST/),
      })
      expect(await rowCount()).toBe(0n)
    })

    it('cannot be taken back by the id alone while it has not begun', async () => {
      await makeTable()
      const submitted = await trino.submit(insert())
      expect(await trino.cancel(submitted.queryId)).toBe('unknown')
      await submitted.follow()
      expect(await rowCount()).toBe(10n)
    })
  })

  it('cancels a running query by its id, and says so when it was too late', async () => {
    const submitted = await trino.submit(LONG, ['%x%'])
    const { promise: isRunning, resolve } = Promise.withResolvers<void>()
    const followed = submitted.follow({ onProgress: ({ state }) => (state === 'RUNNING' ? resolve() : undefined) })
    const failure = followed.catch((error: unknown) => error)
    await isRunning
    expect(await trino.cancel(submitted.queryId)).toBe('failed')
    expect(await failure).toMatchObject({
      code: expect.stringMatching(/^TRINO_(USER_CANCELED|ADMINISTRATIVELY_KILLED)$/),
      retry: 'never',
    })
    const ended = await trino.submit('SELECT 1')
    await ended.follow()
    expect(await trino.cancel(ended.queryId)).toBe('finished')
    expect(await trino.cancel(ended.handle)).toBe('finished')
    expect(await trino.cancel('20200101_000000_00000_abcde')).toBe('unknown')
  })

  it('checks what an app needs, and stops at what is missing', async () => {
    const staging = { catalog: stagingCatalog, schema, location: `s3://${s3.bucket}/nothing-here/` }
    const good = await trino.check({ catalogs: [catalog, stagingCatalog], staging })
    expect(good.steps.map((step) => step.error ?? step.ok)).toEqual([true, true, true, true, true])
    expect(good.steps[0]?.detail).toMatch(/^Trino \d+$/)
    await trino.execute(sql`DROP SCHEMA ${ident(stagingCatalog, schema)}`)
    const bad = await trino.check({ catalogs: ['nowhere'] })
    expect(bad).toMatchObject({
      ok: false,
      steps: [{ ok: true }, { ok: true }, { ok: false, error: { code: 'TRINO_CATALOG_NOT_FOUND' } }],
    })
  })

  it('reads 1.5 million rows in a heap that cannot hold them', async () => {
    const script = join(import.meta.dirname, 'read-orders.ts')
    const flags = ['--conditions=@common-handlers/source', '--max-old-space-size=64', '--max-semi-space-size=8']
    const { stdout } = await run(process.execPath, [...flags, script, url, user])
    const [expected] = (await trino.query<{ s: bigint }>('SELECT sum(orderkey) AS s FROM tpch.sf1.orders')).rows
    expect(JSON.parse(stdout)).toEqual({ rows: 1_500_000, sum: String(expected?.s) })
  })
})
