import { readmeExample } from '@common-handlers/testkit'
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { zstdDecompressSync } from 'node:zlib'
import { ingestedItem } from '@common-handlers/connections'
import type { Sink } from '@common-handlers/connections/streams'
import { DuckDbHandler } from '@common-handlers/duckdb-handler'
import { LocalFolderStore, MemoryStore } from '@common-handlers/storage'
import { parquetReadObjects } from 'hyparquet'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Lake, type LakeColumnType, type LakeConfigInput, type LakeStore } from '../src/index.ts'
import { message, messages } from './items.ts'

let root: string
const db = new DuckDbHandler({ path: ':memory:' })
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'lake-'))
})
afterAll(async () => {
  await db.close()
  await rm(root, { recursive: true })
})

const folderLake = async (options: LakeConfigInput = {}): Promise<Lake> =>
  new Lake({ store: new LocalFolderStore({ folder: await mkdtemp(join(root, 'store-')), fsync: false }), ...options })

/** Rows of all files that the glob finds. */
const rows = async (lake: Lake, select = '*'): Promise<readonly Record<string, unknown>[]> =>
  (await db.query(`SELECT ${select} FROM read_parquet('${fileURLToPath(lake.glob)}') ORDER BY _source, _key`)).rows

describe('a file', () => {
  const columns: Record<string, LakeColumnType> = {
    small: 'int32',
    id: 'int64',
    amount: 'decimal(18,2)',
    big: 'decimal(38,10)',
    ratio: 'float64',
    ok: 'boolean',
    note: 'text',
    day: 'date',
    at: 'timestamp',
    more: 'json',
  }
  const extremes = [
    `{"small":-2147483648,"id":-9223372036854775808,"amount":-9999999999999999.99,"big":-9999999999999999999999999999.9999999999,"ratio":5e-324,"ok":true,
      "note":"ä\\u0000\\n\\"𝄞","day":"0001-01-01","at":"0001-01-01T00:00:00Z","more":{"n":1.10,"big":[12345678901234567890.5]}}`,
    `{"small":2147483647,"id":9223372036854775807,"amount":1e-2,"big":"9999999999999999999999999999.9999999999","ratio":0.1,"ok":false,
      "note":"","day":"9999-12-31","at":"2026-11-21 10:15:30.123457+05:30","more":null}`,
    `{"id":"42","amount":"-0.50","unknown":1}`,
  ]

  it.each(['zstd', 'snappy', 'none'] as const)(
    'is read by DuckDB and hyparquet as it was written, with %s',
    async (compression) => {
      const lake = await folderLake({ columns, compression })
      const { batch } = await lake.write(extremes.map((text, index) => message(String(index), text)))
      expect(
        await rows(
          lake,
          Object.keys(columns)
            .map((name) => `"${name}"`)
            .join(', '),
        ),
      ).toEqual([
        {
          small: -2_147_483_648,
          id: -9_223_372_036_854_775_808n,
          amount: '-9999999999999999.99',
          big: '-9999999999999999999999999999.9999999999',
          ratio: 5e-324,
          ok: true,
          note: 'ä\0\n"𝄞',
          day: '0001-01-01',
          at: '0001-01-01 00:00:00+00',
          more: '{"n":1.10,"big":[12345678901234567890.5]}',
        },
        {
          small: 2_147_483_647,
          id: 9_223_372_036_854_775_807n,
          amount: '0.01',
          big: '9999999999999999999999999999.9999999999',
          ratio: 0.1,
          ok: false,
          note: '',
          day: '9999-12-31',
          at: '2026-11-21 04:45:30.123457+00',
          more: null,
        },
        {
          small: null,
          id: 42n,
          amount: '-0.50',
          big: null,
          ratio: null,
          ok: null,
          note: null,
          day: null,
          at: null,
          more: null,
        },
      ])
      expect((await rows(lake, 'data')).map(({ data }) => data)).toEqual(extremes)
      const types = await db.query(`DESCRIBE SELECT * FROM read_parquet('${fileURLToPath(lake.glob)}')`)
      expect(types.rows.map((row) => `${row['column_name'] as string} ${row['column_type'] as string}`)).toEqual([
        '_source VARCHAR',
        '_key VARCHAR',
        '_media_type VARCHAR',
        '_fetched_at TIMESTAMP WITH TIME ZONE',
        '_checksum VARCHAR',
        '_attributes VARCHAR',
        'data VARCHAR',
        'data_bytes BLOB',
        'small INTEGER',
        'id BIGINT',
        'amount DECIMAL(18,2)',
        'big DECIMAL(38,10)',
        'ratio DOUBLE',
        'ok BOOLEAN',
        'note VARCHAR',
        'day DATE',
        'at TIMESTAMP WITH TIME ZONE',
        'more VARCHAR',
      ])
      const store = new LocalFolderStore({ folder: fileURLToPath(lake.glob.replace('/data/*.parquet', '')) })
      const { bytes } = await store.getBytes(batch?.file ?? '')
      expect(createHash('sha256').update(bytes).digest('hex')).toBe(batch?.sha256)
      const read = await parquetReadObjects({
        file: new Uint8Array(bytes).buffer,
        columns: ['id', 'note'],
        compressors: { ZSTD: (page) => zstdDecompressSync(page) },
      })
      expect(read[0]).toEqual({ id: -9_223_372_036_854_775_808n, note: 'ä\0\n"𝄞' })
    },
  )

  it('holds bytes, texts, rows of a database, headers and what is not there', async () => {
    const lake = await folderLake({ columns: { id: 'int64', amount: 'decimal(5,2)' } })
    const lineage = { protocol: 'test', query: 'q', position: 0 }
    const bytes = new Uint8Array([0, 255, 10])
    await lake.write([
      ingestedItem({ source: 's', key: 'a', data: bytes, attributes: { headers: { n: 2n ** 63n } }, lineage }),
      ingestedItem({ source: 's', key: 'b', data: 'plain', lineage }),
      ingestedItem({ source: 's', key: 'c', data: { id: 9_007_199_254_740_993n, amount: '1.50' }, lineage }),
      { ...ingestedItem({ source: 's', key: 'd', data: null, lineage }, new Uint8Array()), received: null },
    ])
    expect(await rows(lake, '_key, _media_type, _attributes, data, data_bytes, id, amount')).toEqual([
      {
        _key: 'a',
        _media_type: 'application/octet-stream',
        _attributes: '{"headers":{"n":9223372036854775808}}',
        data: null,
        data_bytes: Buffer.from(bytes),
        id: null,
        amount: null,
      },
      { _key: 'b', _media_type: 'text/plain', _attributes: null, data: 'plain', data_bytes: null, id: null, amount: null },
      {
        _key: 'c',
        _media_type: 'application/json',
        _attributes: null,
        data: '{"id":9007199254740993,"amount":"1.50"}',
        data_bytes: null,
        id: 9_007_199_254_740_993n,
        amount: '1.50',
      },
      { _key: 'd', _media_type: 'application/json', _attributes: null, data: null, data_bytes: null, id: null, amount: null },
    ])
  })

  it.each<[LakeColumnType, string, string]>([
    ['int32', '2147483648', 'out of range'],
    ['int64', '9223372036854775808', 'out of range'],
    ['int64', '1.5', 'more than 0 digits behind the point'],
    ['decimal(5,2)', '1.005', 'more than 2 digits behind the point'],
    ['decimal(5,2)', '1000', 'more than 5 digits'],
    ['float64', '1e400', 'out of range'],
    ['float64', '"1"', 'found "1"'],
    ['boolean', '1', 'found 1'],
    ['text', '{}', 'found {}'],
    ['text', String.raw`"\ud800"`, 'surrogate'],
    ['date', '"2026-02-30"', 'not in the calendar'],
    ['timestamp', '"2026-11-21T10:00:00"', 'not a time with its zone'],
    ['timestamp', '"2026-11-21T10:00:00.1234567Z"', 'finer than a microsecond'],
    ['timestamp', '"2026-11-21T24:00:00Z"', 'not in the calendar'],
  ])('takes no %s that would not be exact: %s', async (type, value, why) => {
    const lake = await folderLake({ columns: { v: type } })
    await expect(lake.write([message('7', `{"v":${value}}`)])).rejects.toMatchObject({
      code: 'LAKE_VALUE_UNFIT',
      message: expect.stringContaining(why) as string,
      where: { file: 'kafka:orders 7', column: 'v' },
    })
    expect((await lake.recover()).batches).toBe(0)
  })
})

