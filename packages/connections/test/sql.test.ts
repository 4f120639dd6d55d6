import { DatabaseSync, type SQLInputValue } from 'node:sqlite'
import {
  ClientPool,
  doubleQuoted,
  type PooledClient,
  sqlItems,
  type SqlSource,
  type SqlTable,
} from '@common-handlers/connections/sql'
import { ConnectionError } from '@common-handlers/core'
import { afterAll, describe, expect, it } from 'vitest'

const signal = new AbortController().signal

// Both ways to say "after", on a real database: SQL Server and Oracle, which take the second, cannot be had here.
describe.each([true, false])('what comes after a watermark, with row values: %s', (rowValues) => {
  const database = new DatabaseSync(':memory:')
  database.exec('CREATE TABLE t (a INTEGER, b TEXT, c INTEGER, v TEXT)')
  const insert = database.prepare('INSERT INTO t VALUES (?, ?, ?, ?)')
  for (let index = 0; index < 48; index++) {
    const place = (index * 29) % 48
    insert.run(place >> 4, `b${(place >> 2) & 3}`, place & 3, `v${index}`)
  }
  afterAll(() => database.close())

  const source = (described: SqlTable): SqlSource<readonly unknown[]> & { readonly asked: string[] } => {
    const asked: string[] = []
    return {
      asked,
      protocol: 'test',
      prefix: 'TEST',
      name: 'test:',
      dialect: { quote: doubleQuoted, placeholder: (position) => `?${position}`, rowValues },
      describe: () => Promise.resolve(described),
      stream: async function* (sql, parameters = []) {
        asked.push(sql)
        const statement = database.prepare(sql)
        statement.setReadBigInts(true)
        yield* await Promise.resolve(statement.all(...(parameters as SQLInputValue[])))
      },
    }
  }
  const query = { table: 't', watermarkColumn: 'a', keyColumns: ['b', 'c'] }
  const read = (from: SqlSource<readonly unknown[]>, watermark?: string) =>
    Array.fromAsync(sqlItems(from, { ...query, watermark }, signal))

  it('is the rest, after any row', async () => {
    const from = source({ key: [] })
    const all = await read(from)
    expect(new Set(all.map(({ key }) => key)).size).toBe(16)
    expect(new Set(all.map(({ watermark }) => watermark)).size).toBe(48)
    for (const [index, { watermark }] of all.entries()) {
      expect((await read(from, watermark)).map(({ data }) => data)).toEqual(all.slice(index + 1).map(({ data }) => data))
    }
  })

  it('is read and compared as the columns say', async () => {
    const columns = ['a', 'b', 'c'].map((name) => ({
      name,
      read: name === 'a' ? `printf('%04d', a)` : undefined,
      compared: name === 'a' ? (given: string) => `CAST(${given} AS INTEGER)` : undefined,
    }))
    const from = source({ key: [], columns })
    const all = await read(from)
    expect(all[0]?.data).toEqual({ a: '0000', b: 'b0', c: 0n })
    const rest = await read(from, all[20]?.watermark)
    expect(rest.map(({ data }) => data)).toEqual(all.slice(21).map(({ data }) => data))
    expect(from.asked[1]).toContain(rowValues ? '(CAST(?1 AS INTEGER), ?2, ?3)' : '"a" >= CAST(?1 AS INTEGER) AND (')
  })
})

