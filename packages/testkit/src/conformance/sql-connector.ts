import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { liveMemory } from '../live-memory.ts'
import type { ConnectionsLike } from './connector.ts'

type Row = Readonly<Record<string, unknown>>

async function liveBytes(): Promise<number> {
  const { heapUsed, external } = await liveMemory()
  return heapUsed + external
}

interface SqlEngineLike {
  query(sql: string, parameters?: never): Promise<readonly Row[]>
  execute(sql: string): Promise<unknown>
  stream(sql: string, parameters?: never, options?: { readonly signal?: AbortSignal }): AsyncGenerator<Row, void, undefined>
  close(): Promise<void>
}

/** A database under the suite. */
export interface SqlConnectorCase {
  readonly protocol: string
  readonly connections: ConnectionsLike
  /** The keys for a database that the suite may make tables in. */
  readonly config: object
  /** An engine on the same database, of one's own. */
  engine(): Promise<SqlEngineLike>
  /** A name in a statement. */
  quote(name: string): string
  /** What no name may hold, quoted or not: `"` with Oracle. */
  readonly forbidden?: string
  /** The expression of a text that is bound as the first parameter: `$1::text`. */
  readonly bound: string
  /** What a statement of a value alone ends with: `FROM dual`. */
  readonly from?: string
  /** The type of a column for a key of integers. */
  readonly integer: string
  /** Expressions, and the values they have exactly. */
  readonly values: readonly (readonly [expression: string, value: unknown])[]
  /** Types that a watermark column may have, and literals of them in their order. */
  readonly watermarks: Readonly<Record<string, readonly string[]>>
  /** A query for so many rows with a text of so many characters each, and a number `n` from 1. */
  many(rows: number, characters: number): string
  /** A statement that gives its first row after a minute or so, and how many statements of such engines run on the server. */
  readonly slow?: string
  running?(): Promise<number>
}

const MIB = 1024 * 1024
const ID = 'i d'
/** Signs that a name should survive. */
const SIGNS = `"' ]; -- \\`