describe('a commit', () => {
  it('drops what was written before, also by another process, and says how much', async () => {
    const store = new MemoryStore()
    const first = new Lake({ store, prefix: 'lake/orders' })
    expect(await first.write([...messages(0, 10), message('3', '{}')])).toMatchObject({ rows: 10, duplicates: 1 })
    expect(await first.write(messages(5, 12))).toMatchObject({ rows: 2, duplicates: 5, batch: { number: 2 } })
    const second = new Lake({ store, prefix: 'lake/orders' })
    expect(await second.write(messages(0, 12))).toEqual({ rows: 0, duplicates: 12 })
    expect(await second.write([message('1/0', '{}'), message('1/00', '{}')])).toMatchObject({ rows: 2, duplicates: 0 })
    const all = await Array.fromAsync(second.listCommitted())
    expect(all.map(({ file, rows: count, positions }) => [file, count, positions])).toEqual([
      ['lake/orders/data/000000000001.parquet', 10, [{ source: 'kafka:orders', runs: [['0', '9']], keys: [] }]],
      ['lake/orders/data/000000000002.parquet', 2, [{ source: 'kafka:orders', runs: [['10', '11']], keys: [] }]],
      [
        'lake/orders/data/000000000003.parquet',
        2,
        [
          { source: 'kafka:orders', partition: '1', runs: [['0', '0']], keys: [] },
          { source: 'kafka:orders', runs: [], keys: ['1/00'] },
        ],
      ],
    ])
    expect(await second.readManifest(2)).toEqual(all[1])
  })

  it('is one of many at once: what two writers have is written by one of them', async () => {
    const store = new MemoryStore()
    const lakes = Array.from({ length: 4 }, () => new Lake({ store }))
    await Promise.all(lakes.map((lake) => lake.recover()))
    const results = await Promise.all(
      lakes.flatMap((lake, index) => [lake.write(messages(index * 5, 50)), lake.write(messages(40, 60))]),
    )
    expect(results.reduce((sum, result) => sum + result.rows, 0)).toBe(60)
    const all = await Array.fromAsync(new Lake({ store }).listCommitted())
    expect(all.map(({ number }) => number)).toEqual(all.map((_, index) => index + 1))
    expect(all.reduce((sum, manifest) => sum + manifest.rows, 0)).toBe(60)
  })

  it('whose writer was killed before the manifest is finished by the next one, and nothing comes twice', async () => {
    const folder = await mkdtemp(join(root, 'killed-'))
    const main = join(import.meta.dirname, 'killed-main.ts')
    const child = spawnSync(process.execPath, ['--conditions=@common-handlers/source', main, folder], { encoding: 'utf8' })
    expect([child.signal, child.stderr]).toEqual(['SIGKILL', ''])
    const lake = new Lake({ store: new LocalFolderStore({ folder }) })
    expect(await Array.fromAsync(lake.listCommitted())).toEqual([])
    expect(await lake.recover()).toEqual({ batches: 1, finished: 1 })
    expect(await lake.write(messages(0, 15))).toMatchObject({ rows: 5, duplicates: 10 })
    expect((await rows(lake)).length).toBe(15)
    const manifest = await lake.readManifest(1)
    expect(manifest).toMatchObject({ rows: 10, file: 'data/000000000001.parquet' })
    expect(await lake.recover()).toEqual({ batches: 2, finished: 0 })
  })

  it('whose answer was lost is known for its own', async () => {
    const memory = new MemoryStore()
    let lost = 0
    const store: LakeStore = {
      url: memory.url,
      getBytes: (key) => memory.getBytes(key),
      list: (prefix) => memory.list(prefix),
      putIfAbsent: async (key, body) => {
        const answer = await memory.putIfAbsent(key, body)
        if (!key.includes('data/')) return answer
        lost += 1
        return { written: false }
      },
    }
    const lake = new Lake({ store })
    expect(await lake.write(messages(0, 3))).toMatchObject({ rows: 3, batch: { number: 1 } })
    expect([lost, (await lake.recover()).batches]).toEqual([1, 1])
  })

  it('that failed may be made again, whether it was written or not', async () => {
    const memory = new MemoryStore()
    let fail = 'data/'
    const store: LakeStore = {
      url: memory.url,
      getBytes: (key) => memory.getBytes(key),
      list: (prefix) => memory.list(prefix),
      putIfAbsent: (key, body) => (key.includes(fail) ? Promise.reject(new Error('down')) : memory.putIfAbsent(key, body)),
    }
    const lake = new Lake({ store })
    await expect(lake.write(messages(0, 3))).rejects.toThrow('down')
    fail = '_manifests/'
    await expect(lake.write(messages(0, 3))).rejects.toThrow('down')
    fail = 'nothing'
    expect(await lake.write(messages(0, 4))).toMatchObject({ rows: 1, duplicates: 3, batch: { number: 2 } })
  })

  it('takes messages that nobody can have had, although they look like others', async () => {
    const lake = new Lake({ store: new MemoryStore() })
    const same = { ...message('sha256:00', '{"beat":1}', 'amqp:beats'), first: true }
    expect(await lake.write([same, same])).toMatchObject({ rows: 2 })
    expect(await lake.write([same])).toMatchObject({ rows: 1 })
    expect(await lake.write([{ ...same, first: false }])).toMatchObject({ rows: 0, duplicates: 1 })
  })

  it('remembers keys for as long as it was told, counted from the newest batch', async () => {
    const store = new MemoryStore()
    const lake = new Lake({ store, rememberMs: 60_000 })
    await lake.write([message('id-1', '{}')])
    const { bytes } = await store.getBytes('_manifests/000000000001.json')
    const old = { ...(JSON.parse(bytes.toString()) as object), committedAt: '2020-01-01T00:00:00.000Z' }
    await store.put('_manifests/000000000001.json', JSON.stringify(old))
    expect(await new Lake({ store, rememberMs: 60_000 }).write([message('id-1', '{}')])).toMatchObject({ duplicates: 1 })
    await lake.write([message('id-2', '{}')])
    expect(await new Lake({ store, rememberMs: 60_000 }).write([message('id-1', '{}')])).toMatchObject({ rows: 1 })
  })
})