describe('a pool', () => {
  const made: Client[] = []
  class Client implements PooledClient {
    reusable = true
    closed = 0
    cancelled = 0
    idle(): Promise<void> {
      return Promise.resolve()
    }
    cancelAndClose(): Promise<void> {
      this.cancelled += 1
      return this.close()
    }
    close(): Promise<void> {
      this.closed += 1
      return Promise.resolve()
    }
  }
  const pool = (more: object = {}) => {
    made.length = 0
    return new ClientPool<Client>({
      name: 'TestEngine',
      prefix: 'TEST',
      target: 'user@host:1/db',
      max: 2,
      idleMs: 60_000,
      connectMs: 10_000,
      connect: () => {
        const client = new Client()
        made.push(client)
        return Promise.resolve(client)
      },
      ...more,
    })
  }
  const never = new Promise<never>(() => undefined)
  const untilAborted = (_client: Client, aborted: AbortSignal): Promise<never> =>
    new Promise((_, reject) =>
      aborted.addEventListener('abort', () => reject(new Error('cancelled by the server')), { once: true }),
    )

  it('lends what is idle, makes no more than it may, and gives nobody what is not as it was', async () => {
    await using one = pool()
    await one.run(undefined, 'a call', () => Promise.resolve())
    await one.run(undefined, 'a call', () => Promise.resolve())
    expect(made).toHaveLength(1)
    let busy = 0
    let most = 0
    const work = async (): Promise<void> => {
      most = Math.max(most, ++busy)
      await new Promise(setImmediate)
      busy -= 1
    }
    await Promise.all(Array.from({ length: 20 }, () => one.run(undefined, 'a call', work)))
    expect([most, made.length]).toEqual([2, 2])
    await one.run(undefined, 'a call', (client) => {
      client.reusable = false
      return Promise.resolve()
    })
    expect(made.filter(({ closed }) => closed === 1)).toHaveLength(1)
    await one.close()
    expect(made.map(({ closed }) => closed)).toEqual([1, 1])
    await expect(one.run(undefined, 'a call', work)).rejects.toMatchObject({ code: 'TEST_CLOSED' })
  })

  it('closes what nobody has asked for', async () => {
    await using one = pool({ idleMs: 10 })
    await one.run(undefined, 'a call', () => Promise.resolve())
    await expect.poll(() => made[0]?.closed).toBe(1)
    await one.run(undefined, 'a call', () => Promise.resolve())
    expect(made).toHaveLength(2)
  })

  it('cancels with the signal and the time-out of a call, before it rejects', async () => {
    await using one = pool()
    const reason = new RangeError('enough')
    const abort = new AbortController()
    const call = one.run({ signal: abort.signal }, 'a call', untilAborted)
    setImmediate(() => abort.abort(reason))
    await expect(call).rejects.toBe(reason)
    await expect(one.run({ timeoutMs: 10 }, 'a call', untilAborted)).rejects.toMatchObject({ code: 'TEST_TIMEOUT' })
    expect(made.map(({ cancelled }) => cancelled)).toEqual([1, 1])
  })

  it('gives up what takes too long: to wait, and to connect', async () => {
    await using full = pool({ connectMs: 30, max: 1 })
    const abort = new AbortController()
    const first = full.run({ signal: abort.signal }, 'a call', untilAborted)
    await expect(full.run(undefined, 'a call', () => never)).rejects.toMatchObject({ code: 'TEST_POOL_EXHAUSTED', retry: 'safe' })
    const waiting = full.run({ signal: abort.signal }, 'a call', () => never)
    abort.abort(new Error('enough'))
    await expect(Promise.allSettled([first, waiting])).resolves.toMatchObject([
      { reason: { message: 'enough' } },
      { reason: { message: 'enough' } },
    ])
    await expect(full.run(undefined, 'a call', () => Promise.resolve(1))).resolves.toBe(1)

    const slow = (aborted: AbortSignal): Promise<never> =>
      new Promise((_, reject) => aborted.addEventListener('abort', () => reject(aborted.reason as Error), { once: true }))
    await using silent = pool({ connectMs: 30, connect: slow })
    const refused = { code: 'TEST_CONNECT_TIMEOUT', outcome: 'timeout', retry: 'safe' }
    await expect(silent.run(undefined, 'a call', () => never)).rejects.toMatchObject(refused)
  })

  it('makes room again where connecting fails', async () => {
    let times = 0
    const connect = (): Promise<Client> => {
      times += 1
      if (times > 3) return Promise.resolve(new Client())
      return Promise.reject(new ConnectionError('nobody is there', { code: 'TEST_CONNECT_FAILED', retry: 'safe' }))
    }
    await using one = pool({ connect, max: 1 })
    for (let index = 0; index < 3; index++) {
      await expect(one.run(undefined, 'a call', () => never)).rejects.toMatchObject({ code: 'TEST_CONNECT_FAILED' })
    }
    await expect(one.run(undefined, 'a call', () => Promise.resolve(times))).resolves.toBe(4)
  })

  it('closes though a stream was left standing', async () => {
    const one = pool()
    const rows = one.stream(undefined, async function* () {
      yield await Promise.resolve(1)
      yield 2
    })
    expect(await rows.next()).toEqual({ value: 1, done: false })
    await one.close({ graceMs: 10 })
    expect(made[0]?.cancelled).toBe(1)
    await expect(rows.next()).rejects.toMatchObject({ code: 'TEST_CLOSED' })
  })
})