/** The contract of a connector for an SQL database: values, order, streams, cancelling, parameters and names. */
export function sqlConformance(title: string, sqlCase: SqlConnectorCase): void {
  const { protocol, connections, integer, values, watermarks, quote, from = '', forbidden } = sqlCase
  const signs = forbidden === undefined ? SIGNS : SIGNS.replaceAll(forbidden, '')
  const [table, at] = [`table ${signs}`, `at ${signs}`]

  describe(`${title} as an SQL source`, () => {
    let engine: SqlEngineLike
    beforeAll(async () => {
      engine = await sqlCase.engine()
    })
    afterAll(async () => {
      await engine.execute(`DROP TABLE ${quote(table)}`).catch(() => undefined)
      await engine.close()
    })

    it.each(values)('gives %s exactly', async (expression, value) => {
      const [row] = await engine.query(`SELECT ${expression} AS ${quote('v')} ${from}`)
      expect(row).toEqual({ v: value })
      for await (const streamed of engine.stream(`SELECT ${expression} AS ${quote('v')} ${from}`)) expect(streamed).toEqual(row)
    })

    it('binds parameters, whatever they hold', async () => {
      for (const text of [`'); DROP TABLE t; --`, '$1 ? :1 @p1', '\\', 'ä\n"😀']) {
        expect(await engine.query(`SELECT ${sqlCase.bound} AS ${quote('v')} ${from}`, [text] as never)).toEqual([{ v: text }])
      }
    })

    it('refuses two columns of one name, also of a stream without rows', async () => {
      const twice = `SELECT 1 AS ${quote('a')}, 2 AS ${quote('a')} ${from}`
      const refused = { outcome: 'data', code: expect.stringMatching(/_DUPLICATE_COLUMN$/) as string }
      await expect(engine.query(twice)).rejects.toMatchObject(refused)
      await expect(engine.stream(`${twice} WHERE 1 = 0`).next()).rejects.toMatchObject(refused)
    })

    describe.each(Object.entries(watermarks))('with a watermark of type %s', (type, literals) => {
      // Each value for four rows, in another order than that of the key.
      const rows = literals
        .flatMap((literal, place) =>
          [0, 1, 2, 3].map((tie) => ({ literal, place, id: ((place * 4 + tie) * 7) % (literals.length * 4) })),
        )
        .toSorted((a, b) => ((a.id * 5) % 11) - ((b.id * 5) % 11))
      const expected = rows.toSorted((a, b) => a.place - b.place || a.id - b.id).map(({ id }) => String(id))
      const insert = (some: readonly { readonly literal: string; readonly id: number }[]) =>
        Promise.all(some.map(({ literal, id }) => engine.execute(`INSERT INTO ${quote(table)} VALUES (${id}, ${literal})`)))
      const query = { table, watermarkColumn: at }
      const make = () => connections.createConnector({ protocol, ...sqlCase.config } as never)

      beforeAll(async () => {
        await engine.execute(`DROP TABLE ${quote(table)}`).catch(() => undefined)
        await engine.execute(`CREATE TABLE ${quote(table)} (${quote(ID)} ${integer} NOT NULL PRIMARY KEY, ${quote(at)} ${type})`)
        await insert(rows)
        await engine.execute(`INSERT INTO ${quote(table)} VALUES (-1, NULL)`)
      })

      it.each([1, 2, 3, 5])('reads every row once and in one order in runs of %i, ties or not', async (portion) => {
        await using connector = await make()
        const read: string[] = []
        let watermark: string | undefined
        for (let isMore = true; isMore;) {
          isMore = false
          let count = 0
          for await (const item of connector.items({ ...query, watermark } as never)) {
            read.push(String(item.key))
            watermark = item.watermark
            isMore = true
            if (++count === portion) break
          }
        }
        expect(read).toEqual(expected)
      })

      it('finds nothing new after the last, and then what is new', async () => {
        await using connector = await make()
        const watermark = (await connector.fetchData(query as never)).items.at(-1)?.watermark
        const after = { ...query, watermark } as never
        expect((await connector.fetchData(after)).items).toEqual([])
        const id = 1000
        await insert([{ literal: literals.at(-1) ?? '', id }])
        expect((await connector.fetchData(after)).items.map(({ key }) => key)).toEqual([String(id)])
        await engine.execute(`DELETE FROM ${quote(table)} WHERE ${quote(ID)} = ${id}`)
      })
    })

    it('refuses an order that leaves rows of one watermark open', async () => {
      await using connector = await connections.createConnector({ protocol, ...sqlCase.config } as never)
      const open = connector.fetchData({ table, watermarkColumn: at, keyColumns: [at] } as never)
      await expect(open).rejects.toMatchObject({ outcome: 'data', code: expect.stringMatching(/_KEY_NOT_UNIQUE$/) as string })
    })

    it.each([
      ['small', 100_000, 1_000],
      ['large', 50, 2 * MIB],
    ])('streams more %s rows than it holds', async (_, rows, characters) => {
      let most = 0
      let count = 0
      const before = await liveBytes()
      for await (const row of engine.stream(sqlCase.many(rows, characters))) {
        count += 1
        if (count % Math.ceil(rows / 10) > 0) continue
        expect(String(row['text'] ?? row['TEXT'])).toHaveLength(characters)
        most = Math.max(most, (await liveBytes()) - before)
      }
      expect(count).toBe(rows)
      expect(most).toBeLessThan((rows * characters) / 3)
    })

    it('lets a stream be left', async () => {
      for await (const row of engine.stream(sqlCase.many(10_000, 1_000))) if (BigInt(String(row['n'] ?? row['N'])) === 20n) break
      expect(await engine.query(`SELECT 1 AS ${quote('v')} ${from}`)).toHaveLength(1)
    })

    const { slow, running } = sqlCase
    it.each(slow === undefined || running === undefined ? [] : [{ slow, running }])(
      'ends a statement on the server with its signal',
      async (given) => {
        const reason = new RangeError('changed my mind')
        for (const start of [
          (signal: AbortSignal) => engine.stream(given.slow, undefined, { signal }).next(),
          (signal: AbortSignal) => (engine.query as (...all: unknown[]) => Promise<unknown>)(given.slow, [], { signal }),
        ]) {
          const abort = new AbortController()
          const ended = start(abort.signal).catch((error: unknown) => error)
          await expect.poll(() => given.running(), { timeout: 5_000 }).toBe(1)
          abort.abort(reason)
          expect(await ended).toBe(reason)
          expect(await given.running()).toBe(0)
        }
        expect(await engine.query(`SELECT 1 AS ${quote('v')} ${from}`)).toHaveLength(1)
      },
    )
  })
}