it('is the sink that connectors take, and the example of README.md runs', async () => {
  const lake = new Lake({ store: new MemoryStore() })
  const sink: Sink = lake
  await sink.write([
    { ...ingestedItem({ source: 's', data: {}, lineage: { protocol: 'p', query: 'q', position: 0 } }), key: '1', received: null },
  ])
  expect((await lake.recover()).batches).toBe(1)
  const text = await readmeExample(join(import.meta.dirname, '..'))
  const place = join(root, 'readme')
  const { stdout, stderr } = spawnSync(
    process.execPath,
    [
      '--conditions=@common-handlers/source',
      '--input-type=module-typescript',
      '-e',
      text.replace('/tmp/common-handlers-lake', place),
    ],
    { cwd: join(import.meta.dirname, '..'), encoding: 'utf8' },
  )
  expect(stderr).toBe('')
  expect(stdout).toMatch(/^1\n1\norders\/data\/000000000001.parquet 1 \[/)
  const [, sql = ''] = /(SELECT .*)/.exec(stdout.replaceAll('file://', '')) ?? []
  expect((await db.query(sql)).rows).toEqual([{ id: 9_007_199_254_740_993n, amount: '1.10' }])
})

it('says what it cannot use', async () => {
  const store = new MemoryStore()
  expect(() => new Lake({ store, columns: { data: 'text' } })).toThrow('every file has columns named')
  expect(() => new Lake({ store, columns: { v: 'decimal(39,2)' } })).toThrow(
    expect.objectContaining({ code: 'LAKE_CONFIG_INVALID' }),
  )
  const lineage = { protocol: 'test', query: 'q', position: 0 }
  await expect(new Lake({ store }).write([ingestedItem({ source: 's', data: 1, lineage })])).rejects.toMatchObject({
    code: 'LAKE_KEY_MISSING',
  })
  const elsewhere = { ...ingestedItem({ source: 's', key: 'k', data: '', location: 'file:///k', lineage }), data: undefined }
  await expect(new Lake({ store }).write([elsewhere])).rejects.toMatchObject({
    code: 'LAKE_DATA_MISSING',
    message: 's k has no data here: it is at file:///k',
  })
  await new Lake({ store }).write(messages(0, 1))
  await expect(new Lake({ store, columns: { id: 'int64' } }).write(messages(1, 2))).rejects.toMatchObject({
    code: 'LAKE_COLUMNS_DIFFER',
  })
  await store.put('_manifests/000000000001.json', '{}')
  await expect(new Lake({ store }).recover()).rejects.toMatchObject({ code: 'LAKE_FILE_INVALID' })
  const left = new Lake({ store: new MemoryStore() })
  await left.write(messages(0, 1))
  await left.listCommitted().next()
  await left.close({ graceMs: 1 })
  const closed = new Lake({ store })
  await Promise.all([closed.close(), closed.close()])
  await expect(closed.write([])).rejects.toMatchObject({ code: 'LAKE_CLOSED' })
})
