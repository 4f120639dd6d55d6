import { describeWith } from '@common-handlers/testkit'
import { expect, it } from 'vitest'
import { failure, ownDatabase, readAll } from './own-database.ts'

const MIB = 1024 * 1024

describeWith(['postgres'], 'COPY', ({ postgres }) => {
  const db = ownDatabase(postgres)
  // In the SELECT list the series is not put together before its first row is sent.
  const endless = `COPY (SELECT generate_series(1, 100000000), repeat('x', 200)) TO STDOUT`

  it('gives 300 000 rows in blocks of whole rows, each once and in order', async () => {
    let [rows, last, blocks, largest] = [0, 0, 0, 0]
    const sum = { bytes: 0 }
    for await (const block of db.pg.copyOut(
      `COPY (SELECT i, md5(i::text) FROM generate_series(1, 300000) AS i) TO STDOUT (FORMAT csv)`,
    )) {
      let start = 0
      for (const end of block.rowEnds) {
        const comma = block.bytes.indexOf(44, start)
        const id = Number(block.bytes.toString('latin1', start, comma))
        if (id !== last + 1 || block.bytes[end - 1] !== 10) throw new Error(`row ${id} after row ${last}`)
        last = id
        start = end
      }
      expect(start).toBe(block.bytes.length)
      rows += block.rows
      blocks++
      largest = Math.max(largest, block.bytes.length)
      sum.bytes += block.bytes.length
    }
    expect(rows).toBe(300_000)
    expect(largest).toBeLessThanOrEqual(MIB)
    expect(blocks).toBe(Math.ceil(sum.bytes / MIB))
  })

  it('keeps rows apart that hold line breaks and control characters', async () => {
    const texts = ['a\nb', 'c\r\nd', '\r', '\n', 'e\u0001f\u001f', '"q"', '', '\u{1f4a9}', '\\N', 'tab\there']
    const list = texts.map((_, index) => `($${index + 1}::text)`).join(',')
    await db.pg.execute('CREATE TABLE texts (id int GENERATED ALWAYS AS IDENTITY, t text)')
    await db.pg.execute(`INSERT INTO texts (t) SELECT t FROM (VALUES ${list}) AS v (t)`, texts)
    await db.pg.execute('INSERT INTO texts (t) VALUES (NULL)')
    const { rows } = await readAll(db.pg.copyOut('COPY (SELECT t FROM texts ORDER BY id) TO STDOUT (FORMAT csv, FORCE_QUOTE *)'))
    const expected = texts.map((text) => `"${text.replaceAll('"', '""')}"\n`)
    expect(rows.map(String)).toEqual([...expected, '\n'])
  })

  it('gives a row of 5 MB a block of its own', async () => {
    const query = `SELECT repeat(chr(96 + i), CASE i WHEN 2 THEN 5000000 ELSE 3 END) FROM generate_series(1, 3) AS i`
    const sizes: number[] = []
    const all: Buffer[] = []
    for await (const block of db.pg.copyOut(`COPY (${query}) TO STDOUT`)) {
      sizes.push(block.rows)
      all.push(block.bytes)
    }
    expect(sizes).toEqual([1, 1, 1])
    expect(Buffer.concat(all).toString()).toBe(`aaa\n${'b'.repeat(5_000_000)}\nccc\n`)
  })

  it('gives nothing for no rows, and the lines that the server does not count', async () => {
    expect((await readAll(db.pg.copyOut('COPY (SELECT 1 WHERE false) TO STDOUT'))).rows).toEqual([])
    const withHeader = await readAll(db.pg.copyOut('COPY (SELECT 1 AS "a,b") TO STDOUT (FORMAT csv, HEADER)'))
    expect(withHeader.rows.map(String)).toEqual(['"a,b"\n', '1\n'])
    const binary = await readAll(db.pg.copyOut('COPY (SELECT 258::int4) TO STDOUT (FORMAT binary)'))
    expect(binary.bytes.toString('hex')).toBe(
      `${Buffer.from('PGCOPY\n\xff\r\n\0', 'latin1').toString('hex')}${'00'.repeat(8)}00010000000400000102ffff`,
    )
  })

  it('takes as many bytes to a block as it is told to', async () => {
    const blocks: number[] = []
    for await (const block of db.pg.copyOut(`COPY (SELECT 'abcdefg' FROM generate_series(1, 10)) TO STDOUT`, { blockBytes: 24 }))
      blocks.push(block.rows)
    expect(blocks).toEqual([3, 3, 3, 1])
  })

  it('uses the memory of released blocks again, with the same rows', async () => {
    const statement = `COPY (SELECT generate_series(1, 20000), repeat('z', CASE WHEN random() < 0.01 THEN 30000 ELSE 20 END)) TO STDOUT`
    const memory = new Set<ArrayBufferLike>()
    let [rows, blocks] = [0, 0]
    for await (const block of db.pg.copyOut(statement, { blockBytes: 16_384 })) {
      memory.add(block.bytes.buffer)
      blocks++
      let start = 0
      for (const end of block.rowEnds) {
        const row = block.bytes.toString('latin1', start, end)
        if (!row.startsWith(`${++rows}\t`) || !/^\d+\tz+\n$/.test(row)) throw new Error(`row ${rows} is ${row.slice(0, 40)}`)
        start = end
      }
      block.release()
      // A second release must not lend the same memory twice.
      block.release()
    }
    expect(rows).toBe(20_000)
    expect(memory.size).toBeLessThan(blocks)
  })

  it('throws an error in the middle with its SQLSTATE, and the connection is used on', async () => {
    await db.pg.getRecords('SELECT 1')
    const pid = (await db.pg.getRecords('SELECT pg_backend_pid() AS pid'))[0]?.['pid']
    const call = readAll(db.pg.copyOut('COPY (SELECT 1 / (100000 - i) FROM generate_series(1, 200000) AS i) TO STDOUT'))
    const error = await failure(call)
    expect(error).toMatchObject({ name: 'DataError', code: 'POSTGRES_DATA_INVALID', context: { sqlState: '22012' } })
    expect(error.message).toContain('division by zero [22012]')
    expect(await db.pg.getRecords('SELECT pg_backend_pid() AS pid')).toEqual([{ pid }])
  })

  it('passes notices by', async () => {
    await db.pg.executeScript(
      `CREATE FUNCTION noisy(i int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'row %', i; RETURN i; END $$`,
    )
    const { rows } = await readAll(db.pg.copyOut('COPY (SELECT noisy(i) FROM generate_series(1, 1000) AS i) TO STDOUT'))
    expect(rows).toHaveLength(1000)
  })

  it('tells a lost backend from the end of the rows', async () => {
    const error = await failure(
      (async () => {
        let terminated = false
        for await (const block of db.pg.copyOut(endless)) {
          if (terminated || block.rows === 0) continue
          terminated = true
          await db.pg.execute(
            `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'COPY (SELECT generate_series(1, 1000000%' AND pid <> pg_backend_pid()`,
          )
        }
      })(),
    )
    expect(error).toMatchObject({ name: 'ConnectionError', code: 'POSTGRES_CONNECTION_LOST', retry: 'if-idempotent' })
    expect(await db.pg.getRecords('SELECT 1 AS one')).toEqual([{ one: 1 }])
  })

  it('is cancelled on the server when the loop is left', async () => {
    const before = await db.pg.getRecords('SELECT pg_backend_pid() AS pid')
    for await (const block of db.pg.copyOut(endless)) {
      expect(block.rows).toBeGreaterThan(0)
      break
    }
    expect(await db.activeBackends()).toBe(0)
    expect(await db.pg.getRecords('SELECT pg_backend_pid() AS pid')).toEqual(before)
  })

  it('is cancelled on the server by an abort, also while its reader does something else', async () => {
    const abort = new AbortController()
    const reason = new Error('enough')
    const blocks = db.pg.copyOut(endless, { signal: abort.signal })[Symbol.asyncIterator]()
    expect((await blocks.next()).done).toBe(false)
    abort.abort(reason)
    await expect.poll(() => db.activeBackends()).toBe(0)
    expect(await failure(blocks.next())).toBe(reason)
    expect((await blocks.next()).done).toBe(true)
  })

  it('is cancelled by its time-out', async () => {
    const error = await failure(readAll(db.pg.copyOut('COPY (SELECT pg_sleep(60)) TO STDOUT', { timeoutMs: 100 })))
    expect(error).toMatchObject({ name: 'OperationTimeoutError', code: 'POSTGRES_TIMEOUT' })
    expect(await db.activeBackends()).toBe(0)
  })

  it('starts nothing before its first block is asked for, and nothing under an aborted signal', async () => {
    const never = db.pg.copyOut('COPY (SELECT no_such_column) TO STDOUT')
    expect(Symbol.asyncIterator in never).toBe(true)
    const reason = new Error('too late')
    expect(await failure(readAll(db.pg.copyOut(endless, { signal: AbortSignal.abort(reason) })))).toBe(reason)
  })

  it.each([
    ['SELECT 1 FROM generate_series(1, 10)', 'POSTGRES_NOT_COPY_OUT'],
    ['COPY texts (t) FROM STDIN', 'POSTGRES_NOT_COPY_OUT'],
    ['COPY (SELECT 1) TO STDOUT; COPY (SELECT 2) TO STDOUT', 'POSTGRES_NOT_COPY_OUT'],
    ['COPY (SELECT 1) TO STDOUT; SELECT 1', 'POSTGRES_NOT_COPY_OUT'],
    ['', 'POSTGRES_NOT_COPY_OUT'],
    ['COPY no_such_table TO STDOUT', 'POSTGRES_TABLE_NOT_FOUND'],
  ])('refuses %s', async (statement, code) => {
    await db.pg.execute('CREATE TABLE IF NOT EXISTS texts (id int, t text)')
    expect(await failure(readAll(db.pg.copyOut(statement)))).toMatchObject({ code })
    expect(await db.pg.getRecords('SELECT 1 AS one')).toEqual([{ one: 1 }])
  })

  it('lets the server wait for a slow reader, instead of holding what it sends', async () => {
    const before = process.memoryUsage().arrayBuffers
    const blocks = db.pg.copyOut(endless)[Symbol.asyncIterator]()
    await blocks.next()
    const waiting = async (): Promise<unknown> =>
      (
        await db.pg.getRows(
          `SELECT wait_event FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'active'`,
        )
      )[0]
    await expect.poll(waiting).toEqual(['ClientWrite'])
    await new Promise((resolve) => setTimeout(resolve, 100))
    // It may have had a last look at a socket that the kernel had made room in.
    await expect.poll(waiting).toEqual(['ClientWrite'])
    // The block that was asked for, two that wait, and the one being filled.
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(6 * MIB)
    await blocks.return?.()
    expect(await db.activeBackends()).toBe(0)
  })
})
