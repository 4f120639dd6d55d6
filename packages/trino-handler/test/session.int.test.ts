import { describeWith } from '@common-handlers/testkit'
import { afterAll, describe, expect, it } from 'vitest'
import { ident, sql, TrinoHandler } from '../src/index.ts'

describeWith(['trino'], 'sessions', ({ trino: { url, user, catalog } }) => {
  const trino = new TrinoHandler({ url, user, sessionProperties: { query_max_run_time: '7m' } })
  afterAll(() => trino.close())

  it('keep what USE, SET SESSION, RESET SESSION, SET TIME ZONE and SET PATH change', async () => {
    const session = trino.session({ sessionProperties: { join_distribution_type: 'BROADCAST' } })
    await session.execute('USE tpch.tiny')
    expect([session.catalog, session.schema]).toEqual(['tpch', 'tiny'])
    expect((await session.query('SELECT count(*) AS n FROM nation')).rows).toEqual([{ n: 25n }])
    await session.execute("SET SESSION query_max_execution_time = '9m'")
    await session.execute(`SET SESSION ${catalog}.merge_manifests_on_write = false`)
    const own = { join_distribution_type: 'BROADCAST', query_max_execution_time: '9m', query_max_run_time: '7m' }
    expect(session.sessionProperties).toEqual({ ...own, [`${catalog}.merge_manifests_on_write`]: 'false' })
    const { rows } = await session.query<{ Name: string; Value: string }>("SHOW SESSION LIKE 'query_max_%_time'")
    expect(Object.fromEntries(rows.map((row) => [row.Name, row.Value]))).toMatchObject({
      query_max_execution_time: '9m',
      query_max_run_time: '7m',
    })
    await session.execute(`RESET SESSION ${catalog}.merge_manifests_on_write`)
    expect(session.sessionProperties).toEqual(own)
    await session.execute("SET TIME ZONE 'Asia/Kathmandu'")
    expect((await session.query('SELECT current_timezone() AS z')).rows).toEqual([{ z: 'Asia/Kathmandu' }])
    await session.execute('SET PATH tpch.tiny, system.builtin')
    expect((await session.query('SELECT current_path AS p')).rows).toEqual([{ p: session.path }])
    // The handler's other statements know nothing of it.
    await expect(trino.query('SELECT count(*) FROM nation')).rejects.toMatchObject({ code: 'TRINO_MISSING_SCHEMA_NAME' })
  })

  it('prepare, execute, describe and deallocate statements', async () => {
    const session = trino.session()
    await session.execute("PREPARE mine FROM SELECT name, ', é=' AS odd FROM tpch.tiny.nation WHERE nationkey = ?")
    await session.execute('PREPARE other FROM SELECT 1')
    expect(Object.keys(session.preparedStatements)).toEqual(['mine', 'other'])
    expect((await session.query('EXECUTE mine USING 6')).rows).toEqual([{ name: 'FRANCE', odd: ', é=' }])
    await session.execute('DEALLOCATE PREPARE mine')
    expect(Object.keys(session.preparedStatements)).toEqual(['other'])
    await expect(session.query('EXECUTE mine USING 6')).rejects.toMatchObject({ code: 'TRINO_NOT_FOUND', outcome: 'not-found' })
  })

  it('take names as they are, with signs that mean something in a header', async () => {
    const session = trino.session()
    const odd = ident(`memory_${crypto.randomUUID().slice(0, 8)}`)
    await trino.execute(sql`CREATE CATALOG ${odd} USING memory`)
    try {
      for (const schema of ['a+b', 'a,b', '50%', 'c=d e']) {
        await trino.execute(sql`CREATE SCHEMA ${odd}.${ident(schema)}`)
        await session.execute(sql`USE ${odd}.${ident(schema)}`)
        expect(session.schema).toBe(schema)
        expect((await session.query('SELECT current_schema AS s')).rows).toEqual([{ s: schema }])
      }
      await session.execute(sql`SET PATH ${odd}.${ident('a+b')}, system.builtin`)
      expect((await session.query('SELECT current_path AS p')).rows).toEqual([{ p: session.path }])
      expect(session.path).toBe(`${odd.text}."a+b", system.builtin`)
      await session.execute('PREPARE "an odd, n+me" FROM SELECT 1 AS n')
      expect(Object.keys(session.preparedStatements)).toEqual(['an odd, n+me'])
      expect((await session.query('EXECUTE "an odd, n+me"')).rows).toEqual([{ n: 1 }])
      await session.execute('DEALLOCATE PREPARE "an odd, n+me"')
      expect(session.preparedStatements).toEqual({})
    } finally {
      await trino.execute(sql`DROP CATALOG ${odd}`)
    }
  })

  it('take roles, path and tags from the options', async () => {
    await using other = new TrinoHandler({ url, user, roles: { system: 'NONE' }, path: 'tpch.tiny', clientTags: ['a', 'b'] })
    expect((await other.query('SELECT current_path AS p, current_user AS u')).rows).toEqual([{ p: 'tpch.tiny', u: user }])
    expect(other.session({ roles: { lake: 'admin' } }).roles).toEqual({ system: 'NONE', lake: 'ROLE{admin}' })
  })

  it('run under another user after SET SESSION AUTHORIZATION, until it is reset', async () => {
    const session = trino.session()
    const who = async (): Promise<unknown> => (await session.query('SELECT current_user AS u')).rows
    const change = session.execute("SET SESSION AUTHORIZATION 'somebody'")
    // A server without access control allows nobody to be another; with it, the change holds.
    const error: unknown = await change.then(
      () => undefined,
      (thrown: unknown) => thrown,
    )
    if (error === undefined) {
      expect(session.authorizationUser).toBe('somebody')
      expect(await who()).toEqual([{ u: 'somebody' }])
      await session.execute('RESET SESSION AUTHORIZATION')
    } else expect(error).toMatchObject({ code: 'TRINO_PERMISSION_DENIED' })
    expect(session.authorizationUser).toBeUndefined()
    expect(await who()).toEqual([{ u: user }])
  })

  describe('transactions', () => {
    it('commit, and show one transaction to all statements', async () => {
      const ids: (string | undefined)[] = []
      const count = await trino.transaction(
        async (transaction) => {
          ids.push(transaction.transactionId)
          const { rows } = await transaction.query<{ n: bigint }>(
            sql`SELECT count(*) AS n FROM tpch.tiny.region WHERE name <> ${'x'}`,
          )
          ids.push(transaction.transactionId)
          return rows[0]?.n
        },
        { isolation: 'repeatable read', readOnly: true },
      )
      expect(count).toBe(5n)
      expect(ids[0]).toMatch(/^[0-9a-f-]{36}$/)
      expect(ids[1]).toBe(ids[0])
    })

    it('are rolled back by an error, theirs or the server’s', async () => {
      let seen: { readonly transactionId: string | undefined } | undefined
      const own = new Error('enough')
      await expect(
        trino.transaction(async (transaction) => {
          seen = transaction
          await transaction.query('SELECT 1')
          throw own
        }),
      ).rejects.toBe(own)
      expect(seen?.transactionId).toBeUndefined()
      const failing = trino.transaction(async (transaction) => {
        seen = transaction
        await transaction.query('SELECT 1 / 0')
      })
      await expect(failing).rejects.toMatchObject({ code: 'TRINO_DIVISION_BY_ZERO' })
      expect(seen?.transactionId).toBeUndefined()
    })

    it('do not write where the connector has none', async () => {
      const schema = sql`${ident(catalog, `session_${crypto.randomUUID().slice(0, 8)}`)}`
      const writing = trino.transaction((transaction) => transaction.execute(sql`CREATE SCHEMA ${schema}`))
      await expect(writing).rejects.toMatchObject({ code: 'TRINO_AUTOCOMMIT_WRITE_CONFLICT', retry: 'never' })
    })

    it('are refused by the handler itself', async () => {
      await expect(trino.execute('START TRANSACTION')).rejects.toMatchObject({ code: 'TRINO_SESSION_CHANGE' })
    })
  })

  describe('attach', () => {
    it('follows a statement that another handler submitted, rows included', async () => {
      await using other = new TrinoHandler({ url, user })
      const { handle } = await other.submit('SELECT orderkey FROM tpch.tiny.orders')
      let rows = 0
      for await (const page of trino.attach(JSON.parse(JSON.stringify(handle)) as typeof handle).pages()) rows += page.rows.length
      expect(rows).toBe(15_000)
      expect(await trino.attach(handle.queryId).follow()).toMatchObject({ queryId: handle.queryId })
    })

    it('waits by the id alone, throws what the query ended with, and has no rows', async () => {
      const submitted = await trino.submit("SELECT fail('as planned') FROM tpch.tiny.orders")
      await expect(submitted.follow()).rejects.toThrow('as planned')
      const attached = trino.attach(submitted.queryId)
      await expect(attached.follow()).rejects.toMatchObject({ code: 'TRINO_GENERIC_USER_ERROR' })
      expect(() => attached.pages()).toThrow(expect.objectContaining({ code: 'TRINO_HANDLE_NEEDED' }))
      await expect(trino.attach('20200101_000000_00000_abcde').follow()).rejects.toMatchObject({ code: 'TRINO_QUERY_LOST' })
    })
  })

  describe('values by prepared statements', () => {
    it('are the same, and errors say their place', async () => {
      await using prepared = new TrinoHandler({ url, user, parameters: 'prepared' })
      const session = prepared.session()
      await session.execute('PREPARE mine FROM SELECT 1')
      const { rows } = await session.query("SELECT ? AS a, ? AS b, 'x,=%' AS c", ["it's", 5n])
      expect(rows).toEqual([{ a: "it's", b: 5n, c: 'x,=%' }])
      await expect(prepared.query('SELECT ? FRO x', [1])).rejects.toMatchObject({
        code: 'TRINO_SYNTAX_ERROR',
        context: { line: 1, column: 14 },
      })
    })
  })
})
