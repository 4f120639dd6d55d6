import { createReadStream, createWriteStream } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough, Readable, Writable } from 'node:stream'
import { createGunzip, createGzip } from 'node:zlib'
import { describeWith, startFaultProxy } from '@common-handlers/testkit'
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest'
import { PostgresHandler } from '../src/index.ts'
import { failure, ownDatabase } from './own-database.ts'

describeWith(['postgres'], 'COPY to and from streams', ({ postgres }) => {
  const db = ownDatabase(postgres)
  let folder = ''
  const count = async (table: string): Promise<unknown> => (await db.pg.getRows(`SELECT count(*)::int FROM ${table}`))[0]?.[0]
  const checksum = async (table: string): Promise<unknown> =>
    (await db.pg.getRows(`SELECT md5(string_agg(t::text, E'\\n' ORDER BY id)) FROM ${table} AS t`))[0]?.[0]

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'copy-'))
    await db.pg.executeScript(`
      CREATE TABLE source AS SELECT i AS id, CASE WHEN i % 7 > 0 THEN E'\\\\N,"\\t' || chr(10) || chr(128169) || i END AS note,
        decode(md5(i::text), 'hex') AS bytes, now() + i * interval '1 us' AS at FROM generate_series(1, 30000) AS i;
      CREATE TABLE target (LIKE source);
      CREATE TABLE few (id int PRIMARY KEY, x int)`)
  })
  beforeEach(() => db.pg.executeScript('TRUNCATE target, few'))
  afterAll(() => rm(folder, { recursive: true, force: true }))

  it.each(['text', 'csv', 'csv, HEADER', 'binary'])('moves a table whole through a file as %s', async (format) => {
    const file = join(folder, 'table')
    const out = await db.pg.copyTo(`COPY source TO STDOUT (FORMAT ${format})`, createWriteStream(file))
    expect(out).toEqual({ rows: 30_000, bytes: (await readFile(file)).length })
    const back = await db.pg.copyFrom(`COPY target FROM STDIN (FORMAT ${format})`, createReadStream(file))
    expect(back).toEqual(out)
    expect(await checksum('target')).toBe(await checksum('source'))
  })

  it('writes through a transform with no more than it can hold, and to a function that is waited for', async () => {
    const zip = createGzip({ level: 1 })
    const reading = db.pg.copyFrom('COPY target FROM STDIN', zip.pipe(createGunzip()))
    expect((await db.pg.copyTo('COPY source TO STDOUT', zip)).rows).toBe(30_000)
    expect((await reading).rows).toBe(30_000)
    expect(await checksum('target')).toBe(await checksum('source'))
    let [running, most, bytes] = [0, 0, 0]
    const result = await db.pg.copyTo(
      'COPY source TO STDOUT',
      async (block) => {
        most = Math.max(most, ++running)
        await new Promise((resolve) => setTimeout(resolve, 5))
        bytes += block.length
        running--
      },
      { blockBytes: 64 * 1024 },
    )
    expect([most, bytes]).toEqual([1, result.bytes])
  })

  it('takes text and bytes in pieces of any length, from any iterable, whose memory it does not keep', async () => {
    const text = Array.from({ length: 3_000 }, (_, index) => `${index}\t${index * 2}\n`).join('')
    const pieces = function* (): Generator<Uint8Array> {
      const memory = new Uint8Array(11)
      for (let at = 0; at < text.length; at += 11) {
        const piece = Buffer.from(text.slice(at, at + 11))
        memory.set(piece)
        yield memory.subarray(0, piece.length)
      }
    }
    expect(await db.pg.copyFrom('COPY few FROM STDIN', pieces())).toEqual({ rows: 3_000, bytes: text.length })
    expect(await db.pg.getRows('SELECT count(*)::int, sum(x)::int FROM few')).toEqual([[3_000, 2_999 * 3_000]])
    await db.pg.execute('TRUNCATE few')
    expect(await db.pg.copyFrom('COPY few FROM STDIN', Readable.from(['1\t', '2', '\n']))).toEqual({ rows: 1, bytes: 4 })
    expect(await db.pg.copyFrom('COPY few FROM STDIN', [])).toEqual({ rows: 0, bytes: 0 })
  })

  it.each([
    ['text', '1\t1\n2\tabc\n', { line: 2, column: 'x' }, 'DataError'],
    ['csv, HEADER', 'id,x\n1,1\n2,3\n4,"a, ""b"""\n', { line: 4, column: 'x' }, 'DataError'],
    ['csv', '1,1\n2\n', { line: 2 }, 'DataError'],
    ['csv', '1,1\n,2\n', { line: 2 }, 'DataError'],
    ['csv', '1,1\n2,99999999999\n', { line: 2, column: 'x' }, 'DataError'],
  ])('names the line of %s that fails, and keeps nothing', async (format, text, where, name) => {
    const error = await failure(db.pg.copyFrom(`COPY few FROM STDIN (FORMAT ${format})`, [text]))
    expect(error).toMatchObject({ name, where })
    expect(error.message).toContain(`line ${where.line}`)
    expect(await count('few')).toBe(0)
  })

  it('names the file, and the line of a key that is there already', async () => {
    const file = join(folder, 'bad.csv')
    await writeFile(file, '1,1\n2,2\n3,x\n')
    const error = await failure(db.pg.copyFrom('COPY few FROM STDIN (FORMAT csv)', createReadStream(file)))
    expect(error).toMatchObject({ name: 'DataError', code: 'POSTGRES_DATA_INVALID', where: { file, line: 3, column: 'x' } })
    const twice = await failure(db.pg.copyFrom('COPY few FROM STDIN', ['1\t1\n1\t2\n']))
    expect(twice).toMatchObject({ code: 'POSTGRES_ALREADY_EXISTS', context: { line: 2 } })
    expect(await count('few')).toBe(0)
  })

  it('does not read on from a source whose rows were refused', async () => {
    let closed = false
    const source = (async function* () {
      try {
        for (let piece = 0; ; piece++) {
          yield piece === 1 ? 'oops\n' : `${piece}\t${'0'.repeat(100_000)}1\n`
          await new Promise((resolve) => setTimeout(resolve, 1))
        }
      } finally {
        closed = true
      }
    })()
    expect(await failure(db.pg.copyFrom('COPY few FROM STDIN', source))).toMatchObject({ name: 'DataError' })
    await expect.poll(() => closed).toBe(true)
  })

  it('is undone by an error of the source, an abort, a time-out, even where the source stands still', async () => {
    const reason = new Error('the disk is gone')
    const broken = (async function* () {
      yield '1\t1\n'.padEnd(10)
      throw reason
    })()
    expect(await failure(db.pg.copyFrom('COPY few FROM STDIN', broken))).toBe(reason)
    const still = new PassThrough()
    still.write('1\t1\n')
    const late = db.pg.copyFrom('COPY few FROM STDIN', still, { timeoutMs: 100 })
    expect(await failure(late)).toMatchObject({ code: 'POSTGRES_TIMEOUT' })
    await expect.poll(() => still.destroyed).toBe(true)
    const abort = new AbortController()
    const endless = (async function* () {
      for (let n = 0; ; n++) {
        if (n === 200) abort.abort(reason)
        yield `${n}\t1\n`
      }
    })()
    expect(await failure(db.pg.copyFrom('COPY few FROM STDIN', endless, { signal: abort.signal }))).toBe(reason)
    expect([await count('few'), await db.activeBackends()]).toEqual([0, 0])
    expect(db.pg.poolStatus().total).toBeLessThanOrEqual(2)
  })

  it('is cancelled while it waits for a lock', async () => {
    await db.pg.transaction(async (tx) => {
      await tx.execute('LOCK TABLE few')
      expect(await failure(db.pg.copyFrom('COPY few FROM STDIN', ['1\t1\n'], { timeoutMs: 100 }))).toMatchObject({
        code: 'POSTGRES_TIMEOUT',
      })
    })
    expect([await count('few'), await db.activeBackends()]).toEqual([0, 0])
  })

  it('is part of its transaction', async () => {
    const reason = new Error('changed my mind')
    const undone = db.pg.transaction(async (tx) => {
      await tx.copyFrom('COPY few FROM STDIN', ['1\t1\n2\t2\n'])
      expect(await tx.getRows('SELECT count(*)::int FROM few')).toEqual([[2]])
      throw reason
    })
    expect(await failure(undone)).toBe(reason)
    expect(await count('few')).toBe(0)
  })

  it('holds its source back while the server is slow', async () => {
    await using proxy = await startFaultProxy(db.address)
    await using pg = new PostgresHandler(db.options({ host: '127.0.0.1', port: proxy.port }))
    await pg.connect()
    let given = 0
    const source = (function* () {
      for (; given < 200; given++) yield `${given}\t${'0'.repeat(1_000_000)}1\n`
    })()
    proxy.stall()
    const copying = pg.copyFrom('COPY few FROM STDIN', source)
    await new Promise((resolve) => setTimeout(resolve, 200))
    expect(given).toBeLessThan(20)
    proxy.resume()
    expect((await copying).rows).toBe(200)
  })

  it('fails with its sink, and tells a statement that is none', async () => {
    const reason = new Error('no space left')
    const full = new Writable({ write: (_chunk, _encoding, done) => done(reason) })
    expect(await failure(db.pg.copyTo('COPY source TO STDOUT', full))).toBe(reason)
    expect(await failure(db.pg.copyTo('COPY source TO STDOUT', () => Promise.reject(reason)))).toBe(reason)
    expect(await failure(db.pg.copyFrom('SELECT 1', ['x']))).toMatchObject({ code: 'POSTGRES_NOT_COPY_IN' })
    expect(await failure(db.pg.copyFrom('COPY source TO STDOUT', ['x']))).toMatchObject({ code: 'POSTGRES_NOT_COPY_IN' })
    const two = 'COPY few FROM STDIN; COPY few FROM STDIN'
    expect(await failure(db.pg.copyFrom(two, ['1\t1\n']))).toMatchObject({ code: 'POSTGRES_NOT_COPY_IN' })
    expect(await failure(db.pg.copyFrom('COPY nowhere FROM STDIN', ['x']))).toMatchObject({ code: 'POSTGRES_TABLE_NOT_FOUND' })
    expect(await failure(db.pg.copyFrom('COPY few FROM STDIN', [1 as unknown as string]))).toMatchObject({
      code: 'POSTGRES_VALUE_INVALID',
    })
    for (const call of [
      () => db.pg.execute('COPY few FROM STDIN'),
      () => db.pg.executeScript('SELECT 1; COPY few FROM STDIN; SELECT 2'),
      () => db.pg.getRows('COPY (VALUES (1)) TO STDOUT'),
    ]) {
      expect(await failure(call())).toMatchObject({ code: 'POSTGRES_COPY_UNEXPECTED', retry: 'never' })
    }
    expect([await count('few'), await db.activeBackends()]).toEqual([0, 0])
  })
})
